"""Baselines over two tokenizations: which places they compare, against a slow walk, and what they say there."""

from __future__ import annotations

import pytest
import torch

from tutelage.data import ByteTokenizer, CharacterTokenizer, train_bpe
from tutelage.objectives import (
    AlignedUniversalLogitDistance,
    ApproximateLikelihoodMatching,
    ChunkHiddenStates,
    MinimumEditDistanceDistillation,
    aligned_predictions,
    chunk_hidden_state_loss,
    forward_kl,
    universal_logit_distance,
)
from tutelage.outputs import Outputs

STUDENT = torch.tensor([[-1, 0, 1, 1, 2, 3], [0, 1, 2, -1, -1, -1]])
TEACHER = torch.tensor([[-1, 0, 1, 2, 2, 3, -1], [0, 1, 1, 2, -1, -1, -1]])
WHOLE = [(0, 0, 0), (0, 1, 1), (0, 3, 2), (0, 4, 4), (1, 0, 0), (1, 1, 2)]
"""By hand: row, and the student's and the teacher's position before each chunk but the one that begins a sequence."""
SINGLE = [(0, 0, 0), (0, 4, 4), (1, 1, 2)]


@pytest.mark.parametrize(("one_to_one", "places"), [(False, WHOLE), (True, SINGLE)])
def test_places(one_to_one: bool, places: list[tuple[int, int, int]]) -> None:
    student, teacher = torch.randn(2, 6, 5), torch.randn(2, 7, 4)
    first, second = aligned_predictions(student, teacher, STUDENT, TEACHER, one_to_one=one_to_one)
    assert torch.equal(first, torch.stack([student[row, place] for row, place, _ in places]))
    assert torch.equal(second, torch.stack([teacher[row, place] for row, _, place in places]))


def test_distances_are_means_over_these_places() -> None:
    student = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 7, 4, dtype=torch.float64, requires_grad=True)
    loss = AlignedUniversalLogitDistance()(student, teacher, STUDENT, TEACHER)
    rows = [universal_logit_distance(student[row, i][None], teacher[row, j][None]) for row, i, j in WHOLE]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    loss.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool((student.grad[0, 5] == 0).all())


def test_mined_reads_the_most_similar_token() -> None:
    old, new = CharacterTokenizer("abc"), CharacterTokenizer("cé")
    objective = MinimumEditDistanceDistillation(old, new, temperature=2.0)
    # padding, start and end by role; c by its bytes; é is as far from a, b and c
    assert objective.mapping.tolist()[:4] == [0, 1, 2, 5]
    student = torch.randn(2, 6, 5, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 7, 6, dtype=torch.float64, requires_grad=True)
    loss = objective(student, teacher, STUDENT, TEACHER)
    rows = [forward_kl(student[row, i], teacher[row, j][objective.mapping], temperature=2.0) for row, i, j in SINGLE]
    torch.testing.assert_close(loss, torch.stack(rows).mean())
    loss.backward()
    assert teacher.grad is None
    with pytest.raises(ValueError, match="`temperature`"):
        MinimumEditDistanceDistillation(old, new, temperature=0.0)


def test_without_a_common_place_there_is_nothing_to_learn() -> None:
    student, teacher = torch.randn(1, 3, 259, requires_grad=True), torch.randn(1, 3, 259)
    nowhere = torch.full((1, 3), -1)
    for objective in (
        AlignedUniversalLogitDistance(),
        MinimumEditDistanceDistillation(ByteTokenizer(), ByteTokenizer()),
        ChunkHiddenStates(),
    ):
        loss = objective(student, teacher, nowhere, nowhere)
        assert loss.item() == 0
        loss.backward()


def test_states_of_unlike_widths_are_joined_by_a_projection_that_learns() -> None:
    objective = ChunkHiddenStates()
    alm = ApproximateLikelihoodMatching(train_bpe(["the cat"], 265), ByteTokenizer())
    batch = alm.collate(["the cat", "a cat"])
    student_chunk, teacher_chunk = batch.extras["student_chunk"], batch.extras["teacher_chunk"]
    student = Outputs(embedding=torch.randn(*student_chunk.shape, 3))
    teacher = Outputs(embedding=torch.randn(*teacher_chunk.shape, 4))
    with pytest.raises(ValueError, match="`projection`"):
        objective(student, teacher, batch)
    objective.build(student, teacher, batch)
    loss = objective(student, teacher, batch)
    columns = torch.arange(int(student_chunk.max()) + 1)
    expected = chunk_hidden_state_loss(
        student.embedding,  # type: ignore[arg-type]
        teacher.embedding,  # type: ignore[arg-type]
        student_chunk.unsqueeze(-1) == columns,
        teacher_chunk.unsqueeze(-1) == columns,
        projection=objective.projection,
    )
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert objective.projection is not None
    assert objective.projection.grad is not None
