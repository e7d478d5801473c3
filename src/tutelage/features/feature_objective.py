"""The base of objectives that compare activations inside the student with activations inside the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_positive, check_same_length
from tutelage.batch import Batch
from tutelage.features.layouts import RESIZES, Resize, as_map, resize_map
from tutelage.objectives.objective import Objective
from tutelage.outputs import Outputs


class _TappedObjective(Objective):
    """Compares features that are tapped at places of the student with those at places of the teacher.

    A place is a module path, `PATH:input`, or `stage:N` (`stage:-1` is the last), see `FeatureTaps`; features are named
    by it. A subclass defines

        def loss(self, student_features: list[Tensor], teacher_features: list[Tensor], *more) -> Tensor
        def make_modules(self, student_features, teacher_features, *more) -> None    # if it has parameters

    where `more` is what `also` names. `make_modules` is called once, with the features of a first batch (no gradient,
    student in evaluation mode), on the device where training will be; modules that it sets as attributes are trained
    and checkpointed with the student and are no part of it. `self.aligned(…)` brings features to one layout and size.

    Args:
        student_taps: A place in the student, or several, in the order in which `loss` gets them.
        teacher_taps: The same for the teacher.
        also: Further paths to read, as in `Objective.reads`.
        resize: How a student's map gets the height and width of the teacher's; None forbids it.
        extra_tokens: Leading tokens that are no part of the image, see `as_map`.
        aspect_ratio: Height over width of the image, where tokens become a map.
    """

    reads: tuple[str, ...] = ("student.features.PLACE", "teacher.features.PLACE")  # of an instance: its own places

    def __init__(
        self,
        student_taps: str | Sequence[str],
        teacher_taps: str | Sequence[str],
        *,
        also: Sequence[str] = (),
        resize: Resize | None = None,
        extra_tokens: int | None = None,
        aspect_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        check_option(resize, "resize", (None, *RESIZES))
        check_positive(aspect_ratio, "aspect_ratio")
        if extra_tokens is not None:
            check_at_least(extra_tokens, "extra_tokens", 0)
        self.student_taps = tap_places(student_taps, "student_taps")
        self.teacher_taps = tap_places(teacher_taps, "teacher_taps")
        self.taps = {
            "student": {place: place for place in self.student_taps},
            "teacher": {place: place for place in self.teacher_taps},
        }
        self.reads = (
            *(f"student.features.{place}" for place in self.student_taps),
            *(f"teacher.features.{place}" for place in self.teacher_taps),
            *also,
        )
        self.resize: Resize | None = resize
        self.extra_tokens = extra_tokens
        self.aspect_ratio = aspect_ratio
        self._built = False

    def read(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> list[Any]:
        """What `loss` is called with: the student's features, the teacher's, and what `also` names."""
        found = super().read(student, teacher, batch)
        middle = len(self.student_taps)
        end = middle + len(self.teacher_taps)
        return [found[:middle], found[middle:end], *found[end:]]

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the modules, once."""
        if not self._built:
            self.make_modules(*self.read(student, teacher, batch))
            self._built = True

    def make_modules(self, student_features: list[Tensor], teacher_features: list[Tensor], *more: Any) -> None:
        """Make what learns beside the student, from the features of a first batch (default: nothing)."""

    def check_pairs(self) -> None:
        """Raise `ValueError` unless there are as many places in the student as in the teacher."""
        check_same_length(self.student_taps, self.teacher_taps, "student_taps", "teacher_taps")

    def aligned(
        self, student_features: Sequence[Tensor], teacher_features: Sequence[Tensor], *, maps: bool = False
    ) -> list[tuple[Tensor, Tensor]]:
        """Student and teacher in pairs of one layout and size, ready to be compared; widths stay as they are.

        Args:
            student_features: `[batch, width]`, tokens `[batch, tokens, width]` or maps `[batch, width, height, width]`.
            teacher_features: As many. Where only one of a pair is a map, the tokens of the other become one; with
                `resize`, so do both where there are more tokens on one side.
            maps: Make maps of all of them.

        Raises:
            ValueError: Different numbers of features, layouts that do not meet, or sizes that differ and no `resize`;
                the places, both shapes and the option are named.
        """
        check_same_length(student_features, teacher_features, "student_features", "teacher_features")
        return [
            self._aligned(index, student, teacher, maps)
            for index, (student, teacher) in enumerate(zip(student_features, teacher_features, strict=True))
        ]

    def _aligned(self, index: int, student: Tensor, teacher: Tensor, maps: bool) -> tuple[Tensor, Tensor]:
        given = student, teacher
        resized = self.resize is not None and student.ndim == teacher.ndim == 3 and student.shape[1] != teacher.shape[1]
        if maps or resized or 4 in (student.ndim, teacher.ndim):
            student = self._map(student, "student", self.student_taps[index])
            teacher = self._map(teacher, "teacher", self.teacher_taps[index])
            if student.shape[2:] != teacher.shape[2:] and self.resize is not None:
                student = resize_map(student, (teacher.shape[2], teacher.shape[3]), self.resize)
            sizes, way = (student.shape[2:], teacher.shape[2:]), '; `resize="bilinear"` would resize the student\'s'
        else:
            tokens = '; `resize="bilinear"` would make maps of both and resize the student\'s'
            sizes, way = (student.shape[1:-1], teacher.shape[1:-1]), tokens if student.ndim == teacher.ndim == 3 else ""
        if student.ndim != teacher.ndim or sizes[0] != sizes[1]:
            raise ValueError(
                f"Expected {self.student_taps[index]!r} of the student and {self.teacher_taps[index]!r} of the teacher "
                f"to have the same size but for their widths, but got {tuple(given[0].shape)} and "
                f"{tuple(given[1].shape)}{way}."
            )
        return student, teacher

    def _map(self, features: Tensor, side: str, place: str) -> Tensor:
        try:
            return as_map(features, extra_tokens=self.extra_tokens, aspect_ratio=self.aspect_ratio)
        except ValueError as error:
            raise ValueError(f"{place!r} of the {side}: {error}") from None


def tap_places(taps: str | Sequence[str], name: str) -> tuple[str, ...]:
    """One place or several as a tuple.

    >>> tap_places("stage:-1", "student_taps")
    ('stage:-1',)
    """
    places = (taps,) if isinstance(taps, str) else tuple(taps)
    if not places or not all(isinstance(place, str) and place for place in places):
        raise ValueError(f"Expected argument `{name}` to be a module path or a list of them, but got {taps!r}.")
    return places
