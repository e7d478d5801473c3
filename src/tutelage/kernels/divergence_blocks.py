"""Divergences between two heads over one block of tokens, and their gradient: four matrix products in all.

Both models' logits are made tile by tile and turned into exponentials at once, one a logit, relative to the largest
logit so far. Two buffers of a block's tokens × vocabulary are held; the gradient takes the place of the teacher's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tutelage.kernels.fused import exponentiate
from tutelage.kernels.head import LabelPlaces, LinearHead


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


class _RunningSoftmax:
    """Largest logit and sum of exponentials of every token, while tiles come in; and what relates tiles to the end."""

    def __init__(self, like: Tensor) -> None:
        self.largest = torch.full_like(like, torch.finfo(like.dtype).min)
        self.total, self.weighted = torch.zeros_like(like), torch.zeros_like(like)
        self.references: list[Tensor] = []

    def take(self, tile: Tensor, factor: Tensor | None = None) -> None:
        """Turn a tile of logits into exponentials; fold those in, and their products with `factor` (overwritten)."""
        before = self.largest
        self.largest = exponentiate(tile, before, self.total)
        self.references.append(self.largest)
        if factor is not None:
            self.weighted.mul_((before - self.largest).exp_()).add_(factor.mul_(tile).sum(dim=1))

    def log_sum(self) -> Tensor:
        """Log-sum-exp."""
        return self.largest + self.total.log()

    def mean(self) -> Tensor:
        """The mean of `factor` under the softmax."""
        return self.weighted / self.total

    def scale(self, number: int) -> Tensor:
        """`[tokens, 1]`: what makes the exponentials of a tile probabilities."""
        return ((self.references[number] - self.largest).exp_() / self.total)[:, None]


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
        like = student_states.new_zeros(len(student_states))
        self.student, self.teacher, self.hard = _RunningSoftmax(like), _RunningSoftmax(like), _RunningSoftmax(like)
        self.labels, self.rows, self.spread = labels, len(like), torch.zeros_like(like)
        label_logit = torch.zeros_like(like)
        for number in range(len(self.spans)):
            label_logit += self._take(number, student_states, teacher_states)
        d = self.divergence
        log_student, log_teacher = self.student.log_sum(), self.teacher.log_sum()
        if d.kind == "forward_kl":
            soft = self.teacher.mean() - log_teacher + log_student
        elif d.kind == "reverse_kl":
            soft = self.student.mean() - log_student + log_teacher
        else:
            soft = self._mix()
        values = d.soft_weight * soft
        if d.hard_weight:
            log_hard = self.hard.log_sum() if self.tiles["hard"] else log_student
            values += d.hard_weight * (log_hard - label_logit)
        return values, log_student - self.spread / self.student.total if d.entropy else like

    def gradients(self) -> Iterator[tuple[int, int, Tensor]]:
        """Every span with the gradient of the tokens' losses with respect to the student's logits in it."""
        d = self.divergence
        for number, (start, stop) in enumerate(self.spans):
            probability, gradient = self._tile("student", number), self._tile("teacher", number)
            if d.kind != "jsd":
                probability.mul_(self.student.scale(number))
            if d.kind == "forward_kl":
                gradient.mul_(self.teacher.scale(number).neg_()).add_(probability)
            elif d.kind == "reverse_kl":
                gradient.sub_(self.student.mean()[:, None]).mul_(probability)
            else:
                gradient.addcmul_(probability, self.surprise[:, None], value=-1).mul_(1 - d.beta)
            factor = d.soft_weight / d.temperature
            if factor != 1:
                gradient.mul_(factor)
            if d.hard_weight:
                if self.tiles["hard"]:
                    probability = self._tile("hard", number).mul_(self.hard.scale(number))
                gradient.add_(probability, alpha=d.hard_weight)
                assert self.labels is not None
                self.labels.add(gradient, number, torch.full_like(self.hard.largest, -d.hard_weight))
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
        for head, states, tile in zip(self.heads, (student_states, teacher_states), (student, teacher), strict=True):
            head.logits(states, head.rows(start, stop), start, stop, tile)
        if self.tiles["slope"]:
            self.heads[0].slope(student, out=self._tile("slope", number))
        label_logit = self.labels.pick(student, number) if self.labels is not None else 0
        if self.tiles["hard"]:
            self.hard.take(self._tile("hard", number).copy_(student))
        if d.temperature != 1:
            student.div_(d.temperature)
            teacher.div_(d.temperature)
        difference = self._scratch(0, student)
        logits = self._scratch(1, student).copy_(student) if d.entropy else None
        before = self.student.largest
        if d.kind == "forward_kl":
            self.teacher.take(teacher, torch.sub(teacher, student, out=difference))
            self.student.take(student)
        elif d.kind == "reverse_kl":
            torch.sub(student, teacher, out=difference)
            self.teacher.take(teacher)
            teacher.copy_(difference)
            self.student.take(student, difference)
        else:
            self.teacher.take(teacher)
            self.student.take(student)
        if logits is not None:
            self.spread.mul_((before - self.student.largest).exp_()).add_(logits.mul_(student).sum(dim=1))
        return label_logit

    def _mix(self) -> Tensor:
        """The Jensen–Shannon divergence; leaves p_S and p_S·c, c = log(p_S/m), and keeps their sum.

        A probability over the mixture lies between 0 and the reciprocal of its share, so its logarithm loses nothing
        to underflow that its product with the probability would keep.
        """
        beta = self.divergence.beta
        tiny = torch.finfo(self.scratch.dtype).tiny
        self.surprise, teacher_sum = torch.zeros_like(self.student.total), torch.zeros_like(self.student.total)
        for number in range(len(self.spans)):
            student = self._tile("student", number).mul_(self.student.scale(number))
            teacher = self._tile("teacher", number).mul_(self.teacher.scale(number))
            mixture = torch.lerp(student, teacher, beta, out=self._scratch(0, student)).clamp_(min=tiny)
            ratio = torch.div(teacher, mixture, out=self._scratch(1, student)).clamp_(min=tiny)
            teacher_sum += ratio.log_().mul_(teacher).sum(dim=1)
            torch.div(student, mixture, out=teacher).clamp_(min=tiny).log_().mul_(student)
            self.surprise += teacher.sum(dim=1)
        return beta * teacher_sum + (1 - beta) * self.surprise
