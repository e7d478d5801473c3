"""Losses of a network under attack: smooth adversarial comp-sum losses, and the baselines TRADES and PGD training.

They take the logits of clean and of attacked inputs; who attacks is a method's affair
(`tutelage.training.AdversarialDistillation`, on `tutelage.assessment.pgd_attack`). No gradient should flow through the
attack's iterations: detach the attacked inputs, then ask the network about them.

The modules read the logits of attacked inputs as `student.features.adversarial_logits`, and their attribute `attack`
names what their paper's attacker raises; the method takes it from there.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import (
    Reduction,
    check_non_negative,
    check_positive,
    check_same_shape,
    check_target,
    reduce,
)
from tutelage.objectives.comp_sum import comp_sum_loss
from tutelage.objectives.label_loss import label_cross_entropy
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32, log_probabilities


def rho_margin_loss(u: Float[Tensor, "*batch"], *, rho: float = 1.0) -> Float[Tensor, "*batch"]:
    """Φ_ρ(u) = min(1, max(0, 1 − u/ρ)): 1 for a wrong margin, 0 from the margin ρ on. At most exp(−u/ρ).

    Args:
        u: Margins, of any shape.
        rho: ρ.

    Raises:
        ValueError: `rho` is not positive.

    >>> rho_margin_loss(torch.tensor([-1.0, 0.5, 3.0]), rho=2.0)
    tensor([1.0000, 0.7500, 0.0000])
    """
    check_positive(rho, "rho")
    return (1 - u / rho).clamp(0, 1)


def margin_vector(
    logits: Float[Tensor, "batch classes"], target: Int[Tensor, "..."]
) -> Float[Tensor, "batch other_classes"]:
    """How far the label's score is above that of each other class: (s_y − s_k) for k ≠ y in order, `[batch, C − 1]`.

    Raises:
        ValueError: A target of another shape or outside the classes.

    >>> margin_vector(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([[-1.,  1.]])
    """
    batch, classes = logits.shape
    check_target(target, classes, shape=(batch,))
    label = target.long()[:, None]
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, label, False)
    return (logits.gather(1, label) - logits)[others].view(batch, classes - 1)


def margin_change(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    squared: bool = False,
) -> Float[Tensor, "batch"]:
    """‖Δ(x') − Δ(x)‖₂, how far an attack moves the `margin_vector`: what ADV-COMP-SUM's attacker raises.

    Its gradient is 0 where nothing has moved, so the ascent has to start from noise.

    Args:
        clean_logits: Of x.
        adversarial_logits: Of x', of the same shape.
        target: `[batch]` classes.
        squared: Give the square instead.

    Raises:
        ValueError: Logits of different shapes, or a target of another shape or outside the classes.

    >>> clean, attacked = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> margin_change(clean, attacked, torch.tensor([0]))
    tensor([5.])
    """
    check_same_shape(clean_logits, adversarial_logits, "clean_logits", "adversarial_logits")
    check_target(target, clean_logits.shape[1], shape=clean_logits.shape[:1])
    moved = at_least_float32(adversarial_logits) - at_least_float32(clean_logits)
    # Σ_k (d_k − d_y)²; the gradient of this norm is 0 where the norm is, and not 0/0.
    change: Tensor = torch.linalg.vector_norm(moved - moved.gather(1, target.long()[:, None]), dim=1)
    return change.square() if squared else change


def smooth_adversarial_comp_sum_loss(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    tau: float = 1.0,
    rho: float = 1.0,
    nu: float = 1.0,
    squared: bool = False,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """Φ^τ(Σ_{k≠y} exp(−Δ_k(x)/ρ)) + ν · ‖Δ(x') − Δ(x)‖₂: clean loss and stability of the margins Δ_k = s_y − s_k.

    The first term is `comp_sum_loss` of logits / ρ. Where ν ≥ √(C − 1)/ρ and x' makes the norm greatest in a ball, the
    sum is at least Φ^τ(Σ_k Φ_ρ(Δ_k)) for every point of the ball (`rho_margin_loss`), hence at least Φ^τ(1) where the
    network can be fooled. The gradient reaches both logits.

    Args:
        clean_logits: `[batch, classes]` of x.
        adversarial_logits: `[batch, classes]` of x'; ascend `margin_change` to find x'.
        target: `[batch]` classes.
        tau: τ of the comp-sum loss.
        rho: ρ, the margin.
        nu: ν, the weight of stability; tuned in practice.
        squared: Take the squared norm (the paper's derivation has the norm).
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: ρ not positive, τ or ν negative, logits of different shapes, a target of another shape or outside
            the classes, or an unknown reduction.

    Source: arXiv 2304.07288, the section on adversarial robustness (smooth adversarial comp-sum losses, ADV-COMP-SUM).

    >>> clean, attacked = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> smooth_adversarial_comp_sum_loss(clean, attacked, torch.tensor([0]), tau=2.0, nu=0.1)
    tensor(0.7130)
    """
    check_positive(rho, "rho")
    check_non_negative(nu, "nu")
    clean_logits = at_least_float32(clean_logits)  # once, so that the gradients of both terms add up before rounding
    change = margin_change(clean_logits, adversarial_logits, target, squared=squared)
    scaled = clean_logits if rho == 1 else clean_logits / rho
    clean = comp_sum_loss(scaled, target, tau=tau, reduction="none")
    return reduce(clean + nu * change, reduction)


def trades_loss(
    clean_logits: Float[Tensor, "batch classes"],
    adversarial_logits: Float[Tensor, "..."],
    target: Int[Tensor, "..."],
    *,
    beta: float = 6.0,
    reduction: Reduction = "mean",
) -> Float[Tensor, "..."]:
    """TRADES: cross-entropy on x + β · KL(prediction on x ‖ prediction on x'). The gradient reaches both logits.

    Args:
        clean_logits: `[batch, classes]` of x.
        adversarial_logits: `[batch, classes]` of x', which raises the divergence.
        target: `[batch]` classes.
        beta: β, the weight of robustness (1/λ in the paper, where 6 is the usual choice).
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Returns:
        In float32 or wider.

    Raises:
        ValueError: A negative β, logits of different shapes, a target of another shape or outside the classes, or an
            unknown reduction.

    Source: Zhang et al., "Theoretically Principled Trade-off between Robustness and Accuracy", ICML 2019.

    >>> clean, attacked = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> trades_loss(clean, attacked, torch.tensor([0]), beta=1.0)
    tensor(0.8370)
    """
    check_non_negative(beta, "beta")
    check_same_shape(clean_logits, adversarial_logits, "clean_logits", "adversarial_logits")
    check_target(target, clean_logits.shape[1], shape=clean_logits.shape[:1])
    clean, attacked = log_probabilities(clean_logits), log_probabilities(adversarial_logits)
    divergence = torch.linalg.vecdot(clean.exp(), clean - attacked)
    return reduce(beta * divergence - clean.gather(1, target.long()[:, None])[:, 0], reduction)


def pgd_adversarial_training_loss(
    adversarial_logits: Float[Tensor, "batch classes"], target: Int[Tensor, "..."], *, reduction: Reduction = "mean"
) -> Float[Tensor, "..."]:
    """Madry's adversarial training: cross-entropy on attacked inputs, which raise that same cross-entropy.

    Args:
        adversarial_logits: `[batch, classes]` of x'.
        target: `[batch]` classes.
        reduction: `"mean"`, `"sum"`, or `"none"` (`[batch]`).

    Raises:
        ValueError: A target of another shape or outside the classes, or an unknown reduction.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018, equation 2.1.

    >>> pgd_adversarial_training_loss(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.3863)
    """
    return reduce(label_cross_entropy(adversarial_logits, target), reduction)


class SmoothAdversarialCompSumLoss(Objective):
    """Mean `smooth_adversarial_comp_sum_loss` over a batch, for a method that also asks about attacked inputs.

    Args:
        tau: τ of the comp-sum loss.
        rho: ρ, the margin.
        nu: ν, the weight of stability.
        squared: Take the squared norm.

    >>> clean, attacked = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    >>> SmoothAdversarialCompSumLoss(tau=2.0, nu=0.1)(clean, attacked, torch.tensor([0]))
    tensor(0.7130)
    """

    reads = ("student.logits", "student.features.adversarial_logits", "batch.target")
    attack: ClassVar[str] = "margin_change"

    def __init__(self, *, tau: float = 1.0, rho: float = 1.0, nu: float = 1.0, squared: bool = False) -> None:
        super().__init__()
        check_non_negative(tau, "tau")
        check_positive(rho, "rho")
        check_non_negative(nu, "nu")
        self.tau, self.rho, self.nu, self.squared = tau, rho, nu, squared

    def loss(self, student_logits: Tensor, adversarial_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return smooth_adversarial_comp_sum_loss(
            student_logits, adversarial_logits, target, tau=self.tau, rho=self.rho, nu=self.nu, squared=self.squared
        )


class TradesLoss(Objective, name="trades"):
    """Mean `trades_loss` over a batch, for a method that also asks about attacked inputs.

    Args:
        beta: β, the weight of robustness.

    >>> clean, attacked = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    >>> TradesLoss(beta=1.0)(clean, attacked, torch.tensor([0]))
    tensor(0.8370)
    """

    reads = ("student.logits", "student.features.adversarial_logits", "batch.target")
    attack: ClassVar[str] = "divergence"

    def __init__(self, *, beta: float = 6.0) -> None:
        super().__init__()
        check_non_negative(beta, "beta")
        self.beta = beta

    def loss(self, student_logits: Tensor, adversarial_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return trades_loss(student_logits, adversarial_logits, target, beta=self.beta)


class PGDAdversarialTrainingLoss(Objective):
    """Mean `pgd_adversarial_training_loss` over a batch, for a method that also asks about attacked inputs.

    >>> PGDAdversarialTrainingLoss()(torch.zeros(1, 4), torch.tensor([0]))
    tensor(1.3863)
    """

    reads = ("student.features.adversarial_logits", "batch.target")
    attack: ClassVar[str] = "cross_entropy"

    def loss(self, adversarial_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over the batch."""
        return pgd_adversarial_training_loss(adversarial_logits, target)
