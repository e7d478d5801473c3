"""Baselines of cross-tokenizer distillation: predictions compared where two tokenizations of a text agree."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_positive
from tutelage.data.byte_level import special_roles, vocabulary_bytes
from tutelage.objectives.classic import universal_logit_distance
from tutelage.objectives.divergences import forward_kl
from tutelage.objectives.edit_distance import minimum_edit_distance_mapping
from tutelage.objectives.objective import Objective
from tutelage.objectives.positions import mean_over_positions

_READS = (
    "student.logits",
    "teacher.logits",
    "batch.extras.student_chunk",
    "batch.extras.teacher_chunk",
)


def aligned_predictions(
    student_logits: Float[Tensor, "batch student_time student_vocabulary"],
    teacher_logits: Float[Tensor, "batch teacher_time teacher_vocabulary"],
    student_chunk: Int[Tensor, "batch student_time"],
    teacher_chunk: Int[Tensor, "batch teacher_time"],
    *,
    one_to_one: bool = False,
) -> tuple[Float[Tensor, "places student_vocabulary"], Float[Tensor, "places teacher_vocabulary"]]:
    """What both models say about the next token at every place where they have read the same bytes.

    Args:
        student_logits: `[batch, n, vocabulary_S]`.
        teacher_logits: `[batch, m, vocabulary_T]`.
        student_chunk: `[batch, n]`, the number of every token's chunk, -1 for none (see
            `ApproximateLikelihoodMatching.collate`).
        teacher_chunk: `[batch, m]`, likewise.
        one_to_one: Only before chunks that are one token on either side.

    Returns:
        Rows of logits, those before the first token of each chunk, in the order of the text. The very first token of a
        sequence is predicted by nothing.

    >>> chunk = torch.tensor([[0, 1, 1, 2]])
    >>> student, teacher = torch.randn(1, 4, 5), torch.randn(1, 4, 7)
    >>> [rows.shape[0] for rows in aligned_predictions(student, teacher, chunk, chunk, one_to_one=True)]
    [1, 1]
    """
    columns = torch.arange(
        int(torch.maximum(student_chunk.max(), teacher_chunk.max())) + 1, device=student_chunk.device
    )
    counts, first = [], []
    for chunk in (student_chunk, teacher_chunk):
        member = (chunk.unsqueeze(-1) == columns).long()
        counts.append(member.sum(dim=1))
        first.append(member.argmax(dim=1))
    kept = (first[0] > 0) & (first[1] > 0) & (counts[0] > 0) & (counts[1] > 0)
    if one_to_one:
        kept = kept & (counts[0] == 1) & (counts[1] == 1)
    row = kept.nonzero()[:, 0]
    return student_logits[row, first[0][kept] - 1], teacher_logits[row, first[1][kept] - 1]


class MinimumEditDistanceDistillation(Objective, name="mined"):
    """MinED: KL from the teacher's predictions, in which every student token stands for the most similar teacher token.

    Compared where a chunk is one token on either side; the teacher's logits are gathered by
    `minimum_edit_distance_mapping` (special tokens by their roles) and normalised over the student's vocabulary. Reads
    batches that `ApproximateLikelihoodMatching.collate` makes.

    Args:
        teacher_tokenizer: See `tutelage.data.byte_level_tokens`.
        student_tokenizer: Likewise.
        temperature: Softens both predictions; the loss is not scaled by its square.

    Source: Wan et al. 2024 ("Knowledge fusion of large language models"), as a baseline in Minixhofer et al. 2025.

    >>> from tutelage.data import ByteTokenizer
    >>> objective = MinimumEditDistanceDistillation(ByteTokenizer(), ByteTokenizer())
    >>> logits, chunk = torch.randn(1, 4, 259), torch.tensor([[0, 1, 2, 3]])
    >>> objective(logits, logits, chunk, chunk)
    tensor(0.)
    """

    reads = _READS

    def __init__(self, teacher_tokenizer: Any, student_tokenizer: Any, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature
        spelled = vocabulary_bytes(teacher_tokenizer), vocabulary_bytes(student_tokenizer)
        mapping, roles = minimum_edit_distance_mapping(*spelled), special_roles(teacher_tokenizer)
        for role, number in special_roles(student_tokenizer).items():
            mapping[number] = roles.get(role, int(mapping[number]))
        self.register_buffer("mapping", mapping, persistent=False)

    mapping: Tensor

    def loss(
        self, student_logits: Tensor, teacher_logits: Tensor, student_chunk: Tensor, teacher_chunk: Tensor
    ) -> Tensor:
        """The mean over one-to-one chunks; 0 when there is none."""
        student, teacher = aligned_predictions(
            student_logits, teacher_logits.detach(), student_chunk, teacher_chunk, one_to_one=True
        )
        rows = forward_kl(student[:, : len(self.mapping)], teacher[:, self.mapping], temperature=self.temperature)
        return mean_over_positions(rows)


class AlignedUniversalLogitDistance(Objective, name="aligned_uld"):
    """ULD between two tokenizers: `universal_logit_distance` wherever both have read the same bytes.

    The published form compares the k-th predictions of both sequences, which belong to different places of the text;
    aligned, the baseline is stronger. Reads batches that `ApproximateLikelihoodMatching.collate` makes.

    Args:
        temperature: Softens both predictions.

    Source: Boizard et al., TMLR 2025.

    >>> chunk = torch.tensor([[0, 1]])
    >>> AlignedUniversalLogitDistance()(torch.zeros(1, 2, 2), torch.zeros(1, 2, 4), chunk, chunk)
    tensor(1.)
    """

    reads = _READS

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        self.temperature = temperature

    def loss(
        self, student_logits: Tensor, teacher_logits: Tensor, student_chunk: Tensor, teacher_chunk: Tensor
    ) -> Tensor:
        """The mean over the beginnings of chunks; 0 when there is none."""
        student, teacher = aligned_predictions(student_logits, teacher_logits, student_chunk, teacher_chunk)
        return mean_over_positions(
            universal_logit_distance(student, teacher, temperature=self.temperature, reduction="none")
        )
