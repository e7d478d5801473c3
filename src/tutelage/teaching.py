"""Teaching one student of a run: its teacher trained, cached or loaded; the student taught, assessed and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.assessment import ReportCard, assess
from tutelage.batch import Batch, Inputs
from tutelage.config import DistillConfig, ObjectiveSettings
from tutelage.data import load_data
from tutelage.data.samples import Data
from tutelage.features import FeatureTaps
from tutelage.files import write_json
from tutelage.models import (
    ModelSpecification,
    add_lora,
    build_model,
    load_model,
    merge_lora,
    parameter_count,
    save_model,
)
from tutelage.outputs import Outputs
from tutelage.teacher_settings import TeacherSettings
from tutelage.teachers import (
    CachedTeacher,
    EnsembleTeacher,
    FrozenTeacher,
    MovingAverageTeacher,
    RandomTeacher,
    ServedTeacher,
    Teacher,
    TeacherCache,
    build_cache,
)
from tutelage.training import Distillation, Monitor, ProgressMonitor, Trainer, evaluate_model
from tutelage.workers import on_main_process, threads_for

Announce = Callable[[str], None]
"""Told in one line what has been done."""


def teach_one(config: DistillConfig, folder: Path, arm: str, seed: int, quiet: bool = False) -> str:
    """Teach the student of one arm and seed in its folder, resuming what is there; gives its figures in a line."""
    data = load_data(config.data.name, **config.data.options)
    place = trial_folder(folder, arm, seed)
    torch.manual_seed(seed)  # every arm's student of a seed starts from the same weights
    student = build_student(config, data)
    settings = config.training.model_copy(update={"seed": seed})
    learning = _teacher_models(config, data, folder, seed=seed) if config.online else []
    teacher, live = (learning, None) if learning else _load_teacher(config, data, folder, student, seed)
    method = config.method.make(teacher, student, [term.make() for term in config.arms[arm]])
    monitors: list[Monitor] = [wanted.make() for wanted in config.monitors]
    for monitor in monitors:
        monitor.on_data(data.validation)
    monitors += [] if quiet else [ProgressMonitor(f"{arm}, seed {seed}")]
    trainer = Trainer(
        method,
        data.train,
        settings=settings,
        evaluate=lambda: evaluate_model(student, data.validation, task=data.task),
        folder=place,
        monitors=monitors,
    )
    with threads_for(parameter_count(student)):
        history = trainer.run(resume=True)
    student = merge_lora(student).eval().cpu()

    def keep() -> str:
        save_model(place / "student.safetensors", student, config.student if config.student.configuration else None)
        for number, model in enumerate(learning):
            save_model(teacher_folder(place, number), model.eval().cpu())
        asked = _as_one(learning, config) if learning else live
        card = _assess(
            config, data, student, asked.cpu() if isinstance(asked, nn.Module) else asked, f"{arm}, seed {seed}"
        )
        write_json(place / "card.json", _finite({"card": card.to_dict(), "history": history}))
        return _figures(card)

    return on_main_process(keep)


def build_student(config: DistillConfig, data: Data) -> nn.Module:
    """The student before its first step; with adapters, only these will learn."""
    student = build_for(config.student, data)
    return student if config.student.lora is None else add_lora(student, **config.student.lora.model_dump())


def train_teacher(
    teacher: TeacherSettings, config: DistillConfig, data: Data, folder: Path, announce: Announce
) -> None:
    """Train a teacher on the labels, once; it is kept as a model that can be loaded by its path."""
    assert teacher.train is not None
    if (folder / "model.json").exists():
        return
    torch.manual_seed(teacher.train.seed)
    model = build_for(teacher, data)
    objective = "mean_squared_error" if data.task == "regression" else "cross_entropy"
    trainer = Trainer(
        Distillation(None, model, ObjectiveSettings(name=objective).make()),
        data.train,
        settings=teacher.train,
        evaluate=lambda: evaluate_model(model, data.validation, task=data.task),
        folder=folder,
        monitors=[ProgressMonitor("training the teacher", every=5)],
    )
    with threads_for(parameter_count(model)):
        history = trainer.run(resume=True)
    model.eval().cpu()
    if trainer.accelerator.is_main_process:
        save_model(folder, model)
    trainer.accelerator.wait_for_everyone()
    shown = history[-1].get("validation_accuracy")
    reached = "" if shown is None else f": {100 * shown:.1f} % right on validation"
    announce(f"Trained the teacher ({teacher.name}){reached}.")


def cache_teacher(config: DistillConfig, data: Data, folder: Path, announce: Announce) -> None:
    """Ask the teacher once about the training data."""
    reads = {path for terms in config.arms.values() for term in terms for path in term.make().objective.reads}
    told = {path.removeprefix("teacher.").removesuffix("?") for path in reads if path.startswith("teacher.")}
    signals = sorted(told - {"top"} | ({"logits"} if "top" in told or not told else set()))
    method = Distillation(
        live_teacher(config, data, folder, seed=config.seeds[0]),
        build_for(config.student, data),
        [term.make() for terms in config.arms.values() for term in terms],
    )
    if method.teacher is None:
        raise ValueError("Expected a teacher to cache, but the config has none.")
    teacher = method.teacher
    cache = build_cache(
        teacher,
        data.train,
        folder / "teacher-cache",
        signals=signals,
        top_k=teacher.top_k if isinstance(teacher, ServedTeacher) else config.cache_top_k,
        dtype="float32",
    )
    paid = ""
    if isinstance(teacher, ServedTeacher):
        meter = teacher.endpoint.meter
        paid = f" {meter.requests} requests, {meter.from_cache} answers from disk, cost {meter.cost:.4g}."
    announce(f"Cached the teacher's {', '.join(signals)}: {cache.bytes_per_sample} bytes a sample.{paid}")


def _load_teacher(
    config: DistillConfig, data: Data, folder: Path, student: nn.Module, seed: int
) -> tuple[Teacher | nn.Module | None, Teacher | nn.Module | None]:
    """The teacher that training asks, and the live one (if there is one) that the report card asks."""
    if len(config.teachers) == 1 and config.teachers[0].kind == "moving_average":
        teacher = MovingAverageTeacher(student, config.teachers[0].decay)
        return teacher, teacher
    if isinstance(config.cache, str):
        return CachedTeacher(TeacherCache(config.cache, data=data.train)), None
    served = any(teacher.kind == "served" for teacher in config.teachers)
    if config.cache and served:  # nobody is asked about the test data, which may cost money
        return CachedTeacher(TeacherCache(folder / "teacher-cache", data=data.train)), None
    live = live_teacher(config, data, folder, seed=seed)
    if config.cache:
        return CachedTeacher(TeacherCache(folder / "teacher-cache", data=data.train)), live
    return live, None if served else live


def live_teacher(config: DistillConfig, data: Data, folder: Path, *, seed: int) -> Teacher | nn.Module | None:
    """The teacher that can be asked about any batch; several are an ensemble."""
    if [teacher.kind for teacher in config.teachers] == ["served"]:
        return config.teachers[0].served(data.num_classes, folder / "responses")
    return _as_one(_teacher_models(config, data, folder, seed=seed), config)


def _teacher_models(config: DistillConfig, data: Data, folder: Path, *, seed: int) -> list[nn.Module]:
    models: list[nn.Module] = []
    for number, teacher in enumerate(config.teachers):
        if teacher.kind == "moving_average":
            raise ValueError("Expected a `moving_average` teacher to be the only one, without a cache.")
        if teacher.kind == "random":
            models.append(RandomTeacher(lambda teacher=teacher: build_for(teacher, data), seed=seed))  # type: ignore[misc]
        elif teacher.train is not None:
            models.append(load_model(teacher_folder(folder, number)))
        else:
            models.append(build_for(teacher, data))
    return models


def _as_one(models: Sequence[nn.Module], config: DistillConfig) -> Teacher | nn.Module | None:
    if len(models) <= 1:
        return models[0] if models else None
    members = [model if isinstance(model, FrozenTeacher) else FrozenTeacher(model) for model in models]
    return EnsembleTeacher(members, average=config.teacher_average)


def build_for(settings: ModelSpecification, data: Data) -> nn.Module:
    """The model that settings describe, fitted to the data's shape and classes."""
    specification = ModelSpecification(**{name: getattr(settings, name) for name in ModelSpecification.model_fields})
    inputs = data.train.batch(torch.zeros(1, dtype=torch.int64)).inputs
    shape = tuple(inputs.shape[1:]) if isinstance(inputs, torch.Tensor) else None
    language = data.task == "causal_lm"
    return build_model(
        specification,
        num_classes=None if language else data.num_classes,
        input_shape=shape,
        vocab_size=data.num_classes if language else data.extras.get("vocab_size"),
    )


def check_fit(config: DistillConfig, data: Data) -> None:
    """Find out before anything is trained whether the objectives can be made and have what they read."""
    for arm, terms in config.arms.items():
        for term in terms:
            objective = term.make().objective
            if objective.needs_teacher and not config.teachers and not isinstance(config.cache, str):
                raise ValueError(f"Arm `{arm}`: objective `{term.name}` needs a teacher, but the config has none.")
            tells_top = bool(config.cache_top_k) or any(teacher.kind == "served" for teacher in config.teachers)
            if "teacher.top" in objective.reads and not tells_top and not isinstance(config.cache, str):
                raise ValueError(
                    f"Arm `{arm}`: objective `{term.name}` reads the teacher's likeliest classes, which are kept with "
                    "`cache: true` and `cache_top_k`."
                )
    if any(teacher.kind == "served" for teacher in config.teachers) and data.task != "causal_lm":
        raise ValueError(f"Expected a `served` teacher to teach a language model, but the data is for {data.task}.")
    config.method.check()
    for settings in config.monitors:
        settings.make()
    _check_taps(config, data)


def _check_taps(config: DistillConfig, data: Data) -> None:
    """Build the student, and the teacher that would be trained; find the places that objectives tap in them."""
    student = build_student(config, data)
    objectives = [(arm, term.name, term.make().objective) for arm, terms in config.arms.items() for term in terms]
    for arm, name, objective in objectives:
        FeatureTaps(student, objective.taps["student"])
        if objective.taps["teacher"] and not config.online:
            if len(config.teachers) > 1 or any(teacher.kind == "served" for teacher in config.teachers):
                raise ValueError(
                    f"Arm `{arm}`: objective `{name}` reads inside the teacher, which an ensemble or a `served` "
                    "teacher does not let one do."
                )
            if config.teachers and config.teachers[0].train is not None:
                FeatureTaps(build_for(config.teachers[0], data), objective.taps["teacher"])


def _assess(config: DistillConfig, data: Data, model: nn.Module, teacher: Any, name: str) -> ReportCard:
    wanted = config.assessment
    return assess(
        model,
        data.test,
        name=name,
        teacher=teacher,
        class_names=data.class_names,
        robustness=wanted.robustness,
        attack_radius=wanted.attack_radius,
        auto_attack_seconds=wanted.auto_attack_seconds,
        latency=wanted.latency,
        num_examples=wanted.examples,
    )


class _TeacherAsNetwork(nn.Module):
    """A teacher in the form of a student, so that it gets a report card too: called with inputs, gives logits."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, inputs: Inputs) -> Outputs:
        first = inputs if isinstance(inputs, torch.Tensor) else next(iter(inputs.values()))
        return self.teacher(Batch(inputs, None, torch.arange(len(first))))


def assess_teacher(config: DistillConfig, data: Data, live: Teacher | nn.Module) -> ReportCard:
    """The teacher's own report card, on the samples that students are assessed on."""
    if isinstance(live, FrozenTeacher):
        live = live.model
    network = live if isinstance(live, nn.Module) and not isinstance(live, EnsembleTeacher) else _TeacherAsNetwork(live)
    return _assess(config, data, network, None, "teacher")


def teacher_folder(folder: Path, number: int) -> Path:
    """Where a teacher that the run trained is kept."""
    return folder / ("teacher" if number == 0 else f"teacher-{number + 1}")


def trial_folder(folder: Path, arm: str, seed: int) -> Path:
    """Where one student's metrics, checkpoints, weights and report card are."""
    return folder / "arms" / arm / f"seed-{seed}"


def _figures(card: ReportCard) -> str:
    names = (
        "accuracy",
        "mean_iou",
        "expected_calibration_error",
        "teacher_agreement",
        "mean_absolute_error",
        "perplexity",
    )
    return ", ".join(f"{name.replace('_', ' ')} {card.metrics[name]:.4f}" for name in names if name in card.metrics)


def _finite(value: Any) -> Any:
    """The same plain data with NaN and infinity as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and value - value != 0 else value
