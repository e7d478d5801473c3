"""A run: from a config to a folder. The teacher first, then a student for every arm and seed, then the report card.

The folder holds `config.yaml` (resolved), `environment.json`, `report.html`, `report.json`, `student.safetensors` and
`student.json` (the best arm's best seed, chosen on validation), `metrics.jsonl` (that student's), `teacher/` when one
was trained, and `arms/ARM/seed-N/` for each student, with its own metrics, checkpoints, weights and card.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.assessment import ReportCard, assess
from tutelage.assessment.statistics import holm_correction, paired_t_test
from tutelage.batch import Batch, Inputs
from tutelage.config import DistillConfig, ObjectiveSettings, TeacherSettings, parse_config, read_config
from tutelage.data import load_data
from tutelage.data.samples import Data
from tutelage.files import read_json, write_json, write_text
from tutelage.models import ModelSpecification, build_model, load_model, parameter_count, save_model
from tutelage.outputs import Outputs
from tutelage.reporting import ArmResult, Report, summary_sentence, write_report
from tutelage.reproduction.environment import environment
from tutelage.teachers import (
    CachedTeacher,
    EnsembleTeacher,
    FrozenTeacher,
    MovingAverageTeacher,
    RandomTeacher,
    Teacher,
    TeacherCache,
    build_cache,
)
from tutelage.teachers.folder_lock import folder_lock
from tutelage.training import Distillation, Monitor, ProgressMonitor, Trainer, evaluate_model
from tutelage.workers import core_count, run_in_workers, threads_for

Announce = Callable[[str], None]
"""Told in one line what has been done."""


def start_run(config: DistillConfig, folder: Path | str, *, resume: bool = False, announce: Announce = print) -> Report:
    """Carry a config out in a folder, and write the report.

    Args:
        config: What to do.
        folder: The run's folder; a new one, unless `resume`.
        resume: Keep what is finished in the folder, and go on with the rest.
        announce: Told of the steps.

    Returns:
        The report that `report.html` shows.

    Raises:
        FileExistsError: The folder holds a run already.
        ValueError: Something in the config does not fit, or another process writes to the folder.
        Interrupted: Ctrl-C or SIGTERM came; every student's checkpoint was written first.
    """
    folder = Path(folder)
    main = int(os.environ.get("RANK", "0")) == 0
    if main and not resume and (folder / "config.yaml").exists():
        raise FileExistsError(f"{folder} holds a run already: resume it, or choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    if not main:  # under torchrun: the others only help to train
        return _carry_out(config, folder, announce=lambda line: None)
    with folder_lock(folder):
        write_text(folder / "config.yaml", config.to_yaml())
        write_json(folder / "environment.json", environment())
        return _carry_out(config, folder, announce=announce)


def resume_run(folder: Path | str, *, announce: Announce = print) -> Report:
    """Go on with the run in a folder, from its own config."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"Expected a run in {folder}, but there is no config.yaml.")
    return start_run(
        parse_config(read_config(folder / "config.yaml"), DistillConfig), folder, resume=True, announce=announce
    )


def run_from_terminal(config: DistillConfig | None, folder: Path | None) -> None:
    """Carry a run out for a person at a terminal: progress, a table, a closing line; Ctrl-C says how to go on.

    Args:
        config: What to do; None goes on with the run in `folder`.
        folder: The run's folder; None takes a new one under `runs/`.
    """
    from tutelage.reporting.tables import print_report

    main = int(os.environ.get("RANK", "0")) == 0
    if folder is None:
        title = "run" if config is None else config.name
        folder = free_folder("".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in title))
    place = folder
    announce: Announce = (lambda line: print(line, flush=True)) if main else (lambda line: None)
    try:
        report = resume_run(place, announce=announce) if config is None else start_run(config, place, announce=announce)
    except KeyboardInterrupt as stop:
        text = f"{stop} " if str(stop) else "Stopped. "
        if main:
            print(f"\n{text}Go on with: tutelage distill --resume {place}", file=sys.stderr)
        sys.exit(130)
    if main:
        print_report(report, page=place / "report.html")


def free_folder(name: str, parent: Path | str = "runs") -> Path:
    """The first of `parent/name`, `parent/name-2`, … that holds no run."""
    for number in itertools.count(1):
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        if not (folder / "config.yaml").exists():
            return folder
    raise AssertionError("unreachable")


def _carry_out(config: DistillConfig, folder: Path, *, announce: Announce) -> Report:
    data = load_data(config.data.name, **config.data.options)
    _check_fit(config, data)
    for number, teacher in enumerate(config.teachers):
        if teacher.train is not None:
            _train_teacher(teacher, config, data, _teacher_folder(folder, number), announce)
    if config.cache is True:
        _cache_teacher(config, data, folder, announce)
    trials = [(arm, seed) for arm in config.arms for seed in config.seeds]
    waiting = [trial for trial in trials if not (_trial_folder(folder, *trial) / "card.json").exists()]
    several_processes = int(os.environ.get("WORLD_SIZE", "1")) > 1
    jobs = 1 if several_processes else config.jobs or core_count()
    quiet = jobs > 1 and len(waiting) > 1
    if quiet:
        announce(f"Teaching {len(waiting)} students, {min(jobs, len(waiting))} at a time.")
    done = len(trials) - len(waiting)
    for position, figures in run_in_workers(
        teach_one, [(config, folder, *trial, quiet) for trial in waiting], jobs=jobs
    ):
        done += 1
        arm, seed = waiting[position]
        announce(f"[{done}/{len(trials)}] {arm}, seed {seed}: {figures}")
    if int(os.environ.get("RANK", "0")) != 0:
        return Report(config.name)
    report = _report(config, data, folder, trials)
    _keep_best(config, folder, trials)
    write_report(folder / "report.html", report)
    return report


def teach_one(config: DistillConfig, folder: Path, arm: str, seed: int, quiet: bool = False) -> str:
    """Teach the student of one arm and seed in its folder, resuming what is there; gives its figures in a line."""
    data = load_data(config.data.name, **config.data.options)
    place = _trial_folder(folder, arm, seed)
    torch.manual_seed(seed)  # every arm's student of a seed starts from the same weights
    student = _build(config.student, data)
    settings = config.training.model_copy(update={"seed": seed})
    learning = _teacher_models(config, data, folder, seed=seed) if config.online else []
    teacher, live = (learning, None) if learning else _load_teacher(config, data, folder, student, seed)
    method = config.method.make(teacher, student, _terms(config.arms[arm]))
    monitors: list[Monitor] = [] if quiet else [ProgressMonitor(f"{arm}, seed {seed}")]
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
    student.eval().cpu()
    if trainer.accelerator.is_main_process:
        save_model(place / "student.safetensors", student, config.student if config.student.configuration else None)
        for number, model in enumerate(learning):
            save_model(_teacher_folder(place, number), model.eval().cpu())
        live = _as_one(learning, config) if learning else live
        card = _assess(
            config, data, student, live.cpu() if isinstance(live, nn.Module) else live, f"{arm}, seed {seed}"
        )
        write_json(place / "card.json", _finite({"card": card.to_dict(), "history": history}))
        figures = _figures(card)
    else:
        figures = ""
    trainer.accelerator.wait_for_everyone()
    return figures


def _train_teacher(
    teacher: TeacherSettings, config: DistillConfig, data: Data, folder: Path, announce: Announce
) -> None:
    """Train a teacher on the labels, once; it is kept as a model that can be loaded by its path."""
    assert teacher.train is not None
    if (folder / "model.json").exists():
        return
    torch.manual_seed(teacher.train.seed)
    model = _build(teacher, data)
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


def _cache_teacher(config: DistillConfig, data: Data, folder: Path, announce: Announce) -> None:
    """Ask the teacher once about the training data."""
    reads = {path for terms in config.arms.values() for term in terms for path in term.make().objective.reads}
    signals = [path.removeprefix("teacher.") for path in sorted(reads) if path.startswith("teacher.")] or ["logits"]
    method = Distillation(
        _live_teacher(config, data, folder, seed=config.seeds[0]),
        _build(config.student, data),
        [term.make() for terms in config.arms.values() for term in terms],
    )
    if method.teacher is None:
        raise ValueError("Expected a teacher to cache, but the config has none.")
    cache = build_cache(method.teacher, data.train, folder / "teacher-cache", signals=signals, dtype="float32")
    announce(f"Cached the teacher's {', '.join(signals)}: {cache.bytes_per_sample} bytes a sample.")


def _load_teacher(
    config: DistillConfig, data: Data, folder: Path, student: nn.Module, seed: int
) -> tuple[Teacher | nn.Module | None, Teacher | nn.Module | None]:
    """The teacher that training asks, and the live one (if there is one) that the report card asks."""
    if len(config.teachers) == 1 and config.teachers[0].kind == "moving_average":
        teacher = MovingAverageTeacher(student, config.teachers[0].decay)
        return teacher, teacher
    if isinstance(config.cache, str):
        return CachedTeacher(TeacherCache(config.cache, data=data.train)), None
    live = _live_teacher(config, data, folder, seed=seed)
    if config.cache:
        return CachedTeacher(TeacherCache(folder / "teacher-cache", data=data.train)), live
    return live, live


def _live_teacher(config: DistillConfig, data: Data, folder: Path, *, seed: int) -> Teacher | nn.Module | None:
    return _as_one(_teacher_models(config, data, folder, seed=seed), config)


def _teacher_models(config: DistillConfig, data: Data, folder: Path, *, seed: int) -> list[nn.Module]:
    models: list[nn.Module] = []
    for number, teacher in enumerate(config.teachers):
        if teacher.kind == "moving_average":
            raise ValueError("Expected a `moving_average` teacher to be the only one, without a cache.")
        if teacher.kind == "random":
            models.append(RandomTeacher(lambda teacher=teacher: _build(teacher, data), seed=seed))  # type: ignore[misc]
        elif teacher.train is not None:
            models.append(load_model(_teacher_folder(folder, number)))
        else:
            models.append(_build(teacher, data))
    return models


def _as_one(models: Sequence[nn.Module], config: DistillConfig) -> Teacher | nn.Module | None:
    if len(models) <= 1:
        return models[0] if models else None
    members = [model if isinstance(model, FrozenTeacher) else FrozenTeacher(model) for model in models]
    return EnsembleTeacher(members, average=config.teacher_average)


def _build(settings: ModelSpecification, data: Data) -> nn.Module:
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


def _check_fit(config: DistillConfig, data: Data) -> None:
    """Find out before anything is trained whether the objectives can be made and have what they read."""
    for arm, terms in config.arms.items():
        for term in terms:
            objective = term.make().objective
            if objective.needs_teacher and not config.teachers and not isinstance(config.cache, str):
                raise ValueError(f"Arm `{arm}`: objective `{term.name}` needs a teacher, but the config has none.")
    config.method.check()
    _build(config.student, data)


def _assess(config: DistillConfig, data: Data, model: nn.Module, teacher: Any, name: str) -> ReportCard:
    wanted = config.assessment
    return assess(
        model,
        data.test,
        name=name,
        teacher=teacher,
        class_names=data.class_names,
        robustness=wanted.robustness,
        latency=wanted.latency,
        num_examples=wanted.examples,
    )


def _report(config: DistillConfig, data: Data, folder: Path, trials: Sequence[tuple[str, int]]) -> Report:
    arms = []
    for arm, terms in config.arms.items():
        stored = [read_json(_trial_folder(folder, arm, seed) / "card.json") for seed in config.seeds]
        arms.append(
            ArmResult(
                arm,
                " + ".join(_described(term) for term in terms),
                [ReportCard(**entry["card"]) for entry in stored],
                [entry["history"] for entry in stored],
            )
        )
    live = None
    if config.teachers and all(teacher.kind == "frozen" for teacher in config.teachers):
        live = _live_teacher(config, data, folder, seed=config.seeds[0])
    report = Report(
        config.name,
        arms=arms,
        teacher=None if live is None else _assess_teacher(config, data, live),
        config_text=config.to_yaml(),
        environment=environment(),
        comparisons=compare_arms(arms),
    )
    report.summary = summary_sentence(report)
    return report


class _TeacherAsNetwork(nn.Module):
    """A teacher in the form of a student, so that it gets a report card too: called with inputs, gives logits."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, inputs: Inputs) -> Outputs:
        first = inputs if isinstance(inputs, torch.Tensor) else next(iter(inputs.values()))
        return self.teacher(Batch(inputs, None, torch.arange(len(first))))


def _assess_teacher(config: DistillConfig, data: Data, live: Teacher | nn.Module) -> ReportCard:
    if isinstance(live, FrozenTeacher):
        live = live.model
    network = live if isinstance(live, nn.Module) and not isinstance(live, EnsembleTeacher) else _TeacherAsNetwork(live)
    return _assess(config, data, network, None, "teacher")


def compare_arms(
    arms: Sequence[ArmResult], metrics: Sequence[str] = ("accuracy", "expected_calibration_error")
) -> list[dict[str, Any]]:
    """Every pair of arms compared over seeds: paired t-tests, their p-values corrected together by Holm's method."""
    found: list[dict[str, Any]] = []
    for metric, (baseline, arm) in itertools.product(metrics, itertools.combinations(arms, 2)):
        ours, theirs = arm.values(metric), baseline.values(metric)
        if len(ours) != len(theirs) or len(ours) < 2:
            continue
        test = paired_t_test(ours, theirs)
        found.append(
            {
                "arm": arm.name,
                "baseline": baseline.name,
                "metric": metric,
                "difference": test.difference,
                "ci_low": test.ci_low,
                "ci_high": test.ci_high,
                "p_value": test.p_value,
                "method": "paired t-test over seeds, Holm-corrected",
            }
        )
    for entry, corrected in zip(
        found, holm_correction([entry["p_value"] for entry in found]) if found else [], strict=True
    ):
        entry["p_value"] = corrected
    return found


def _keep_best(config: DistillConfig, folder: Path, trials: Sequence[tuple[str, int]]) -> None:
    """Put the best arm's best student at the top of the folder; both are chosen on validation."""
    scores: dict[tuple[str, int], float] = {}
    for trial in trials:
        last = read_json(_trial_folder(folder, *trial) / "card.json")["history"][-1]
        accuracy = last.get("validation_accuracy")
        scores[trial] = accuracy if accuracy is not None else -(last.get("validation_loss") or float("inf"))
    arm = max(config.arms, key=lambda name: statistics.fmean(scores[name, seed] for seed in config.seeds))
    seed = max(config.seeds, key=lambda number: scores[arm, number])
    best = _trial_folder(folder, arm, seed)
    for name in ("student.safetensors", "student.json", "metrics.jsonl"):
        if (best / name).exists():
            part = folder / f".{name}.part"
            shutil.copyfile(best / name, part)
            part.replace(folder / name)


def _terms(settings: Sequence[ObjectiveSettings]) -> list[Any]:
    return [term.make() for term in settings]


def _described(term: ObjectiveSettings) -> str:
    arguments = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in term.arguments.items()
    )
    weight = "" if term.weight == 1.0 else f"{term.weight:g} × " if isinstance(term.weight, float) else "scheduled × "
    return f"{weight}{term.name}({arguments})" if arguments else f"{weight}{term.name}"


def _figures(card: ReportCard) -> str:
    names = ("accuracy", "expected_calibration_error", "teacher_agreement", "mean_absolute_error", "perplexity")
    return ", ".join(f"{name.replace('_', ' ')} {card.metrics[name]:.4f}" for name in names if name in card.metrics)


def _teacher_folder(folder: Path, number: int) -> Path:
    return folder / ("teacher" if number == 0 else f"teacher-{number + 1}")


def _trial_folder(folder: Path, arm: str, seed: int) -> Path:
    return folder / "arms" / arm / f"seed-{seed}"


def _finite(value: Any) -> Any:
    """The same plain data with NaN and infinity as None, which JSON can hold."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and value - value != 0 else value
