"""Whether the look-ahead hypergradient is the true derivative: a tiny problem, taken apart in two other ways."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.objectives.divergences import forward_kl
from tutelage.objectives.fusion_ratio import FusionRatioController, fused_distillation_loss
from tutelage.objectives.trilateral import trilateral_features
from tutelage.training.bilevel import Forward, lookahead_hypergradient


def check_hypergradient(seed: int, *, detached: bool = False) -> dict[str, float]:
    """Compare the hypergradient of a tiny problem in float64 with central differences and with its closed form.

    Args:
        seed: Fixes the problem.
        detached: Cut the ratios off from the controller, as the code of TGeo-KD does: nothing is left of the gradient.

    Returns:
        `hypergradient_error` (against central differences) and `closed_form_error`, each relative to the norm of the
        reference, and `hypergradient_norm`.

    >>> found = check_hypergradient(seed=0)
    >>> found["hypergradient_error"] < 1e-6, found["closed_form_error"] < 1e-12, found["hypergradient_norm"] > 0
    (True, True, True)
    >>> check_hypergradient(seed=0, detached=True)["hypergradient_error"]
    1.0
    """
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    controller = FusionRatioController(27, hidden=(4,)).double()
    inputs, held_out = torch.randn(2, 8, 4).double()
    teacher, target, step_size = torch.randn(8, 3).double(), torch.randint(3, (8,)), 0.3
    with torch.no_grad():
        probs = student(inputs).softmax(dim=1), teacher.softmax(dim=1)
    features = trilateral_features(*probs, target, torch.eye(3).double())

    def inner(forward: Forward) -> Tensor:
        ratio = controller(features)
        return fused_distillation_loss(forward(inputs), teacher, target, ratio.detach() if detached else ratio)

    def outer(forward: Forward) -> Tensor:
        return F.cross_entropy(forward(held_out), target)

    def step() -> nn.Module:
        ahead = copy.deepcopy(student)
        slopes = torch.autograd.grad(inner(ahead), list(ahead.parameters()))
        with torch.no_grad():
            for value, slope in zip(ahead.parameters(), slopes, strict=True):
                value.sub_(step_size * slope)
        return ahead

    # Central differences: take the step for real, at either side of every weight of the controller.
    differences = []
    for value in controller.parameters():
        flat = value.data.view(-1)
        for place in range(len(flat)):
            ends = []
            for shift in (1e-5, -2e-5):
                flat[place] += shift
                ends.append(outer(step()).item())
            flat[place] += 1e-5
            differences.append((ends[0] - ends[1]) / 2e-5)
    expected = torch.tensor(differences, dtype=torch.float64)

    # The closed form: −η/B Σ_b ∂α_b/∂ω ⟨∇L_val(θ'), ∇(τ² KD_b − CE_b)⟩.
    ahead = step()
    direction = _flat(torch.autograd.grad(outer(ahead), list(ahead.parameters())))
    closed = torch.zeros_like(expected)
    for sample in range(8):
        logits = student(inputs[sample : sample + 1])
        soft = 1.5**2 * forward_kl(logits, teacher[sample : sample + 1], temperature=1.5).sum()
        gain = soft - F.cross_entropy(logits, target[sample : sample + 1])
        benefit = _flat(torch.autograd.grad(gain, list(student.parameters()))) @ direction
        slope = _flat(torch.autograd.grad(controller(features)[sample], list(controller.parameters())))
        closed -= step_size / 8 * benefit * slope

    try:
        found = _flat(lookahead_hypergradient(student, inner, outer, controller, step_size=step_size).values())
    except ValueError:  # no gradient reaches the controller
        found = torch.zeros_like(expected)
        expected = closed  # there is nothing to differ in the central differences either
    return {
        "hypergradient_error": ((found - expected).norm() / expected.norm()).item(),
        "closed_form_error": ((found - closed).norm() / closed.norm()).item(),
        "hypergradient_norm": found.norm().item(),
    }


def _flat(values: Iterable[Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in values])
