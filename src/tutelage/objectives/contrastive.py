"""Contrasting several views of every sample with all other vectors of a batch.

Source: Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362, equation 2; with views as the
positives as in Döbler et al., "Robust Mean Teacher", CVPR 2023, arXiv 2211.13081, section 3.3.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from tutelage._checks import Reduction, check_at_least, check_option, check_positive, check_target
from tutelage.objectives.precision import at_least_float32


def multi_view_contrastive_loss(
    features: Float[Tensor, "batch views width"],
    *,
    temperature: float = 0.1,
    labels: Int[Tensor, "..."] | None = None,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Pull the views of a sample together and push all else away, by cosine.

    For an anchor i among all batch · views vectors v of length 1:
    ℓ_i = −mean over positives j of [v_i·v_j / T − log Σ_{a ≠ i} exp(v_i·v_a / T)]. The positives are the other views of
    the same sample or, with labels, all other vectors of the same label. The denominator holds every other vector.

    Args:
        features: `[batch, views, width]`, already projected; scaled to length 1 here.
        temperature: T.
        labels: `[batch]` classes, 0 or above.
        reduction: `"mean"` over anchors that have a positive, `"sum"`, or `"none"` (`[batch, views]`, 0 where there is
            no positive).

    Returns:
        In float32 or wider. Three equal views of a single sample give ln 2.

    Raises:
        ValueError: A temperature that is not positive, or no anchor with a positive: fewer than two views, and no label
            with two members.

    >>> multi_view_contrastive_loss(torch.ones(1, 3, 2))
    tensor(0.6931)
    """
    check_positive(temperature, "temperature")
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    batch, views = features.shape[:2]
    check_at_least(batch, "batch", 1)
    owner = torch.arange(batch, device=features.device)
    if labels is not None:
        check_target(labels, int(labels.max()) + 1 if labels.numel() else 1, shape=(batch,), name="labels")
        owner = labels
    owner = owner.repeat_interleave(views)
    vectors = functional.normalize(at_least_float32(features).flatten(0, 1), dim=-1)
    similarity = vectors @ vectors.t() / temperature
    itself = torch.eye(len(vectors), dtype=torch.bool, device=features.device)
    positive = (owner[:, None] == owner[None, :]) & ~itself
    count = positive.sum(dim=1)
    if not count.any():
        raise ValueError(
            "Expected argument `features` to have at least 2 views, or `labels` with a class of 2 members, "
            f"but got {views} view{'s' if views != 1 else ''} of {batch}."
        )
    log_share = similarity - similarity.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    losses = -torch.where(positive, log_share, 0).sum(dim=1) / count.clamp(min=1)
    if reduction == "none":
        return losses.view(batch, views)
    return losses.sum() if reduction == "sum" else losses.sum() / (count > 0).sum()
