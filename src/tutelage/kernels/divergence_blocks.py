"""Divergences between two heads over one block of tokens, and their gradient: four matrix products in all.

Both models' logits are made tile by tile and turned at once into probabilities among the tile's columns. Two buffers of
a block's tokens × vocabulary are held; the gradient takes the place of the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from tutelage.kernels.head import LabelPlaces, LinearHead
from tutelage.kernels.tile_softmax import softmax_tile


@dataclass(frozen=True)
class Divergence:
    """What is minimised.

    Attributes:
        kind: `"forward_kl"`, `"reverse_kl"` or `"jsd"`.
        beta: The teacher's share of the mixture of `"jsd"`, strictly between 0 and 1.
        temperature: Softens both models in the soft term.
        soft_weight: Weight of the divergence (with the temperature's square in it, where that is wanted).
        hard_weight: Weight of the cross-entropy of labels, at temperature 1.
        entropy: Also the entropy of the student's softened prediction.
    """

    kind: str
    beta: float
    temperature: float
    soft_weight: float
    hard_weight: float
    entropy: bool


class _TiledSoftmax:
    """One model's tiles as they come in, each the softmax of its own columns; and what relates them to the whole."""

    def __init__(self) -> None:
        self.normalisers: list[Tensor] = []

    def take(self, tile: Tensor, remake: Callable[[], object]) -> None:
        """Turn a tile of logits into probabilities among its columns."""
        self.normalisers.append(softmax_tile(tile, remake))

    def finish(self) -> Tensor:
        """All tiles are there: the log-sum-exp of every token; from now on `mass` holds the tiles' probabilities."""
        normalisers = torch.stack(self.normalisers)
        log_sum = normalisers.logsumexp(dim=0)
        self.mass = (normalisers - log_sum).exp_()
        return log_sum

    def mean(self, means: list[Tensor]) -> Tensor:
        """`[tokens]`: the mean over the vocabulary of what has these means among the columns of the tiles."""
        return (self.mass * torch.stack(means)).sum(dim=0)


class DivergenceBlock:
    """One block of tokens at a time: its values, then the loss gradient with respect to the student's logits.

    Args:
        student: The student's head.
        teacher: The teacher's.
        divergence: What is minimised.
        rows: Most tokens of a block.
        columns: Vocabulary entries of a tile.
        dtype: What to compute in.
    """

    def __init__(
        self,
        student: LinearHead,
        teacher: LinearHead,
        divergence: Divergence,
        rows: int,
        columns: int,
        dtype: torch.dtype,
    ) -> None:
        self.heads, self.divergence = (student, teacher), divergence
        self.spans = student.spans(columns)
        vocabulary, device = student.weight.shape[0], student.weight.device
        hard_apart = divergence.hard_weight > 0 and divergence.temperature != 1

        def tiles(wanted: bool = True) -> list[Tensor]:
            if not wanted:
                return []
            whole = torch.empty(rows * vocabulary, dtype=dtype, device=device)
            return [whole[rows * start : rows * stop] for start, stop in self.spans]

        self.tiles = {
            "student": tiles(),
            "teacher": tiles(),
            "hard": tiles(hard_apart),
            "slope": tiles(student.softcap is not None),
        }
        self.scratch = torch.empty(2, rows * min(columns, vocabulary), dtype=dtype, device=device)

    def values(
        self, student_states: Tensor, teacher_states: Tensor, labels: LabelPlaces | None
    ) -> tuple[Tensor, Tensor]:
        """Weighted loss and student's entropy (0 unless asked for) of every token, `[tokens]` each.

        Args:
            student_states: `[tokens, student width]`.
            teacher_states: `[tokens, teacher width]`.
            labels: Where the tokens' labels are, for the hard term.
        """
        self.student, self.teacher, self.hard = _TiledSoftmax(), _TiledSoftmax(), _TiledSoftmax()
        self.labels, self.rows = labels, len(student_states)
        self.logits: list[Tensor] = []  # a tile's mean of the student's logits
        self.gaps: list[Tensor] = []  # a tile's mean of the logits' difference, by the first model's probabilities
        label_logit = student_states.new_zeros(self.rows)
        for number in range(len(self.spans)):
            label_logit += self._take(number, student_states, teacher_states)
        d = self.divergence
        log_student, log_teacher = self.student.finish(), self.teacher.finish()
        entropy = log_student - self.student.mean(self.logits) if d.entropy else torch.zeros_like(log_student)
        if d.kind == "forward_kl":
            soft = self.teacher.mean(self.gaps) - log_teacher + log_student
        elif d.kind == "reverse_kl":
            self.slope = self.student.mean(self.gaps)
            soft = self.slope - log_student + log_teacher
        else:
            soft = self._mix()
        values = d.soft_weight * soft
        if d.hard_weight:
            log_hard = self.hard.finish() if self.tiles["hard"] else log_student
            values += d.hard_weight * (log_hard - label_logit)
        return values, entropy

    def gradients(self) -> Iterator[tuple[int, int, Tensor]]:
        """Every span with the gradient of the tokens' losses with respect to the student's logits in it."""
        d = self.divergence
        factor = d.soft_weight / d.temperature * (1 - d.beta if d.kind == "jsd" else 1)
        for number, (start, stop) in enumerate(self.spans):
            probability, gradient = self._tile("student", number), self._tile("teacher", number)
            mass = self.student.mass[number, :, None]
            if d.kind == "forward_kl":
                gradient.mul_(self.teacher.mass[number, :, None] * -factor).addcmul_(probability, mass, value=factor)
            else:
                gradient.addcmul_(probability, self.slope[:, None], value=-1).mul_(mass * factor)
            if d.hard_weight:
                if self.tiles["hard"]:
                    probability, mass = self._tile("hard", number), self.hard.mass[number, :, None]
                gradient.addcmul_(probability, mass, value=d.hard_weight)
                assert self.labels is not None
                self.labels.add(gradient, number, torch.full_like(mass[:, 0], -d.hard_weight))
            if self.tiles["slope"]:
                gradient.mul_(self._tile("slope", number))
            yield start, stop, gradient

    def _tile(self, name: str, number: int) -> Tensor:
        start, stop = self.spans[number]
        return self.tiles[name][number][: self.rows * (stop - start)].view(self.rows, stop - start)

    def _scratch(self, which: int, tile: Tensor) -> Tensor:
        return self.scratch[which, : tile.numel()].view_as(tile)

    def _take(self, number: int, student_states: Tensor, teacher_states: Tensor) -> Tensor | int:
        """Make one tile of both models; the label's logits in it."""
        d = self.divergence
        start, stop = self.spans[number]
        student, teacher = self._tile("student", number), self._tile("teacher", number)
        rows = [head.rows(start, stop) for head in self.heads]

        def make_student() -> None:
            self.heads[0].logits(student_states, rows[0], start, stop, student)

        def soften(tile: Tensor) -> None:
            if d.temperature != 1:
                tile.div_(d.temperature)

        def make_soft_student() -> None:
            make_student()
            soften(student)

        def make_soft_teacher() -> None:
            self.heads[1].logits(teacher_states, rows[1], start, stop, teacher)
            soften(teacher)

        make_student()
        if self.tiles["slope"]:
            self.heads[0].slope(student, out=self._tile("slope", number))
        label_logit = self.labels.pick(student, number) if self.labels is not None else 0
        if self.tiles["hard"]:
            hard = self._tile("hard", number)
            remake = partial(self.heads[0].logits, student_states, rows[0], start, stop, hard)
            self.hard.take(hard.copy_(student), remake)
        soften(student)
        make_soft_teacher()
        logits = self._scratch(1, student).copy_(student) if d.entropy else None
        gap = self._scratch(0, student)
        if d.kind == "forward_kl":
            torch.sub(teacher, student, out=gap)
            self.teacher.take(teacher, make_soft_teacher)
            self.gaps.append(torch.linalg.vecdot(teacher, gap))
            self.student.take(student, make_soft_student)
        elif d.kind == "reverse_kl":
            torch.sub(student, teacher, out=gap)
            self.teacher.take(teacher, make_soft_teacher)
            self.student.take(student, make_soft_student)
            self.gaps.append(torch.mul(gap, student, out=teacher).sum(dim=1))
        else:
            self.teacher.take(teacher, make_soft_teacher)
            self.student.take(student, make_soft_student)
        if logits is not None:
            self.logits.append(torch.linalg.vecdot(student, logits))
        return label_logit

    def _mix(self) -> Tensor:
        """The Jensen–Shannon divergence; leaves p_S and p_S·c, c = log(p_S/m), and keeps their sum.

        Probabilities are held just above 0, so that no logarithm is infinite; p·log p of the smallest is nothing.
        """
        beta = self.divergence.beta
        floor = torch.finfo(self.scratch.dtype).tiny * 2**20
        surprise, teacher_sum = torch.zeros(2, self.rows, dtype=self.scratch.dtype, device=self.scratch.device)
        for number in range(len(self.spans)):
            student, teacher = (
                self._tile(name, number).mul_(model.mass[number, :, None]).clamp_(min=floor)
                for name, model in (("student", self.student), ("teacher", self.teacher))
            )
            mixture = torch.lerp(student, teacher, beta, out=self._scratch(0, student))
            teacher_sum += torch.linalg.vecdot(
                torch.div(teacher, mixture, out=self._scratch(1, student)).log_(), teacher
            )
            surprise += torch.div(student, mixture, out=teacher).log_().mul_(student).sum(dim=1)
        self.student.mass, self.slope = torch.ones_like(self.student.mass), surprise
        value: Tensor = beta * teacher_sum + (1 - beta) * surprise
        return value
