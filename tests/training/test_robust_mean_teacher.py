from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tutelage import training
from tutelage.data import ArraySamples, test_time_augmentation
from tutelage.features import nearest_prototype
from tutelage.objectives import multi_view_contrastive_loss, symmetric_cross_entropy
from tutelage.training import (
    BatchStatistics,
    EntropyMinimization,
    RobustMeanTeacher,
    SlidingWindow,
    SourceModel,
    configure_batch_statistics,
)


def parts() -> tuple[nn.Sequential, nn.Module, nn.Module]:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout())
    head = nn.Linear(4 * 16, 3)
    return nn.Sequential(body, head), body, head


def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.1)


def adapter(**changes: Any) -> RobustMeanTeacher:
    model, body, head = parts()
    settings: dict[str, Any] = {
        "projector_dim": 8,
        "source_weight": 0.0,
        "optimizer": sgd,
        "augment": lambda x: x.flip(-1),
        "momentum": 0.9,
    }
    return RobustMeanTeacher(model, body, head, torch.randn(3, 64), **{**settings, **changes})


X = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(5))


def slow_contrastive(features: Tensor, temperature: float, owner: list[int]) -> float:
    vectors = [vector / vector.norm() for vector in features.double().flatten(0, 1)]
    losses = []
    for i, anchor in enumerate(vectors):
        total = sum(math.exp(float(anchor @ other) / temperature) for a, other in enumerate(vectors) if a != i)
        positives = [j for j in range(len(vectors)) if j != i and owner[j] == owner[i]]
        if positives:
            terms = [float(anchor @ vectors[j]) / temperature - math.log(total) for j in positives]
            losses.append(-sum(terms) / len(terms))
    return sum(losses) / len(losses)


def test_contrastive_loss_agrees_with_its_definition() -> None:
    features = torch.randn(4, 3, 5)
    found = multi_view_contrastive_loss(features, temperature=0.3)
    assert found.item() == pytest.approx(slow_contrastive(features, 0.3, [i // 3 for i in range(12)]), rel=1e-5)
    labels = torch.tensor([0, 1, 0, 2])
    by_label = multi_view_contrastive_loss(features[:, :1], temperature=0.3, labels=labels)
    assert by_label.item() == pytest.approx(slow_contrastive(features[:, :1], 0.3, labels.tolist()), rel=1e-5)


def test_contrastive_loss_knows_nothing_of_order_or_length() -> None:
    assert multi_view_contrastive_loss(torch.ones(1, 3, 4)).item() == pytest.approx(math.log(2))
    features = torch.randn(4, 3, 5, dtype=torch.float64)
    loss = multi_view_contrastive_loss(features)
    for other in (
        features[torch.tensor([2, 0, 3, 1])],
        features[:, [1, 2, 0]],
        features * torch.rand(4, 3, 1).double(),
    ):
        torch.testing.assert_close(multi_view_contrastive_loss(other), loss)
    rows = multi_view_contrastive_loss(features, reduction="none")
    assert rows.shape == (4, 3)
    torch.testing.assert_close(rows.mean(), loss)
    assert torch.autograd.gradcheck(multi_view_contrastive_loss, features.requires_grad_())


def test_nearest_prototypes() -> None:
    prototypes = torch.tensor([[0.0, 1.0], [9.0, 0.0]])
    assert nearest_prototype(torch.tensor([[3.0, 1.0], [0.1, 0.2]]), prototypes).tolist() == [1, 0]
    assert nearest_prototype(torch.tensor([[3.0, 1.0]]), prototypes, metric="euclidean").tolist() == [0]
    with pytest.raises(ValueError, match="same width"):
        nearest_prototype(torch.ones(1, 2), torch.ones(2, 3))


def test_batch_statistics_are_each_batchs_own() -> None:
    model, _, _ = parts()
    shifted = X + 5
    with torch.no_grad():
        model.train()(X)
    configure_batch_statistics(model)
    assert all(parameter.requires_grad for parameter in model.parameters())
    torch.testing.assert_close(model(shifted)[0], model(X)[0], atol=1.0, rtol=1.0)  # no crash, same scale
    normed = model[0][1](model[0][0](shifted))
    assert normed.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    flat = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    configure_batch_statistics(flat)
    assert flat[1].training
    assert flat(torch.randn(5, 2)).mean(dim=0).abs().max() < 1e-6


def test_an_answer_is_from_before_the_step_and_the_step_is_that_of_the_loss() -> None:
    ours = adapter(contrastive_weight=0.7, self_training_weight=1.3)
    model, teacher, projector = ours.model, ours.teacher.module, ours.projector
    body, head = ours.feature_extractor, ours.classifier
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    expected = (model(X) + teacher(X)).detach()
    features, other, told = body(X), body(X.flip(-1)), teacher(X)
    consistency = (symmetric_cross_entropy(head(features), told) + symmetric_cross_entropy(head(other), told)) / 2
    anchors = ours.prototypes[nearest_prototype(features, ours.prototypes)]
    contrast = multi_view_contrastive_loss(projector(torch.stack([anchors, features, other], dim=1)))
    learning = [*model.parameters(), *projector.parameters()]
    gradients = torch.autograd.grad(1.3 * consistency + 0.7 * contrast, learning)
    after = [(p - 0.1 * g).detach() for p, g in zip(learning, gradients, strict=True)]
    slow = [
        0.9 * mine.detach() + 0.1 * new
        for mine, new in zip(teacher.parameters(), after[: len(list(model.parameters()))], strict=True)
    ]
    torch.testing.assert_close(ours.adapt(X), expected)
    for found, wanted in zip(learning, after, strict=True):
        torch.testing.assert_close(found.detach(), wanted)
    for found, wanted in zip(teacher.parameters(), slow, strict=True):
        torch.testing.assert_close(found.detach(), wanted)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_teacher_follows_a_student_that_stands_still() -> None:
    ours = adapter(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    with torch.no_grad():
        for parameter in ours.teacher.module.parameters():
            parameter.add_(1.0)
    for _ in range(5):
        ours.adapt(X)
    for slow, still in zip(ours.teacher.module.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(slow, still + 0.9**5)


def test_source_replay_adds_the_labelled_loss() -> None:
    source = ArraySamples(X, torch.tensor([0, 1, 2, 0, 1, 2]))
    loader = [source.batch(torch.arange(6))]
    alone, replaying = (
        adapter(self_training_weight=0.0, contrastive_weight=0.0, source_weight=weight, source_loader=loader)
        for weight in (1.0, 1.0)
    )
    before = functional.cross_entropy(alone.model(X), source.target).item()
    for _ in range(20):
        alone.adapt(torch.rand(4, 1, 4, 4))
        replaying.adapt(torch.rand(4, 1, 4, 4))
    assert functional.cross_entropy(alone.model(X), source.target).item() < before
    torch.testing.assert_close(alone.model(X), replaying.model(X))


@pytest.mark.parametrize("kind", ["rmt", "rmt after warm-up", "tent"])
def test_reset_goes_back_bit_for_bit(kind: str) -> None:
    if kind == "tent":
        method: Any = EntropyMinimization(parts()[0])
        modules = [method.model]
    else:
        method = adapter(optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
        if kind == "rmt after warm-up":
            method.warm_up([X, X.flip(0)], steps=5)
            assert method.optimizer.param_groups[0]["lr"] == 1e-2
        modules = [method.model, method.teacher, method.projector]
    states = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    first = [method.adapt(X + shift) for shift in (0.0, 0.3)]
    assert not all(
        torch.equal(value, state[name])
        for module, state in zip(modules, states, strict=True)
        for name, value in module.state_dict().items()
    )
    method.reset()
    for module, state in zip(modules, states, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    again = [method.adapt(X + shift) for shift in (0.0, 0.3)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_warm_up_brings_student_and_teacher_together() -> None:
    ours = adapter()
    with torch.no_grad():
        ours.model[1].weight.add_(0.5 * torch.randn_like(ours.model[1].weight))
    gap = (ours.model(X).softmax(1) - ours.teacher(X).softmax(1)).abs().sum().item()
    ours.warm_up([(X, torch.zeros(6))], steps=60)
    assert (ours.model(X).softmax(1) - ours.teacher(X).softmax(1)).abs().sum().item() < 0.5 * gap


def test_tent_learns_scales_and_shifts_alone_and_lowers_the_entropy() -> None:
    model, _, _ = parts()
    before = {name: value.clone() for name, value in model.named_parameters()}
    tent = EntropyMinimization(model, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2))
    first = tent.adapt(X)
    for _ in range(30):
        last = tent.adapt(X)

    def entropy(logits: Tensor) -> float:
        return float(-(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean())

    assert entropy(last) < entropy(first)
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed == {"0.1.weight", "0.1.bias"}


def test_every_way_follows_the_protocol() -> None:
    ways = [SourceModel(parts()[0]), BatchStatistics(parts()[0]), EntropyMinimization(parts()[0]), adapter()]
    for way in ways:
        assert isinstance(way, training.TestTimeAdaptation)
        answer = way.adapt(X)
        assert answer.shape == (6, 3)
        assert not answer.requires_grad
        way.reset()


def test_single_samples_go_through_a_window() -> None:
    ours = adapter()
    with pytest.raises(ValueError, match="SlidingWindow"):
        ours.adapt(X[:1])
    window = SlidingWindow(adapter(), 3)
    before = {name: value.clone() for name, value in window.method.model.state_dict().items()}
    first = window.adapt(X[:2])
    assert first.shape == (2, 3)
    assert all(torch.equal(value, before[name]) for name, value in window.method.model.state_dict().items())
    with torch.no_grad():
        filled = torch.cat([X[:1], X[:1], X[:1]])
        torch.testing.assert_close(first[:1], window.method.predict(filled)[-1:])
    window.adapt(X[2:3])
    assert not all(torch.equal(value, before[name]) for name, value in window.method.model.state_dict().items())


def test_augmentation_keeps_size_and_range_and_repeats_with_its_generator() -> None:
    for channels in (1, 3):
        images = torch.rand(5, channels, 12, 12)
        first, again = (
            test_time_augmentation(10, generator=torch.Generator().manual_seed(2))(images) for _ in range(2)
        )
        assert torch.equal(first, again)
        assert first.shape == (5, channels, 10, 10)
        assert first.min() >= 0
        assert first.max() <= 1
        assert (first - images[..., 1:11, 1:11]).abs().mean() > 0.01
    grey = torch.full((200, 3, 8, 8), 0.5)
    changed = test_time_augmentation(8, generator=torch.Generator().manual_seed(0))(grey)
    spread = changed.mean(dim=(1, 2, 3))
    assert 0.2 < spread.min() < 0.4
    assert 0.6 < spread.max() < 0.8
    torch.testing.assert_close(changed[:, 0], changed[:, 1], atol=0.05, rtol=0)  # grey stays grey
    with pytest.raises(ValueError, match="at least 9 pixels"):
        test_time_augmentation(9)(grey)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: adapter(source_weight=1.0), "source_loader"),
        (lambda: adapter(alpha=2.0), "alpha"),
        (lambda: adapter(temperature=0.0), "temperature"),
        (lambda: adapter(contrastive_weight=-1.0), "contrastive_weight"),
        (lambda: EntropyMinimization(nn.Linear(2, 2)), "batch normalisation"),
        (lambda: BatchStatistics(parts()[0]).adapt(X[:1]), "at least 2"),
        (lambda: multi_view_contrastive_loss(torch.randn(3, 1, 2)), "at least 2 views"),
        (lambda: multi_view_contrastive_loss(torch.randn(3, 1, 2), labels=torch.tensor([0, 1, 2])), "2 members"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
