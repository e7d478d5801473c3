import pytest
import torch

from tutelage.data import ArraySamples
from tutelage.data.random_crops import RandomResizedCrops


def test_crops_are_parts_of_the_image_and_differ():
    across = torch.linspace(-1, 1, 40).expand(1, 30, 40)
    down = torch.linspace(-1, 1, 30)[:, None].expand(1, 30, 40)
    samples = ArraySamples(torch.cat([across, down]).expand(400, -1, -1, -1), torch.arange(400))
    torch.manual_seed(0)
    crops = RandomResizedCrops(samples, size=10)
    batch = crops.batch(torch.arange(400))
    assert batch.inputs.shape == (400, 2, 10, 10)
    assert torch.equal(batch.index, torch.arange(400))
    first, last = batch.inputs[:, 0, :, 0].mean(dim=1), batch.inputs[:, 0, :, -1].mean(dim=1)
    mirrored = first > last
    assert 0.4 < mirrored.double().mean() < 0.6
    assert not (batch.inputs[:, 1, 0] > batch.inputs[:, 1, -1]).any()  # never upside down
    width = (last - first).abs() / 2 * 10 / 9  # from the middles of the outer pixels to their edges
    height = (batch.inputs[:, 1, -1] - batch.inputs[:, 1, 0]).mean(dim=1) / 2 * 10 / 9
    area = width * height
    assert area.min() > 0.06
    assert area.max() < 1.15
    assert 0.45 < area.mean() < 0.62  # a little below 0.54, since long sides are cut to the image
    assert not torch.equal(batch.inputs, crops.batch(torch.arange(400)).inputs)


def test_a_crop_is_drawn_by_the_global_generator_and_needs_images():
    crops = RandomResizedCrops(ArraySamples(torch.rand(3, 1, 8, 8), torch.arange(3)), size=4)
    drawn = []
    for _ in range(2):
        torch.manual_seed(1)
        drawn.append(crops.batch(torch.arange(3)).inputs)
    assert torch.equal(*drawn)
    assert crops.fingerprint() != RandomResizedCrops(crops.samples, size=5).fingerprint()
    with pytest.raises(ValueError, match="images"):
        RandomResizedCrops(ArraySamples(torch.rand(3, 8)), size=4).batch(torch.arange(3))
    with pytest.raises(ValueError, match="`size`"):
        RandomResizedCrops(crops.samples, size=0)
