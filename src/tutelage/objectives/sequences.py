"""What a language model says about the tokens of a text: their log-probabilities, and how unsure it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_non_negative, check_positive, check_target
from tutelage.objectives.divergences import predictive_entropy
from tutelage.objectives.positions import IGNORE_INDEX
from tutelage.objectives.precision import at_least_float32


def token_log_probs(
    logits: Float[Tensor, "*positions vocabulary"],
    target: Int[Tensor, "*positions"],
    *,
    temperature: float = 1.0,
    ignore_index: int = IGNORE_INDEX,
) -> Float[Tensor, "*positions"]:
    """Log softmax(logits / temperature) of the target token at every position.

    Targets are aligned with the logits: `target[:, t]` is what position t should predict, as in `Batch`.

    Args:
        logits: `[..., vocabulary]`.
        target: `[...]` tokens, or `ignore_index`.
        temperature: That of the policy; 1 is the model itself.
        ignore_index: The label of positions to skip (prompt, padding).

    Returns:
        Nats, at most 0, in float32 or wider: `[...]`, exactly 0 (without gradient) at skipped positions.

    Raises:
        ValueError: A target of another shape or outside the vocabulary, or a temperature that is not positive.

    >>> import torch
    >>> token_log_probs(torch.zeros(1, 2, 4), torch.tensor([[3, -100]])).exp()
    tensor([[0.2500, 1.0000]])
    """
    check_positive(temperature, "temperature")
    vocabulary = logits.shape[-1]
    check_target(target, vocabulary, shape=logits.shape[:-1], ignore_index=ignore_index)
    rows = at_least_float32(logits.reshape(-1, vocabulary))
    if temperature != 1:
        rows = rows / temperature
    loss = F.cross_entropy(rows, target.reshape(-1).long(), ignore_index=ignore_index, reduction="none")
    return -loss.reshape(target.shape)


def sequence_log_prob(
    logits: Float[Tensor, "batch time vocabulary"],
    target: Int[Tensor, "batch time"],
    *,
    ignore_index: int = IGNORE_INDEX,
    average: bool = False,
) -> Float[Tensor, "batch"]:
    """Log-probability of every sequence: the sum over its counted tokens, each predicted from those before it.

    Targets are the input tokens themselves (the labels of `transformers`): the shift by one happens here, so that
    `logits[:, t]` predicts `target[:, t + 1]`. For targets that are aligned already sum `token_log_probs`.

    Args:
        logits: `[batch, time, vocabulary]`.
        target: `[batch, time]`: the tokens that were fed in, with `ignore_index` on prompt and padding.
        ignore_index: The label of positions to skip.
        average: Divide by the number of counted tokens. Losses on whole answers (DCO, DPO) need the sum.

    Returns:
        Nats, at most 0, in float32 or wider; 0 for a sequence without counted tokens.

    Raises:
        ValueError: A target of another shape or outside the vocabulary.

    >>> import torch
    >>> sequence_log_prob(torch.zeros(1, 3, 4), torch.tensor([[-100, 1, 2]]))
    tensor([-2.7726])
    """
    check_target(target, logits.shape[-1], shape=logits.shape[:-1], ignore_index=ignore_index)
    # The target moves, not the logits: a slice of these would have to be copied.
    following = F.pad(target.long()[:, 1:], (0, min(1, target.shape[1])), value=ignore_index)
    total = token_log_probs(logits, following, ignore_index=ignore_index).sum(dim=1)
    return total / (following != ignore_index).sum(dim=1).clamp(min=1) if average else total


def token_entropy(logits: Float[Tensor, "*positions vocabulary"], *, temperature: float = 1.0) -> Tensor:
    """Entropy of the next token at every position: `predictive_entropy` by the name that language models know.

    Args:
        logits: `[..., vocabulary]`.
        temperature: That of the policy.

    Returns:
        Nats in [0, ln vocabulary], in float32 or wider: `[...]`. The gradient reaches `logits`.

    Raises:
        ValueError: A temperature that is not positive.

    >>> import torch
    >>> token_entropy(torch.zeros(1, 2, 4))
    tensor([[1.3863, 1.3863]])
    """
    return predictive_entropy(logits, temperature=temperature)


def sequence_level_kd(
    student_logits: Float[Tensor, "batch time vocabulary"],
    teacher_tokens: Int[Tensor, "batch time"],
    mask: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy on what the teacher wrote: distillation of whole sequences (Kim and Rush 2016).

    Args:
        student_logits: `[batch, time, vocabulary]`, aligned: position t predicts `teacher_tokens[:, t]`.
        teacher_tokens: `[batch, time]`, the teacher's own text.
        mask: `[batch, time]`, 0 on prompt and padding; by default everything but the label -100 counts.

    Returns:
        The mean over counted tokens, in nats; 0 when there is none.

    Raises:
        ValueError: Tokens of another shape or outside the vocabulary, or a mask of another shape.

    >>> import torch
    >>> sequence_level_kd(torch.zeros(1, 2, 4), torch.tensor([[3, 1]]), torch.tensor([[1, 0]]))
    tensor(1.3863)
    """
    if mask is not None and mask.shape != teacher_tokens.shape:
        raise ValueError(
            f"Expected argument `mask` to have shape {tuple(teacher_tokens.shape)}, but got {tuple(mask.shape)}."
        )
    target = teacher_tokens if mask is None else teacher_tokens.masked_fill(mask == 0, IGNORE_INDEX)
    told = token_log_probs(student_logits, target)
    return -told.sum() / (target != IGNORE_INDEX).sum().clamp(min=1)


def perturb_logits(
    logits: Float[Tensor, "*positions vocabulary"], sigma: float, generator: torch.Generator | None = None
) -> Float[Tensor, "*positions vocabulary"]:
    """Logits + σ·N(0, 1): a teacher whose signal is disturbed.

    Args:
        logits: Any shape; the gradient passes unchanged.
        sigma: Standard deviation of the noise; 0 gives the logits back.
        generator: Where chance comes from.

    Raises:
        ValueError: A negative deviation.

    >>> perturb_logits(torch.ones(2), 0.0)
    tensor([1., 1.])
    """
    check_non_negative(sigma, "sigma")
    if sigma == 0:
        return logits
    return logits + sigma * torch.randn(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
