"""Approximate likelihood matching: two tokenizers, one text, and the probabilities both models give to its chunks."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tutelage._checks import check_option, check_positive
from tutelage.objectives.precision import at_least_float32

BinaryKind = Literal["kl", "cross_entropy", "tvd", "reverse_kl", "kl_limit", "tvd_limit"]
_KINDS = ("kl", "cross_entropy", "tvd", "reverse_kl", "kl_limit", "tvd_limit")
_MARGIN = 1e-6
_NEAR_ZERO = -1e-12


def chunk_log_probs(
    logits: Float[Tensor, "batch time vocabulary"],
    ids: Int[Tensor, "batch time"],
    chunks: Bool[Tensor, "batch time chunks"],
    mask: Tensor | None = None,
) -> Float[Tensor, "batch chunks"]:
    """Log-probability of every chunk: the sum over its tokens, each given all tokens before it.

    The first token of a sequence is predicted by nothing and counts 0, as do masked ones.

    Args:
        logits: `[batch, time, vocabulary]`; position t predicts token t + 1.
        ids: `[batch, time]`, the tokens that were read.
        chunks: `[batch, time, chunks]`, which token belongs to which chunk.
        mask: `[batch, time]`, 0 where a token does not count (prompt, padding).

    Returns:
        Nats, at most 0, in float32 or wider.

    >>> logits = torch.zeros(1, 3, 4)
    >>> chunk_log_probs(logits, torch.tensor([[1, 2, 3]]), torch.ones(1, 3, 1, dtype=torch.bool))
    tensor([[-2.7726]])
    """
    rows = at_least_float32(logits[:, :-1])
    told = rows.gather(-1, ids[:, 1:].unsqueeze(-1)).squeeze(-1) - rows.logsumexp(dim=-1)
    told = told.clamp(max=0.0)
    if mask is not None:
        told = torch.where(mask[:, 1:].bool(), told, 0.0)
    return torch.einsum("bt,btk->bk", told, chunks[:, 1:].to(told.dtype))


def boundary_log_prob(
    logits: Float[Tensor, "batch time vocabulary"], boundary_mask: Bool[Tensor, "vocabulary"]
) -> Float[Tensor, "batch time"]:
    """Log-probability that a word ends here: that the next token begins with a boundary byte, or is special.

    Args:
        logits: `[batch, time, vocabulary]`.
        boundary_mask: `[vocabulary]`, see `boundary_token_mask`.

    Raises:
        ValueError: No token is a boundary.

    >>> boundary_log_prob(torch.zeros(1, 1, 4), torch.tensor([True, False, False, False])).exp()
    tensor([[0.2500]])
    """
    if not bool(boundary_mask.any()):
        raise ValueError("Expected argument `boundary_mask` to mark at least one token, but it marks none.")
    rows = at_least_float32(logits)
    return (rows[..., boundary_mask].logsumexp(dim=-1) - rows.logsumexp(dim=-1)).clamp(max=0.0)


def merge_chunks(
    log_probs_teacher: Float[Tensor, "batch chunks"],
    log_probs_student: Float[Tensor, "batch chunks"],
    boundary_teacher: Float[Tensor, "batch chunks"],
    boundary_student: Float[Tensor, "batch chunks"],
    counts: Tensor,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Extend chunks until the teacher takes it for likely enough that a word ends, and add that boundary's term.

    Args:
        log_probs_teacher: `[batch, chunks]` in the order of the text.
        log_probs_student: Likewise; gradients pass.
        boundary_teacher: `[batch, chunks]`, `boundary_log_prob` at the last token of every chunk.
        boundary_student: Likewise; gradients pass.
        counts: `[batch, chunks]`, kept teacher tokens of a chunk; with 0 it takes no part.
        threshold: γ: a chunk ends where the teacher's boundary probability is above it. What follows the last such
            place is one more chunk.

    Returns:
        The merged chunks of teacher and student, debiased (log-probability plus boundary term at the last valid
        piece), and which columns hold one: all `[batch, chunks]`, filled from the left, else 0 and False.

    Raises:
        ValueError: A threshold outside [0, 1).

    >>> zero = torch.zeros(1, 3)
    >>> boundary = torch.tensor([[0.05, 0.5, 0.05]]).log()
    >>> merge_chunks(zero - 1, zero - 2, boundary, zero, zero + 1, 0.1)[2]
    tensor([[ True,  True, False]])
    """
    if not 0 <= threshold < 1:
        raise ValueError(f"Expected argument `merge_threshold` to be in [0, 1), but got {threshold}.")
    part = counts > 0
    ends = part & (boundary_teacher.exp() > threshold)
    columns = torch.arange(part.shape[1], device=part.device)
    last = torch.where(part, columns, -1).amax(dim=1, keepdim=True)
    ends = ends | (part & (columns == last))
    group = ends.long().cumsum(dim=1) - ends.long()
    merged = []
    for value, boundary in ((log_probs_teacher, boundary_teacher), (log_probs_student, boundary_student)):
        pieces = torch.where(part, value, 0.0) + torch.where(ends, boundary, 0.0)
        merged.append(torch.zeros_like(value).scatter_add(1, group, pieces))
    valid = columns < ends.sum(dim=1, keepdim=True)
    return torch.where(valid, merged[0], 0.0), torch.where(valid, merged[1], 0.0), valid


def binary_divergence(
    log_p: Float[Tensor, "*shape"],
    log_q: Float[Tensor, "*shape"],
    *,
    kind: BinaryKind = "kl",
    temperature: float = 100.0,
) -> Float[Tensor, "*shape"]:
    """Divergence of two coins: this chunk, or any other. Elementwise.

    p = exp(log_p / τ) is the teacher's probability, q the student's. Both exponents are held at -1e-6 or below, so that
    neither coin is certain; the gradient passes as if they were not. (The paper's code subtracts 1e-6 everywhere, which
    shifts values by 1 % at large τ.)

    - `kl`: p log(p/q) + (1−p) log((1−p)/(1−q)); `reverse_kl` with p and q exchanged
    - `cross_entropy`: −p log q − (1−p) log(1−q), which has the gradient of `kl`
    - `tvd`: |p − q|
    - `kl_limit`, `tvd_limit`: τ times these for τ → ∞: (A − B) + A log(B/A), and |A − B|, with A = log_p, B = log_q

    A lower bound of the divergence of the whole distributions: merging outcomes loses information.

    Args:
        log_p: Nats, at most 0.
        log_q: Likewise, of the same shape.
        kind: Which.
        temperature: τ. The limits ignore it.

    Raises:
        ValueError: An unknown kind, a temperature that is not positive, or log-probabilities above 1e-3.

    Source: Minixhofer et al. 2025, section 3 and Appendix E.

    >>> half, quarter = torch.tensor(0.5).log(), torch.tensor(0.25).log()
    >>> [round(float(binary_divergence(half, quarter, temperature=t)), 4) for t in (1.0, 5.0)]
    [0.1438, 0.0396]
    """
    check_option(kind, "kind", _KINDS)
    check_positive(temperature, "temperature")
    a, b = at_least_float32(log_p), at_least_float32(log_q)
    for value, name in ((a, "log_p"), (b, "log_q")):
        if value.numel() and float(value.detach().max()) > 1e-3:
            raise ValueError(f"Expected argument `{name}` to be at most 0, but got {float(value.detach().max()):g}.")
    if kind.endswith("limit"):
        a, b = a.clamp(max=_NEAR_ZERO), b.clamp(max=_NEAR_ZERO)
        return (a - b).abs() if kind == "tvd_limit" else (a - b) + a * (b / a).log()
    a, b = _below_zero(a / temperature), _below_zero(b / temperature)
    if kind == "tvd":
        return (a.exp() - b.exp()).abs()
    if kind == "reverse_kl":
        a, b = b, a
    cross = -(a.exp() * b - torch.expm1(a) * _log1mexp(b))
    return cross if kind == "cross_entropy" else cross + a.exp() * a - torch.expm1(a) * _log1mexp(a)


def approximate_likelihood_matching(
    student_logits: Float[Tensor, "batch student_time student_vocabulary"],
    teacher_logits: Float[Tensor, "batch teacher_time teacher_vocabulary"],
    student_ids: Int[Tensor, "batch student_time"],
    teacher_ids: Int[Tensor, "batch teacher_time"],
    student_chunks: Bool[Tensor, "batch student_time chunks"],
    teacher_chunks: Bool[Tensor, "batch teacher_time chunks"],
    *,
    student_mask: Tensor | None = None,
    teacher_mask: Tensor | None = None,
    student_boundary: Tensor | None = None,
    teacher_boundary: Tensor | None = None,
    merge_threshold: float | None = 0.1,
    kind: BinaryKind = "cross_entropy",
    temperature: float = 100.0,
) -> Float[Tensor, ""]:
    """Match the probabilities that student and teacher give to the same chunks of a text (ALM).

    Args:
        student_logits: `[batch, n, vocabulary_S]`; the gradient goes here, and only here.
        teacher_logits: `[batch, m, vocabulary_T]`.
        student_ids: `[batch, n]`.
        teacher_ids: `[batch, m]`.
        student_chunks: `[batch, n, chunks]`, see `alignment_matrices`.
        teacher_chunks: `[batch, m, chunks]`. A chunk counts when it keeps a teacher token besides the very first.
        student_mask: `[batch, n]`, 0 on tokens that do not count.
        teacher_mask: `[batch, m]`, likewise.
        student_boundary: `[vocabulary_S]`, see `boundary_token_mask`. With both of these, the probability that a word
            ends after the chunk is part of its probability, since subword tokens tell that it does not (debiasing).
        teacher_boundary: `[vocabulary_T]`.
        merge_threshold: γ of `merge_chunks`; None leaves chunks as they are. Without boundaries nothing is merged.
        kind: See `binary_divergence`.
        temperature: τ.

    Returns:
        The mean over the valid chunks of the batch (of this process); 0 when there is none.

    Raises:
        ValueError: One boundary mask without the other, masks of another shape, or as for the parts.

    Source: Minixhofer et al. 2025 (NeurIPS), "Universal Cross-Tokenizer Distillation via Approximate Likelihood
    Matching", steps 1 to 7. Their code counts merged chunks from token counts; this is the mean over them.

    >>> ids, chunks = torch.tensor([[0, 1, 2]]), torch.eye(3, dtype=torch.bool).unsqueeze(0)
    >>> logits = torch.randn(1, 3, 4)
    >>> float(approximate_likelihood_matching(logits, logits, ids, ids, chunks, chunks, kind="tvd"))
    0.0
    """
    if (student_boundary is None) != (teacher_boundary is None):
        raise ValueError("Expected `student_boundary` and `teacher_boundary`, or neither, but got one of them.")
    for mask, ids, name in ((student_mask, student_ids, "student"), (teacher_mask, teacher_ids, "teacher")):
        if mask is not None and mask.shape != ids.shape:
            raise ValueError(
                f"Expected argument `{name}_mask` to have the shape of `{name}_ids`, {tuple(ids.shape)}, "
                f"but got {tuple(mask.shape)}."
            )
    teacher_logits = teacher_logits.detach()
    told = chunk_log_probs(teacher_logits, teacher_ids, teacher_chunks, teacher_mask)
    learned = chunk_log_probs(student_logits, student_ids, student_chunks, student_mask)
    kept = teacher_chunks[:, 1:] if teacher_mask is None else teacher_chunks[:, 1:] & teacher_mask[:, 1:, None].bool()
    counts = kept.sum(dim=1)
    valid = counts > 0
    if student_boundary is not None and teacher_boundary is not None:
        closing_teacher = _at_last_token(boundary_log_prob(teacher_logits, teacher_boundary), teacher_chunks)
        closing_student = _at_last_token(boundary_log_prob(student_logits, student_boundary), student_chunks)
        if merge_threshold is None:
            told, learned = told + closing_teacher, learned + closing_student
        else:
            told, learned, valid = merge_chunks(
                told, learned, closing_teacher, closing_student, counts, merge_threshold
            )
    values = binary_divergence(told[valid], learned[valid], kind=kind, temperature=temperature)
    return values.mean() if values.numel() else learned.sum() * 0.0


def _at_last_token(values: Tensor, chunks: Tensor) -> Tensor:
    """The value at the last token of every chunk, `[batch, chunks]`; 0 for a chunk without tokens."""
    positions = torch.arange(values.shape[1], device=values.device)[:, None]
    last = torch.where(chunks, positions, -1).amax(dim=1)
    return torch.where(last >= 0, values.gather(1, last.clamp_min(0)), 0.0)


def _below_zero(value: Tensor) -> Tensor:
    return value - (value.detach() + _MARGIN).clamp(min=0.0)


def _log1mexp(value: Tensor) -> Tensor:
    """log(1 − eˣ) for x < 0, exact near 0 and far from it."""
    near = value > -0.6931471805599453
    close = torch.where(near, value, -1.0)
    far = torch.where(near, -1.0, value)
    return torch.where(near, (-torch.expm1(close)).log(), torch.log1p(-far.exp()))
