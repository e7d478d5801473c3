"""How a student answers compared with its teacher, counted answer by answer."""

from __future__ import annotations

import math

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage._checks import check_same_shape
from tutelage.assessment.agreement import wilson_interval

KINDS = ("both_right", "both_wrong_same", "both_wrong_different", "only_student_right", "only_teacher_right")


class FidelityTally:
    """Counts how often student and teacher agree, how much of that chance explains, and where they part.

    Both being right makes two models agree without one having learned from the other; so agreement where the teacher is
    wrong and Cohen's κ stand beside the plain share.

    >>> tally = FidelityTally()
    >>> tally.add(torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), torch.tensor([0, 2, 1]))
    >>> section = tally.section()
    >>> round(section["agreement"], 2), section["teacher_wrong"], section["agreement_where_teacher_wrong"]
    (0.67, 2.0, 0.5)
    """

    def __init__(self) -> None:
        self._same = self._count = 0
        self._student, self._teacher = torch.zeros(0), torch.zeros(0)
        self._kinds = torch.zeros(len(KINDS), dtype=torch.int64)

    def add(
        self, student: Int[Tensor, "answers"], teacher: Int[Tensor, "answers"], target: Int[Tensor, "answers"] | None
    ) -> None:
        """Count some answers.

        Args:
            student: `[answers]` classes or tokens.
            teacher: Likewise.
            target: The right ones, or None when nobody knows them.

        Raises:
            ValueError: Shapes differ.
        """
        check_same_shape(student, teacher, "student", "teacher")
        same = student == teacher
        self._same += int(same.sum())
        self._count += len(student)
        self._student = _grown(self._student, student)
        self._teacher = _grown(self._teacher, teacher)
        if target is None:
            return
        check_same_shape(student, target, "student", "target")
        right, taught = student == target, teacher == target
        neither = ~right & ~taught
        kinds = (right & taught, neither & same, neither & ~same, right & ~taught, ~right & taught)
        self._kinds += torch.stack([kind.sum() for kind in kinds]).cpu()

    def section(self) -> dict[str, float]:
        """The report card's section.

        Returns:
            `answers`, `agreement` with its 95 % Wilson interval `agreement_low` and `agreement_high`, `kappa` (left out
            where chance explains everything); and, where targets are known, the shares of `KINDS`, `teacher_wrong` (how
            many answers) and `agreement_where_teacher_wrong` (left out when there are none). Empty without answers.
        """
        if not self._count:
            return {}
        rate = self._same / self._count
        low, high = wilson_interval(self._same, self._count)
        found = {"answers": float(self._count), "agreement": rate, "agreement_low": low, "agreement_high": high}
        size = max(len(self._student), len(self._teacher))
        shares = [torch.nn.functional.pad(side, (0, size - len(side))) for side in (self._student, self._teacher)]
        expected = float((shares[0].double() * shares[1].double()).sum()) / self._count**2
        if expected < 1 and not math.isclose(expected, 1):
            found["kappa"] = (rate - expected) / (1 - expected)
        total = int(self._kinds.sum())
        if total:
            counts = dict(zip(KINDS, self._kinds.tolist(), strict=True))
            found |= {kind: count / total for kind, count in counts.items()}
            wrong = counts["both_wrong_same"] + counts["both_wrong_different"] + counts["only_student_right"]
            found["teacher_wrong"] = float(wrong)
            if wrong:
                found["agreement_where_teacher_wrong"] = counts["both_wrong_same"] / wrong
        return found


def _grown(counts: Tensor, classes: Tensor) -> Tensor:
    """Counts by class with more of them added."""
    more = torch.bincount(classes.cpu())
    size = max(len(counts), len(more))
    return torch.nn.functional.pad(counts, (0, size - len(counts))) + torch.nn.functional.pad(
        more, (0, size - len(more))
    )
