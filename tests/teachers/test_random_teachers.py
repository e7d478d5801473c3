from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tutelage.assessment import linear_mode_connectivity, parameter_plane, probe_encoder
from tutelage.objectives import soft_cross_entropy
from tutelage.teachers import (
    L2BottleneckHead,
    distill_random_teacher,
    interpolated_initialization,
    iterative_magnitude_pruning,
    neighborhood_initialization,
)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(400, 300), nn.BatchNorm1d(300), nn.Linear(300, 2))


def gaussian() -> nn.Linear:
    layer = nn.Linear(500, 400)
    nn.init.normal_(layer.weight)
    return layer


def test_the_ends_of_the_interpolation_are_exact() -> None:
    teacher, fresh = net(), net()
    teacher[1].running_mean.fill_(3.0)
    for alpha, source in ((0.0, teacher), (1.0, fresh)):
        student = interpolated_initialization(teacher, fresh, alpha)
        for name, value in student.named_parameters():
            assert torch.equal(value, dict(source.named_parameters())[name])
            assert value.requires_grad
        assert student[1].running_mean.eq(3).all()


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.9])
def test_variance_is_kept_by_the_divisor_alone(alpha: float) -> None:
    teacher, fresh = gaussian(), gaussian()
    kept = interpolated_initialization(teacher, fresh, alpha).weight
    shrunk = interpolated_initialization(teacher, fresh, alpha, preserve_variance=False).weight
    assert kept.var().item() == pytest.approx(1, abs=0.02)
    assert shrunk.var().item() == pytest.approx(alpha**2 + (1 - alpha) ** 2, abs=0.02)
    near = neighborhood_initialization(teacher, fresh, alpha)
    assert near.weight.var().item() == pytest.approx(1, abs=0.02)
    expected = (teacher.weight + alpha * fresh.weight) / math.sqrt(1 + alpha**2)
    torch.testing.assert_close(near.weight, expected)


def test_logits_are_cosines_and_gradients_are_orthogonal_to_what_is_scaled_away() -> None:
    head = L2BottleneckHead(6, (8,), 5, 12)
    features = torch.randn(4, 6)
    logits = head(features)
    assert logits.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.last.weight.mul_(torch.rand(12, 1) + 0.5)
    torch.testing.assert_close(head(features), logits)
    (head(features).square() * torch.randn(4, 12)).sum().backward()
    weight = head.last.weight
    assert weight.grad is not None
    assert (weight.grad * weight).sum(dim=1).abs().max() < 1e-5
    assert weight.grad.abs().max() > 1e-4
    narrow = head.bottleneck(head.layers(features)).detach().requires_grad_()
    (functional.normalize(narrow, dim=-1) @ functional.normalize(weight.detach(), dim=-1).t()).square().sum().backward()
    assert narrow.grad is not None
    assert (narrow.grad * narrow).sum(dim=1).abs().max() < 1e-5


def test_a_head_without_hidden_layers_or_normalisation_is_two_linear_maps() -> None:
    head = L2BottleneckHead(6, (), 5, 12, normalize_features=False, normalize_weights=False)
    features = torch.randn(4, 6)
    expected = (features @ head.bottleneck.weight.t() + head.bottleneck.bias) @ head.last.weight.t()
    torch.testing.assert_close(head(features), expected)
    assert sum(parameter.numel() for parameter in head.parameters()) == 6 * 5 + 5 + 5 * 12


def test_equal_weights_sit_in_a_minimum_unless_a_layer_acts_differently_in_training() -> None:
    encoder, head = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), L2BottleneckHead(8, (), 4, 16)
    student = interpolated_initialization(nn.Sequential(encoder, head), nn.Sequential(encoder, head), 0.0).double()
    inputs = torch.randn(32, 4, dtype=torch.float64)
    told = student(inputs).detach()
    loss = soft_cross_entropy(student(inputs), told, reduction="mean")
    assert loss.item() == pytest.approx(-(told.softmax(1) * told.log_softmax(1)).sum(1).mean().item())
    loss.backward()
    assert max(parameter.grad.abs().max() for parameter in student.parameters()) < 1e-12
    normed = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
    result = distill_random_teacher(normed, head, [torch.randn(64, 4)], steps=40)
    assert result.history[0] > 1e-6
    assert result.history[-1] < 0.5 * result.history[0]


def test_distillation_leaves_teacher_and_arguments_alone_and_repeats_itself() -> None:
    def run() -> tuple[nn.Module, nn.Module, object]:
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        head = L2BottleneckHead(8, (), 4, 16)
        fresh = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()), L2BottleneckHead(8, (), 4, 16)
        before = {name: value.clone() for name, value in encoder.state_dict().items()}
        result = distill_random_teacher(
            encoder, head, [(torch.randn(32, 4), torch.zeros(32))], alpha=0.3, steps=10, fresh=fresh, snapshots=(0, 5)
        )
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
        assert all(torch.equal(value, before[name]) for name, value in result.teacher[0].state_dict().items())
        return encoder, head, result

    (_, _, first), (_, _, second) = run(), run()
    assert first.history == second.history
    assert list(first.snapshots) == [0, 5]
    assert not torch.equal(first.snapshots[0][0].weight, first.snapshots[5][0].weight)
    assert not first.teacher.training
    assert not any(parameter.requires_grad for parameter in first.teacher.parameters())


def test_barriers_and_planes() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)) for _ in range(3)]
    inputs = torch.randn(16, 3)

    def error(model: nn.Module) -> float:
        return model.eval()(inputs).square().mean().item()

    itself = linear_mode_connectivity(models[0], models[0], error, points=5)
    assert itself.barrier == pytest.approx(0, abs=1e-7)
    path = linear_mode_connectivity(models[0], models[1], error, points=3)
    assert path.curve[0] == pytest.approx(error(models[0]))
    assert path.curve[2] == pytest.approx(error(models[1]))
    for orthogonal in (True, False):
        plane = parameter_plane(models, orthogonal=orthogonal)
        for model, place in zip(models, plane.coordinates.tolist(), strict=True):
            moved = plane.place(models[0], *place)
            for ours, theirs in zip(moved.parameters(), model.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    gram = parameter_plane(models).basis @ parameter_plane(models).basis.t()
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64))


def test_pruning_takes_the_smallest_and_rewinds_the_rest() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 10), nn.ReLU(), nn.Linear(10, 5))
    start = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[list[Tensor]] = []

    def train(net: nn.Module) -> float:
        seen.append([layer.weight.detach().clone() for layer in net if isinstance(layer, nn.Linear)])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            net(torch.randn(8, 20)).square().mean().backward()
            optimizer.step()
        return float(len(seen))

    rounds = iterative_magnitude_pruning(model, train, rounds=4, rewind_state=start)
    assert [one.remaining for one in rounds] == pytest.approx([0.8**r for r in range(4)], abs=0.005)
    assert [one.result for one in rounds] == [1, 2, 3, 4]
    for number, one in enumerate(rounds[1:], start=1):
        for place, name in enumerate(("0.weight", "2.weight")):
            assert torch.equal(seen[number][place], start[name] * one.masks[name])
    masks = [one.masks["0.weight"] for one in rounds[1:]]
    assert all((later <= earlier).all() for earlier, later in itertools.pairwise(masks))
    assert set(model.state_dict()) == set(start), "the model is left without masks"
    assert (model[0].weight[masks[-1] == 0] == 0).all()


def test_probes_leave_the_encoder_alone_and_agree_with_what_is_linear() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8)).train()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    inputs = torch.randn(200, 2)
    loader = [(inputs[:100], (inputs[:100, 0] > 0).long()), (inputs[100:], (inputs[100:, 0] > 0).long())]
    assert probe_encoder(encoder, (loader, loader), probe="logistic") > 0.95
    assert probe_encoder(encoder, (loader, loader), probe="knn", k=5) > 0.85
    assert probe_encoder(encoder, (loader, loader), probe="linear", epochs=100, batch_size=50) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.training
    constant = [(torch.cat([x, torch.ones(len(x), 1)], dim=1), y) for x, y in loader]
    assert probe_encoder(nn.Identity(), (constant, constant), probe="logistic") > 0.95


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interpolated_initialization(net(), net(), 1.5), "alpha"),
        (lambda: interpolated_initialization(nn.Linear(2, 2), nn.Linear(2, 3), 0.5), "'weight' is"),
        (lambda: neighborhood_initialization(net(), net(), -1.0), "eps"),
        (lambda: L2BottleneckHead(0), "in_dim"),
        (lambda: distill_random_teacher(nn.Linear(2, 2), nn.Linear(2, 2), [], steps=1), "loader"),
        (lambda: distill_random_teacher(nn.Linear(2, 2), nn.Linear(2, 2), [], steps=1, alpha=0.5), "fresh"),
        (lambda: parameter_plane([nn.Linear(2, 2)] * 3), "lie on a line"),
        (lambda: linear_mode_connectivity(nn.Linear(2, 2), nn.Linear(2, 3), lambda m: 0.0), "same names and shapes"),
        (
            lambda: iterative_magnitude_pruning(nn.ReLU(), lambda m: 0.0, rounds=1, rewind_state={}),
            "linear layers or convolutions",
        ),
        (
            lambda: iterative_magnitude_pruning(nn.Linear(2, 2), lambda m: 0.0, rounds=1, rewind_state={}),
            "rewind_state",
        ),
        (lambda: probe_encoder(nn.Identity(), ([], [])), "loaders"),
    ],
)
def test_bad_input(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
