from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.features import class_conditional_mean
from tutelage.objectives import trilateral_edge_lengths, trilateral_features

KINDS = ("vertices", "edges", "angles", "lengths")


def points(batch: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def simplex(rows: int) -> Tensor:
        return (3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64)).softmax(dim=1)

    target = torch.randint(classes, (batch,), generator=generator)
    return simplex(batch), simplex(batch), target, simplex(classes)


def reference(student: Tensor, teacher: Tensor, target: Tensor, means: Tensor) -> dict[str, list[list[list[float]]]]:
    """Every block of every sample, number by number."""
    blocks: dict[str, list[list[list[float]]]] = {kind: [] for kind in KINDS}
    for s, t, y in zip(student.tolist(), teacher.tolist(), target.tolist(), strict=True):
        m = means[y].tolist()
        g = [float(label == y) for label in range(len(s))]

        def square(a: list[float], b: list[float]) -> list[float]:
            return [(x - z) ** 2 for x, z in zip(a, b, strict=True)]

        def product(a: list[float], b: list[float], c: list[float]) -> list[float]:
            return [(x - w) * (z - w) for x, z, w in zip(a, b, c, strict=True)]

        blocks["vertices"].append([s, t, g, m])
        blocks["edges"].append([square(m, s), square(g, s), square(t, s), square(t, g), square(m, g)])
        blocks["angles"].append([product(m, g, s), product(t, g, s)])
        lengths = [square(s, g), square(t, g), square(s, t), square(s, m), square(m, g)]
        blocks["lengths"].append([[sum(length)] for length in lengths])
    return blocks


LEFT_OUT = {
    "inter_sample": {"vertices": {3}, "edges": {0, 4}, "angles": {0}, "lengths": {3, 4}},
    "student_teacher_edge": {"vertices": set(), "edges": {2}, "angles": {1}, "lengths": {2}},
}


@pytest.mark.parametrize("inter_sample", [True, False])
@pytest.mark.parametrize("student_teacher_edge", [True, False])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_blocks_stand_in_the_order_of_the_code(inter_sample: bool, student_teacher_edge: bool, size: int) -> None:
    arguments = points(5, 4)
    expected = reference(*arguments)
    dropped: dict[str, set[int]] = {kind: set() for kind in KINDS}
    for kind in KINDS:
        if not inter_sample:
            dropped[kind] |= LEFT_OUT["inter_sample"][kind]
        if not student_teacher_edge:
            dropped[kind] |= LEFT_OUT["student_teacher_edge"][kind]
    for features in itertools.combinations(reversed(KINDS), size):
        rows = [
            [
                number
                for kind in KINDS
                if kind in features
                for place, block in enumerate(expected[kind][sample])
                if place not in dropped[kind]
                for number in block
            ]
            for sample in range(5)
        ]
        if not rows[0]:
            continue
        found = trilateral_features(
            *arguments, features=features, inter_sample=inter_sample, student_teacher_edge=student_teacher_edge
        )
        torch.testing.assert_close(found, torch.tensor(rows, dtype=torch.float64))


def test_default_state_is_nine_times_as_wide_as_there_are_classes_and_detached() -> None:
    student, teacher, target, means = points(6, 7)
    state = trilateral_features(student.requires_grad_(), teacher.requires_grad_(), target, means.requires_grad_())
    assert state.shape == (6, 63)
    assert not state.requires_grad
    assert trilateral_features(student, teacher, target, means, features=("lengths",)).shape == (6, 5)


def test_known_lengths() -> None:
    student, teacher = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    means = torch.tensor([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    found = trilateral_edge_lengths(student, teacher, torch.tensor([0]), means)
    torch.testing.assert_close(found, torch.tensor([[0.5, 2.0, 0.5, 0.5, 0.5]]))


def test_points_that_coincide_have_no_edges() -> None:
    label = torch.eye(3)
    target = torch.arange(3)
    assert not trilateral_edge_lengths(label, label, target, label).any()
    assert not trilateral_features(label, label, target, label, features=("edges", "angles", "lengths")).any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 6))
def test_lengths_obey_the_geometry_of_the_simplex(seed: int, classes: int) -> None:
    squared = trilateral_edge_lengths(*points(4, classes, seed))
    assert (squared >= 0).all()
    assert (squared <= 2 + 1e-12).all()
    student_label, teacher_label, student_teacher, student_mean, mean_label = squared.sqrt().T
    for a, b, c in ((student_label, teacher_label, student_teacher), (student_label, student_mean, mean_label)):
        assert (a <= b + c + 1e-12).all()
        assert (b <= a + c + 1e-12).all()
        assert (c <= a + b + 1e-12).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_other_names_for_the_classes_permute_every_block(seed: int) -> None:
    student, teacher, target, means = points(5, 4, seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    renamed = order.argsort()[target]
    features = ("vertices", "edges", "angles")
    before = trilateral_features(student, teacher, target, means, features=features).view(5, 11, 4)
    after = trilateral_features(
        student[:, order], teacher[:, order], renamed, means[order][:, order], features=features
    ).view(5, 11, 4)
    torch.testing.assert_close(after, before[:, :, order])
    torch.testing.assert_close(
        trilateral_edge_lengths(student[:, order], teacher[:, order], renamed, means[order][:, order]),
        trilateral_edge_lengths(student, teacher, target, means),
    )


def test_class_means_of_the_teacher_fit_in() -> None:
    _, teacher, target, _ = points(20, 4)
    target = target.clamp(max=2)  # class 3 is absent
    means = class_conditional_mean(teacher, target, num_classes=4, missing="uniform")
    torch.testing.assert_close(means.sum(dim=1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(means[3], torch.full((4,), 0.25, dtype=torch.float64))
    order = torch.randperm(20)
    again = class_conditional_mean(teacher[order], target[order], num_classes=4, missing="uniform")
    torch.testing.assert_close(again, means)
    assert trilateral_features(teacher, teacher, target, means).shape == (20, 36)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 1e-3), (torch.bfloat16, 1e-2)])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, error: float) -> None:
    student, teacher, target, means = points(64, 20)
    half = trilateral_features(student.to(dtype), teacher.to(dtype), target, means.to(dtype))
    assert half.dtype == torch.float32
    torch.testing.assert_close(half.double(), trilateral_features(student, teacher, target, means), atol=error, rtol=0)


def test_bad_input_is_refused() -> None:
    student, teacher, target, means = points(3, 4)
    with pytest.raises(ValueError, match="`student_probs` to hold probabilities that sum to 1, but got a sum of 2"):
        trilateral_features(2 * student, teacher, target, means)
    with pytest.raises(ValueError, match="`student_probs` and `teacher_probs` to have the same shape"):
        trilateral_features(student, teacher[:2], target, means)
    with pytest.raises(ValueError, match="`teacher_probs` to hold probabilities that sum to 1"):
        trilateral_edge_lengths(student, teacher * 1.01, target, means)
    with pytest.raises(ValueError, match=r"`target` to hold classes in \[0, 4\), but got 4"):
        trilateral_features(student, teacher, target.clamp(min=4), means)
    with pytest.raises(ValueError, match="`class_means` to hold the mean of every class in `target`, but class 3"):
        trilateral_features(student, teacher, torch.tensor([0, 3, 1]), means[:3])
    means[2] = torch.nan
    with pytest.raises(ValueError, match="but class 2 has none"):
        trilateral_features(student, teacher, torch.tensor([0, 2, 1]), means)
    with pytest.raises(ValueError, match="`class_means` to have 4 columns"):
        trilateral_features(student, teacher, torch.tensor([0, 0, 0]), means[:, :3])
    with pytest.raises(ValueError, match="at least one kind"):
        trilateral_features(student, teacher, target, means, features=())
    with pytest.raises(ValueError, match="at least one feature to be left"):
        trilateral_features(
            student,
            teacher,
            torch.tensor([0, 1, 0]),
            means,
            features=("angles",),
            inter_sample=False,
            student_teacher_edge=False,
        )
