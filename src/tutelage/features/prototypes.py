"""Classes by the prototype that lies nearest."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from tutelage._checks import check_option


def nearest_prototype(
    features: Float[Tensor, "batch width"],
    prototypes: Float[Tensor, "classes other_width"],
    *,
    metric: Literal["cosine", "euclidean"] = "cosine",
) -> Int[Tensor, "batch"]:
    """The class whose prototype is nearest to each feature; no gradient flows through the choice.

    Args:
        features: `[batch, width]`.
        prototypes: `[classes, width]`, see `class_conditional_mean`.
        metric: `"cosine"` (largest) or `"euclidean"` (smallest distance).

    Returns:
        `[batch]` classes; the smallest of equals.

    Raises:
        ValueError: Widths that differ, or an unknown metric.

    >>> nearest_prototype(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 1.0], [9.0, 0.0]]))
    tensor([1])
    """
    check_option(metric, "metric", ("cosine", "euclidean"))
    if features.shape[1] != prototypes.shape[1]:
        raise ValueError(
            "Expected arguments `features` and `prototypes` to have the same width, "
            f"but got {features.shape[1]} and {prototypes.shape[1]}."
        )
    with torch.no_grad():
        if metric == "cosine":
            nearness = functional.normalize(features, dim=1) @ functional.normalize(prototypes, dim=1).t()
        else:
            nearness = -torch.cdist(features, prototypes)
        return nearness.argmax(dim=1)
