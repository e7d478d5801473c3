from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tutelage.features import channel_relation_distance, sample_relation_distance
from tutelage.models import resnet
from tutelage.students import (
    DisWOT,
    classifier_gradient,
    diswot_score,
    gaussian_reinitialize,
    relation_similarity,
    semantic_similarity,
)

seeds = st.integers(0, 10_000)


def slow_semantic_distance(student: Tensor, teacher: Tensor) -> float:
    total = 0.0
    for first, second in zip(student.double(), teacher.double(), strict=True):
        outer = [functional.normalize(torch.outer(row, row), dim=1) for row in (first, second)]
        total += float((outer[0] - outer[1]).square().sum())
    return total / student.numel()


def slow_relation_distance(student: Tensor, teacher: Tensor) -> float:
    batch, total = len(student), 0.0
    rows = [features.double().flatten(1) for features in (student, teacher)]
    for i in range(batch):
        relations = [torch.stack([one[i] @ one[j] for j in range(batch)]) for one in rows]
        total += float((relations[0] / relations[0].norm() - relations[1] / relations[1].norm()).square().sum())
    return total / batch**2


def small(width: int = 8) -> nn.Module:
    return resnet((1, 8, 8), 4, widths=(width, 16), depths=(1, 1))


BATCH = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 4


@given(seed=seeds)
@hypothesis_settings(max_examples=20, deadline=None)
def test_agrees_with_the_definitions(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 3, 5, generator=generator)
    assert -semantic_similarity(student, teacher) == pytest.approx(slow_semantic_distance(student, teacher), abs=1e-9)
    assert -relation_similarity(student, teacher) == pytest.approx(slow_relation_distance(student, teacher), abs=1e-5)
    maps = torch.randn(2, 3, 4, 2, 3, generator=generator)
    expected = torch.stack(
        [
            (functional.normalize(a @ a.t()) - functional.normalize(b @ b.t())).square().sum() / 4
            for a, b in zip(*maps.flatten(3), strict=True)
        ]
    )
    torch.testing.assert_close(channel_relation_distance(*maps, reduction="none"), expected)


@given(seed=seeds)
@hypothesis_settings(max_examples=15, deadline=None)
def test_distances_are_symmetric_and_blind_to_scale_order_and_mixing(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, 4, 6, generator=generator, dtype=torch.float64)
    distance = sample_relation_distance(student, teacher)
    mixing, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    order = torch.randperm(4, generator=generator)
    for other in (
        sample_relation_distance(teacher, student),
        sample_relation_distance(3 * student, 0.1 * teacher),
        sample_relation_distance(student @ mixing, teacher),
        sample_relation_distance(student[order], teacher[order]),
    ):
        torch.testing.assert_close(other, distance)
    semantic = semantic_similarity(student, teacher)
    assert -4 <= semantic <= 0
    assert semantic_similarity(teacher, student) == pytest.approx(semantic)
    assert semantic_similarity(5 * student, teacher / 7) == pytest.approx(semantic)


def test_known_answers() -> None:
    assert semantic_similarity(torch.tensor([[2.0, 1.0]]), torch.tensor([[1.0, 2.0]])) == pytest.approx(-0.4)
    gradient = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert semantic_similarity(gradient, gradient) == pytest.approx(0, abs=1e-12)
    assert semantic_similarity(-gradient, gradient) == pytest.approx(0, abs=1e-12)  # signs cancel
    assert semantic_similarity(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])) == pytest.approx(-2)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    expected = 2 * ((1 - 0.5**0.5) ** 2 + 0.5) / 4
    assert sample_relation_distance(features, torch.eye(2)).item() == pytest.approx(expected, abs=1e-6)
    assert sample_relation_distance(features, features).item() == 0


def test_dead_classes_and_samples_give_finite_values() -> None:
    dead = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert semantic_similarity(dead, torch.ones(2, 2)) == pytest.approx(-slow_semantic_distance_with_zeros())
    assert torch.isfinite(sample_relation_distance(torch.zeros(3, 2, requires_grad=True), torch.ones(3, 2)))


def test_classes_with_hardly_a_gradient_hardly_count() -> None:
    student, teacher = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = 10.0 ** -torch.arange(3, 9).double()[:, None]  # rows of the products from 1e-6 to 1e-16
    found = -semantic_similarity(scale * student, scale * teacher)
    assert found == pytest.approx(slow_semantic_distance(scale * student, scale * teacher), abs=1e-9)
    assert found < -semantic_similarity(student, teacher)
    assert -semantic_similarity(scale * student, scale * teacher, eps=1e-40) == pytest.approx(
        slow_semantic_distance(student, teacher)
    )


def slow_semantic_distance_with_zeros() -> float:
    cosine = 3 / 10**0.5
    return (1 + 1 + (2 - 2 * cosine) * 2) / 4  # the dead class is 1 away in both channels


def test_only_the_student_gets_a_gradient_and_it_is_right() -> None:
    student = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    sample_relation_distance(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert torch.autograd.gradcheck(lambda x: sample_relation_distance(x, teacher.detach()), student)
    maps, other = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: channel_relation_distance(x, other), maps.requires_grad_())


def test_classifier_gradient_is_that_of_the_loss_and_never_adds_up() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = [classifier_gradient(model, x, y, layer="2") for _ in range(2)]
    assert torch.equal(*found)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    functional.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(found[0], model[2].weight.grad)


def test_scoring_leaves_both_networks_bitwise_as_they_were() -> None:
    teacher, student = small(), small(4).eval()
    teacher.requires_grad_(False)
    states = [{name: value.clone() for name, value in net.state_dict().items()} for net in (teacher, student)]
    next(student.parameters()).grad = torch.ones_like(next(student.parameters()))
    score = diswot_score(teacher, student, *BATCH, generator=torch.Generator().manual_seed(3))
    again = diswot_score(teacher, student, *BATCH, generator=torch.Generator().manual_seed(3))
    assert score == again
    assert diswot_score(teacher, student, *BATCH, generator=torch.Generator().manual_seed(4)) != score
    for net, state in zip((teacher, student), states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert teacher.training
    assert not student.training
    assert next(student.parameters()).grad.eq(1).all()
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_scorer_gives_what_single_scores_give_and_repeats_are_averaged() -> None:
    teacher, students = small(), [small(4), small(8)]
    scorer = DisWOT(teacher, *BATCH, initialization=None, relation_weight=2.0, semantic_weight=0.5)
    for student in students:
        score = scorer(student)
        single = diswot_score(teacher, student, *BATCH, initialization=None, relation_weight=2.0, semantic_weight=0.5)
        assert score == single
        assert score.total == pytest.approx(2 * score.relation + 0.5 * score.semantic)
    many = DisWOT(teacher, *BATCH, repeats=3, generator=torch.Generator().manual_seed(0))(students[0])
    assert many.total < 0


def test_networks_with_other_widths_are_compared_by_relations_alone() -> None:
    teacher, student = small(), resnet((1, 8, 8), 4, widths=(4, 8), depths=(1, 1))
    with pytest.raises(ValueError, match="semantic_weight=0"):
        diswot_score(teacher, student, *BATCH)
    assert diswot_score(teacher, student, *BATCH, semantic_weight=0.0).semantic == 0


def test_any_network_can_be_scored_by_paths() -> None:
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    score = diswot_score(net, net, torch.randn(6, 3), torch.tensor([0, 1] * 3), feature="2", classifier="3")
    assert score.total < 0


def test_gaussian_weights() -> None:
    net = gaussian_reinitialize(small(64), torch.Generator().manual_seed(0))
    weights = torch.cat([p.detach().flatten() for name, p in net.named_parameters() if p.ndim > 1])
    assert weights.mean().abs() < 0.02
    assert weights.std() == pytest.approx(1, abs=0.02)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.weight.eq(1).all() and norm.bias.eq(0).all() for norm in norms)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"relation_weight": -1.0}, "relation_weight"),
        ({"repeats": 0}, "repeats"),
        ({"classifier": "resnet"}, "classifier with a weight"),
        ({"classifier": "nowhere"}, "nowhere"),
        ({"feature": "stage:9"}, "stage"),
    ],
)
def test_bad_input(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        diswot_score(small(), small(), *BATCH, **arguments)  # type: ignore[arg-type]


def test_batches_and_channels_must_meet() -> None:
    with pytest.raises(ValueError, match="same batch size"):
        sample_relation_distance(torch.ones(2, 3), torch.ones(3, 3))
    with pytest.raises(ValueError, match="channels"):
        channel_relation_distance(torch.ones(2, 3, 4), torch.ones(2, 4, 4))
