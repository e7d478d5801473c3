"""Classes of unequal size: a made-up table of them, and random oversampling that evens them out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data


def imbalanced_table(
    *,
    shares: Sequence[float] = (0.8, 0.15, 0.05),
    num_features: int = 20,
    sizes: Sequence[int] = (1000, 200, 2000),
    separation: float = 1.5,
    seed: int = 0,
) -> Data:
    """A made-up table whose classes have unequal shares (`sklearn.datasets.make_classification`), scaled to [0, 1].

    Args:
        shares: The share of each class.
        num_features: Columns; two fifths carry information, a fifth mixes these, the others are noise.
        sizes: Rows of the train, validation and test parts.
        separation: How far apart the classes lie.
        seed: Fixes rows and cut.

    >>> imbalanced_table().train.target.bincount().tolist()
    [800, 150, 50]
    """
    from sklearn.datasets import make_classification

    inputs, target = make_classification(
        n_samples=sum(sizes),
        n_features=num_features,
        n_informative=2 * num_features // 5,
        n_redundant=num_features // 5,
        n_classes=len(shares),
        weights=list(shares),
        class_sep=separation,
        flip_y=0.0,
        random_state=seed,
    )
    inputs = (inputs - inputs.min(axis=0)) / (inputs.max(axis=0) - inputs.min(axis=0))
    return assemble("imbalanced_table", {"train": ArraySamples(inputs, target)}, fractions=tuple(sizes), seed=seed)


def oversample_classes(samples: ArraySamples, generator: torch.Generator) -> ArraySamples:
    """Draw from every class until all are as frequent as the most frequent one; every sample stays at least once.

    Args:
        samples: Samples with one class each.
        generator: The random state.

    Returns:
        Samples with new indices, class after class.

    Raises:
        ValueError: The samples have no classes.

    >>> samples = ArraySamples(torch.arange(4.0), torch.tensor([0, 0, 0, 1]))
    >>> oversample_classes(samples, torch.Generator()).target.bincount().tolist()
    [3, 3]
    """
    target = samples.target
    if target is None or target.ndim != 1 or target.is_floating_point():
        raise ValueError("Expected argument `samples` to have one class each, but they have none.")
    most = int(target.bincount().max())
    rows = []
    for label in sorted(set(target.tolist())):
        own = (target == label).nonzero().flatten()
        rows += [own, own[torch.randint(len(own), (most - len(own),), generator=generator)]]
    part = samples.batch(torch.cat(rows))
    return ArraySamples(part.inputs, part.target, extras=part.extras)
