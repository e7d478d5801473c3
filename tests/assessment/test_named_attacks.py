from __future__ import annotations

import importlib.machinery
import sys
import time
import types

import pytest
import torch
from torch import Tensor, nn

from tutelage.assessment import assess, attack_accuracies
from tutelage.assessment.named_attacks import AUTO_ATTACK_PACKAGE
from tutelage.data import load_data
from tutelage.data.arrays import ArraySamples
from tutelage.outputs import Outputs

MISSING = "AutoAttack: not measured, install tutelage[robustness]."


class StubAttack:
    """The surface of the package that we use: one step along the gradient's sign, and rude to its surroundings."""

    made: list[StubAttack] = []  # noqa: RUF012 - the list of this test run

    def __init__(self, model, *, norm, eps, seed, device):
        self.model, self.eps, self.seed, self.device = model, eps, seed, device
        assert norm == "Linf"
        self.attacks_to_run = ["apgd-ce", "apgd-t", "fab-t", "square"]
        self.apgd_targeted, self.fab = types.SimpleNamespace(), types.SimpleNamespace()
        self.seen: list[Tensor] = []
        StubAttack.made.append(self)

    def run_standard_evaluation(self, x, y):
        torch.manual_seed(self.seed)
        torch.rand(3)
        sys.settrace(None)
        assert x.dtype == torch.float32
        self.seen.append(x)
        with torch.enable_grad():
            moved = x.clone().requires_grad_()
            nn.functional.cross_entropy(self.model(moved), y).backward()
        found = (x + self.eps * moved.grad.sign()).clamp(0, 1)
        return found, self.model(found).argmax(dim=1)


def install(monkeypatch: pytest.MonkeyPatch, attack: type) -> None:
    module = types.ModuleType(AUTO_ATTACK_PACKAGE)
    module.__spec__ = importlib.machinery.ModuleSpec(AUTO_ATTACK_PACKAGE, None)
    module.AutoAttack = attack
    monkeypatch.setitem(sys.modules, AUTO_ATTACK_PACKAGE, module)


@pytest.fixture
def stub(monkeypatch) -> list[StubAttack]:
    monkeypatch.setattr(StubAttack, "made", [])
    install(monkeypatch, StubAttack)
    return StubAttack.made


@pytest.fixture
def without_package(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, AUTO_ATTACK_PACKAGE, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def linear(weight: Tensor) -> nn.Linear:
    model = nn.Linear(weight.shape[1], len(weight), bias=False)
    model.weight.data.copy_(weight)
    return model


def interior(count: int = 90, width: int = 6) -> tuple[nn.Linear, ArraySamples, Tensor, Tensor]:
    """A linear model of two classes and inputs that no attack of radius 0.1 pushes against the bounds (0, 1)."""
    generator = torch.Generator().manual_seed(3)
    x = 0.2 + 0.6 * torch.rand(count, width, generator=generator)
    weight = torch.randn(2, width, generator=generator)
    y = torch.randint(2, (count,), generator=generator)
    gap = weight[y] - weight[1 - y]
    return linear(weight), ArraySamples(x, y), (gap * x).sum(dim=1), gap.abs().sum(dim=1)


@pytest.mark.parametrize("radius", [0.01, 0.05, 0.1])
def test_a_linear_model_stands_where_its_margin_exceeds_the_radius(radius, stub):
    model, samples, margin, slope = interior()
    found = attack_accuracies(model, samples, radius=radius, bounds=(0.0, 1.0))
    exact = float((margin > radius * slope).double().mean())
    assert found.clean == pytest.approx(float((margin > 0).double().mean()))
    assert found.fgsm == found.pgd20 == found.auto_attack == pytest.approx(exact)
    assert (found.num_samples, found.auto_attack_samples, found.note) == (90, 90, "")


def test_stronger_attacks_leave_less_of_a_trained_model(without_package):
    data = load_data("digits")
    train = data.train.batch(torch.arange(len(data.train)))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(120):
        rows = torch.randint(len(train.target), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(train.inputs[rows]), train.target[rows]).backward()
        optimizer.step()
    found = [attack_accuracies(model, data.test, radius=radius) for radius in (8 / 255, 0.1, 0.2)]
    for one in found:
        assert one.pgd20 <= one.fgsm + 0.02
        assert one.fgsm <= one.clean
        assert (one.num_samples, one.auto_attack, one.note) == (256, None, MISSING)
    assert found[0].clean > 0.9
    assert [one.clean for one in found] == [found[0].clean] * 3
    assert [one.pgd20 for one in found] == sorted((one.pgd20 for one in found), reverse=True)
    assert found[2].pgd20 < found[2].fgsm < 0.5 < found[0].pgd20
    assert found[1] == attack_accuracies(model, data.test, radius=0.1)  # the same seed gives the same


class InOutputs(nn.Module):
    """Logits in `Outputs`; five classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 5))

    def forward(self, x: Tensor) -> Outputs:
        return Outputs(logits=self.layers(x))


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 4), (12,)])
def test_auto_attack_gets_images_between_0_and_1_and_logits(stub, shape):
    samples = ArraySamples(5 + 4 * torch.randn(150, *shape), torch.randint(5, (150,)))
    found = attack_accuracies(InOutputs(), samples, radius=0.5, bounds=(-20.0, 30.0))
    assert len(stub) == 3  # 150 samples in chunks of 64
    for attack in stub:
        assert attack.eps == pytest.approx(0.5 / 50)
        assert attack.seen[0].shape[1:] == (shape if len(shape) == 3 else (1, 1, 12))
        assert 0 <= attack.seen[0].min() <= attack.seen[0].max() <= 1
        assert attack.apgd_targeted.n_target_classes == attack.fab.n_target_classes == 4
        assert len(attack.attacks_to_run) == 4
    assert found.auto_attack <= found.clean


def test_below_four_classes_one_attack_is_left_out(stub):
    model, samples, *_ = interior()
    attack_accuracies(model, samples, radius=0.01)
    assert stub[0].attacks_to_run == ["apgd-ce", "fab-t", "square"]
    assert stub[0].fab.n_target_classes == 1


def test_everything_is_left_as_it_was(stub):
    model = InOutputs()
    model.layers[3].eval()
    model.layers[1].bias.requires_grad_(False)
    model.layers[4].weight.grad = torch.ones_like(model.layers[4].weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    torch.manual_seed(5)
    state = torch.get_rng_state()
    tracer = sys.gettrace()
    samples = ArraySamples(torch.rand(70, 3, 2, 2), torch.randint(5, (70,), generator=torch.Generator()))
    torch.set_rng_state(state)
    attack_accuracies(model, samples, radius=0.1)
    assert stub
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.gettrace() is tracer
    assert [part.training for part in model.modules()] == modes
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["layers.4.weight"]
    assert model.layers[4].weight.grad.eq(1).all()
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["layers.1.bias"]


class Slow(nn.Module):
    """A linear model whose clock runs."""

    def __init__(self, clock: list[float]) -> None:
        super().__init__()
        self.layer, self.clock = nn.Linear(6, 2), clock

    def forward(self, x: Tensor) -> Tensor:
        self.clock[0] += 1.0
        return self.layer(x)


@pytest.mark.parametrize(
    ("seconds", "finished", "said"), [(100.0, 150, ""), (9.0, 128, "128 of 150"), (1.0, 0, "not enough for 64")]
)
def test_auto_attack_counts_what_it_has_finished_in_time(stub, monkeypatch, seconds, finished, said):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    torch.manual_seed(1)
    samples = ArraySamples(torch.rand(150, 6), torch.randint(2, (150,)))
    found = attack_accuracies(Slow(clock), samples, radius=0.02, auto_attack_seconds=seconds)
    assert found.auto_attack_samples == finished
    assert (found.auto_attack is None) == (finished == 0)
    assert said in found.note
    assert bool(found.note) == (finished < 150)


def test_the_time_bound_restores_everything_too(stub, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    model = Slow(clock)
    attack_accuracies(model, ArraySamples(torch.rand(9, 6), torch.zeros(9).long()), radius=0.1, auto_attack_seconds=0.5)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_auto_attack_can_be_left_out(stub):
    model, samples, *_ = interior()
    found = attack_accuracies(model, samples, radius=0.01, auto_attack_seconds=0)
    assert (found.auto_attack, found.note) == (None, "AutoAttack: not asked for.")
    assert not stub


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"radius": 0.0}, "argument `radius` to be positive"),
        ({"auto_attack_seconds": -1.0}, "argument `auto_attack_seconds`"),
        ({"bounds": (1.0, 1.0)}, "argument `bounds` to be a range"),
        ({"bounds": (0.5, 1.0)}, "lie within the bounds"),
        ({"num_samples": 0}, "argument `num_samples`"),
        ({"batch_size": 0}, "argument `batch_size`"),
        ({"samples": ArraySamples(torch.rand(4, 6))}, "to have targets"),
        ({"samples": ArraySamples(torch.ones(4, 6).long(), torch.ones(4).long())}, "floating-point input"),
    ],
)
def test_bad_input(change, message):
    model, samples, *_ = interior()
    with pytest.raises(ValueError, match=message):
        attack_accuracies(model, **{"samples": samples, "radius": 0.1, **change})


# ── On the report card ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_card_states_radius_and_accuracies(stub):
    torch.manual_seed(2)
    samples = ArraySamples(10 * torch.rand(80, 3, 2, 2), torch.randint(5, (80,)))
    card = assess(InOutputs(), samples, latency=False, attack_radius=0.1, robustness={"num_samples": 40})
    attacks = card.robustness["attacks"]
    low, high = card.robustness["range"]
    assert attacks["radius"] == pytest.approx(0.1 * (high - low))
    assert attacks["num_samples"] == 40
    for name in ("fgsm", "pgd20", "auto_attack"):
        assert card.metrics[f"{name}_accuracy"] == attacks[name] <= attacks["clean"]
    assert attacks["clean"] == card.robustness["accuracy"][0]  # the curve has the same samples


def test_a_card_says_what_is_missing(without_package):
    card = assess(InOutputs(), ArraySamples(torch.rand(20, 3, 2, 2), torch.randint(5, (20,))), latency=False)
    assert card.robustness["attacks"]["note"] == MISSING
    assert "auto_attack_accuracy" not in card.metrics


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.embedding(x).mean(dim=1))


@pytest.mark.parametrize(
    ("model", "samples", "said"),
    [
        (Embedding(), ArraySamples(torch.randint(9, (20, 5)), torch.randint(3, (20,))), "not one tensor of floating"),
        (nn.Linear(4, 3), ArraySamples(50 * torch.randn(20, 4), torch.randint(3, (20,))), "different units"),
        (nn.Linear(4, 3), ArraySamples(torch.ones(20, 4), torch.randint(3, (20,))), "the same value"),
        (nn.Linear(4, 3), ArraySamples(torch.rand(20, 4)), "no classes"),
        (nn.Linear(4, 1), ArraySamples(torch.rand(20, 4), torch.rand(20, 1)), "this task is regression"),
    ],
)
def test_a_card_says_why_nothing_was_attacked(model, samples, said):
    card = assess(model, samples, latency=False)
    assert set(card.robustness) == {"absent"}
    assert said in card.robustness["absent"]
    assert "fgsm_accuracy" not in card.metrics
    assert assess(model, samples, latency=False, robustness=False).robustness == {}
