"""Adversarial training and distillation: every batch is attacked first, and the student learns from both versions."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_option, check_positive
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.assessment.robustness import Norm, Start, pgd_attack
from tutelage.batch import Batch
from tutelage.models import call_model
from tutelage.objectives import forward_kl, margin_change, pgd_adversarial_training_loss
from tutelage.outputs import Outputs
from tutelage.registry import resolve
from tutelage.teachers.teacher import Teacher, TeacherModule
from tutelage.training.distillation import Distillation, Objectives

AttackLoss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(clean_logits [batch, classes], adversarial_logits, target [batch])` → what the attacker raises, `[batch]`.

The clean logits are constants, said in the mode of the attack."""


def _cross_entropy(clean_logits: Tensor, adversarial_logits: Tensor, target: Tensor) -> Tensor:
    return pgd_adversarial_training_loss(adversarial_logits, target, reduction="none")


def _divergence(clean_logits: Tensor, adversarial_logits: Tensor, target: Tensor) -> Tensor:
    return forward_kl(adversarial_logits, clean_logits)


ATTACKS: dict[str, AttackLoss] = {
    "cross_entropy": _cross_entropy,
    "divergence": _divergence,
    "margin_change": margin_change,
}
"""What an attacker can raise, by name: the loss on the label, KL(clean ‖ attacked), or how far the margins move."""

_ATTACKED = "features.adversarial_logits"


class AdversarialDistillation(Distillation):
    """A student learns from clean inputs x and from attacked inputs x', which every step finds anew.

    A step attacks the student within a ball around x (`tutelage.assessment.pgd_attack`), then asks the student about x
    and about x', in training mode and one after the other, so batch normalisation sees either batch by itself. What it
    says about x' is `student.features.adversarial_logits`; everything else of the outputs is about x. Any objective
    works: those of `tutelage.objectives.adversarial` read both, ordinary ones read x. Where no objective reads anything
    about x, the student is not asked about it.

    The attack changes nothing: parameters, `.grad`, buffers and modes stay as they are, and no gradient flows through
    its iterations. Random starts come from PyTorch's global generator, which the trainer seeds and resumes.

    Args:
        teacher: As in `Distillation`.
        student: The module that learns; its inputs are one floating-point tensor.
        objectives: As in `Distillation`. Those that read `teacher.features.adversarial_logits` get what a teacher says
            about x'.
        radius: The radius of the ball, in units of the inputs.
        step_size: The length of an attack step; a quarter of the radius by default.
        steps: Attack steps.
        norm: The norm of the ball, `"linf"` or `"l2"`.
        attack: What the attacker raises: a name in `ATTACKS`, an `AttackLoss`, or its `package.module:attribute`. By
            default what the objectives name as their `attack`, and cross-entropy where none does.
        start: Where an attack begins, see `pgd_attack`.
        start_scale: The deviation of the Gaussian start.
        bounds: The least and greatest value of an input; normalisation goes into the model. Infinite where there are
            none.
        mode: What the student is in while it is attacked: `"evaluation"`, or `"batch_statistics"`, where batch
            normalisation uses the batch's own statistics, as it will in the step, without keeping them (all else is in
            evaluation mode).
        robust_teacher: Who is asked about x'; the teacher by default. It must be a model: what a cache holds was said
            about clean inputs.

    Raises:
        ValueError: A setting out of range, objectives that name different attacks, a start where a distance from x has
            no gradient, or a teacher that cannot be asked about x'.

    Source: Madry et al., ICLR 2018 (training on attacked inputs); Zhang et al., ICML 2019 (TRADES, with its Gaussian
    start); Mao et al., ICML 2023, arXiv 2304.07288 (ADV-COMP-SUM); Zhao et al., arXiv 2306.16170 (two teachers).

    >>> from tutelage.objectives import TradesLoss
    >>> method = AdversarialDistillation(None, nn.Linear(4, 3), TradesLoss(beta=6.0), radius=0.1)
    >>> losses = method.step(Batch(torch.rand(2, 4), torch.tensor([0, 1]), torch.arange(2)))
    >>> list(losses), losses["trades_loss"].requires_grad
    (['trades_loss'], True)
    """

    shardable = False

    def __init__(
        self,
        teacher: Teacher | nn.Module | None,
        student: nn.Module,
        objectives: Objectives,
        *,
        radius: float,
        step_size: float | None = None,
        steps: int = 10,
        norm: Norm = "linf",
        attack: str | AttackLoss | None = None,
        start: Start = "gaussian",
        start_scale: float = 0.001,
        bounds: Sequence[float] = (0.0, 1.0),
        mode: Literal["evaluation", "batch_statistics"] = "evaluation",
        robust_teacher: Teacher | nn.Module | None = None,
    ) -> None:
        super().__init__(teacher, student, objectives)
        check_non_negative(radius, "radius")
        check_at_least(steps, "steps", 1)
        check_option(norm, "norm", ("linf", "l2"))
        check_option(start, "start", ("gaussian", "uniform", "zero"))
        check_non_negative(start_scale, "start_scale")
        check_option(mode, "mode", ("evaluation", "batch_statistics"))
        low, high = bounds
        step_size = radius / 4 or 1.0 if step_size is None else step_size
        check_positive(step_size, "step_size")
        self._loss = self._attack_loss(attack)
        if self._loss in (_divergence, margin_change) and (
            start == "zero" or (start == "gaussian" and not start_scale)
        ):
            raise ValueError(
                "Expected the attack to start away from the clean input, where what it raises has no gradient."
            )
        self._attack = functools.partial(
            pgd_attack,
            radius=radius,
            step_size=step_size,
            steps=steps,
            norm=norm,
            start=start,
            start_scale=start_scale,
            bounds=(low, high),
        )
        self._mode = mode
        reads = {path.removesuffix("?") for term in self.terms.values() for path in term.objective.reads}
        self._asks_clean = any(path.startswith("student.") and path != f"student.{_ATTACKED}" for path in reads)
        self._asks_teacher = any(path.startswith("teacher.") and path != f"teacher.{_ATTACKED}" for path in reads)
        self.robust_teacher: Teacher | None = None
        if f"teacher.{_ATTACKED}" in reads:
            self.robust_teacher = self.teacher if robust_teacher is None else self._observed_teacher(robust_teacher)
            if not isinstance(self.robust_teacher, TeacherModule):
                raise ValueError(
                    "Expected a model as the teacher that is asked about attacked inputs, "
                    f"but got {type(self.robust_teacher).__name__}."
                )

    def modules(self) -> dict[str, nn.Module]:
        """Those of `Distillation`, and the teacher that is asked about attacked inputs."""
        found = super().modules()
        if isinstance(self.robust_teacher, nn.Module) and self.robust_teacher is not self.teacher:
            found["robust_teacher"] = self.robust_teacher
        return found

    def attack(self, batch: Batch) -> Tensor:
        """The attacked inputs of a batch, `[batch, …]`, detached.

        Raises:
            ValueError: The inputs are not one floating-point tensor within the bounds, or there are no labels.
        """
        inputs, target = batch.inputs, batch.target
        if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
            raise ValueError("Expected the inputs of a batch to be one floating-point tensor, but they are not.")
        if target is None:
            raise ValueError("Expected the batch to have labels, but it has none.")
        with self._attacked_mode():
            if self._loss is _cross_entropy:
                clean = inputs  # not looked at
            else:
                with torch.no_grad():
                    clean = self._logits(inputs)
            return self._attack(
                self._logits, inputs, target, objective=lambda logits, label: self._loss(clean, logits, label)
            )

    def _outputs(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        attacked = self.attack(batch)
        teacher = self._ask(batch)
        if self.robust_teacher is not None:
            said = self.robust_teacher(replace(batch, inputs=attacked)).logits
            teacher = _with_attacked(teacher or Outputs(), said)
        student = self._student(batch.inputs) if self._asks_clean else Outputs()
        return _with_attacked(student, self._logits(attacked)), teacher

    def _logits(self, inputs: Tensor) -> Tensor:
        logits = call_model(self.student, inputs).logits
        if logits is None:
            raise ValueError("Expected the student to give logits, but it gives none.")
        return logits

    @contextlib.contextmanager
    def _attacked_mode(self) -> Iterator[None]:
        """The mode of the attack; every module gets its own mode back."""
        layers = [
            layer
            for layer in self.student.modules()
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training and layer.track_running_stats
        ]
        with evaluation_mode(self.student):
            if self._mode == "evaluation":
                yield
                return
            try:
                for layer in layers:
                    layer.training, layer.track_running_stats = True, False  # the batch's own, and none are kept
                yield
            finally:
                for layer in layers:
                    layer.track_running_stats = True

    def _attack_loss(self, attack: str | AttackLoss | None) -> AttackLoss:
        if attack is None:
            found = {name: getattr(term.objective, "attack", None) for name, term in self.terms.items()}
            named = {name: str(value) for name, value in found.items() if value is not None}
            if len(set(named.values())) > 1:
                listed = ", ".join(f"{value!r} (`{name}`)" for name, value in named.items())
                raise ValueError(f"Expected argument `attack` to choose between what objectives name: {listed}.")
            attack = next(iter(named.values()), "cross_entropy")
        if isinstance(attack, str):
            loss: AttackLoss = resolve(attack, ATTACKS, "attack")
            return loss
        return attack


def _with_attacked(outputs: Outputs, logits: Tensor | None) -> Outputs:
    if logits is None:
        raise ValueError("Expected the teacher to give logits about attacked inputs, but it gives none.")
    return replace(outputs, features={**outputs.features, "adversarial_logits": logits})
