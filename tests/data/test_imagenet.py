from __future__ import annotations

import pytest
import torch
from PIL import Image

from tutelage.data.imagenet import EvaluationImages, imagenet_images


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
