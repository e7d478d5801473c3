"""Which methods apply to a problem, and why others do not: by what each declares first, then by one real step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.comparison.lessons import (
    LEFT_OUT,
    Lesson,
    Setting,
    canonical_objectives,
    plain_lesson,
    required_arguments,
)
from tutelage.comparison.settings import MethodChoice
from tutelage.config import ObjectiveSettings
from tutelage.objectives import Objective


@dataclass(frozen=True)
class Problem:
    """What a method may count on.

    Attributes:
        task: What a target is.
        num_classes: How many classes.
        teacher_gives: Of `logits`, `embedding` and `features` what the teacher can be asked; empty: no teacher.
        teachers: How many there are.
        extras: What the data bring for each sample besides.
    """

    task: str
    num_classes: int
    teacher_gives: frozenset[str]
    teachers: int = 1
    extras: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Measured:
    """What one real step of a method showed.

    Attributes:
        step: Seconds of a step.
        overhead: Seconds of everything else in a trial.
    """

    step: float
    overhead: float


@dataclass(frozen=True)
class Applicable:
    """A method that applies, with its lesson as it is used here."""

    lesson: Lesson
    measured: Measured


Attempt = Callable[[Lesson], Measured]
"""Takes one real step of a lesson's first setting; whatever it raises is the reason why the method does not apply."""


def declared_gaps(objective: Objective, problem: Problem) -> list[str]:
    """What an objective declares to need and the problem lacks, in plain words; nothing when it lacks nothing.

    >>> from tutelage.objectives import PlackettLuceDistillation
    >>> declared_gaps(PlackettLuceDistillation(), Problem("classification", 2, frozenset()))
    ['needs a teacher', 'says no more than cross-entropy for two classes or fewer']
    """
    gaps: list[str] = []
    if objective.needs_teacher and not problem.teacher_gives:
        gaps.append("needs a teacher")
    for path in objective.reads:
        if path.endswith("?") or (path.startswith("teacher.") and not problem.teacher_gives):
            continue
        gap = _gap(path, objective, problem)
        if gap is not None and gap not in gaps:
            gaps.append(gap)
    if objective.needs_many_classes and problem.task == "classification" and problem.num_classes <= 2:
        gaps.append("says no more than cross-entropy for two classes or fewer")
    return gaps


def _gap(path: str, objective: Objective, problem: Problem) -> str | None:
    owner, _, part = path.partition(".")
    name, _, key = part.partition(".")
    if owner == "batch":
        if name in ("target", "index", "inputs"):
            return None
        return None if key in problem.extras else f"reads `{key or name}`, which the data do not bring"
    if name == "top":
        return "reads a teacher's likeliest classes only, and this one tells all of them"
    if name in ("hidden", "head"):
        return "reads hidden states and an output layer, as language models give them"
    if name == "features":
        sees_models = type(objective).attach is not Objective.attach  # and taps what it finds there
        if key not in objective.taps[owner] and not sees_models:
            return f"reads `{key}` of the {owner}, which it does not give"
        if owner == "teacher" and "features" not in problem.teacher_gives:
            return "reads inside the teacher, which an ensemble does not let one do"
    if owner == "teacher" and name in ("logits", "embedding") and name not in problem.teacher_gives:
        return f"reads the teacher's {name}, which it does not give"
    return None


def survey(
    lessons: Mapping[str, Lesson],
    own: Mapping[str, Lesson],
    problem: Problem,
    choice: MethodChoice,
    baselines: tuple[str, ...],
    attempt: Attempt,
) -> tuple[dict[str, Applicable], dict[str, str]]:
    """Every method that was asked for: those that apply, and the reasons of those that do not.

    Args:
        lessons: The catalogue.
        own: The user's own lessons, by name.
        problem: What there is.
        choice: What was asked for, by the names in tables.
        baselines: What takes part whatever was asked for.
        attempt: Takes one step.
    """
    applicable: dict[str, Applicable] = {}
    reasons: dict[str, str] = {}
    for name, found in _candidates(lessons, own, choice, baselines, problem.task):
        if isinstance(found, str):
            reasons[name] = found
            continue
        outcome = _apply(found, problem, attempt)
        if isinstance(outcome, str):
            reasons[name] = outcome
        else:
            applicable[name] = outcome
    return applicable, reasons


def _candidates(
    lessons: Mapping[str, Lesson],
    own: Mapping[str, Lesson],
    choice: MethodChoice,
    baselines: tuple[str, ...],
    task: str,
) -> Iterator[tuple[str, Lesson | str]]:
    objectives = canonical_objectives()
    for name in dict.fromkeys([*lessons, *LEFT_OUT, *objectives]):
        if name not in baselines and (name in choice.exclude or (choice.include and name not in choice.include)):
            continue
        if name in LEFT_OUT and name not in choice.include:
            yield name, LEFT_OUT[name]
        elif name in lessons:
            yield name, lessons[name]
        elif name not in objectives:
            yield name, LEFT_OUT[name]
        elif missing := required_arguments(objectives[name]):
            listed = ", ".join(f"`{argument}`" for argument in missing)
            yield name, f"needs {listed}, which only you can give: as a lesson of your own under `arms`"
        else:
            yield name, plain_lesson(name, task)
    yield from own.items()


def _apply(lesson: Lesson, problem: Problem, attempt: Attempt) -> Applicable | str:
    if problem.task not in lesson.tasks:
        return f"is for {' and '.join(lesson.tasks)}"
    if lesson.online and problem.teachers != 1:
        return "needs one teacher, who learns with the student"
    first: str | None = None
    for places in lesson.places or ((None, None),):
        placed = lesson.tapped_at(*places) if lesson.places else lesson
        reason: str
        try:
            gaps = _gaps_of(placed, problem)
            if not gaps:
                return Applicable(placed, attempt(placed))
            reason = "; ".join(gaps)
        except Exception as error:  # whatever a step raises says why the method can not be used here
            reason = in_one_line(error)
        first = first or reason
    return first or ""


def _gaps_of(lesson: Lesson, problem: Problem) -> list[str]:
    objectives = [objective for setting in lesson.settings for objective in objectives_of(setting)]
    return list(dict.fromkeys(gap for objective in objectives for gap in declared_gaps(objective, problem)))


def objectives_of(setting: Setting) -> list[Objective]:
    """A setting's objectives, newly made."""
    return [ObjectiveSettings.model_validate(term).make().objective for term in setting.terms]


def in_one_line(error: BaseException) -> str:
    """What an error says, on one line; its kind too, where the text alone would not tell.

    >>> in_one_line(ValueError("Expected a stage.")), in_one_line(KeyError("x"))
    ('Expected a stage.', "KeyError: 'x'")
    """
    text: Any = " ".join(str(error).split())
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
