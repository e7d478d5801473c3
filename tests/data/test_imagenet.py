from __future__ import annotations

import pytest
import torch
from PIL import Image

from tutelage.data.imagenet import EvaluationImages, TrainingImages, imagenet_images


def test_images_are_cut_in_the_middle_and_normalised() -> None:
    picture = Image.new("RGB", (512, 256), (255, 0, 0))
    picture.paste((0, 255, 0), (128, 0, 384, 256))  # the middle is green
    samples = EvaluationImages([{"image": picture, "label": 3}, {"image": Image.new("L", (50, 80), 255), "label": 5}])
    batch = samples.batch(torch.tensor([1, 0]))
    assert batch.inputs.shape == (2, 3, 224, 224)
    assert batch.target.tolist() == [5, 3]
    assert batch.index.tolist() == [1, 0]
    green = (torch.tensor([0.0, 1.0, 0.0]) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.inputs[1, :, 112, 112], green)
    white = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(batch.inputs[0].mean((1, 2)), white, rtol=1e-4, atol=1e-4)


def test_an_unknown_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'imagenet"):
        imagenet_images("imagenets")


def rows(width: int = 300, height: int = 200) -> list[dict[str, object]]:
    """An image that is dark on its left and light on its right."""
    image = Image.new("L", (width, height))
    image.paste(255, (width // 2, 0, width, height))
    return [{"image": image, "label": 3}]


def test_training_images_are_other_parts_each_time_and_repeat_with_the_seed() -> None:
    images = TrainingImages(rows())
    torch.manual_seed(0)
    first, second = (images.batch(torch.tensor([0])) for _ in range(2))
    torch.manual_seed(0)
    again = images.batch(torch.tensor([0]))
    assert first.inputs.shape == (1, 3, 224, 224)
    assert first.target.tolist() == [3]
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, second.inputs)


def test_half_of_them_are_mirrored_and_parts_are_of_all_sizes() -> None:
    images = TrainingImages(rows())
    torch.manual_seed(1)
    batches = torch.cat([images.batch(torch.tensor([0])).inputs[:, 0] for _ in range(60)])
    left, right = batches[:, :, :20].mean((1, 2)), batches[:, :, -20:].mean((1, 2))
    mirrored = (left > right + 0.1).sum() / ((left - right).abs() > 0.1).sum()
    assert 0.3 < mirrored < 0.7
    lighter = (batches > 0).float().mean((1, 2))
    assert lighter.std() > 0.1
    whole = EvaluationImages(rows()).batch(torch.tensor([0])).inputs
    assert batches.min() >= whole.min() - 1e-5
    assert batches.max() <= whole.max() + 1e-5
