from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives import (
    CompSumLoss,
    GeneralizedCrossEntropy,
    comp_sum_loss,
    generalized_cross_entropy,
    mean_absolute_error_loss,
)

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
HALF, FIRST = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    return 3 * torch.randn(8, 5, dtype=torch.float64), torch.randint(5, (8,))


@pytest.mark.parametrize(
    ("tau", "value"),
    [(0.0, 1), (0.5, 2 * (2**0.5 - 1)), (1.0, math.log(2)), (1.5, 2 * (1 - 0.5**0.5)), (2.0, 0.5), (3.0, 0.375)],
)
def test_known_values_at_one_half(tau, value):
    assert comp_sum_loss(HALF, FIRST, tau=tau).item() == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("tau", TAUS)
def test_is_the_sum_of_exponentials_that_gave_it_its_name(samples, tau):
    logits, target = samples
    own = logits.gather(1, target[:, None])
    others = F.one_hot(target, 5) == 0
    total = torch.where(others, (logits - own).exp(), 0).sum(dim=1)
    slow = total.log1p() if tau == 1 else ((1 + total) ** (1 - tau) - 1) / (1 - tau)
    torch.testing.assert_close(comp_sum_loss(logits, target, tau=tau, reduction="none"), slow)


def test_tau_one_is_cross_entropy_weights_and_dimensions_included(samples):
    logits, target = samples
    weight = torch.rand(5, dtype=torch.float64)
    for reduction in ("mean", "sum", "none"):
        ours = comp_sum_loss(logits, target, weight=weight, reduction=reduction)
        torch.testing.assert_close(ours, F.cross_entropy(logits, target, weight=weight, reduction=reduction))
    pixels, labels = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    torch.testing.assert_close(comp_sum_loss(pixels, labels), F.cross_entropy(pixels, labels))
    module = CompSumLoss(weight=weight.tolist())
    skipped = target.clone()
    skipped[0] = -100
    torch.testing.assert_close(
        module(logits.float(), skipped), F.cross_entropy(logits.float(), skipped, weight=weight.float())
    )
    assert module(logits, torch.full_like(target, -100)) == 0


@given(tau=st.floats(0, 3), logits=st.lists(st.floats(-20, 20), min_size=2, max_size=5))
@settings(max_examples=25, deadline=None)
def test_the_gradient_is_cross_entropys_times_a_power_of_the_probability(tau, logits):
    scores = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(comp_sum_loss(scores, FIRST, tau=tau), scores)
    probs = scores.detach().softmax(dim=1)
    expected = probs[:, :1] ** (tau - 1) * (probs - F.one_hot(FIRST, len(logits)))
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=1e-12)


def test_tau_is_continuous_at_one_and_a_larger_one_never_costs_more(samples):
    logits, target = samples
    for close in (1 - 1e-4, 1 + 1e-4):
        near = comp_sum_loss(logits, target, tau=close, reduction="none")
        exact = comp_sum_loss(logits, target, reduction="none")
        assert ((near - exact).abs() <= 1e-4 * exact.square()).all()
    tiny = comp_sum_loss(logits.float(), target, tau=1 + 1e-9, reduction="none")
    torch.testing.assert_close(tiny, comp_sum_loss(logits.float(), target, reduction="none"))
    values = torch.stack([comp_sum_loss(logits, target, tau=tau, reduction="none") for tau in TAUS])
    assert (values.diff(dim=0) <= 0).all()


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_extreme_logits_are_never_nan(tau, reduction):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 89.0, 0.0]], requires_grad=True)
    values = comp_sum_loss(logits, torch.tensor([0, 0, 0]), tau=tau, reduction="none")
    (gradient,) = torch.autograd.grad(
        comp_sum_loss(logits, torch.tensor([0, 0, 0]), tau=tau, reduction=reduction), logits
    )
    assert torch.isfinite(gradient).all()
    assert values[0] == 0
    if tau < 1:
        assert values[1] == math.inf
        assert gradient[1, 0] < 0 < gradient[1, 1]
    else:
        assert values[1].item() == pytest.approx(20000 if tau == 1 else 1 / (tau - 1))


def test_the_gradient_of_an_unlikely_label_keeps_its_digits_in_float32():
    logits = torch.tensor([[-18.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(mean_absolute_error_loss(logits, FIRST), logits)
    (exact,) = torch.autograd.grad(mean_absolute_error_loss(logits.double(), FIRST), logits)
    torch.testing.assert_close(gradient, exact, rtol=1e-5, atol=0)


def test_generalised_cross_entropy_is_the_family_between_one_and_two(samples):
    logits, target = samples
    probs = logits.softmax(dim=1).gather(1, target[:, None])[:, 0]
    torch.testing.assert_close(generalized_cross_entropy(logits, target), ((1 - probs**0.7) / 0.7).mean())
    torch.testing.assert_close(
        generalized_cross_entropy(logits, target, q=1.0), mean_absolute_error_loss(logits, target)
    )
    logits.requires_grad_()
    truncated = generalized_cross_entropy(logits, target, truncation=0.3, reduction="none")
    torch.testing.assert_close(truncated, (1 - probs.clamp_min(0.3) ** 0.7) / 0.7)
    (gradient,) = torch.autograd.grad(truncated.sum(), logits)
    assert not gradient[probs < 0.3].any()
    assert (gradient[probs > 0.3].abs().sum(dim=1) > 0).all()


def test_mean_absolute_error_is_half_the_distance_and_symmetric(samples):
    logits, target = samples
    distance = (logits.softmax(dim=1) - F.one_hot(target, 5)).abs().sum(dim=1) / 2
    torch.testing.assert_close(mean_absolute_error_loss(logits, target, reduction="none"), distance)
    labels = [mean_absolute_error_loss(logits, torch.full((8,), y), reduction="none") for y in range(5)]
    torch.testing.assert_close(sum(labels), torch.full((8,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comp_sum_loss(HALF, FIRST, tau=-0.5), r"`tau` to be at least 0, but got -0.5\."),
        (lambda: comp_sum_loss(HALF, torch.tensor([2])), r"classes in \[0, 2\), but got 2\."),
        (lambda: comp_sum_loss(HALF, torch.tensor([-100])), r"classes in \[0, 2\), but got -100\."),
        (lambda: comp_sum_loss(HALF, torch.tensor([0, 1])), r"`target` to have shape \(1,\), but got \(2,\)\."),
        (lambda: comp_sum_loss(HALF, FIRST, weight=torch.ones(3)), r"`weight` to have shape \(2,\), but got \(3,\)\."),
        (lambda: CompSumLoss(weight=[1.0, -1.0]), "`weight` to hold numbers of at least 0"),
        (lambda: generalized_cross_entropy(HALF, FIRST, q=0.0), r"`q` to be in \(0, 1\], but got 0.0\."),
        (lambda: GeneralizedCrossEntropy(q=1.5), r"`q` to be in \(0, 1\], but got 1.5\."),
        (lambda: GeneralizedCrossEntropy(truncation=1.0), r"`truncation` to be in \(0, 1\), but got 1.0\."),
        (lambda: CompSumLoss(tau=-1.0), r"`tau` to be at least 0, but got -1.0\."),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
