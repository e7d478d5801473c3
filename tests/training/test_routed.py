from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.objectives import (
    InstanceRouter,
    Progress,
    load_balancing_loss,
    routed_distillation_loss,
)
from tutelage.training import MultipliedEvery, RoutedDistillation, TeacherGroup, Trainer, TrainingSettings
from tutelage.training.routed import routing_entropy


def samples(count: int = 40) -> ArraySamples:
    generator = torch.Generator().manual_seed(0)
    inputs, other = torch.randn(count, 4, generator=generator), torch.randn(count, 6, generator=generator)
    return ArraySamples(inputs, torch.arange(count) % 3, index=torch.arange(count).flip(0) * 5,
                        extras={"auxiliary.input": other})  # fmt: skip


def batch() -> Batch:
    return samples().batch(torch.arange(12))


def teachers(count: int = 3) -> TeacherGroup:
    torch.manual_seed(1)
    return TeacherGroup({f"t{number}": nn.Linear(4, 3) for number in range(count)})


def method(**options: object) -> RoutedDistillation:
    torch.manual_seed(2)
    return RoutedDistillation(teachers(), nn.Linear(4, 3), InstanceRouter(3, 3), **options)  # type: ignore[arg-type]


def gradient(losses: dict[str, Tensor], name: str, module: nn.Module) -> list[Tensor | None]:
    return list(torch.autograd.grad(losses[name], list(module.parameters()), retain_graph=True, allow_unused=True))


# ---- Weights ---------------------------------------------------------------------------------------------------------


def test_weights_fall_as_in_the_authors_loop() -> None:
    schedules = {"kl": MultipliedEvery(1.0, 0.5, 30), "lb": MultipliedEvery(1.0, 0.9, 10)}
    w_kl, w_lb = 1.0, 1.0
    for epoch in range(100):
        assert schedules["kl"](epoch) == pytest.approx(w_kl)
        assert schedules["lb"](Progress(epoch * 7 + 3, 700, 7)) == pytest.approx(w_lb)
        w_lb *= 0.9 if epoch % 10 == 0 else 1
        w_kl *= 0.5 if epoch % 30 == 0 else 1


@pytest.mark.parametrize("arguments", [(-1.0, 0.5, 3), (1.0, 0.0, 3), (1.0, 0.5, 0)])
def test_weights_refuse(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(ValueError, match="Expected argument"):
        MultipliedEvery(*arguments)


def test_method_follows_its_schedules() -> None:
    made = method(task_weight=2.0)
    first = made.step(batch())
    made.advance(Progress(step=31, total_steps=100, steps_per_epoch=1))
    later = made.step(batch())
    torch.testing.assert_close(later["task"], first["task"])
    torch.testing.assert_close(later["distillation"], first["distillation"] / 4)
    torch.testing.assert_close(later["balance"], first["balance"] * 0.9**4)


# ---- Losses ----------------------------------------------------------------------------------------------------------


def test_a_step_is_task_routed_and_balance() -> None:
    made, data = method(), batch()
    assert isinstance(data.inputs, Tensor)
    assert data.target is not None
    losses = made.step(data)
    logits = made.student(data.inputs)
    probabilities = made.router(logits)  # type: ignore[misc]
    chosen = probabilities.argmax(dim=1)
    heard = torch.stack([teacher(data.inputs) for teacher in made.teachers.networks], dim=1)
    torch.testing.assert_close(losses["task"], F.cross_entropy(logits, data.target))
    torch.testing.assert_close(losses["distillation"], routed_distillation_loss(logits, heard, chosen[:, None]))
    torch.testing.assert_close(losses["balance"], load_balancing_loss(probabilities))
    counts = torch.bincount(chosen, minlength=3) / len(chosen)
    assert list(made.take_routing_shares().values()) == pytest.approx(counts.tolist())
    assert made.take_routing_shares() == {}


def test_as_released_the_router_learns_from_balance_alone_and_so_does_the_student_from_it() -> None:
    made = method(k=2)
    losses = made.step(batch())
    assert made.router is not None
    assert gradient(losses, "distillation", made.router) == [None] * 4
    assert all(value is not None for value in gradient(losses, "balance", made.router))
    assert all(value is not None and value.abs().sum() > 0 for value in gradient(losses, "balance", made.student))


def test_weighted_routing_teaches_the_router_which_teacher_is_near() -> None:
    made, data = method(k=3, routing_gradient="weighted"), batch()
    assert made.router is not None
    with torch.no_grad():
        made.teachers.networks[1].weight.copy_(made.student.weight)  # type: ignore[union-attr, operator]
        made.teachers.networks[1].bias.copy_(made.student.bias)  # type: ignore[union-attr, operator]
    before = made.router(made.student(data.inputs))[:, 1].mean()
    optimizer = torch.optim.SGD(made.router.parameters(), lr=0.5)
    for _ in range(20):
        optimizer.zero_grad()
        made.step(data)["distillation"].backward()
        optimizer.step()
    assert made.router(made.student(data.inputs))[:, 1].mean() > before + 0.1


def test_random_routing_has_no_router_and_picks_anew() -> None:
    made = RoutedDistillation(teachers(), nn.Linear(4, 3), routing="random")
    made.setup(batch())
    assert list(made.trainable()) == ["student"]
    torch.manual_seed(0)
    losses = {made.step(batch())["distillation"].item() for _ in range(4)}
    assert len(losses) == 4
    assert "balance" not in made.step(batch())
    for _ in range(60):
        made.step(batch())
    assert all(abs(share - 1 / 3) < 0.1 for share in made.take_routing_shares().values())


def test_all_teachers_at_random_are_their_mean() -> None:
    made, data = RoutedDistillation(teachers(), nn.Linear(4, 3), routing="random", k=3), batch()
    logits, heard = made.student(data.inputs), made.teachers(data)
    everyone = torch.arange(3).expand(12, 3)
    torch.testing.assert_close(made.step(data)["distillation"], routed_distillation_loss(logits, heard, everyone))


def test_aggregated_teaches_from_the_mixed_logits_without_a_gradient_to_the_router() -> None:
    made, data = method(routing="aggregated"), batch()
    losses = made.step(data)
    logits, heard = made.student(data.inputs), made.teachers(data)
    assert made.router is not None
    mixture = (made.router(logits).detach()[..., None] * heard).sum(dim=1, keepdim=True)
    none = torch.zeros(12, 1, dtype=torch.int64)
    torch.testing.assert_close(losses["distillation"], routed_distillation_loss(logits, mixture, none))
    assert gradient(losses, "distillation", made.router) == [None] * 4


def test_dense_prediction() -> None:
    networks = {name: nn.Conv2d(1, 4, 3, padding=1) for name in ("one", "two")}
    made = RoutedDistillation(networks, nn.Conv2d(1, 4, 1))
    data = Batch(torch.randn(3, 1, 6, 5), torch.zeros(3, 6, 5, dtype=torch.int64), torch.arange(3))
    made.setup(data)
    assert isinstance(made.router, InstanceRouter)
    assert sum(made.step(data).values()).requires_grad  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "between 1 and 3 teachers, but got 0"),
        ({"k": 4}, "between 1 and 3 teachers, but got 4"),
        ({"routing": "leearned"}, "did you mean 'learned'"),
        ({"temperature": 0.0}, "`temperature` to be positive"),
        ({"routing_gradient": "weighted"}, "always 1; but got 'learned' and k = 1"),
        ({"routing_gradient": "weighted", "k": 2, "routing": "random"}, "only with learned routing"),
    ],
)
def test_method_refuses(options: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        method(**options)


# ---- Teachers --------------------------------------------------------------------------------------------------------


def test_group_is_frozen_and_reads_views() -> None:
    one, other = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)), nn.Linear(6, 3)
    group = TeacherGroup({"one": one, "other": other}, {"other": "auxiliary"}).train()
    data = batch()
    told = group(data)
    assert not told.requires_grad
    assert not any(value.requires_grad for value in group.parameters())
    torch.testing.assert_close(told[:, 0], one[0](data.inputs).detach())
    torch.testing.assert_close(told[:, 1], other(data.extras["auxiliary.input"]).detach())


def test_what_is_remembered_is_what_would_be_said() -> None:
    group, data = teachers(), samples()
    before = group(batch())
    assert torch.equal(group.remember(data, batch_size=7)(batch()), before)
    rows = torch.tensor([39, 3, 3])
    nn.init.zeros_(group.networks[0].weight)  # type: ignore[arg-type]
    assert torch.equal(group(data.batch(rows))[1], group(data.batch(rows))[2])
    assert torch.equal(group(batch()), before), "the networks are not asked again"
    with pytest.raises(ValueError, match="were asked about before"):
        group(Batch(torch.zeros(1, 4), None, torch.tensor([3])))


def test_groups_refuse() -> None:
    with pytest.raises(ValueError, match="at least one teacher"):
        TeacherGroup({})
    with pytest.raises(ValueError, match=r"'one' gives \(12, 3\) and 'two' \(12, 5\)"):
        TeacherGroup({"one": nn.Linear(4, 3), "two": nn.Linear(4, 5)})(batch())


def test_a_trainer_runs_it_and_the_router_balances() -> None:
    made = method(balance_weight=5.0)
    assert made.router is not None
    with torch.no_grad():
        made.router.choose.bias[0] = 2.0  # type: ignore[union-attr, operator, index]
    kept = {name: value.clone() for name, value in made.teachers.state_dict().items()}
    settings = TrainingSettings(epochs=30, batch_size=20, learning_rate=0.02)
    history = Trainer(made, samples(), settings=settings).run()
    assert history[-1]["loss/balance"] < history[0]["loss/balance"] / 4
    assert history[-1]["loss/task"] < history[0]["loss/task"]
    assert all(torch.equal(value, kept[name]) for name, value in made.teachers.state_dict().items())


def test_entropy_of_shares() -> None:
    assert routing_entropy([0.25] * 4) == pytest.approx(math.log(4))
    assert routing_entropy([1.0, 0.0]) == 0
