from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from example import network, samples
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.features import NormDirectionLoss, class_conditional_mean
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, LinearRamp, Objective, Progress
from tutelage.outputs import Outputs
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import Distillation, Monitor, Trainer, TrainingSettings, Weighted


class Counting(FrozenTeacher):
    """Counts the samples it was asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, embedding=True)
        self.asked: list[int] = []

    def forward(self, batch: Batch) -> Outputs:
        self.asked += batch.index.tolist()
        return super().forward(batch)


class StopsAt(Monitor):
    """Presses Ctrl-C at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, progress: Progress, losses: object) -> None:
        if progress.step == self.step:
            raise KeyboardInterrupt


def job(
    teacher: nn.Module | CachedTeacher,
    folder: Path | None = None,
    monitors: tuple[Monitor, ...] = (),
    width: int = 8,
    objectives: dict | None = None,
) -> Trainer:
    chosen = objectives or {
        "label": CrossEntropy(),
        "teacher": Weighted(KnowledgeDistillation(alpha=1.0), LinearRamp(epochs=2)),
        "nd": Weighted(NormDirectionLoss(), 2.0),
    }
    settings = TrainingSettings(epochs=3, batch_size=16, learning_rate=0.01, checkpoint_every=2)
    method = Distillation(teacher, network(width, seed=1), chosen)
    return Trainer(method, samples(), settings=settings, folder=folder, monitors=monitors)


def state(trainer: Trainer) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value
        for name, module in trainer.method.trainable().items()
        for key, value in module.state_dict().items()
    }


def expected_class_means() -> Tensor:
    data = samples()
    assert isinstance(data.inputs, Tensor)
    assert data.target is not None
    return class_conditional_mean(network(8, seed=2)[:3].eval()(data.inputs), data.target, num_classes=2)


def test_an_objective_sees_all_training_data_in_order_once_before_the_first_step() -> None:
    teacher = Counting(network(8, seed=2))
    trainer = job(teacher)
    trainer.run()
    assert teacher.asked[:16] == list(range(16))  # the first batch, for shapes
    assert teacher.asked[16:86] == list(range(70))
    assert len(teacher.asked) == 16 + 70 + 3 * 70
    torch.testing.assert_close(state(trainer)["objectives.nd.class_means"], expected_class_means())


def test_the_teacher_is_not_asked_for_objectives_that_take_no_statistics() -> None:
    teacher = Counting(network(8, seed=2))
    job(teacher, objectives={"teacher": KnowledgeDistillation()}).run()
    assert len(teacher.asked) == 16 + 3 * 70


def test_two_objectives_each_see_all_data() -> None:
    objectives = {"first": NormDirectionLoss(), "second": NormDirectionLoss()}
    trainer = job(network(8, seed=2), objectives=objectives)
    trainer.run()
    for name in objectives:
        torch.testing.assert_close(state(trainer)[f"objectives.{name}.class_means"], expected_class_means())


def test_a_cached_teacher_gives_the_same_run(tmp_path: Path) -> None:
    live = FrozenTeacher(network(8, seed=2), embedding=True)
    cache = build_cache(live, samples(), tmp_path, signals=("logits", "embedding"), dtype="float32")
    first, second = job(live), job(CachedTeacher(cache))
    assert [record["loss"] for record in first.run()] == pytest.approx([record["loss"] for record in second.run()])


@pytest.mark.parametrize("width", [8, 5])  # 5: with a projector
def test_a_resumed_run_takes_statistics_from_the_checkpoint_and_ends_with_the_same_bits(
    tmp_path: Path, width: int
) -> None:
    whole = job(network(8, seed=2), tmp_path / "whole", width=width)
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        job(network(8, seed=2), tmp_path / "parts", (StopsAt(7),), width=width).run()
    teacher = Counting(network(8, seed=2))
    rest = job(teacher, tmp_path / "parts", width=width)
    rest.run(resume=True)
    # The first batch, for shapes; then, from the checkpoint after step 6 on, the rest of epoch 1 and epoch 2.
    assert len(teacher.asked) == 16 + (70 - 16) + 70
    for name, value in state(whole).items():
        assert torch.equal(value, state(rest)[name]), name
    assert any(name.startswith("objectives.nd.projector") for name in state(whole)) == (width != 8)


def test_a_custom_objective_can_take_statistics() -> None:
    class Centred(Objective):
        """Squared distance to the teacher's mean logits."""

        reads = ("student.logits", "teacher.logits")

        def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
            assert teacher is not None
            assert teacher.logits is not None
            self.register_buffer("mean", torch.zeros_like(teacher.logits[0]))

        def prepare(self, lessons: Iterable[tuple[Outputs | None, Batch]]) -> None:
            total = sum(teacher.logits.sum(dim=0) for teacher, _ in lessons)  # type: ignore[union-attr]
            self.mean.copy_(total / 70)

        def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
            return (student_logits - self.mean).square().mean()

    objective = Centred()
    teacher = network(8, seed=2)
    job(teacher, objectives={"centred": objective}).run()
    with torch.no_grad():
        torch.testing.assert_close(objective.mean, teacher(samples().inputs).mean(dim=0))


def test_an_interrupted_first_epoch_keeps_the_statistics(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        job(network(8, seed=2), tmp_path, (StopsAt(3),)).run()
    rest = job(network(8, seed=2), tmp_path)
    rest.run(resume=True)
    torch.testing.assert_close(state(rest)["objectives.nd.class_means"], expected_class_means())


class Sees(Objective):
    """Chooses its tap when it sees the models."""

    reads = ("student.logits", "teacher.features.inside")

    def attach(self, student: nn.Module, teacher: nn.Module | None) -> None:
        self.seen = student, teacher
        if teacher is not None:
            self.taps["teacher"] = {"inside": next(name for name, _ in teacher.named_modules() if name)}

    def loss(self, student_logits: Tensor, inside: Tensor) -> Tensor:
        return student_logits.square().mean() + inside.square().mean()


def test_objectives_see_the_models_before_their_taps_are_read() -> None:
    teacher, student = network(16, seed=0), network(4, seed=1)
    first = next(name for name, _ in teacher.named_modules() if name)
    for given in (teacher, FrozenTeacher(teacher, taps={"inside": first})):
        objective = Sees()
        method = Distillation(given, student, objective)
        assert objective.seen[0] is student
        assert objective.seen[1] is teacher
        assert method.step(samples().batch(slice(0, 4)))["sees"] > 0


def test_objectives_are_told_that_a_teachers_signals_are_all_there_is(tmp_path: Path) -> None:
    teacher = network(16, seed=0)
    build_cache(FrozenTeacher(teacher), samples(), tmp_path / "cache")
    for given in (CachedTeacher(tmp_path / "cache"), Counting(teacher).forward):
        objective = Sees()
        Distillation(given, network(4, seed=1), objective)
        assert objective.seen[1] is None
