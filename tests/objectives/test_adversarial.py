from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tutelage.assessment import projected_gradient_ascent
from tutelage.batch import Batch
from tutelage.objectives import (
    PGDAdversarialTrainingLoss,
    SmoothAdversarialCompSumLoss,
    TradesLoss,
    comp_sum_loss,
    margin_change,
    margin_vector,
    pgd_adversarial_training_loss,
    rho_margin_loss,
    smooth_adversarial_comp_sum_loss,
    trades_loss,
)
from tutelage.outputs import Outputs

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0]


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    clean, attacked = 2 * torch.randn(2, 8, 5, dtype=torch.float64)
    return clean, attacked, torch.randint(5, (8,))


def test_margins_are_differences_to_the_label(samples):
    clean, attacked, target = samples
    margins = margin_vector(clean, target)
    assert margins.shape == (8, 4)
    for row, label in enumerate(target.tolist()):
        expected = [clean[row, label] - clean[row, k] for k in range(5) if k != label]
        torch.testing.assert_close(margins[row], torch.stack(expected))
    moved = (margin_vector(attacked, target) - margins).norm(dim=1)
    torch.testing.assert_close(margin_change(clean, attacked, target), moved)
    torch.testing.assert_close(margin_change(clean, attacked, target, squared=True), moved**2)


def test_the_margin_loss_is_a_ramp_below_the_exponential():
    u = torch.linspace(-3, 5, 81, dtype=torch.float64)
    for rho in (0.5, 2.0):
        ramp = rho_margin_loss(u, rho=rho)
        assert ((ramp >= 0) & (ramp <= 1) & (ramp <= (-u / rho).exp())).all()
        assert (ramp[u <= 0] == 1).all()
        assert (ramp[u >= rho] == 0).all()


@pytest.mark.parametrize("tau", TAUS)
def test_without_an_attack_it_is_the_comp_sum_loss_of_scaled_logits(samples, tau):
    clean, _, target = samples
    clean.requires_grad_()
    loss = smooth_adversarial_comp_sum_loss(clean, clean, target, tau=tau, rho=2.0, nu=3.0)
    torch.testing.assert_close(loss, comp_sum_loss(clean / 2, target, tau=tau))
    (gradient,) = torch.autograd.grad(loss, clean)
    (expected,) = torch.autograd.grad(comp_sum_loss(clean / 2, target, tau=tau), clean)
    torch.testing.assert_close(gradient, expected)


def test_the_gradient_reaches_both_logits_and_is_right(samples):
    clean, attacked, target = samples
    clean.requires_grad_()
    attacked.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, y: smooth_adversarial_comp_sum_loss(x, y, target, tau=1.5, rho=0.7, nu=0.3), (clean, attacked)
    )
    assert torch.autograd.gradcheck(lambda x, y: trades_loss(x, y, target), (clean, attacked))


def _largest_singular_value(weight: torch.Tensor, label: int) -> float:
    rows = weight[label] - torch.cat([weight[:label], weight[label + 1 :]])
    return float(torch.linalg.matrix_norm(rows, ord=2))


def test_ascent_finds_the_supremum_of_a_linear_scorer():
    weight = torch.randn(4, 6, dtype=torch.float64)
    x, target = torch.randn(4, 6, dtype=torch.float64), torch.arange(4)
    attacked = projected_gradient_ascent(
        lambda inputs: margin_change(x @ weight.T, inputs @ weight.T, target),
        x,
        norm="l2",
        radius=0.3,
        step_size=0.15,
        steps=60,
        generator=torch.Generator().manual_seed(0),
    )
    reached = margin_change(x @ weight.T, attacked @ weight.T, target)
    best = torch.tensor([0.3 * _largest_singular_value(weight, label) for label in range(4)], dtype=torch.float64)
    assert (reached <= best * (1 + 1e-9)).all()
    assert (reached >= 0.999 * best).all()


@pytest.mark.parametrize("tau", TAUS)
def test_it_bounds_the_adversarial_loss_everywhere_in_the_ball(tau):
    """The supremum is known for a linear scorer; no point of the ball may have a larger adversarial loss."""
    classes, radius, rho = 4, 0.5, 0.8
    weight, x = torch.randn(classes, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    label = torch.tensor([1])
    clean = (weight @ x)[None]
    nu = math.sqrt(classes - 1) / rho
    smooth = comp_sum_loss(clean / rho, label, tau=tau) + nu * radius * _largest_singular_value(weight, 1)
    directions = F.normalize(torch.randn(500, 6, dtype=torch.float64), dim=1) * radius
    logits = (x + directions * torch.rand(500, 1, dtype=torch.float64) ** (1 / 6)) @ weight.T
    margins = margin_vector(logits, label.expand(500))

    def outer(u):
        return u.log1p() if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)

    assert (outer(rho_margin_loss(margins, rho=rho).sum(dim=1)) <= smooth).all()
    fooled = margins.amin(dim=1) <= 0
    assert (outer(torch.ones(())) * fooled <= smooth).all()


def test_trades_is_cross_entropy_and_a_divergence(samples):
    clean, attacked, target = samples
    divergence = F.kl_div(attacked.log_softmax(1), clean.softmax(1), reduction="batchmean")
    torch.testing.assert_close(trades_loss(clean, attacked, target), F.cross_entropy(clean, target) + 6 * divergence)
    torch.testing.assert_close(trades_loss(clean, clean, target), F.cross_entropy(clean, target))
    torch.testing.assert_close(pgd_adversarial_training_loss(attacked, target), F.cross_entropy(attacked, target))


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (SmoothAdversarialCompSumLoss(tau=1.5, nu=2.0), smooth_adversarial_comp_sum_loss),
        (TradesLoss(beta=2.0), trades_loss),
        (PGDAdversarialTrainingLoss(), None),
    ],
    ids=["smooth", "trades", "pgd"],
)
def test_modules_read_what_a_method_says_about_attacked_inputs(samples, module, function):
    clean, attacked, target = samples
    student = Outputs(logits=clean, features={"adversarial_logits": attacked})
    value = module(student, None, Batch(torch.zeros(8, 1), target, torch.arange(8)))
    if function is None:
        expected = pgd_adversarial_training_loss(attacked, target)
    elif function is trades_loss:
        expected = trades_loss(clean, attacked, target, beta=2.0)
    else:
        expected = smooth_adversarial_comp_sum_loss(clean, attacked, target, tau=1.5, nu=2.0)
    torch.testing.assert_close(value, expected)


def test_huge_and_half_precision_logits(samples):
    clean, attacked, target = samples
    for loss in (smooth_adversarial_comp_sum_loss, trades_loss):
        huge = (1e4 * clean.sign()).float().requires_grad_()
        other = (1e4 * attacked.sign()).float().requires_grad_()
        value = loss(huge, other, target)
        assert torch.isfinite(value)
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(value, (huge, other)))
        low, far = clean.bfloat16().requires_grad_(), attacked.bfloat16()
        exact = low.detach().double().requires_grad_()
        value = loss(low, far, target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), loss(exact, far.double(), target), rtol=1e-5, atol=1e-6)
        (gradient,) = torch.autograd.grad(value, low)
        (true,) = torch.autograd.grad(loss(exact, far.double(), target), exact)
        torch.testing.assert_close(gradient.double(), true, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: smooth_adversarial_comp_sum_loss(x, x, y, rho=0.0), r"`rho` to be positive, but got 0.0\."),
        (lambda x, y: smooth_adversarial_comp_sum_loss(x, x, y, nu=-1.0), r"`nu` to be at least 0, but got -1.0\."),
        (lambda x, y: smooth_adversarial_comp_sum_loss(x, x, y, tau=-1.0), r"`tau` to be at least 0, but got -1.0\."),
        (lambda x, y: margin_change(x, x[:, :2], y), "`clean_logits` and `adversarial_logits` to have the same shape"),
        (lambda x, y: margin_vector(x, y + 3), r"classes in \[0, 3\), but got 3\."),
        (lambda x, y: rho_margin_loss(x, rho=-1.0), r"`rho` to be positive, but got -1.0\."),
        (lambda x, y: trades_loss(x, x, y, beta=-1.0), r"`beta` to be at least 0, but got -1.0\."),
        (lambda x, y: TradesLoss(beta=-1.0), r"`beta` to be at least 0, but got -1.0\."),
        (lambda x, y: SmoothAdversarialCompSumLoss(rho=0.0), r"`rho` to be positive, but got 0.0\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 3), torch.tensor([0]))
