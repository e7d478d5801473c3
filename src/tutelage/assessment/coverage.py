"""Coverage: the chance that at least one of several samples is right."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least


def pass_at_k(num_samples: Int[Tensor, "..."] | int, num_correct: Int[Tensor, "..."] | int, k: int) -> Tensor:
    """The unbiased estimate of pass@k from n samples of which c are right: 1 − C(n − c, k)/C(n, k).

    Args:
        num_samples: n of each problem, or of all.
        num_correct: c of each problem.
        k: How many samples may be tried; at most n.

    Returns:
        One value a problem, in the broadcast shape, as the default floating-point type; exactly 0 for c = 0, and 1 for
        n − c < k.

    Raises:
        ValueError: k < 1, k > n, c > n or c < 0.

    Source: Chen et al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1.

    >>> pass_at_k(torch.tensor([10, 10]), torch.tensor([3, 0]), 5)
    tensor([0.9167, 0.0000])
    """
    check_at_least(k, "k", 1)
    n, c = torch.as_tensor(num_samples), torch.as_tensor(num_correct)
    if (n < k).any():
        raise ValueError(f"Expected argument `k` to be at most `num_samples`, but got {k} and {int(n.min())}.")
    if ((c < 0) | (c > n)).any():
        raise ValueError("Expected argument `num_correct` to be in [0, num_samples], but it is not.")
    n, wrong = n.double(), (n - c).double()
    some = wrong.clamp(min=k)  # where fewer are wrong, the result is set to 1 below
    log_miss = (some + 1).lgamma() - (some - k + 1).lgamma() - (n + 1).lgamma() + (n - k + 1).lgamma()
    return torch.where(wrong < k, 1.0, torch.where(c == 0, 0.0, -torch.expm1(log_miss))).to(torch.get_default_dtype())


def coverage_from_log_prob(log_prob: Float[Tensor, "..."], *, num_samples: float) -> Float[Tensor, "..."]:
    """pass@N of a known probability: 1 − (1 − e^ℓ)^N, from the logarithm ℓ, without loss of digits at either end.

    Args:
        log_prob: ℓ, the summed log-probability of the right answer, at most 0.
        num_samples: N; real numbers from 1 are allowed.

    Returns:
        Values in [0, 1] of the same shape; float32 for half-precision input.

    Raises:
        ValueError: N is below 1 or not finite, or a log-probability is above 1e-6 or NaN.

    Source: DCO, arXiv 2502.07154.

    >>> coverage_from_log_prob(torch.tensor([0.1, 0.5]).log(), num_samples=16)
    tensor([0.8147, 1.0000])
    """
    if not (math.isfinite(num_samples) and num_samples >= 1):
        raise ValueError(f"Expected argument `num_samples` to be at least 1, but got {num_samples}.")
    if not (log_prob <= 1e-6).all():
        raise ValueError("Expected argument `log_prob` to hold log-probabilities (at most 0), but it does not.")
    value = (log_prob.float() if log_prob.dtype in (torch.float16, torch.bfloat16) else log_prob).clamp(max=0.0)
    log_miss = torch.where(value > -math.log(2), (-torch.expm1(value)).log(), torch.log1p(-value.exp()))
    return -torch.expm1(num_samples * log_miss)
