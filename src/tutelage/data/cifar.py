"""CIFAR-100 from the local Hugging Face cache, and the augmentation that its results are reported with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.data.samples import Data, Samples
from tutelage.data.subsets import SubsetSamples


class AugmentedImages:
    """Images shifted by up to 4 pixels and mirrored at random, anew each time (He et al. 2016, section 4.2).

    Args:
        samples: Samples whose inputs are images `[batch, channels, height, width]`.

    >>> images = AugmentedImages(ArraySamples(torch.ones(2, 3, 8, 8), torch.tensor([0, 1])))
    >>> images.batch(torch.tensor([1, 0])).inputs.shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: Tensor) -> Batch:
        """A batch with images drawn from PyTorch's global generator, which the trainer seeds and resumes."""
        batch = self.samples.batch(rows)
        images = batch.inputs
        assert isinstance(images, Tensor)
        height, width = images.shape[-2:]
        padded = nn.functional.pad(images, (4, 4, 4, 4))
        down, right = torch.randint(0, 9, (2, len(batch), 1, 1))
        across = torch.arange(width).expand(len(batch), 1, width)
        across = torch.where(torch.rand(len(batch), 1, 1) < 0.5, across.flip(-1), across) + right
        along = torch.arange(height).view(1, height, 1) + down
        taken = padded[torch.arange(len(batch)).view(-1, 1, 1), :, along, across]
        return replace(batch, inputs=taken.permute(0, 3, 1, 2).contiguous())

    def fingerprint(self) -> str:
        """That of the samples, marked."""
        return f"augmented {self.samples.fingerprint()}"


def cifar100() -> Data:
    """CIFAR-100 from the local Hugging Face cache, normalised by channel; the last 5 000 training images validate.

    Raises:
        ImportError: The package `datasets` is not installed.

    Source:
        Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); `uoft-cs/cifar100`.
    """
    import datasets
    import numpy as np

    parts = {}
    for part in ("train", "test"):
        read = datasets.load_dataset("uoft-cs/cifar100", split=part)
        images = np.stack([np.asarray(image.convert("RGB")) for image in read["img"]])
        inputs = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        mean, deviation = torch.tensor([0.5071, 0.4865, 0.4409]), torch.tensor([0.2673, 0.2564, 0.2762])
        inputs = (inputs - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
        parts[part] = ArraySamples(inputs, torch.tensor(read["fine_label"]))
    rows = torch.arange(len(parts["train"]))
    return Data(
        name="cifar100",
        train=SubsetSamples(parts["train"], rows[:-5000]),
        validation=SubsetSamples(parts["train"], rows[-5000:]),
        test=parts["test"],
        num_classes=100,
        description="CIFAR-100 (Krizhevsky 2009), 32 × 32 colour images",
    )
