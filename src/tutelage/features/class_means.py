"""Class means: what a model says about each class on average, at once or batch by batch."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from tutelage._checks import check_at_least, check_finite, check_floating, check_option, check_target
from tutelage.objectives.precision import at_least_float32

Missing = Literal["error", "nan", "uniform"]
"""What stands for a class without samples: an error, a row of NaN, or the uniform distribution 1 / width."""


def class_conditional_mean(
    features: Float[Tensor, "samples width"],
    target: Int[Tensor, "samples"],
    *,
    num_classes: int,
    missing: Missing = "error",
) -> Float[Tensor, "classes width"]:
    """The mean of the features of each class: prototypes, centroids, class centres.

    Features may be embeddings, logits, probabilities: anything with one row a sample. Sums are kept in float64, so the
    order of the samples does not matter. No gradient passes through. For samples that come in batches see
    `ClassConditionalMean`.

    Args:
        features: `[samples, width]`.
        target: `[samples]` classes.
        num_classes: How many classes there are.
        missing: For a class without samples: `"error"`, `"nan"` (a row of NaN, that nobody may use) or `"uniform"`
            (1 / width everywhere; for probabilities).

    Returns:
        `[num_classes, width]`, in float32 or wider.

    Raises:
        ValueError: A class without samples unless `missing` says otherwise, a target outside the classes, or features
            that are not finite.

    >>> class_conditional_mean(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), num_classes=2)
    tensor([[2.],
            [5.]])
    """
    return ClassConditionalMean(num_classes).update(features, target).compute(missing=missing)


class ClassConditionalMean:
    """`class_conditional_mean` of samples that come in batches; any split into batches gives the same means.

    Args:
        num_classes: How many classes there are.

    Raises:
        ValueError: As `class_conditional_mean`, or batches of different widths.

    >>> means = ClassConditionalMean(2)
    >>> for features, target in [([[1.0], [5.0]], [0, 1]), ([[3.0]], [0])]:
    ...     _ = means.update(torch.tensor(features), torch.tensor(target))
    >>> means.compute().flatten().tolist(), means.counts.tolist()
    ([2.0, 5.0], [2, 1])
    """

    def __init__(self, num_classes: int) -> None:
        check_at_least(num_classes, "num_classes", 1)
        self.num_classes = num_classes
        self._sums: Tensor | None = None
        self._counts = torch.zeros(num_classes, dtype=torch.int64)
        self._dtype = torch.float32

    def update(self, features: Float[Tensor, "samples width"], target: Int[Tensor, "samples"]) -> ClassConditionalMean:
        """Add the samples of a batch; gives itself.

        Args:
            features: `[samples, width]`.
            target: `[samples]` classes.
        """
        check_floating(features, "features")
        check_target(target, self.num_classes, shape=features.shape[:1])
        check_finite(features, "features")
        features, target = features.detach(), target.long()
        if self._sums is None:
            self._sums = features.new_zeros(self.num_classes, features.shape[1], dtype=torch.float64)
            self._counts = self._counts.to(features.device)
            self._dtype = at_least_float32(features[:0]).dtype
        elif features.shape[1] != self._sums.shape[1]:
            raise ValueError(
                f"Expected argument `features` to have width {self._sums.shape[1]} as before, "
                f"but got {features.shape[1]}."
            )
        self._sums.index_add_(0, target, features.to(torch.float64))
        self._counts += torch.bincount(target, minlength=self.num_classes)
        return self

    @property
    def counts(self) -> Int64[Tensor, "classes"]:
        """`[classes]`: how many samples of each class there were."""
        return self._counts.clone()

    def compute(self, *, missing: Missing = "error") -> Float[Tensor, "classes width"]:
        """The means of the samples so far: `[classes, width]`; `missing` as for `class_conditional_mean`."""
        check_option(missing, "missing", ("error", "nan", "uniform"))
        if self._sums is None:
            raise ValueError("Expected at least one batch of samples, but there was none.")
        absent = self._counts == 0
        if missing == "error" and absent.any():
            classes = absent.nonzero().flatten().tolist()
            shown = ", ".join(map(str, classes[:8])) + (", …" if len(classes) > 8 else "")
            raise ValueError(f"Expected every class to have samples, but there are none of {shown}.")
        means = self._sums / self._counts[:, None]  # 0 / 0 is NaN
        if missing == "uniform":
            means[absent] = 1 / means.shape[1]
        return means.to(self._dtype)
