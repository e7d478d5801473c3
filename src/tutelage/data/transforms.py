"""What is done to data on purpose: noisy labels, few samples, missing classes, and streams that drift."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.batch import Batch
from tutelage.data.adapters import as_samples
from tutelage.data.corruptions import CORRUPTIONS, corrupt
from tutelage.data.samples import Samples
from tutelage.data.subsets import subset, targets_of


def add_uniform_label_noise(
    labels: Int[Tensor, "samples"], num_classes: int, rate: float, *, generator: torch.Generator
) -> Int[Tensor, "samples"]:
    """With probability `rate`, replace a label by one drawn uniformly from **all** classes.

    The draw may give the label back, so the share of changed labels is rate · (C − 1) / C on average.

    Args:
        labels: `[samples]` classes.
        num_classes: C.
        rate: Probability in [0, 1] that a label is drawn anew.
        generator: The random state.

    Returns:
        A new tensor; `labels` stays as it was.

    Raises:
        ValueError: A rate outside [0, 1], or a label outside [0, C).

    Source:
        Zhu et al., "Label Distributionally Robust Losses" (ICML 2023), experiments; the authors' code.

    >>> add_uniform_label_noise(torch.tensor([0, 1, 2]), 3, 0.0, generator=torch.Generator())
    tensor([0, 1, 2])
    """
    check_in_range(rate, "rate", 0.0, 1.0)
    _check_labels(labels, num_classes)
    redrawn = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < rate
    drawn = torch.randint(num_classes, labels.shape, generator=generator, dtype=torch.int64).to(labels.dtype)
    return torch.where(redrawn.to(labels.device), drawn.to(labels.device), labels)


def add_class_dependent_label_noise(
    labels: Int[Tensor, "samples"],
    rate: float,
    *,
    transition: dict[int, int] | Literal["next"],
    num_classes: int | None = None,
    generator: torch.Generator,
) -> Int[Tensor, "samples"]:
    """With probability `rate`, replace a label by the fixed partner of its class.

    Args:
        labels: `[samples]` classes.
        rate: Probability in [0, 1] that a label is replaced.
        transition: The partner of every class that is mistaken (others stay), or `"next"`: (y + 1) mod C.
        num_classes: C; needed for `"next"`, and checked against the labels when given.
        generator: The random state.

    Returns:
        A new tensor; `labels` stays as it was.

    Raises:
        ValueError: A rate outside [0, 1], `"next"` without `num_classes`, or a label or partner outside [0, C).

    Source:
        Zhu et al., "Label Distributionally Robust Losses" (ICML 2023), experiments; the authors' code.

    >>> add_class_dependent_label_noise(
    ...     torch.tensor([0, 1, 2]), 1.0, transition="next", num_classes=3, generator=torch.Generator()
    ... )
    tensor([1, 2, 0])
    """
    check_in_range(rate, "rate", 0.0, 1.0)
    if num_classes is not None:
        _check_labels(labels, num_classes)
    if isinstance(transition, str):
        check_option(transition, "transition", ("next",))
        if num_classes is None:
            raise ValueError("Expected argument `num_classes` to be given with `transition='next'`, but got None.")
        partner = (labels + 1) % num_classes
    else:
        partner = labels.clone()
        for source, destination in transition.items():
            if num_classes is not None:
                check_in_range(source, "transition", 0, num_classes - 1)
                check_in_range(destination, "transition", 0, num_classes - 1)
            partner[labels == source] = destination
    mistaken = torch.rand(labels.shape, generator=generator, dtype=torch.float64) < rate
    return torch.where(mistaken.to(labels.device), partner, labels)


def few_shot_subset(dataset: Any, fraction: float, seed: int) -> Samples:
    """A random share of every class, at least one sample a class.

    Args:
        dataset: Samples, or anything that `as_samples` takes.
        fraction: The share of each class that is kept, in (0, 1].
        seed: Fixes the choice. A smaller fraction with the same seed gives a subset of the larger one.

    Returns:
        The kept samples in their order, with their stable indices.

    Raises:
        ValueError: A fraction outside (0, 1], or targets that are not one class a sample.

    >>> from tutelage.data.arrays import ArraySamples
    >>> whole = ArraySamples(torch.arange(20.0), torch.tensor([0, 0, 0, 1] * 5))
    >>> targets_of(few_shot_subset(whole, 0.2, seed=0)).bincount().tolist()
    [3, 1]
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"Expected argument `fraction` to be in (0, 1], but got {fraction}.")
    samples = as_samples(dataset)
    target = _class_target(samples)
    order = torch.randperm(len(target), generator=torch.Generator().manual_seed(seed))
    kept = []
    for label in torch.unique(target).tolist():
        rows = order[target[order] == label]
        kept.append(rows[: max(1, round(fraction * len(rows)))])
    return subset(samples, torch.cat(kept).sort().values)


def drop_classes(dataset: Any, classes: Sequence[int]) -> Samples:
    """The samples of all classes but the given ones; labels keep their numbers, so models keep their outputs.

    Args:
        dataset: Samples, or anything that `as_samples` takes.
        classes: The classes that are left out.

    Raises:
        ValueError: A class without samples, or no sample left.

    >>> from tutelage.data.arrays import ArraySamples
    >>> targets_of(drop_classes(ArraySamples(torch.zeros(3, 1), torch.tensor([0, 1, 2])), [1])).tolist()
    [0, 2]
    """
    samples = as_samples(dataset)
    target = _class_target(samples)
    present = set(torch.unique(target).tolist())
    for label in classes:
        if label not in present:
            raise ValueError(f"Expected argument `classes` to hold classes of the data, but {label} has no sample.")
    if present <= set(classes):
        raise ValueError("Expected argument `classes` to leave at least one class, but it drops all of them.")
    rows = (~torch.isin(target, torch.tensor(list(classes), dtype=target.dtype))).nonzero().flatten()
    return subset(samples, rows)


class StreamBatch(NamedTuple):
    """One batch of a drifting stream.

    Attributes:
        batch: The corrupted samples.
        corruption: Which corruption they are under.
        severity: How strong it is, 1 to 5.
        starts: Whether this is the first batch of a new domain.
        reset: Whether the adapted model is to be restored before this batch.
    """

    batch: Batch
    corruption: str
    severity: int
    starts: bool
    reset: bool


def corruption_stream(
    dataset: Any,
    corruptions: Sequence[str],
    *,
    setting: Literal["continual", "gradual", "reset"] = "continual",
    severities: int | Sequence[int],
    batch_size: int,
    seed: int,
) -> Iterator[StreamBatch]:
    """Test batches under one corruption after the other, each domain the whole data set in a new order.

    Args:
        dataset: Samples whose inputs are images `[batch, channels, height, width]` in [0, 1].
        corruptions: Names in `CORRUPTIONS`, in the order of the stream.
        setting: `"continual"`: every corruption at the given severities, one domain each, without a reset;
            `"reset"`: the same, but the first batch of every domain asks for a reset;
            `"gradual"`: the severities of every corruption up and down again (1 2 3 4 5 4 3 2 1), without a reset.
        severities: One severity or several, 1 to 5.
        batch_size: Samples a batch; the last batch of a domain may be smaller.
        seed: Fixes orders and corruptions.

    Raises:
        ValueError: An unknown corruption or setting, or a severity outside 1 to 5.

    Source:
        Döbler et al., "Robust Mean Teacher" (CVPR 2023), section 4 (settings).

    >>> from tutelage.data.arrays import ArraySamples
    >>> images = ArraySamples(torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 0, 1]))
    >>> stream = corruption_stream(
    ...     images, ["contrast"], setting="gradual", severities=(1, 2), batch_size=4, seed=0
    ... )
    >>> [(item.severity, item.reset) for item in stream]
    [(1, False), (2, False), (1, False)]
    """
    check_option(setting, "setting", ("continual", "gradual", "reset"))
    check_at_least(batch_size, "batch_size", 1)
    levels = [severities] if isinstance(severities, int) else list(severities)
    for level in levels:
        check_option(level, "severities", (1, 2, 3, 4, 5))
    for name in corruptions:
        check_option(name, "corruptions", CORRUPTIONS)
    if not levels or not corruptions:
        raise ValueError("Expected arguments `corruptions` and `severities` to hold at least one entry each.")
    if setting == "gradual":
        levels = sorted(levels)
        levels += levels[-2::-1]
    return _stream(as_samples(dataset), corruptions, levels, setting == "reset", batch_size, seed)


def _stream(
    samples: Samples, corruptions: Sequence[str], levels: Sequence[int], reset: bool, batch_size: int, seed: int
) -> Iterator[StreamBatch]:
    generator = torch.Generator().manual_seed(seed)
    for name in corruptions:
        for level in levels:
            order = torch.randperm(len(samples), generator=generator)
            for start in range(0, len(order), batch_size):
                clean = samples.batch(order[start : start + batch_size])
                if isinstance(clean.inputs, Mapping):
                    raise ValueError("Expected samples whose inputs are one image tensor, but got named inputs.")
                images = corrupt(clean.inputs, name, severity=level, generator=generator)
                batch = Batch(images, clean.target, clean.index, clean.extras)
                yield StreamBatch(batch, name, level, starts=start == 0, reset=reset and start == 0)


def _class_target(samples: Samples) -> Tensor:
    target = targets_of(samples)
    if target.ndim != 1 or target.is_floating_point():
        raise ValueError(
            f"Expected samples with one class each, but got a target of {target.dtype} and shape {tuple(target.shape)}."
        )
    return target


def _check_labels(labels: Tensor, num_classes: int) -> None:
    check_at_least(num_classes, "num_classes", 1)
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        raise ValueError(
            f"Expected argument `labels` to hold classes in [0, {num_classes}), but got {int(labels[outside][0])}."
        )
