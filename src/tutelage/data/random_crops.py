"""Random resized crops of images, the usual augmentation for photographs: a whole batch by one grid."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage._checks import check_at_least
from tutelage.batch import Batch
from tutelage.data.samples import Samples


class RandomResizedCrops:
    """Samples whose images are cropped anew every time, brought to one size, and mirrored half of the time.

    A crop covers 8 to 100 % of the area, uniformly; its sides are to each other as 3:4 to 4:3, uniformly in the
    logarithm (cut to the image's own size); its place is uniform. Draws come from PyTorch's global generator.

    Args:
        samples: Samples with images `[batch, channels, height, width]`.
        size: Height and width of what comes out, read bilinearly.

    >>> from tutelage.data.arrays import ArraySamples
    >>> crops = RandomResizedCrops(ArraySamples(torch.rand(2, 3, 16, 20)), size=8)
    >>> crops.batch(torch.tensor([1, 0])).inputs.shape
    torch.Size([2, 3, 8, 8])
    """

    def __init__(self, samples: Samples, size: int) -> None:
        check_at_least(size, "size", 1)
        self.samples = samples
        self.size = size

    def __len__(self) -> int:
        return len(self.samples)

    def batch(self, rows: Tensor) -> Batch:
        """The given rows, each cropped as it is drawn.

        Raises:
            ValueError: The inputs are not images.
        """
        batch = self.samples.batch(rows)
        if not isinstance(batch.inputs, Tensor) or batch.inputs.ndim != 4:
            raise ValueError("Expected samples whose inputs are images [batch, channels, height, width].")
        images, count = batch.inputs, len(batch)
        height, width = images.shape[-2:]
        area = height * width * torch.empty(count).uniform_(0.08, 1.0)
        ratio = torch.empty(count).uniform_(-math.log(4 / 3), math.log(4 / 3)).exp()
        across, down = ((area * ratio).sqrt() / width).clamp_max(1), ((area / ratio).sqrt() / height).clamp_max(1)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0] = across * (2 * torch.randint(2, (count,)) - 1)
        theta[:, 1, 1] = down
        theta[:, 0, 2] = (1 - across) * (2 * torch.rand(count) - 1)
        theta[:, 1, 2] = (1 - down) * (2 * torch.rand(count) - 1)
        grid = F.affine_grid(theta, [count, images.shape[1], self.size, self.size], align_corners=False)
        return replace(batch, inputs=F.grid_sample(images, grid.to(images), align_corners=False))

    def fingerprint(self) -> str:
        """That of the whole images, and the size."""
        return f"{self.samples.fingerprint()} cropped to {self.size}"
