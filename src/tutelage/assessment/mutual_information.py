"""How much a classifier's predictions tell about single inputs, beyond their class."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_positive, check_probabilities, check_same_length, check_target
from tutelage.objectives.mcmi import centroid_divergence, class_log_means
from tutelage.objectives.precision import log_probabilities


def conditional_mutual_information(
    logits: Float[Tensor, "samples classes"],
    target: Int[Tensor, "samples"],
    *,
    temperature: float = 1.0,
    centroids: Float[Tensor, "centroids width"] | None = None,
    per_class: bool = False,
) -> Float[Tensor, "..."]:
    """CMI: the mutual information of input and predicted label given the class, in nats.

    (1 / N) Σ_n KL(P_n ‖ Q_y), with P_n = softmax(logits / temperature) and Q_y the mean P of the samples of class y. It
    is between 0 (a model that says the same about all inputs of a class) and ln(classes). Equally: Σ_y (n_y / N) ·
    (entropy of Q_y − mean entropy of P in class y). It is near 0 for a model that has memorised the samples, at every
    low temperature, and 0 again at very high ones; so look at training and at test samples.

    Args:
        logits: `[samples, classes]`; log-probabilities serve as well.
        target: `[samples]`, the true class of each sample.
        temperature: Softens P and, where they are taken from the samples, the centroids.
        centroids: `[classes, classes]`, a row Q_y a class, if not those of these samples. Centroids other than the
            samples' own make the figure larger, without a bound: it is infinite where Q holds impossible what P does
            not.
        per_class: Give the mean KL of each class.

    Returns:
        In float32 or wider, computed in float64: a scalar; with `per_class` `[classes]`, NaN for a class without
        samples. The mean of these weighted by n_y / N is the scalar. No gradient.

    Raises:
        ValueError: No samples, a target outside the classes, centroids of another shape or that are no probabilities,
            or a temperature that is not positive.

    Source: Yang et al., "Conditional Mutual Information Constrained Deep Learning for Classification", 2023; Ye et al.,
    ICLR 2024, arXiv 2401.08732.

    >>> logits, target = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 0])
    >>> conditional_mutual_information(logits, target)
    tensor(0.1017)
    """
    check_positive(temperature, "temperature")
    check_same_length(logits, target, "logits", "target")
    num_classes = logits.shape[1]
    check_target(target, num_classes, shape=logits.shape[:1])
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probs = log_probabilities(logits.detach().double(), temperature)
    if centroids is None:
        log_centroids = class_log_means(log_probs, target, num_classes=num_classes)
    else:
        if tuple(centroids.shape) != (num_classes, num_classes):
            raise ValueError(
                f"Expected argument `centroids` to have shape {(num_classes, num_classes)}, "
                f"but got {tuple(centroids.shape)}."
            )
        check_probabilities(centroids, "centroids")
        log_centroids = centroids.detach().double().clamp_min(0).log()
    divergence = centroid_divergence(log_probs, target, log_centroids)
    if not per_class:
        # Below 0 by rounding alone, unless centroids that sum to a little more than 1 say otherwise.
        return divergence.mean().clamp_min(0).to(dtype)
    sums = divergence.new_zeros(num_classes).index_add_(0, target.long(), divergence)
    counts = torch.bincount(target.long(), minlength=num_classes)
    return (sums / counts).clamp_min(0).masked_fill(counts == 0, math.nan).to(dtype)
