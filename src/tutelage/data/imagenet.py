"""ImageNet and its sketches from the local Hugging Face cache, prepared as classifiers are evaluated."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tutelage._checks import check_option
from tutelage.batch import Batch
from tutelage.data.samples import Data

SOURCES = {
    "imagenet": ("ILSVRC/imagenet-1k", "validation"),
    "imagenet_sketch": ("songweig/imagenet_sketch", "train"),
}
"""Hugging Face name and split of what `imagenet_images` reads; all have the 1 000 classes of ImageNet."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class EvaluationImages:
    """Images read when they are asked for: shorter side 256, the middle 224 × 224, normalised by channel.

    Args:
        rows: `rows[i]` is a mapping with a PIL `image` and an integer `label`, as in a Hugging Face data set.

    >>> from PIL import Image
    >>> images = EvaluationImages([{"image": Image.new("L", (300, 400)), "label": 7}])
    >>> images.batch(torch.tensor([0])).inputs.shape
    torch.Size([1, 3, 224, 224])
    """

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Tensor) -> Batch:
        """The images in the given rows, `[batch, 3, 224, 224]`, and their classes."""
        found = [self.rows[row] for row in rows.tolist()]
        images = torch.stack([self.prepared(one["image"]) for one in found])
        mean, deviation = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _DEVIATION))
        return Batch((images - mean) / deviation, torch.tensor([one["label"] for one in found]), rows.clone())

    def prepared(self, image: Any) -> Tensor:
        """One image as it is shown, `[3, 224, 224]` in [0, 1]."""
        return _prepared(image)

    def fingerprint(self) -> str:
        """That of the rows, where they have one (Hugging Face data sets do)."""
        return f"evaluation {getattr(self.rows, '_fingerprint', len(self.rows))}"


def imagenet_images(name: str) -> EvaluationImages:
    """Evaluation images with the classes of ImageNet; nothing is downloaded that is not on this machine.

    Args:
        name: A key of `SOURCES`.

    Raises:
        ImportError: The package `datasets` is not installed.
        ValueError: An unknown name.

    Source: Deng et al. 2009; Wang et al., "Learning Robust Global Representations by Penalizing Local Predictive
    Power", NeurIPS 2019 (sketches).
    """
    check_option(name, "name", SOURCES)
    import datasets

    source, split = SOURCES[name]
    return EvaluationImages(datasets.load_dataset(source, split=split))


class TrainingImages(EvaluationImages):
    """The same, but a random part of 8 to 100 % of each image, 224 × 224, mirrored at random, anew each time.

    Args:
        rows: As for `EvaluationImages`.

    Source: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (section 6; as PyTorch's reference training).
    """

    def prepared(self, image: Any) -> Tensor:
        """A random part of an image, drawn from PyTorch's global generator, which the trainer seeds and resumes."""
        area, log_ratio, along, across, mirrored = torch.rand(5).tolist()
        area = (0.08 + 0.92 * area) * image.width * image.height
        ratio = math.exp((2 * log_ratio - 1) * math.log(4 / 3))
        width, height = (
            min(image.width, round(math.sqrt(area * ratio))),
            min(image.height, round(math.sqrt(area / ratio))),
        )
        left, top = round(across * (image.width - width)), round(along * (image.height - height))
        part = image.convert("RGB").resize((224, 224), box=(left, top, left + width, top + height))
        pixels = _pixels(part)
        return pixels.flip(-1) if mirrored < 0.5 else pixels


def imagenet() -> Data:
    """ImageNet-1K from the local Hugging Face cache; training images are augmented.

    The images with labels that are held out are both the validation and the test part, as in the literature.

    Raises:
        ImportError: The package `datasets` is not installed.
    """
    import datasets

    source, split = SOURCES["imagenet"]
    held_out = EvaluationImages(datasets.load_dataset(source, split=split))
    train = TrainingImages(datasets.load_dataset(source, split="train"))
    return Data("imagenet", train, held_out, held_out, num_classes=1000)


def _prepared(image: Any) -> Tensor:
    width, height = image.size
    scale = 256 / min(width, height)
    resized = image.convert("RGB").resize((round(width * scale), round(height * scale)))
    left, top = (resized.width - 224) // 2, (resized.height - 224) // 2
    return _pixels(resized.crop((left, top, left + 224, top + 224)))


def _pixels(image: Any) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255
