"""The default method: a student learns from objectives that compare it with a teacher and with labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tutelage._checks import check_non_negative
from tutelage.batch import Batch
from tutelage.features.observed import ObservedModel
from tutelage.objectives.objective import Objective, snake_case
from tutelage.objectives.schedules import Progress, Schedule
from tutelage.outputs import Outputs
from tutelage.teachers.cache import CachedTeacher
from tutelage.teachers.frozen import FrozenTeacher
from tutelage.teachers.moving_average import MovingAverageTeacher
from tutelage.teachers.teacher import Teacher, TeacherModule
from tutelage.training.method import BaseMethod, Stateful

Observer = Callable[[Outputs, Outputs | None, Batch], None]
"""Sees what student and teacher said about a batch (a monitor); must not change it."""


@dataclass(slots=True)
class Weighted:
    """An objective and its weight in the sum, a number or a schedule.

    >>> from tutelage.objectives import CrossEntropy, LinearRamp
    >>> Weighted(CrossEntropy(), LinearRamp(epochs=5)).weight
    LinearRamp(epochs=5, start=0.0, end=1.0)
    """

    objective: Objective
    weight: float | Schedule = 1.0

    def __post_init__(self) -> None:
        if not callable(self.weight):
            check_non_negative(self.weight, "weight")


Objectives = Objective | Weighted | Iterable[Objective | Weighted] | Mapping[str, Objective | Weighted]


class Distillation(BaseMethod):
    """A student learns; the teacher is only asked. The total is Σ weight · objective(student, teacher, batch).

    Args:
        teacher: A `Teacher`, a module (it is frozen), or None when no objective reads one. It is asked once a batch,
            without a gradient, and only when an objective needs it.
        student: The module that learns.
        objectives: One objective or several, with names (mapping) or without, `Weighted` or with weight 1.

    Parameters of objectives (projectors, masks) are trained and checkpointed beside the student and are no part of it.

    >>> import torch
    >>> from tutelage.objectives import KnowledgeDistillation
    >>> method = Distillation(nn.Linear(4, 3), nn.Linear(4, 3), KnowledgeDistillation(alpha=0.5, temperature=2.0))
    >>> losses = method.step(Batch(torch.zeros(2, 4), torch.tensor([0, 1]), torch.arange(2)))
    >>> list(losses), losses["knowledge_distillation"].requires_grad
    (['knowledge_distillation'], True)
    """

    shardable = True

    def __init__(self, teacher: Teacher | nn.Module | None, student: nn.Module, objectives: Objectives) -> None:
        self.student = student
        self.terms = named_terms(objectives)
        self.objectives = nn.ModuleDict({name: term.objective for name, term in self.terms.items()})
        self.observers: list[Observer] = []
        needs_teacher = any(term.objective.needs_teacher for term in self.terms.values())
        if needs_teacher and teacher is None:
            reader = next(name for name, term in self.terms.items() if term.objective.needs_teacher)
            raise ValueError(f"Expected a teacher, since objective `{reader}` reads one, but got None.")
        for term in self.terms.values():
            term.objective.attach(student, _module(teacher))
        self.teacher: Teacher | None = self._observed_teacher(teacher)
        self._asks_teacher = needs_teacher
        self._student = ObservedModel(
            student,
            embedding=self._reads("student.embedding"),
            taps=self._taps("student"),
            hidden=self._reads("student.hidden"),
            logits=self._reads("student.logits"),
        )
        self._terms = [(name, term.objective) for name, term in self.terms.items()]
        self._weights: list[float] = []
        self.advance(Progress(step=0, total_steps=1, steps_per_epoch=1))

    def trainable(self) -> dict[str, nn.Module]:
        """The student, and the objectives when they have parameters or buffers of their own."""
        modules: dict[str, nn.Module] = {"student": self.student}
        if any(True for _ in self.objectives.parameters()) or any(True for _ in self.objectives.buffers()):
            modules["objectives"] = self.objectives
        return modules

    def modules(self) -> dict[str, nn.Module]:
        """The teacher when it is a module, and the objectives (their buffers move to the device too)."""
        found: dict[str, nn.Module] = {"objectives": self.objectives}
        if isinstance(self.teacher, nn.Module):
            found["teacher"] = self.teacher
        return found

    def setup(self, batch: Batch) -> None:
        """Let objectives make what depends on the shapes of features; the student's state is left as it was."""
        training = self.student.training
        self.student.eval()
        with torch.no_grad():
            student = self._student(batch.inputs)
            teacher = self._ask(batch)
        self.student.train(training)
        for _, objective in self._terms:
            objective.build(student, teacher, batch)

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Let objectives take statistics of what the teacher says about all training data."""
        for _, objective in self._terms:
            objective.prepare((self._ask(batch), batch) for batch in batches)

    def advance(self, progress: Progress) -> None:
        """Bring weights and objectives to their values at this place in the run."""
        self._weights = [
            float(term.weight(progress)) if callable(term.weight) else term.weight for term in self.terms.values()
        ]
        for _, objective in self._terms:
            objective.advance(progress)

    def after_step(self, progress: Progress) -> None:
        """Let a moving average follow the student."""
        if isinstance(self.teacher, MovingAverageTeacher):
            self.teacher.update(self.student)

    def figures(self) -> dict[str, float]:
        """What objectives say about themselves, as `NAME/FIGURE`."""
        return {f"{name}/{figure}": value for name, term in self._terms for figure, value in term.figures().items()}

    def stateful(self) -> dict[str, Stateful]:
        """A moving average is part of a checkpoint; a frozen teacher is not."""
        return {"teacher": self.teacher} if isinstance(self.teacher, MovingAverageTeacher) else {}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by objective name."""
        student, teacher = self._outputs(batch)
        for observe in self.observers:
            observe(student, teacher, batch)
        losses = {}
        for (name, objective), weight in zip(self._terms, self._weights, strict=True):
            loss = objective(student, teacher, batch)
            losses[name] = loss if weight == 1.0 else loss * weight
        return losses

    def _outputs(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        """What student and teacher say about a batch in training."""
        teacher = self._ask(batch)
        return self._student(batch.inputs), teacher

    def _ask(self, batch: Batch) -> Outputs | None:
        if not self._asks_teacher or self.teacher is None:
            return None
        return self.teacher(batch)

    def _observed_teacher(self, teacher: Teacher | nn.Module | None) -> Teacher | None:
        if isinstance(teacher, nn.Module) and not isinstance(teacher, TeacherModule):
            return FrozenTeacher(
                teacher,
                embedding=self._reads("teacher.embedding"),
                taps=self._taps("teacher"),
                hidden=self._reads("teacher.hidden"),
                logits=self._reads("teacher.logits"),
            )
        if isinstance(teacher, FrozenTeacher):
            teacher.observe(
                embedding=self._reads("teacher.embedding"),
                taps=self._taps("teacher"),
                hidden=self._reads("teacher.hidden"),
            )
        if type(teacher) is CachedTeacher:
            self._check_cached_features(teacher)
            return CachedTeacher(teacher.cache, dense=self._reads("teacher.logits"))
        return teacher

    def _check_cached_features(self, teacher: CachedTeacher) -> None:
        manifest = teacher.cache.manifest
        for name, place in self._taps("teacher").items():
            signal = f"features.{name}"
            if signal not in manifest.signals or manifest.taps.get(name, place) != place:
                held = ", ".join(manifest.signals)
                raise ValueError(
                    f"Expected the cache {teacher.cache.folder} to hold `{signal}` at {place!r}, which an objective "
                    f"reads, but it holds {held}; build it with these signals, or ask the teacher itself."
                )

    def _reads(self, path: str) -> bool:
        return any(path in term.objective.reads for term in self.terms.values())

    def _taps(self, side: str) -> dict[str, str]:
        taps: dict[str, str] = {}
        for name, term in self.terms.items():
            for feature, path in term.objective.taps[side].items():
                if taps.setdefault(feature, path) != path:
                    raise ValueError(
                        f"Expected the {side}'s feature {feature!r} to have one place, "
                        f"but objective `{name}` reads it at {path!r} and another one at {taps[feature]!r}."
                    )
        return taps


def _module(teacher: Teacher | nn.Module | None) -> nn.Module | None:
    """The network behind a teacher, where there is one."""
    if isinstance(teacher, FrozenTeacher):
        return teacher.model
    return teacher if isinstance(teacher, nn.Module) and not isinstance(teacher, TeacherModule) else None


def named_terms(objectives: Objectives) -> dict[str, Weighted]:
    """Objectives by name, each with its weight; those without a name get their class's, numbered when it repeats."""
    if isinstance(objectives, Mapping):
        named = dict(objectives)
    else:
        given = [objectives] if isinstance(objectives, Objective | Weighted) else list(objectives)
        named = {}
        for entry in given:
            objective = entry.objective if isinstance(entry, Weighted) else entry
            name = base = snake_case(type(objective).__name__)
            number = 2
            while name in named:
                name, number = f"{base}_{number}", number + 1
            named[name] = entry
    if not named:
        raise ValueError("Expected argument `objectives` to hold at least one objective, but it is empty.")
    for name, entry in named.items():
        if not isinstance(entry, Objective | Weighted):
            raise ValueError(f"Expected objective `{name}` to be an `Objective`, but got {type(entry).__name__}.")
    return {name: entry if isinstance(entry, Weighted) else Weighted(entry) for name, entry in named.items()}
