"""What comes before the students: the data, the teacher and its answers, the methods that apply, and a plan."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tutelage.comparison.applicability import Applicable, Measured, Problem, survey
from tutelage.comparison.halving import Plan, fit_plan
from tutelage.comparison.lessons import BASELINES, LEFT_OUT, Lesson, catalogue, method_name, own_lesson, plain_lesson
from tutelage.comparison.ranking import MAIN
from tutelage.comparison.settings import ComparisonConfig
from tutelage.comparison.trial import TEST_CACHE, TRAIN_CACHE, teach
from tutelage.config import DistillConfig
from tutelage.data import load_data
from tutelage.data.samples import Data, Samples
from tutelage.models import head_path, save_model
from tutelage.reproduction.trial import fixed_threads
from tutelage.teachers import EnsembleTeacher, FrozenTeacher, build_cache
from tutelage.teaching import build_for, build_student, live_teacher, teacher_folder, train_teacher

Announce = Callable[[str], None]

_PROBE_STEPS = 4
_PROBE_SECONDS = 2.0  # a step that ends later is the last one of a probe
_MARGIN = 0.85  # of the budget that is planned for: estimates are rough, and workers have to start


def list_methods(config: ComparisonConfig) -> tuple[dict[str, Applicable], dict[str, str]]:
    """The methods that apply, and the reasons of those that do not, without training anything.

    A teacher that would be trained is asked as it is before its training.
    """
    data = checked_data(config)
    check_problem(config, data)
    with tempfile.TemporaryDirectory(prefix="tutelage-compare-") as name:
        shared = Path(name)
        for number, teacher in enumerate(config.teachers):
            if teacher.train is not None:
                save_model(teacher_folder(shared, number), build_for(teacher, data))
        return survey_methods(config, data, shared)


def checked_data(config: ComparisonConfig) -> Data:
    """The data, if methods can be compared on them.

    Raises:
        ValueError: The task is another one, or samples have no labels.
    """
    data = load_data(config.data.name, **config.data.options)
    if data.task not in MAIN:
        raise ValueError(
            f"Expected data for {' or '.join(MAIN)}, which `tutelage compare` can judge, but {data.name} is for "
            f"{data.task}; compare lessons on it with `arms:` in `tutelage distill`."
        )
    for part in (data.train, data.validation, data.test):
        if len(part) == 0 or part.batch(torch.tensor([0])).target is None:
            raise ValueError(
                f"Expected every part of {data.name} to hold samples with labels, to choose and report by."
            )
    return data


def check_problem(config: ComparisonConfig, data: Data) -> None:
    """Find mistakes in models and in the names of methods before anything is trained.

    Raises:
        ValueError: A model does not fit the data, there is no such method, one of the user's own can not be imported,
            or a baseline is left out.
    """
    trained = [("teacher", teacher) for teacher in config.teachers if teacher.train is not None]
    for who, model in (*trained, ("student", config.student)):
        try:
            build_for(model, data)
        except ValueError as error:
            raise ValueError(f"The {who}, `{model.name}`, does not fit {data.name}: {error}") from error
    for name in config.methods.include:
        if ":" in name:
            raise ValueError(
                f"Expected an objective of your own under `methods.own` (--own), but got the method {name!r}."
            )
        method_name(name)
    for name in config.methods.exclude:
        if method_name(name) in BASELINES[data.task]:
            raise ValueError(
                f"Expected no baseline in `methods.exclude`, since all are compared with it, but got {name!r}."
            )
    for name in config.methods.own:
        plain_lesson(name, data.task)


def survey_methods(config: ComparisonConfig, data: Data, shared: Path) -> tuple[dict[str, Applicable], dict[str, str]]:
    """The methods that apply with their lessons and what a step of each takes, and the reasons of the others."""
    plain = lesson_config(config)
    student = build_student(plain, data)
    live = live_teacher(plain, data, shared, seed=0) if config.teachers else None
    batch = data.train.batch(torch.arange(min(2, len(data.train))))
    gives = set() if live is None else {"logits"}
    teacher_head = ""
    if isinstance(live, torch.nn.Module) and not isinstance(live, EnsembleTeacher):
        teacher_head = _head(live)
        gives |= {"features", "embedding"}
    problem = Problem(data.task, data.num_classes, frozenset(gives), len(config.teachers), frozenset(batch.extras))
    lessons = catalogue(
        task=data.task,
        num_examples=_largest_index(data.train) + 1,
        student_head=_head(student),
        teacher_head=teacher_head,
    )
    named = {name if name not in {*lessons, *LEFT_OUT} else f"own {name}": terms for name, terms in config.arms.items()}
    own = {name: own_lesson(name, terms) for name, terms in named.items()}
    own |= {name: plain_lesson(name, data.task) for name in config.methods.own}
    choice = config.methods.model_copy(
        update={
            "include": [method_name(name) for name in config.methods.include],
            "exclude": [method_name(name) for name in config.methods.exclude],
        }
    )

    def attempt(lesson: Lesson) -> Measured:
        began = time.perf_counter()
        with fixed_threads(1):
            taught = teach(config, data, shared, lesson.settings[0], seed=0, steps=_PROBE_STEPS, limit=_PROBE_SECONDS)
        whole = time.perf_counter() - began
        return Measured(taught.step, max(0.0, whole - _PROBE_STEPS * taught.step))

    return survey(lessons, own, problem, choice, BASELINES[data.task], attempt)


def lesson_config(config: ComparisonConfig, **changes: Any) -> DistillConfig:
    """A distillation on this problem for what any of its lessons needs: the data, the teacher, the student."""
    return config.distillation(config.name, {"lesson": ["cross_entropy"]}, {}, {}, **changes)


def _head(model: torch.nn.Module) -> str:
    try:
        return head_path(model)
    except ValueError:
        return ""


def _largest_index(samples: Samples) -> int:
    rows = torch.arange(len(samples)).split(4096)  # type: ignore[no-untyped-call]
    return max(int(samples.batch(part).index.max()) for part in rows)


def prepare_teacher(config: ComparisonConfig, data: Data, shared: Path, announce: Announce) -> None:
    """Train the teacher where that is asked for, and ask it once about all samples where they stay the same."""
    plain = lesson_config(config)
    for number, teacher in enumerate(config.teachers):
        if teacher.train is not None:
            train_teacher(teacher, plain, data, teacher_folder(shared, number), announce)
    if not config.teachers or not _stable(data.train) or not _stable(data.test):
        return
    live = live_teacher(plain, data, shared, seed=0)
    signals = ["logits"]
    if isinstance(live, torch.nn.Module) and not isinstance(live, EnsembleTeacher):
        try:
            live, signals = FrozenTeacher(live, embedding=True), ["logits", "embedding"]
        except ValueError:  # no output layer, and so no embedding
            live = FrozenTeacher(live)
    for part, name, asked in ((data.train, TRAIN_CACHE, signals), (data.test, TEST_CACHE, ["logits"])):
        build_cache(live, part, shared / name, signals=asked, dtype="float32")  # type: ignore[arg-type]


def _stable(samples: Samples) -> bool:
    """Whether a sample is the same whenever it is read (no random crops), so that an answer about it can be kept."""
    rows = torch.arange(min(8, len(samples)))
    first, second = samples.batch(rows).inputs, samples.batch(rows).inputs
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    return isinstance(second, dict) and all(torch.equal(value, second[name]) for name, value in first.items())


def make_plan(
    config: ComparisonConfig, data: Data, shared: Path, jobs: int, started: float, announce: Announce
) -> dict[str, Any]:
    """What will be done, in plain data: the methods with their settings, and the rounds that fit the budget."""
    applicable, reasons = survey_methods(config, data, shared)
    baselines = [name for name in BASELINES[data.task] if name in applicable]
    if not applicable:
        raise ValueError("Expected a method to apply, but none does; `tutelage compare --list` says why.")
    training = config.training
    batches = math.ceil(len(data.train) / training.batch_size)
    steps = training.max_steps or training.epochs * math.ceil(batches / training.gradient_accumulation)
    left = config.budget - (time.monotonic() - started)
    if left <= 0:
        raise ValueError(
            f"Expected argument `budget` to leave time for students, but preparing took all of its "
            f"{config.budget:.0f} seconds; what is prepared is kept, so give more and resume."
        )
    plan = fit_plan(
        {name: (found.measured.step, found.measured.overhead) for name, found in applicable.items()},
        budget=_MARGIN * left,
        jobs=jobs,
        settings=config.settings,
        finalists=config.finalists,
        baselines=len(baselines),
        seeds=config.seeds,
        steps=steps,
        keep=config.keep,
    )
    announce(f"{len(applicable)} methods apply, {len(reasons)} do not (`tutelage compare --list` says why).")
    for name in (*map(method_name, config.methods.include), *config.methods.own, *config.arms):
        if name in reasons:
            announce(f"{name} does not apply: {reasons[name].rstrip('.')}.")
    announce(plan_in_words(plan, steps))
    return {
        "data": data.train.fingerprint(),
        "whole_steps": steps,
        "seconds": {"expected": plan.seconds, "prepared": time.monotonic() - started},
        "rounds": [asdict(one) for one in plan.rounds],
        "baselines": baselines,
        "methods": {
            name: {
                "settings": [setting.to_dict() for setting in found.lesson.settings],
                "step_seconds": found.measured.step,
            }
            for name, found in applicable.items()
        },
        "inapplicable": reasons,
    }


def plan_in_words(plan: Plan, whole_steps: int) -> str:
    """The plan in a line.

    >>> from tutelage.comparison.halving import Round
    >>> plan_in_words(Plan((Round(9, 4, 1, 100), Round(5, 1, 3, 300)), 62.0), 300)
    'Plan: 9 methods × 4 settings × 100 steps; final: up to 5 methods × 3 seeds × 300 steps; about 62 s.'
    """
    parts = []
    for number, one in enumerate(plan.rounds):
        settings = f" × {one.settings} settings" if one.settings > 1 else ""
        seeds = f" × {one.seeds} seeds" if one.seeds > 1 else ""
        final = "final: up to " if number == len(plan.rounds) - 1 else ""
        parts.append(f"{final}{one.methods} methods{settings}{seeds} × {one.steps} steps")
    short = plan.rounds[-1].steps
    less = "" if short == whole_steps else f", of {whole_steps} in `training`, which the budget has no room for"
    return f"Plan: {'; '.join(parts)}{less}; about {plan.seconds:.0f} s."
