"""The form of every objective: a pure function of tensors, and a thin module that knows what to read from a batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives.schedules import Progress
from tutelage.outputs import Outputs

Reader = Callable[[Outputs, Outputs | None, Batch], Any]

_REGISTERED: dict[str, type[Objective]] = {}


class Objective(nn.Module):
    """A differentiable function of (student outputs, teacher outputs, batch): the thin twin of a pure function.

    A subclass names what it reads and computes its loss from just these tensors, in this order:

        class SquaredDistance(Objective):
            reads = ("student.logits", "teacher.logits")

            def loss(self, student_logits, teacher_logits):
                return (student_logits - teacher_logits).square().mean()

    An instance can be called in two ways: with these tensors, like any PyTorch loss, or with
    `(student: Outputs, teacher: Outputs | None, batch: Batch)`, as a method does in training. It is registered under
    its class name in snake case, so a config can name it (`name=` gives a further, shorter name); a base class that
    is not for use has a name with a leading underscore.

    Attributes:
        reads: What `loss` is called with: paths that start with `student.` or `teacher.` and go on with `logits`,
            `embedding`, `hidden`, `head`, `top` or `features.NAME`, or that start with `batch.` and go on with
            `target`, `index`, `inputs` or `extras.NAME`. A path that ends in `?` is optional: where a batch has no such
            part, `loss` gets None. May be set per instance, before the first call. From it a method knows whether a
            teacher, embeddings or taps are needed, and a comparison knows which objectives apply.
        needs_many_classes: The objective says nothing more than cross-entropy for two classes or fewer.
        taps: Where `student.features.NAME` and `teacher.features.NAME` come from: for either side, a module path
            (see `tutelage.features.FeatureTaps`) for each name. Set per instance by feature objectives.
    """

    reads: tuple[str, ...] = ("student.logits", "teacher.logits", "batch.target")
    needs_many_classes: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__module__.startswith("tutelage.") and not cls.__name__.startswith("_"):
            _REGISTERED[snake_case(cls.__name__)] = cls
            if name is not None:
                _REGISTERED[name] = cls

    def __init__(self) -> None:
        super().__init__()
        self.taps: dict[str, dict[str, str]] = {"student": {}, "teacher": {}}
        self._readers: tuple[Reader, ...] | None = None

    def loss(self, *tensors: Any) -> Tensor:
        """The loss from the tensors that `reads` names, as a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def forward(self, *arguments: Any) -> Tensor:
        """The loss of `(student, teacher, batch)`, or of the tensors that `reads` names."""
        if not (arguments and isinstance(arguments[0], Outputs)):
            return self.loss(*arguments)
        return self.loss(*self.read(*arguments))

    def read(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> list[Any]:
        """What `loss` is called with, from what both said about a batch."""
        if self._readers is None:
            self._readers = tuple(_reader(path, type(self).__name__) for path in self.reads)
        return [read(student, teacher, batch) for read in self._readers]

    def attach(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """See the models themselves, once and before anything else; may set `taps` and `reads` (default: nothing).

        Args:
            student: The module that learns.
            teacher: The module that teaches; None where there is none, or only its signals are there (a cache, an
                endpoint, an ensemble).
        """

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make parameters whose shapes depend on the models, from the outputs of one first batch (default: none)."""

    def prepare(self, lessons: Iterable[tuple[Outputs | None, Batch]]) -> None:
        """Take statistics of the whole training data, before the first step (default: none).

        Called once, after `build`, by a method that trains on fixed data. A resumed run does not call it again, so what
        it finds belongs in a buffer, which checkpoints hold; `build` makes it in its final shape.

        Args:
            lessons: What the teacher says about every batch of the training data, in order, and the batch. They can be
                gone through once; the teacher is asked only as they are.
        """

    def advance(self, progress: Progress) -> None:
        """Follow the run: called before every step with its place in the run (default: nothing changes)."""

    def figures(self) -> dict[str, float]:
        """What to log about the last batch beside the loss, by name (default: nothing)."""
        return {}

    @property
    def needs_teacher(self) -> bool:
        """Whether a teacher must be asked."""
        return any(path.startswith("teacher.") for path in self.reads)

    @property
    def needs_target(self) -> bool:
        """Whether batches must carry labels."""
        return "batch.target" in self.reads


def snake_case(name: str) -> str:
    """`PlackettLuceDistillation` → `plackett_luce_distillation`.

    >>> snake_case("PlackettLuceDistillation"), snake_case("ForwardKL")
    ('plackett_luce_distillation', 'forward_kl')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def registered_objectives() -> dict[str, type[Objective]]:
    """Every objective of the toolkit by its names in configs."""
    return dict(_REGISTERED)


def _reader(path: str, reader: str) -> Reader:
    optional = path.endswith("?")
    path = path.removesuffix("?")
    owner, _, part = path.partition(".")
    if owner not in ("student", "teacher", "batch") or not part:
        raise ValueError(
            f"Expected `reads` of {reader} to hold paths under `student.`, `teacher.` or `batch.`, but got {path!r}."
        )
    attribute, _, key = part.partition(".")

    def read(student: Outputs, teacher: Outputs | None, batch: Batch) -> Any:
        source: Any = student if owner == "student" else teacher if owner == "teacher" else batch
        if source is None:
            raise ValueError(f"{reader} reads `{path}`, but the run has no {owner}.")
        value = getattr(source, attribute)
        if key:
            value = value.get(key)
        if value is None and not optional:
            raise ValueError(f"{reader} reads `{path}`, but the {owner} gives none.")
        return value

    return read
