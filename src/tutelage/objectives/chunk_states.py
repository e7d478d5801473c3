"""Hidden states of two tokenizations of one text, compared where both have read the same bytes."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives.objective import Objective
from tutelage.outputs import Outputs


def chunk_hidden_state_loss(
    student_hidden: Float[Tensor, "batch student_time width"],
    teacher_hidden: Float[Tensor, "batch teacher_time teacher_width"],
    student_chunks: Bool[Tensor, "batch student_time chunks"],
    teacher_chunks: Bool[Tensor, "batch teacher_time chunks"],
    *,
    projection: Float[Tensor, "teacher_width width"] | None = None,
) -> Float[Tensor, ""]:
    """Squared distance of last-layer states at the last token of every chunk.

    ‖W h_S − h_T‖² divided channel by channel by the mean square of the teacher's states over all chunks (+ 1e-8), so
    that channels of any size count alike; the mean over channels and chunks.

    Args:
        student_hidden: `[batch, n, width]`; the gradient goes here and to the projection.
        teacher_hidden: `[batch, m, teacher_width]`.
        student_chunks: `[batch, n, chunks]`, see `alignment_matrices`, not merged.
        teacher_chunks: `[batch, m, chunks]`.
        projection: W; None is the identity, for states of one width.

    Returns:
        A scalar; 0 when there is no chunk.

    Raises:
        ValueError: Widths that differ without a projection.

    Source: Minixhofer et al. 2025, step 8.

    >>> states, chunks = torch.randn(1, 3, 4), torch.eye(3, dtype=torch.bool).unsqueeze(0)
    >>> chunk_hidden_state_loss(states, states, chunks, chunks)
    tensor(0.)
    """
    if projection is None and student_hidden.shape[-1] != teacher_hidden.shape[-1]:
        raise ValueError(
            f"Expected a `projection` for states of widths {student_hidden.shape[-1]} and {teacher_hidden.shape[-1]}."
        )
    both = student_chunks.any(dim=1) & teacher_chunks.any(dim=1)
    student = _last_states(student_hidden, student_chunks)[both]
    teacher = _last_states(teacher_hidden.detach(), teacher_chunks)[both]
    if not len(student):
        return student_hidden.sum() * 0.0
    projected = student if projection is None else student @ projection.T
    scale = teacher.square().mean(dim=0) + 1e-8
    return ((projected - teacher).square() / scale).mean()


def _last_states(hidden: Tensor, chunks: Tensor) -> Tensor:
    """The state at the last token of every chunk, `[batch, chunks, width]`."""
    positions = torch.arange(hidden.shape[1], device=hidden.device)[:, None]
    last = torch.where(chunks, positions, 0).amax(dim=1)
    return hidden.gather(1, last.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))


class ChunkHiddenStates(Objective):
    """Mean `chunk_hidden_state_loss` between what the heads of student and teacher read.

    Reads batches that `ApproximateLikelihoodMatching.collate` makes. States of unlike widths are joined by a projection
    that learns; for equal widths it is the identity.

    >>> states, chunk = torch.randn(1, 3, 4), torch.tensor([[0, 1, 1]])
    >>> ChunkHiddenStates()(states, states, chunk, chunk)
    tensor(0.)
    """

    reads = (
        "student.embedding",
        "teacher.embedding",
        "batch.extras.student_chunk",
        "batch.extras.teacher_chunk",
    )

    def __init__(self) -> None:
        super().__init__()
        self.projection: nn.Parameter | None = None

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the projection where the widths differ."""
        assert student.embedding is not None
        assert teacher is not None
        assert teacher.embedding is not None
        narrow, wide = student.embedding.shape[-1], teacher.embedding.shape[-1]
        if narrow != wide and self.projection is None:
            self.projection = nn.Parameter(nn.init.orthogonal_(torch.empty(wide, narrow)))

    def loss(
        self, student_hidden: Tensor, teacher_hidden: Tensor, student_chunk: Tensor, teacher_chunk: Tensor
    ) -> Tensor:
        """The mean over channels and chunks."""
        count = int(torch.maximum(student_chunk.max(), teacher_chunk.max())) + 1
        columns = torch.arange(max(count, 1), device=student_chunk.device)
        chunks = (student_chunk.unsqueeze(-1) == columns, teacher_chunk.unsqueeze(-1) == columns)
        return chunk_hidden_state_loss(student_hidden, teacher_hidden, *chunks, projection=self.projection)
