from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.objectives import (
    approximate_comp_sum_transform_inverse,
    comp_sum_conditional_risk,
    comp_sum_loss,
    comp_sum_min_conditional_risk,
    comp_sum_transform,
    comp_sum_transform_inverse,
    h_consistency_bound,
    minimizability_gap,
    minimizability_gap_upper_bound,
)

TAUS = [0.0, 0.5, 0.9999, 1.0, 1.0001, 1.5, 1.9, 2.0, 3.0]
HALF = torch.tensor([0.5, 0.5], dtype=torch.float64)
BETA = torch.linspace(0, 1, 101, dtype=torch.float64)


def _zero_one_regret(probs: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A tie counts as predicting the least likely of the tied classes."""
    tied = scores == scores.amax(dim=1, keepdim=True)
    return probs.amax(dim=1) - probs.masked_fill(~tied, math.inf).amin(dim=1)


def _regret(probs: torch.Tensor, scores: torch.Tensor, tau: float) -> torch.Tensor:
    return comp_sum_conditional_risk(probs, scores, tau=tau) - comp_sum_min_conditional_risk(probs, tau=tau)


@pytest.mark.parametrize("tau", TAUS)
def test_the_conditional_risk_is_the_expected_loss(tau):
    probs, scores = torch.rand(4, dtype=torch.float64).softmax(0), torch.randn(4, dtype=torch.float64)
    losses = comp_sum_loss(scores.expand(4, 4), torch.arange(4), tau=tau, reduction="none")
    torch.testing.assert_close(comp_sum_conditional_risk(probs, scores, tau=tau), probs @ losses)


def test_an_impossible_label_with_an_infinite_loss_costs_nothing():
    probs, scores = torch.tensor([1.0, 0.0]), torch.tensor([1e4, -1e4])
    assert comp_sum_conditional_risk(probs, scores, tau=0.0) == 0
    assert comp_sum_conditional_risk(probs.flip(0), scores, tau=0.0) == math.inf


@pytest.mark.parametrize("tau", TAUS)
def test_the_least_conditional_risk_is_what_a_search_finds(tau):
    probs = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    least = comp_sum_min_conditional_risk(probs, tau=tau)
    grid = torch.cartesian_prod(*[torch.linspace(-12, 0, 121, dtype=torch.float64)] * 2)
    scores = torch.cat([torch.zeros(len(grid), 1, dtype=torch.float64), grid], dim=1)
    found = comp_sum_conditional_risk(probs.expand_as(scores), scores, tau=tau)
    assert (found >= least - 1e-12).all()
    assert found.min().item() == pytest.approx(least.item(), rel=5e-3)


def test_known_least_risks():
    for tau, value in [(0.0, 1.0), (1.0, math.log(2)), (2.0, 0.5)]:
        assert comp_sum_min_conditional_risk(HALF, tau=tau).item() == pytest.approx(value, abs=1e-12)
    certain = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    for tau in TAUS:
        assert comp_sum_min_conditional_risk(certain, tau=tau).item() == pytest.approx(0, abs=1e-12)


def test_known_transforms():
    assert comp_sum_transform(BETA, tau=1.0, num_classes=7)[-1].item() == pytest.approx(math.log(2))
    torch.testing.assert_close(comp_sum_transform(BETA, tau=0.0, num_classes=7), 1 - (1 - BETA**2).sqrt())
    torch.testing.assert_close(comp_sum_transform(BETA, tau=2.0, num_classes=7), BETA / 7)
    for tau in TAUS:
        values = comp_sum_transform(BETA, tau=tau, num_classes=7)
        assert values[0] == 0
        assert (values.diff() > 0).all()
    near = comp_sum_transform(BETA, tau=1.9999, num_classes=7)
    torch.testing.assert_close(near, comp_sum_transform(BETA, tau=2.0, num_classes=7), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("num_classes", [2, 4, 10])
@pytest.mark.parametrize("tau", TAUS)
def test_the_surrogate_regret_is_never_below_the_transform_of_the_zero_one_regret(tau, num_classes):
    probs = torch.distributions.Dirichlet(torch.ones(num_classes, dtype=torch.float64)).sample((300,))
    scores = 2 * torch.randn(300, num_classes, dtype=torch.float64)
    beta = _zero_one_regret(probs, scores)
    assert (_regret(probs, scores, tau) >= comp_sum_transform(beta, tau=tau, num_classes=num_classes) - 1e-9).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_transform_is_attained_by_tied_scores_of_two_classes(tau):
    beta = torch.linspace(0.01, 0.99, 21, dtype=torch.float64)
    probs = torch.stack([(1 + beta) / 2, (1 - beta) / 2], dim=1)
    regret = _regret(probs, torch.zeros_like(probs), tau)
    torch.testing.assert_close(regret, comp_sum_transform(beta, tau=tau, num_classes=2), rtol=0, atol=1e-9)


@given(beta=st.floats(0, 1), tau=st.floats(0, 3), num_classes=st.integers(2, 100))
@settings(max_examples=25, deadline=None)
def test_the_inverse_undoes_the_transform(beta, tau, num_classes):
    value = torch.tensor(beta, dtype=torch.float64)
    t = comp_sum_transform(value, tau=tau, num_classes=num_classes)
    assert comp_sum_transform_inverse(t, tau=tau, num_classes=num_classes).item() == pytest.approx(beta, abs=1e-6)


def test_the_inverse_stops_at_one():
    assert comp_sum_transform_inverse(torch.tensor([5.0]), tau=1.0, num_classes=3).item() == 1


def test_the_explicit_form_is_right_to_leading_order_and_no_bound_everywhere():
    t = torch.tensor([1e-5], dtype=torch.float64)
    for tau in (0.0, 0.5, 1.0, 1.3):
        exact = comp_sum_transform_inverse(t, tau=tau, num_classes=2)
        torch.testing.assert_close(
            approximate_comp_sum_transform_inverse(t, tau=tau, num_classes=2), exact, rtol=1e-3, atol=0
        )
    top = comp_sum_transform(torch.ones(1, dtype=torch.float64), tau=1.8, num_classes=2)
    assert approximate_comp_sum_transform_inverse(top, tau=1.8, num_classes=2).item() == pytest.approx(0.61, abs=0.01)
    assert approximate_comp_sum_transform_inverse(t, tau=3.0, num_classes=2).item() == pytest.approx(8e-5)


def test_the_bound_puts_gaps_where_they_belong():
    plain = comp_sum_transform_inverse(torch.tensor(0.3, dtype=torch.float64), tau=1.0, num_classes=4)
    bound = h_consistency_bound(
        0.1, tau=1.0, num_classes=4, surrogate_minimizability_gap=0.2, zero_one_minimizability_gap=0.05
    )
    assert bound.item() == pytest.approx(plain.item() - 0.05)
    assert h_consistency_bound(torch.tensor([0.0, 9.0]), tau=2.0, num_classes=4).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_the_gap_of_constant_scores_is_below_its_bound(tau):
    """H: the same scores at both inputs. Its best risk is the least risk of the mean label distribution."""
    probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]], dtype=torch.float64)
    least = comp_sum_min_conditional_risk(probs, tau=tau)
    gap = minimizability_gap(comp_sum_min_conditional_risk(probs.mean(dim=0), tau=tau), least)
    sum_exp = comp_sum_min_conditional_risk(probs.mean(dim=0), tau=0.0)
    bound = minimizability_gap_upper_bound(sum_exp, least, tau=tau)
    assert 0 <= gap <= bound + 1e-12
    if tau == 0:
        assert gap.item() == pytest.approx(bound.item())
    assert minimizability_gap(least.mean(), least).item() == pytest.approx(0, abs=1e-12)


def test_with_certain_labels_and_bounded_scores_a_larger_tau_has_a_smaller_gap_bound():
    """Scores in [-1, 1], ten classes: the least sum of exponentials is 9/e². The paper's statement on monotonicity."""
    least = 9 * math.exp(-2)
    scores = torch.full((1, 10), -1.0, dtype=torch.float64)
    scores[0, 3] = 1
    bounds = []
    for tau in TAUS:
        loss = comp_sum_loss(scores, torch.tensor([3]), tau=tau)
        expected = math.log1p(least) if tau == 1 else ((1 + least) ** (1 - tau) - 1) / (1 - tau)
        assert loss.item() == pytest.approx(expected)
        bounds.append(minimizability_gap_upper_bound(2.5, loss[None], tau=tau).item())
    assert all(larger > smaller > 0 for larger, smaller in itertools.pairwise(bounds))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: comp_sum_min_conditional_risk(HALF, tau=-1.0), r"`tau` to be at least 0, but got -1.0\."),
        (lambda: comp_sum_min_conditional_risk(HALF * 0.9, tau=1.0), "sum to 1, but got a sum of 0.9"),
        (lambda: comp_sum_conditional_risk(HALF, torch.zeros(3), tau=1.0), "`probs` and `scores` to have the same"),
        (lambda: comp_sum_transform(torch.tensor([1.1]), tau=1.0, num_classes=2), r"`beta` to hold values in \[0, 1\]"),
        (lambda: comp_sum_transform(HALF, tau=1.0, num_classes=1), "`num_classes` to be at least 2, but got 1"),
        (lambda: comp_sum_transform_inverse(-HALF, tau=1.0, num_classes=2), "`t` to be at least 0, but got -0.5"),
        (lambda: h_consistency_bound(-0.1, tau=1.0, num_classes=2), "`surrogate_gap` to be at least 0, but got -0.1"),
        (lambda: minimizability_gap(0.0, torch.zeros(0)), "to be at least 1, but got 0"),
        (lambda: minimizability_gap_upper_bound(-1.0, HALF, tau=1.0), "`sum_exp_risk` to be at least 0, but got -1.0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
