"""The lesson of MTARD: two teachers, one clean and one robust, kept in balance while the student learns from both."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from torch import Tensor

from tutelage.objectives.multi_teacher_adversarial import AdversarialReduction, adversarial_terms
from tutelage.objectives.objective import Objective
from tutelage.objectives.schedules import Progress
from tutelage.training.balances import EntropyBalance, NormalizedLossBalance

_ROUNDING = 1e-12  # a divergence of 0 may come out below it


class MultiTeacherAdversarialDistillation(Objective):
    """`multi_teacher_adversarial_distillation` whose temperatures and weights balance themselves, step by step.

    For `AdversarialDistillation`, with the clean teacher as its `teacher` and the robust one as its `robust_teacher`.
    The balances move in training mode only; they are buffers, so a checkpoint holds them. A step's loss uses the
    temperatures of before it and the weights of after it, as in the public code.

    Args:
        balance_entropy: Move the teachers' temperatures; else both stay at 1.
        balance_losses: Move the weights; else both stay at 0.5.
        temperature_rate: Of `EntropyBalance`.
        weight_rate: Of `NormalizedLossBalance`.
        exponent: Of `NormalizedLossBalance`.
        bounds: The least and greatest temperature.
        milestones: Epochs from which on both rates are a tenth of what they were (the paper: 215, 260 and 285).
        reduction: `"mean"`, or `"elementwise_mean"` as in the public code.
        eps: As in `multi_teacher_adversarial_distillation`.

    Source: Zhao et al., TPAMI 2024, arXiv 2306.16170; without the entropy balance it is the form of ECCV 2022.

    >>> import torch
    >>> lesson = MultiTeacherAdversarialDistillation()
    >>> teacher = torch.tensor([[4.0, 0.0]])
    >>> loss = lesson(torch.zeros(1, 2), torch.zeros(1, 2), teacher, teacher / 2)
    >>> lesson.state()["temperature/clean"], lesson.state()["weight/clean"]
    (1.001, 0.5)
    """

    reads = (
        "student.logits",
        "student.features.adversarial_logits",
        "teacher.logits",
        "teacher.features.adversarial_logits",
    )

    def __init__(
        self,
        *,
        balance_entropy: bool = True,
        balance_losses: bool = True,
        temperature_rate: float = 0.001,
        weight_rate: float = 0.025,
        exponent: float = 1.0,
        bounds: Sequence[float] = (1.0, 10.0),
        milestones: Sequence[float] = (),
        reduction: AdversarialReduction = "mean",
        eps: float = 0.0,
    ) -> None:
        super().__init__()
        low, high = bounds
        self.rates = temperature_rate if balance_entropy else 0.0, weight_rate if balance_losses else 0.0
        self.entropy_balance = EntropyBalance(rate=self.rates[0], bounds=(low, high), initial=max(1.0, low))
        self.loss_balance = NormalizedLossBalance(rate=self.rates[1], exponent=exponent)
        self.milestones = sorted(milestones)
        self.reduction, self.eps = reduction, eps

    def loss(
        self,
        student_clean: Tensor,
        student_adversarial: Tensor,
        clean_teacher: Tensor,
        robust_teacher: Tensor,
    ) -> Tensor:
        """The weighted sum; a scalar."""
        clean, robust = adversarial_terms(
            student_clean,
            student_adversarial,
            clean_teacher,
            robust_teacher,
            temperatures=_pair(self.entropy_balance.temperatures),
            reduction=self.reduction,
            eps=self.eps,
        )
        weights = self.loss_balance.weights
        if self.training:
            weights = self.loss_balance.update([max(term.item(), _ROUNDING) for term in (clean, robust)])
            self.entropy_balance.update([clean_teacher, robust_teacher])
        return weights[0] * clean + weights[1] * robust

    def advance(self, progress: Progress) -> None:
        """Lower the rates at the milestones."""
        factor = 0.1 ** bisect_right(self.milestones, progress.epoch)
        self.entropy_balance.rate, self.loss_balance.rate = (rate * factor for rate in self.rates)

    def state(self) -> dict[str, float]:
        """Temperatures and weights as they are, and entropies and relative losses of the last step, for a log."""
        found: dict[str, float] = {}
        for name, values in (
            ("temperature", self.entropy_balance.temperatures),
            ("weight", self.loss_balance.weights),
            ("entropy", self.entropy_balance.entropies),
            ("relative_loss", self.loss_balance.relative),
        ):
            found |= {f"{name}/{side}": value for side, value in zip(("clean", "robust"), values, strict=False)}
        return found

    def figures(self) -> dict[str, float]:
        """What the trainer logs: `state`."""
        return self.state()


def _pair(values: tuple[float, ...]) -> tuple[float, float]:
    first, second = values
    return first, second
