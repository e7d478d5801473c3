from __future__ import annotations

import pytest
import torch

from tutelage.data import (
    Blur,
    ColorJitter,
    Greyscale,
    Rotation,
    build_image_transform,
    default_image_transforms,
    describe_image_transform,
)

EVERY = [Rotation(12.0), Rotation(-170.0), Greyscale(), ColorJitter(0.8, 1.3), Blur(0.7)]


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_are_exact_also_of_oblong_images(turns: int) -> None:
    images = torch.rand(2, 3, 5, 5)
    degrees = 90.0 * turns if turns < 3 else -90.0
    torch.testing.assert_close(Rotation(degrees)(images), images.rot90(turns, (2, 3)), atol=1e-5, rtol=0)
    oblong = torch.rand(1, 1, 4, 6)
    torch.testing.assert_close(Rotation(180.0)(oblong), oblong.rot90(2, (2, 3)), atol=1e-5, rtol=0)


def test_a_rotation_and_its_reverse_nearly_cancel_in_the_middle() -> None:
    image = torch.zeros(1, 1, 21, 21)
    image[..., 8:13, 6:15] = 1
    back = Rotation(-10.0)(Rotation(10.0)(image))
    assert (back - image)[..., 9:12, 8:13].abs().max() < 0.05


def test_grey_is_the_luma_and_leaves_grey_images_as_they_are() -> None:
    images = torch.rand(2, 3, 4, 4)
    grey = Greyscale()(images)
    assert grey.shape == images.shape
    torch.testing.assert_close(grey[:, 0], 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2])
    assert torch.equal(grey[:, 0], grey[:, 2])
    assert torch.equal(Greyscale()(images[:, :1]), images[:, :1])
    with pytest.raises(ValueError, match="1 or 3 channels, but got 4"):
        Greyscale()(torch.zeros(1, 4, 2, 2))


def test_jitter_scales_the_mean_and_the_spread_of_each_image_alone() -> None:
    images = torch.rand(3, 3, 4, 4)
    changed = ColorJitter(0.8, 1.5)(images)
    torch.testing.assert_close(changed.mean((1, 2, 3)), 0.8 * images.mean((1, 2, 3)))
    torch.testing.assert_close(changed.std((1, 2, 3)), 0.8 * 1.5 * images.std((1, 2, 3)))
    torch.testing.assert_close(ColorJitter(0.8, 1.5)(images[:1]), changed[:1])


def test_blur_spreads_a_point_as_a_gaussian() -> None:
    image = torch.zeros(1, 2, 15, 15)
    image[:, 0, 7, 7] = 1
    blurred = Blur(1.5)(image)
    assert blurred[0, 0].sum().item() == pytest.approx(1, abs=1e-5)
    assert not blurred[0, 1].any()
    ratio = blurred[0, 0, 7, 9] / blurred[0, 0, 7, 7]
    assert ratio.item() == pytest.approx(torch.tensor(-4 / (2 * 1.5**2)).exp().item(), rel=1e-5)


@pytest.mark.parametrize("transform", EVERY, ids=repr)
def test_shape_stays_and_a_description_makes_an_equal_transform(transform: torch.nn.Module) -> None:
    images = torch.rand(4, 3, 8, 6)
    once = transform(images)
    assert once.shape == images.shape
    again = build_image_transform(describe_image_transform(transform))
    assert torch.equal(again(images), once)
    assert torch.equal(transform(images[2:3]), once[2:3]), "an image does not depend on its batch"
    assert not list(transform.parameters())


def test_the_default_copies_are_drawn_once() -> None:
    for seed in range(8):
        rotation, grey, jitter = default_image_transforms(generator=torch.Generator().manual_seed(seed))
        assert abs(rotation.degrees) == 15
        assert isinstance(grey, Greyscale)
        assert {round(abs(jitter.brightness - 1), 6), round(abs(jitter.contrast - 1), 6)} == {0.2}
    signs = {default_image_transforms(generator=torch.Generator().manual_seed(seed))[0].degrees for seed in range(8)}
    assert signs == {-15.0, 15.0}
    none = default_image_transforms(rotation=0, greyscale=False, jitter=0, generator=torch.Generator())
    assert none == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotation(200.0), "`degrees`"),
        (lambda: ColorJitter(0.0, 1.0), "`brightness` to be positive"),
        (lambda: Blur(0.0), "`sigma` to be positive"),
        (lambda: default_image_transforms(jitter=1.5, generator=torch.Generator()), "`jitter`"),
        (lambda: default_image_transforms(rotation=-1, generator=torch.Generator()), "`rotation` to be at least 0"),
        (lambda: build_image_transform({"name": "rotate"}), "did you mean 'rotation'"),
        (lambda: build_image_transform({"name": "blur", "radius": 2}), "arguments of the image transform 'blur'"),
        (lambda: describe_image_transform(torch.nn.Identity()), "but got Identity"),
    ],
)
def test_bad_input(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
