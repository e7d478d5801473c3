from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from example import network, samples, trainer
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives import CrossEntropy, Objective
from tutelage.training import BaseMethod, Distillation, NonFiniteLoss, Trainer, TrainingSettings


def weights(job: Trainer) -> Tensor:
    return torch.cat([value.detach().flatten() for value in job.method.trainable()["student"].parameters()])


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_hand_written_loop_gives_the_same_weights(nesterov: bool) -> None:
    data = samples(64)
    student, twin = network(8, seed=1), network(8, seed=1)
    settings = TrainingSettings(
        epochs=3,
        batch_size=16,
        optimizer="sgd",
        nesterov=nesterov,
        scheduler="constant",
        shuffle=False,
        weight_decay=0,
    )
    Trainer(Distillation(None, student, CrossEntropy()), data, settings=settings).run()
    optimizer = torch.optim.SGD(twin.parameters(), lr=settings.learning_rate, momentum=0.9, nesterov=nesterov)
    assert isinstance(data.inputs, Tensor)
    assert data.target is not None
    for _ in range(3):
        for start in range(0, 64, 16):
            optimizer.zero_grad()
            logits = twin(data.inputs[start : start + 16])
            torch.nn.functional.cross_entropy(logits, data.target[start : start + 16]).backward()
            optimizer.step()
    for ours, theirs in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("settings", [{"optimizer": "adamw"}, {"optimizer": "sgd", "momentum": 0.0}])
def test_nesterov_needs_momentum_to_look_ahead_with(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nesterov needs `optimizer: sgd` and a momentum above 0"):
        TrainingSettings(nesterov=True, **settings)


@pytest.mark.parametrize("batch", [4, 8, 24])
def test_accumulation_gives_the_gradient_of_the_whole_group_even_in_a_last_smaller_one(batch: int) -> None:
    whole = trainer(None, dropout=0.0, batch_size=24, gradient_accumulation=1)
    parts = trainer(None, dropout=0.0, batch_size=batch, gradient_accumulation=24 // batch)
    assert len(whole.train) % 24 != 0
    assert [r["loss"] for r in whole.run()] == pytest.approx([r["loss"] for r in parts.run()], rel=1e-5)
    torch.testing.assert_close(weights(whole), weights(parts), rtol=1e-4, atol=1e-5)


def test_runs_repeat_and_leave_the_callers_random_state_alone() -> None:
    first, second = trainer(None), trainer(None)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first.run()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second.run()
    assert torch.equal(weights(first), weights(second))
    other = trainer(None, seed=1)
    other.run()
    assert not torch.equal(weights(first), weights(other))


def test_readers_in_other_processes_give_the_same_weights() -> None:
    here, there = trainer(None), trainer(None, num_workers=1)
    here.run()
    there.run()
    assert torch.equal(weights(here), weights(there))


def test_records_are_written_as_they_are_returned(tmp_path: Path) -> None:
    history = trainer(str(tmp_path), log_every=3).run()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert written == history
    assert [record["step"] for record in history] == [3, 5, 6, 9, 10, 12, 15, 18, 20]
    assert all(("validation_loss" in record) == (record["step"] % 5 == 0) for record in history)
    assert history[-1]["loss"] == pytest.approx(history[-1]["loss/label"] + history[-1]["loss/teacher"])


def test_weights_follow_their_schedule() -> None:
    history = trainer(None).run()
    assert history[0]["loss/teacher"] == 0.0  # LinearRamp: nothing in the first epoch
    assert all(record["loss/teacher"] > 0.0 for record in history[1:])


def test_max_steps_decides_and_can_end_inside_an_epoch() -> None:
    job = trainer(None, max_steps=7)
    assert job.run()[-1]["step"] == 7


def test_early_stopping_waits_as_long_as_its_patience() -> None:
    job = trainer(None, epochs=50, early_stopping={"metric": "validation_loss", "patience": 2, "minimum_change": 10.0})
    assert job.run()[-1]["epoch"] == 3  # the first evaluation is the best; two more without improvement


def test_a_metric_to_watch_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"`validation_accuracy`.* but got `validation_f1`"):
        trainer(None, early_stopping={"metric": "validation_f1"}).run()


def test_keep_best_ends_with_the_best_evaluations_weights() -> None:
    class Diverges(Objective):
        reads = ("student.logits", "batch.target")

        def loss(self, logits: Tensor, target: Tensor) -> Tensor:
            return -torch.nn.functional.cross_entropy(logits, target)

    from tutelage.training import evaluate_model

    data, student = samples(), network(8, seed=1)
    job = Trainer(
        Distillation(None, student, Diverges()),
        data,
        settings=TrainingSettings(epochs=5, learning_rate=0.05, keep_best="validation_loss"),
        evaluate=lambda: evaluate_model(student, data),
    )
    history = job.run()
    assert history[-1]["validation_loss"] > history[0]["validation_loss"]
    assert evaluate_model(student, data)["validation_loss"] == pytest.approx(history[0]["validation_loss"])


class _Poisoned(Objective):
    """NaN as soon as sample 13 is in the batch."""

    reads = ("student.logits", "batch.index")

    def loss(self, logits: Tensor, index: Tensor) -> Tensor:
        return logits.square().mean() * (torch.nan if (index == 13).any() else 1.0)


def test_a_nan_loss_names_step_term_and_samples_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    method = Distillation(None, network(8, seed=1), {"label": CrossEntropy(), "poisoned": _Poisoned()})
    settings = TrainingSettings(batch_size=4, shuffle=False, checkpoint_every=1)
    with pytest.raises(
        NonFiniteLoss, match=r"Step 3: the loss of `poisoned` became nan on the samples with index 12, 13"
    ):
        Trainer(method, samples(), settings=settings, folder=tmp_path).run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000000002", "step-000000003"]
    assert all(torch.isfinite(value).all() for value in method.student.parameters())


def test_runs_of_different_precision_can_follow_each_other() -> None:
    whole, half = trainer(None, dropout=0.0), trainer(None, dropout=0.0, precision="bf16")
    losses = [record["loss"] for record in whole.run()]
    rounded = [record["loss"] for record in half.run()]
    assert rounded != losses
    assert rounded == pytest.approx(losses, rel=0.05)
    assert all(value.dtype == torch.float32 for value in half.method.trainable()["student"].parameters())


def test_clipping_bounds_the_step() -> None:
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "max_steps": 1, "scheduler": "constant"}
    free, bound = trainer(None, **plain), trainer(None, **plain, clip_norm=1e-3)
    start = weights(free)
    free.run()
    bound.run()
    assert (weights(bound) - start).norm() == pytest.approx(1e-3 * 0.01, rel=0.05)
    assert (weights(free) - start).norm() > 10 * (weights(bound) - start).norm()


def test_every_module_that_learns_has_its_own_optimizer_and_extra_state_is_resumed(tmp_path: Path) -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state_dict: dict[str, int]) -> None:
            self.count = state_dict["count"]

    class TwoNetworks(BaseMethod):
        def __init__(self) -> None:
            self.networks = {"one": network(4, seed=1), "two": network(4, seed=2)}
            self.counter = Counter()

        def trainable(self) -> dict[str, nn.Module]:
            return dict(self.networks)

        def stateful(self) -> dict[str, Counter]:
            return {"counter": self.counter}

        def step(self, batch: Batch) -> dict[str, Tensor]:
            self.counter.count += 1
            target = batch.target
            return {
                name: torch.nn.functional.cross_entropy(net(batch.inputs), target)
                for name, net in self.networks.items()
            }

    method = TwoNetworks()
    settings = TrainingSettings(epochs=2, batch_size=16)
    job = Trainer(method, samples(), settings=settings, folder=tmp_path)
    job.run()
    assert set(job._optimizers) == {"one", "two"}
    again = TwoNetworks()
    Trainer(again, samples(), settings=settings, folder=tmp_path).run(resume=True)
    assert again.counter.count == method.counter.count == 10
    assert torch.equal(again.networks["one"][0].weight, method.networks["one"][0].weight)


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    trainer(str(tmp_path)).run()
    with pytest.raises(ValueError, match="batch_size is 16 and not 8"):
        trainer(str(tmp_path), batch_size=8).run(resume=True)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="`train` to hold at least one sample"):
        Trainer(Distillation(None, network(4, seed=0), CrossEntropy()), _Empty())
    frozen = Trainer(Distillation(None, network(4, seed=0).requires_grad_(False), CrossEntropy()), samples())
    with pytest.raises(ValueError, match="none requires a gradient"):
        frozen.run()
    with pytest.raises(ValueError, match="Expected the optimizer to be one of 'adam'"):
        trainer(None, optimizer="adamm").run()


class _Empty:
    def __len__(self) -> int:
        return 0

    def batch(self, rows: Tensor) -> Batch:
        raise AssertionError

    def fingerprint(self) -> str:
        return ""
