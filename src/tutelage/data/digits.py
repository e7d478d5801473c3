"""Handwritten digits, 8 × 8: real images that need no network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

DIGITS_FRACTIONS = (0.65, 0.1, 0.25)


def digits(*, flat: bool = False, fractions: Sequence[float] = DIGITS_FRACTIONS, seed: int = 0) -> Data:
    """The 1 797 handwritten digits of 8 × 8 grey values that come with scikit-learn, scaled to [0, 1].

    Args:
        flat: Images as `[64]` in place of `[1, 8, 8]`.
        fractions: Train, validation and test shares, or sizes such as `(1000, 200, 597)`; stratified.
        seed: Fixes the split; the default is the one that recorded results use.

    Source:
        UCI "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak, 1998), test part.

    >>> data = digits(flat=True)
    >>> data.train.batch(slice(0, 2)).inputs.shape, data.num_classes
    (torch.Size([2, 64]), 10)
    """
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    inputs = (images / 16).astype(np.float32)
    return assemble(
        "digits",
        {"train": ArraySamples(inputs if flat else inputs.reshape(-1, 1, 8, 8), target)},
        fractions=fractions,
        seed=seed,
        class_names=[str(label) for label in range(10)],
        description="1 797 handwritten digits, 8 × 8 grey values in [0, 1] (scikit-learn)",
    )
