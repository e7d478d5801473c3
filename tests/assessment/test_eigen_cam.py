import pytest
import torch
from torch import nn

from tutelage.assessment import eigen_cam
from tutelage.models import convnet, resnet


def test_rank_one_activations_give_their_spatial_factor():
    place = torch.rand(2, 6, 5)
    channels = torch.rand(2, 3, 1, 1)
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(90, 2))
    maps = eigen_cam(model, "0", channels * place[:, None])
    torch.testing.assert_close(maps, place / place.amax(dim=(1, 2), keepdim=True))


def test_it_is_the_projection_on_the_first_right_singular_vector():
    images = torch.randn(1, 4, 3, 3)
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(36, 2))
    matrix = images[0].flatten(1).T
    _, vectors = torch.linalg.eigh(matrix.T @ matrix)
    projection = matrix @ vectors[:, -1]
    projection = (projection * projection.sum().sign()).clamp_min(0)
    expected = (projection / projection.max()).reshape(1, 3, 3)
    torch.testing.assert_close(eigen_cam(model, "0", images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (convnet((1, 8, 8), 10, dropout=0.5), "stage3"),
        (resnet((1, 8, 8), 10, widths=(4, 8), depths=(1, 1)), "resnet.encoder"),
    ],
)
def test_maps_have_the_images_size_and_the_model_keeps_its_mode(model, layer):
    model.train()
    images = torch.rand(3, 1, 8, 8)
    maps = eigen_cam(model, layer, images)
    assert maps.shape == (3, 8, 8)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert not maps.requires_grad
    assert model.training
    assert torch.equal(maps, eigen_cam(model, layer, images))  # no dropout, no batch statistics


def test_images_do_not_influence_each_other_and_black_stays_black():
    model = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(16, 2))
    images = torch.rand(3, 1, 4, 4)
    images[1] = 0
    maps = eigen_cam(model, "0", images)
    assert not maps[1].any()
    torch.testing.assert_close(maps[:1], eigen_cam(model, "0", images[:1]))


def test_bad_layers_are_named():
    model = convnet((1, 8, 8), 10)
    with pytest.raises(ValueError, match="did you mean 'stage3'"):
        eigen_cam(model, "stag3", torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"'head' to be `\[batch, channels, rows, columns\]`"):
        eigen_cam(model, "head", torch.rand(1, 1, 8, 8))
