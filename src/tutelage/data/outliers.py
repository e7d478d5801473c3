"""Samples that have nothing to teach: noise with random labels."""

from __future__ import annotations

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_in_range
from tutelage.data.arrays import ArraySamples


def add_outliers(samples: ArraySamples, share: float, num_classes: int, *, generator: torch.Generator) -> ArraySamples:
    """Replace a share of the samples by Gaussian noise with random labels.

    The noise has the mean and the standard deviation of each input value over all samples; a label is drawn from all
    classes alike, so it may be the old one.

    Args:
        samples: Samples with one input tensor and one class each; they stay as they are.
        share: The share that is replaced, in [0, 1]; the number is rounded.
        num_classes: How many classes there are.
        generator: The random state.

    Returns:
        Samples in the same order with the same indices, and `extras["outlier"]`, `[samples]`, true for the replaced.

    Raises:
        ValueError: A share outside [0, 1], no classes, inputs by name, or samples without a target.

    >>> samples = ArraySamples(torch.zeros(20, 3), torch.zeros(20, dtype=torch.int64))
    >>> add_outliers(samples, 0.25, 4, generator=torch.Generator()).extras["outlier"].sum()
    tensor(5)
    """
    check_in_range(share, "share", 0.0, 1.0)
    check_at_least(num_classes, "num_classes", 1)
    if not isinstance(samples.inputs, Tensor) or samples.target is None:
        raise ValueError("Expected argument `samples` to have one input tensor and a target.")
    inputs, target = samples.inputs.clone(), samples.target.clone()
    rows = torch.randperm(len(samples), generator=generator)[: round(share * len(samples))]
    noise = torch.randn(inputs[rows].shape, generator=generator, dtype=inputs.dtype)
    inputs[rows] = samples.inputs.mean(dim=0) + samples.inputs.std(dim=0) * noise
    target[rows] = torch.randint(num_classes, rows.shape, generator=generator)
    outlier = torch.zeros(len(samples), dtype=torch.bool)
    outlier[rows] = True
    return ArraySamples(inputs, target, index=samples.index, extras={**samples.extras, "outlier": outlier})
