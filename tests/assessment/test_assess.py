from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score
from torch import Tensor, nn

from tutelage.assessment import assess, prediction_fidelity
from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.outputs import Outputs
from tutelage.teachers import FrozenTeacher


@pytest.fixture
def images() -> ArraySamples:
    return ArraySamples(torch.rand(90, 1, 6, 6), torch.randint(7, (90,)))


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.BatchNorm1d(16), nn.Dropout(0.3), nn.Linear(16, 7))


def test_a_full_card(images):
    student, teacher = classifier(), classifier()
    card = assess(student, images, name="pld", teacher=teacher, class_names=list("abcdefg"), batch_size=32)
    student.eval(), teacher.eval()
    batch = images.batch(torch.arange(90))
    logits, taught = student(batch.inputs).detach(), teacher(batch.inputs).detach()
    assert (card.name, card.task, card.num_samples, card.class_names) == ("pld", "classification", 90, list("abcdefg"))
    assert card.metrics["accuracy"] == pytest.approx(float((logits.argmax(1) == batch.target).double().mean()))
    assert card.metrics["negative_log_likelihood"] == pytest.approx(
        float(F.cross_entropy(logits, batch.target)), rel=1e-5
    )
    fidelity = prediction_fidelity(logits, taught, batch.target)
    assert card.metrics["teacher_agreement"] == pytest.approx(fidelity.agreement)
    assert card.metrics["teacher_kl"] == pytest.approx(fidelity.kl, rel=1e-4)
    assert card.metrics["teacher_error_agreement"] == pytest.approx(fidelity.agreement_on_teacher_errors)
    assert card.metrics["parameters"] == sum(parameter.numel() for parameter in student.parameters())
    assert card.metrics["multiply_adds"] == 36 * 16 + 16 * 7
    assert {"top5_accuracy", "brier_score", "mean_confidence", "latency_ms", "latency_p95_ms"} <= set(card.metrics)
    assert sum(card.reliability["count"]) == 90
    weighted = sum(a * n for a, n in zip(card.reliability["accuracy"], card.reliability["count"], strict=True)) / 90
    assert weighted == pytest.approx(card.metrics["accuracy"])
    assert card.robustness["epsilon"][0] == 0
    assert card.robustness["accuracy"][0] == pytest.approx(card.metrics["accuracy"])
    assert card.robustness["accuracy"] == sorted(card.robustness["accuracy"], reverse=True)
    assert sum(entry["count"] for entry in card.partings) == round(90 * (1 - fidelity.agreement))
    assert 0 < len(card.examples) <= 12
    assert card.latency["batch_size"] == 1
    json.dumps(card.to_dict(), allow_nan=False)


def test_the_models_are_left_as_they_were(images):
    student, teacher = classifier(), classifier()
    student[3].eval()
    modes = [part.training for net in (student, teacher) for part in net.modules()]
    state = {name: value.clone() for name, value in student.state_dict().items()}
    assess(student, images, teacher=teacher)
    assert [part.training for net in (student, teacher) for part in net.modules()] == modes
    assert all(value.equal(state[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in student.parameters())
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_the_batch_size_and_the_kind_of_teacher_change_nothing(images):
    student, teacher = classifier(), classifier()
    frozen = FrozenTeacher(classifier())
    frozen.model.load_state_dict(teacher.state_dict())

    def by_function(batch: Batch) -> Outputs:
        return frozen(batch)

    cards = [
        assess(student, images, teacher=who, batch_size=size, latency=False)
        for who, size in ((teacher, 256), (frozen, 17), (by_function, 1))
    ]
    for other in cards[1:]:
        assert other.metrics == pytest.approx(cards[0].metrics, rel=1e-4)
        assert other.partings == cards[0].partings


def test_a_perfect_student_of_itself(images):
    model = classifier()
    card = assess(model, images, teacher=model, latency=False, robustness=False)
    assert card.metrics["teacher_agreement"] == 1
    assert card.metrics["teacher_kl"] == 0
    assert card.partings == card.examples == []
    assert card.robustness == card.latency == {}


def test_samples_without_targets(images):
    card = assess(classifier(), ArraySamples(images.batch(torch.arange(90)).inputs), teacher=classifier())
    assert "accuracy" not in card.metrics
    assert "teacher_agreement" in card.metrics
    assert card.reliability == {}
    assert set(card.robustness) == {"absent"}


def test_robustness_is_asked_where_a_radius_means_something(images):
    tabular = ArraySamples(torch.randn(30, 4) * 50, torch.randint(3, (30,)))
    model = nn.Linear(4, 3)
    assert set(assess(model, tabular, latency=False).robustness) == {"absent"}
    forced = assess(model, tabular, latency=False, robustness={"epsilons": [0.0, 5.0], "steps": 2})
    assert forced.robustness["epsilon"] == [0.0, 5.0]
    chosen = assess(classifier(), images, latency=False, robustness={"epsilons": [0.1], "num_samples": 8})
    assert len(chosen.robustness["accuracy"]) == 1
    with pytest.raises(ValueError, match="did you mean 'epsilons'"):
        assess(classifier(), images, robustness={"epsilon": [0.1]})


def test_regression_agrees_with_scikit_learn():
    inputs, target = torch.randn(50, 3), torch.randn(50)
    model, teacher = nn.Linear(3, 1), nn.Linear(3, 1)
    card = assess(model, ArraySamples(inputs, target), teacher=teacher, latency=False, batch_size=7)
    predicted = model(inputs).squeeze(1).detach()
    assert card.task == "regression"
    assert card.metrics["mean_squared_error"] == pytest.approx(mean_squared_error(target, predicted), rel=1e-5)
    assert card.metrics["mean_absolute_error"] == pytest.approx(mean_absolute_error(target, predicted), rel=1e-5)
    assert card.metrics["r2"] == pytest.approx(r2_score(target, predicted), rel=1e-5)
    distance = (model(inputs) - teacher(inputs)).square().mean()
    assert card.metrics["teacher_mean_squared_error"] == pytest.approx(float(distance), rel=1e-5)


def test_regression_of_vectors_and_constants():
    inputs, target = torch.randn(40, 3), torch.randn(40, 2)
    model = nn.Linear(3, 2)
    card = assess(model, ArraySamples(inputs, target), latency=False)
    assert card.metrics["r2"] == pytest.approx(r2_score(target, model(inputs).detach()), rel=1e-5)
    constant = assess(nn.Linear(3, 1), ArraySamples(inputs, torch.ones(40)), latency=False)
    assert "r2" not in constant.metrics


class Language(nn.Module):
    """Logits from an embedding; or hidden states and head, for logits that are never built."""

    def __init__(self, vocabulary: int, *, fused: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.head = nn.Linear(8, vocabulary, bias=False)
        self.fused = fused

    def forward(self, tokens: Tensor) -> Outputs:
        hidden = self.embedding(tokens)
        if self.fused:
            return Outputs(hidden=hidden, head=self.head.weight)
        return Outputs(logits=self.head(hidden))


@pytest.mark.parametrize("fused", [False, True])
def test_language_models_are_measured_by_token(fused, monkeypatch):
    import importlib

    monkeypatch.setattr(importlib.import_module("tutelage.assessment.assess"), "ROW_BUDGET", 22)  # several parts
    tokens = torch.randint(11, (9, 6))
    target = torch.randint(11, (9, 6))
    target[:, :2] = -100
    target[4] = -100
    model, teacher = Language(11, fused=fused), Language(13)
    card = assess(model, ArraySamples(tokens, target), teacher=teacher, latency=False, batch_size=1)
    kept = target != -100
    hidden = model.embedding(tokens)
    logits, taught = model.head(hidden)[kept], teacher(tokens).logits[kept][:, :11]
    loss = float(F.cross_entropy(logits, target[kept]))
    assert card.task == "causal_lm"
    assert card.metrics["negative_log_likelihood"] == pytest.approx(loss, rel=1e-5)
    assert card.metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert card.metrics["token_accuracy"] == pytest.approx(float((logits.argmax(1) == target[kept]).double().mean()))
    fidelity = prediction_fidelity(logits, taught)
    assert card.metrics["teacher_agreement"] == pytest.approx(fidelity.agreement)
    assert card.metrics["teacher_kl"] == pytest.approx(fidelity.kl, rel=1e-4)
    assert set(card.robustness) == {"absent"}


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :7] * math.nan


def test_bad_input(images):
    with pytest.raises(ValueError, match="gives NaN"):
        assess(Broken(), images)
    with pytest.raises(ValueError, match="number of classes"):
        assess(classifier(), images, teacher=nn.Sequential(nn.Flatten(), nn.Linear(36, 5)))
    with pytest.raises(ValueError, match="classes in"):
        assess(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), images)
    with pytest.raises(ValueError, match="`batch_size` to be at least 1"):
        assess(classifier(), images, batch_size=0)
    skipped = ArraySamples(torch.zeros(2, 3).long(), torch.full((2, 3), -100))
    with pytest.raises(ValueError, match="every position is left out"):
        assess(Language(11), skipped)
