"""Coverage: the chance that at least one of several samples is right; and how sure a model is of its greedy answer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.assessment.calibration import ReliabilityCurve, reliability_curve
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.objectives.coverage import log1mexp
from tutelage.objectives.sequences import token_log_probs


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
    return -torch.expm1(num_samples * log1mexp(value))


def greedy_confidence(
    model: nn.Module, prompts: Int[Tensor, "batch time"] | dict[str, Tensor], *, max_new_tokens: int = 32
) -> Float[Tensor, "batch"]:
    """The probability that a language model gives its own greedy completion of each prompt, end token included.

    Cross-entropy drives it to 1 on training data; direct coverage optimisation limits it.

    Args:
        model: A causal model of `transformers` with an end token in its configuration; its mode is left as it was.
        prompts: `input_ids` `[batch, time]`, or a dict with `input_ids` and `attention_mask`, padded on the left.
        max_new_tokens: Where completions are cut that have not ended.

    Returns:
        `[batch]` in (0, 1], in float32 or wider, without a gradient.

    Raises:
        ValueError: `max_new_tokens` below 1.

    Source: arXiv 2502.07154, section on over-confidence.

    >>> from tutelage.models import causal_lm
    >>> bool((greedy_confidence(causal_lm(7, eos_token_id=2), torch.tensor([[1, 3]]), max_new_tokens=2) <= 1).all())
    True
    """
    return _greedy(model, prompts, max_new_tokens)[1]


def calibration_curve_of_greedy(
    model: nn.Module,
    prompts: Int[Tensor, "batch time"] | dict[str, Tensor],
    is_correct: Callable[[int, Tensor], bool],
    *,
    num_bins: int = 15,
    max_new_tokens: int = 32,
) -> ReliabilityCurve:
    """How often greedy completions are right, by how sure the model is of them.

    Args:
        model: As `greedy_confidence`.
        prompts: As `greedy_confidence`.
        is_correct: From the row of a prompt and its completion's token ids (without the end token) to whether it is
            right.
        num_bins: Bins of equal width.
        max_new_tokens: Where completions are cut that have not ended.

    Returns:
        Count, accuracy and mean confidence of every bin.

    Raises:
        ValueError: `max_new_tokens` or `num_bins` below 1.

    Source: arXiv 2502.07154, section on over-confidence.

    >>> from tutelage.models import causal_lm
    >>> curve = calibration_curve_of_greedy(
    ...     causal_lm(7, eos_token_id=2), torch.tensor([[1, 3], [1, 4]]), lambda row, tokens: row == 0, max_new_tokens=2
    ... )
    >>> int(curve.count.sum())
    2
    """
    completions, confidence = _greedy(model, prompts, max_new_tokens)
    correct = torch.tensor([is_correct(row, tokens) for row, tokens in enumerate(completions)])
    return reliability_curve(confidence.clamp(max=1.0).cpu(), correct, num_bins=num_bins)


def _greedy(
    model: Any, prompts: Tensor | dict[str, Tensor], max_new_tokens: int
) -> tuple[list[Tensor], Float[Tensor, "batch"]]:
    """Completions without their end token, and their probabilities."""
    check_at_least(max_new_tokens, "max_new_tokens", 1)
    inputs = (
        prompts if isinstance(prompts, dict) else {"input_ids": prompts, "attention_mask": torch.ones_like(prompts)}
    )
    end = model.generation_config.eos_token_id
    ends = torch.tensor([] if end is None else [end] if isinstance(end, int) else end, dtype=torch.int64)
    with evaluation_mode(model), torch.no_grad():
        made = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
            pad_token_id=0 if end is None else int(ends[0]),
        )
    tokens = made.sequences[:, inputs["input_ids"].shape[1] :]
    is_end = torch.isin(tokens, ends.to(tokens.device))
    after = is_end.cumsum(dim=1) - is_end.long() > 0
    log_prob = token_log_probs(torch.stack(made.logits, dim=1), tokens.masked_fill(after, -100)).sum(dim=1)
    return [row[~done] for row, done in zip(tokens.cpu(), (after | is_end).cpu(), strict=True)], log_prob.exp()
