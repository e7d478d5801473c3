from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data import ArraySamples
from tutelage.features import FeatureMask, SpatialFeatureMask
from tutelage.models import FusionNetwork, mlp
from tutelage.objectives import mutual_distillation_loss
from tutelage.training import MSTDistill, TrainingSettings
from tutelage.training.mst_distill import divergence_from


def samples(count: int = 48, seed: int = 0) -> ArraySamples:
    """Three classes, told by a noisy view and by a sharp one."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    sharp = F.one_hot(target, 3).repeat(1, 2) + 0.3 * torch.randn(count, 6, generator=generator)
    noisy = sharp[:, :4] + torch.randn(count, 4, generator=generator)
    extras = {"auxiliary.input": sharp, "teacher.noisy": noisy, "teacher.sharp": sharp}
    return ArraySamples(noisy, target, extras=extras)


def method(normalization: str | None = None) -> MSTDistill:
    torch.manual_seed(0)
    branches = {"noisy": nn.Linear(4, 6), "sharp": nn.Linear(6, 6)}
    return MSTDistill(
        FusionNetwork(branches, mlp(12, 3, hidden=(12, 8), normalization=normalization)),  # type: ignore[arg-type]
        mlp(6, 3, hidden=(12, 8), normalization=normalization),  # type: ignore[arg-type]
        mlp(4, 3, hidden=(12,), normalization=normalization),  # type: ignore[arg-type]
        teacher_layers=["concatenated", "body.linear2"],
        auxiliary_layers=["linear1", "linear2"],
    )


def settings(**options: object) -> TrainingSettings:
    chosen = {"epochs": 2, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.01, "weight_decay": 0.0,
              "scheduler": "constant", "shuffle": False, **options}  # fmt: skip
    return TrainingSettings.model_validate(chosen)


def state(*modules: nn.Module) -> list[Tensor]:
    return [value.clone() for module in modules for value in module.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


# ---- Stage 1 ---------------------------------------------------------------------------------------------------------


def test_first_stage_is_the_hand_written_loop_of_the_mutual_loss() -> None:
    made, data = method(), samples()
    twins = copy.deepcopy(made.networks)
    made.initialize(data, settings())
    optimizer = torch.optim.Adam([value for twin in twins.values() for value in twin.parameters()], lr=0.01)
    for _ in range(2):
        for start in range(0, 48, 16):
            batch = data.batch(slice(start, start + 16))
            assert batch.target is not None
            said = [
                twins["teacher"](noisy=batch.extras["teacher.noisy"], sharp=batch.extras["teacher.sharp"]),
                twins["auxiliary"](batch.extras["auxiliary.input"]),
                twins["student"](batch.inputs),
            ]
            optimizer.zero_grad()
            mutual_distillation_loss(said, batch.target).backward()
            optimizer.step()
    for name, twin in twins.items():
        for ours, theirs in zip(made.networks[name].parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


# ---- Stage 2 ---------------------------------------------------------------------------------------------------------


def test_second_stage_moves_masks_only_and_lowers_the_drift() -> None:
    made, data = method("batch"), samples()
    made.initialize(data, settings(epochs=5))
    before = state(*made.networks.values())
    made.make_masks(data, seed=0)
    fresh = made.drift(data)
    history = made.specialize(data, data, settings(epochs=8, learning_rate=3e-3, keep_best="validation_loss"))
    assert same(state(*made.networks.values()), before)
    assert list(made.specialized) == [
        "teacher/concatenated", "teacher/body.linear2", "auxiliary/linear1", "auxiliary/linear2",
    ]  # fmt: skip
    drift = made.drift(data)
    best = min(record["validation_loss"] for record in history)
    assert sum(drift[name] for name in made.specialized) == pytest.approx(best)
    for name in made.specialized:
        assert drift[name] < fresh[name]
    assert {name: type(teacher.mask) for name, teacher in made.specialized.items()} == dict.fromkeys(
        made.specialized, FeatureMask
    )


def test_drift_by_hand() -> None:
    made, data = method(), samples()
    batch = data.batch(torch.arange(48))
    said = made.networks["auxiliary"](batch.extras["auxiliary.input"]).detach()
    student = made.student(batch.inputs).detach()
    by_hand = 16 * F.kl_div((said / 4).log_softmax(1), (student / 4).softmax(1), reduction="batchmean")
    assert made.drift(data, batch_size=20)["auxiliary"] == pytest.approx(by_hand.item(), rel=1e-4)


def test_maps_get_map_masks() -> None:
    networks = [nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(54, 3)) for _ in range(3)]
    made = MSTDistill(*networks, teacher_layers=["0"], auxiliary_layers=["1", "3"], num_heads=1)  # type: ignore[misc]
    data = ArraySamples(torch.randn(8, 1, 5, 5), torch.arange(8) % 3)
    made.make_masks(data)
    kinds = [type(teacher.mask) for teacher in made.specialized.values()]
    assert kinds == [SpatialFeatureMask, SpatialFeatureMask, FeatureMask]


# ---- Stage 3 ---------------------------------------------------------------------------------------------------------


def test_third_stage_teaches_the_student_from_frozen_teachers() -> None:
    made, data = method("batch"), samples()
    made.make_masks(data)
    frozen = [made.networks["teacher"], made.networks["auxiliary"]]
    frozen += [teacher.mask for teacher in made.specialized.values()]
    before, student = state(*frozen), state(made.student)
    history = made.distill(data, samples(seed=1), settings(epochs=3))
    assert same(state(*frozen), before)
    assert not same(state(made.student), student)
    shares = [history[-1][f"routing/{name}"] for name in made.specialized]
    assert sum(shares) == pytest.approx(1)
    assert {"loss/task", "loss/distillation", "loss/balance", "validation_loss"} <= history[-1].keys()


def test_remembered_teachers_give_the_same_student() -> None:
    made, data = method(), samples()
    made.make_masks(data)
    twin = copy.deepcopy(made)
    made.distill(data, data, settings(shuffle=True))
    twin.distill(data, data, settings(shuffle=True), cache=False)
    for ours, theirs in zip(state(made.student), state(twin.student), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_masks_pile_up_only_when_asked_to() -> None:
    made, data = method(), samples()
    made.make_masks(data)
    batch = data.batch(torch.arange(5))
    alone, piled = made.teachers()(batch), made.teachers(cumulative=True)(batch)
    assert torch.equal(alone[:, 0], piled[:, 0])
    assert torch.equal(alone[:, 2], piled[:, 2])
    network, masks = made.networks["auxiliary"], [made.specialized[f"auxiliary/linear{n}"].mask for n in (1, 2)]
    hidden = network.linear1(batch.extras["auxiliary.input"])
    hidden = network.linear2(network.activation1(hidden * masks[0](hidden)))
    by_hand = network.head(network.activation2(hidden * masks[1](hidden)))
    torch.testing.assert_close(piled[:, 3], by_hand.detach())
    assert (alone[:, 3] - by_hand).abs().max() > 1e-3
    assert made.teachers(masked=False).names == ("teacher", "auxiliary")


def test_a_stage_that_is_skipped_is_told() -> None:
    with pytest.raises(ValueError, match="call `specialize` first"):
        method().distill(samples(), samples(), settings())


# ---- All stages ------------------------------------------------------------------------------------------------------


def test_run_goes_through_all_stages_and_can_be_taken_up_again(tmp_path: Path) -> None:
    short = {"initialization": settings(), "specialization": settings(keep_best="validation_loss"),
             "distillation": settings(epochs=4, keep_best="validation_loss")}  # fmt: skip
    data, held_out = samples(), samples(seed=1)
    whole, halfway = method(), method()
    history = whole.run(data, held_out, **short, k=2)
    first = {**short, "distillation": short["distillation"].model_copy(update={"max_steps": None, "epochs": 4})}
    halfway.initialize(data, first["initialization"], folder=tmp_path / "initialization")
    again = method()  # a new process that finds only the first stage done
    resumed = again.run(data, held_out, **short, folder=tmp_path, resume=True, k=2)
    assert same(state(*again.networks.values()), state(*whole.networks.values()))
    assert [record["loss"] for record in resumed["distillation"]] == [r["loss"] for r in history["distillation"]]
    finished = method().run(data, held_out, **short, folder=tmp_path, resume=True, k=2)
    assert len(finished["distillation"]) == 4
    written = (tmp_path / "specialization" / "metrics.jsonl").read_text().splitlines()
    assert "validation_drift/teacher" in json.loads(written[-1])


def test_the_student_ends_with_its_best_weights() -> None:
    made, data, held_out = method(), samples(), samples(seed=1)
    made.make_masks(data)
    history = made.distill(data, held_out, settings(epochs=30, learning_rate=0.05, keep_best="validation_loss"))
    batch = held_out.batch(torch.arange(48))
    assert batch.target is not None
    loss = F.cross_entropy(made.student.eval()(batch.inputs), batch.target).item()
    best = min(record["validation_loss"] for record in history)
    assert loss == pytest.approx(best, rel=1e-5)
    assert best < history[-1]["validation_loss"]


def test_unknown_layers_and_none() -> None:
    networks = (mlp(4, 3), mlp(4, 3), mlp(4, 3))
    with pytest.raises(ValueError, match="did you mean 'linear1'"):
        MSTDistill(*networks, teacher_layers=["linear"], auxiliary_layers=[])
    with pytest.raises(ValueError, match="are empty"):
        MSTDistill(*networks, teacher_layers=[], auxiliary_layers=[])
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        MSTDistill(*networks, teacher_layers=["linear1"], auxiliary_layers=[], temperature=0.0)


def test_divergence_of_maps_is_the_mean_over_positions() -> None:
    one, other = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    expected = 16 * F.kl_div((one / 4).log_softmax(1), (other / 4).softmax(1), reduction="batchmean") / 20
    torch.testing.assert_close(divergence_from(one, other, 4.0), expected)
