from __future__ import annotations

import math
from functools import partial

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tutelage.assessment import coverage_from_log_prob
from tutelage.objectives import (
    DirectCoverageLoss,
    approximate_coverage_loss,
    coverage_gradient_factor,
    coverage_optimal_distribution,
    direct_coverage_optimization_loss,
    estimate_mode_confidence,
    stepwise_direct_coverage_loss,
)

LOG_PROBS = [-1000.0, -690.8, -100.0, -30.0, -16.0, -12.0, -5.0, -1.0, -0.693, -0.1, -1e-3, -1e-7, -1e-12]
SAMPLES = [1.0, 1.5, 2.0, 16.0, 256.0, 1e5]


def loss_and_slope(log_prob: float, num_samples: float, dtype: torch.dtype = torch.float64) -> tuple[float, float]:
    value = torch.tensor([log_prob], dtype=dtype, requires_grad=True)
    loss = direct_coverage_optimization_loss(value, num_samples=num_samples)
    (slope,) = torch.autograd.grad(loss, value)
    return loss.item(), slope.item()


@pytest.mark.parametrize(
    ("log_prob", "num_samples", "loss"),
    [(math.log(0.5), 2, math.log(4 / 3)), (math.log(0.1), 16, 0.204938), (-10.0, 8, 7.920717)],
)
def test_known_losses(log_prob: float, num_samples: float, loss: float) -> None:
    assert loss_and_slope(log_prob, num_samples)[0] == pytest.approx(loss, abs=1e-6)


def test_known_factor() -> None:
    factor = coverage_gradient_factor(torch.tensor([0.5]).log(), num_samples=2)
    assert factor.item() == pytest.approx(2 / 3, abs=1e-6)
    large = 1e4
    tail = coverage_gradient_factor(torch.tensor([1.26 / large, 6.4 / large]).log(), num_samples=large)
    torch.testing.assert_close(tail, torch.tensor([0.5, 0.01]), atol=2e-3, rtol=0)


@pytest.mark.parametrize("log_prob", [*LOG_PROBS, 0.0])
@pytest.mark.parametrize("num_samples", SAMPLES)
def test_loss_and_slope_agree_with_many_digits(log_prob: float, num_samples: float) -> None:
    mpmath = pytest.importorskip("mpmath")  # comes with torch
    with mpmath.workdps(60):
        p = mpmath.exp(mpmath.mpf(log_prob))
        coverage = -mpmath.expm1(num_samples * mpmath.log1p(-p)) if p < 1 else mpmath.mpf(1)
        exact_loss = float(-mpmath.log(coverage))
        exact_factor = float(num_samples * (1 - p) ** (num_samples - 1) * p / coverage)
    loss, slope = loss_and_slope(log_prob, num_samples)
    assert loss == pytest.approx(exact_loss, rel=1e-10, abs=1e-50)
    assert slope == pytest.approx(-exact_factor, abs=1e-10)
    single_loss, single_slope = loss_and_slope(log_prob, num_samples, torch.float32)
    assert math.isfinite(single_loss)
    assert single_slope == pytest.approx(-exact_factor, abs=1e-4)


def test_one_sample_is_cross_entropy() -> None:
    for log_prob in [*LOG_PROBS, 0.0]:
        assert loss_and_slope(log_prob, 1) == (-log_prob, -1.0)


def test_certain_answers_teach_nothing() -> None:
    assert loss_and_slope(0.0, 16) == (0.0, 0.0)
    assert loss_and_slope(5e-7, 16) == (0.0, 0.0)  # rounding of a sum of log-probabilities


def test_gradients_of_both_orders() -> None:
    value = torch.tensor([-20.0, -8.0, -2.0, -0.5, -0.01], dtype=torch.float64, requires_grad=True)
    for num_samples in (1, 3.5, 64):
        loss = partial(direct_coverage_optimization_loss, num_samples=num_samples, reduction="none")
        assert torch.autograd.gradcheck(loss, value)
        assert torch.autograd.gradgradcheck(loss, value)


@settings(max_examples=25, deadline=None)
@given(st.floats(-60, -1e-6), st.floats(-60, -1e-6), st.floats(1, 1e4), st.floats(1, 1e4))
def test_order_and_bound(first: float, second: float, few: float, many: float) -> None:
    log_prob = torch.tensor(sorted([first, second]), dtype=torch.float64)
    few, many = sorted([few, many])

    def loss(n: float) -> torch.Tensor:
        return direct_coverage_optimization_loss(log_prob, num_samples=n, reduction="none")

    slack = 1e-9
    assert loss(few)[0] >= loss(few)[1] - slack
    assert (loss(many) <= loss(few) + slack).all()
    assert (loss(few) >= -(math.log(few) + log_prob).clamp(max=0) - slack).all()
    factor = coverage_gradient_factor(log_prob, num_samples=few)
    assert factor[0] >= factor[1] - slack
    assert (coverage_gradient_factor(log_prob, num_samples=many) <= factor + slack).all()
    assert ((factor >= 0) & (factor <= 1)).all()
    torch.testing.assert_close((-loss(few)).exp(), coverage_from_log_prob(log_prob, num_samples=few))


def test_the_gradient_is_that_of_cross_entropy_times_the_factor() -> None:
    model = torch.nn.Linear(4, 6, dtype=torch.float64)
    inputs, target = torch.randn(1, 4, dtype=torch.float64), torch.tensor([2])
    log_prob = model(inputs).log_softmax(-1)[:, 2]
    factor = coverage_gradient_factor(log_prob, num_samples=8)
    ours = torch.autograd.grad(DirectCoverageLoss(num_samples=8)(model(inputs), target), list(model.parameters()))
    theirs = torch.autograd.grad(torch.nn.functional.cross_entropy(model(inputs), target), list(model.parameters()))
    for mine, cross_entropy in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, factor * cross_entropy)


def test_a_sequence_is_one_answer() -> None:
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    target = torch.tensor([[1, 2, -100, -100], [-100, 0, 0, 4], [-100, -100, -100, -100]])
    log_p = logits.log_softmax(-1)
    answers = torch.stack([log_p[0, 0, 1] + log_p[0, 1, 2], log_p[1, 1, 0] + log_p[1, 2, 0] + log_p[1, 3, 4]])
    expected = direct_coverage_optimization_loss(answers, num_samples=16)
    torch.testing.assert_close(DirectCoverageLoss(num_samples=16)(logits, target), expected)


def test_steps() -> None:
    steps = torch.tensor([[-2.0, -0.3, math.nan], [-1.0, math.nan, math.nan]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    loss = stepwise_direct_coverage_loss(steps, mask, effective_samples=4, reduction="none")
    one, two, three = direct_coverage_optimization_loss(
        torch.tensor([-2.0, -0.3, -1.0], dtype=torch.float64), num_samples=4, reduction="none"
    )
    torch.testing.assert_close(loss, torch.stack([one + two, three]))
    (slope,) = torch.autograd.grad(loss.sum(), steps)
    assert torch.isfinite(slope).all()
    assert (slope[~mask] == 0).all()
    summed = stepwise_direct_coverage_loss(steps, mask, effective_samples=1, reduction="none")
    torch.testing.assert_close(summed, torch.tensor([2.3, 1.0], dtype=torch.float64))


def test_approximate_coverage() -> None:
    log_prob = torch.tensor([-3.0, -4.0, -5.0], requires_grad=True)
    confidence = torch.tensor([0.0, 0.5, 1.0], requires_grad=True)
    loss = approximate_coverage_loss(log_prob, confidence, num_samples=2, reduction="none")
    torch.testing.assert_close(loss.detach(), torch.tensor([3.0, 4.0 * 2 / 3, 0.0]))
    loss.sum().backward()
    assert confidence.grad is None
    torch.testing.assert_close(log_prob.grad, torch.tensor([-1.0, -2 / 3, 0.0]))


def test_mode_confidence() -> None:
    shares = estimate_mode_confidence([["a", "b", "a"], [None, None, "x"], [None]])
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 1 / 3, 0.0]))
    with pytest.raises(ValueError, match="1 has none"):
        estimate_mode_confidence([["a"], []])


def coverage_of(p: torch.Tensor, q: torch.Tensor, num_samples: float) -> float:
    return float((p * (1 - (1 - q) ** num_samples)).sum())


def test_the_optimal_distribution() -> None:
    p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    two, sixteen = (coverage_optimal_distribution(p, num_samples=n) for n in (2, 16))
    torch.testing.assert_close(two, torch.tensor([2 / 3, 1 / 3, 0, 0], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close(
        sixteen, torch.tensor([0.293, 0.260, 0.234, 0.213], dtype=torch.float64), atol=6e-4, rtol=0
    )
    assert coverage_of(p, two, 2) == pytest.approx(0.583, abs=5e-4)
    assert coverage_of(p, sixteen, 16) == pytest.approx(0.992, abs=5e-4)
    assert coverage_optimal_distribution(p, num_samples=1).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("num_samples", "ours", "calibrated"), [(16, 0.992, 0.968), (2, 0.531, 0.545)])
def test_the_loss_maximises_the_log_of_coverage_which_is_not_coverage(num_samples, ours, calibrated) -> None:
    p = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    logits = p.log().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def expected_loss() -> torch.Tensor:
        optimizer.zero_grad()
        log_q = logits.log_softmax(0)
        loss = (p * direct_coverage_optimization_loss(log_q, num_samples=num_samples, reduction="none")).sum()
        loss.backward()
        return loss

    optimizer.step(expected_loss)
    q = logits.detach().softmax(0)
    assert coverage_of(p, q, num_samples) == pytest.approx(ours, abs=1e-3)
    assert coverage_of(p, p, num_samples) == pytest.approx(calibrated, abs=1e-3)
    if num_samples == 16:
        expected = torch.tensor([0.293, 0.260, 0.234, 0.214], dtype=torch.float64)
        torch.testing.assert_close(q, expected, atol=1e-3, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda p: sum(p) > 0.1), st.floats(1.01, 1e4))
def test_no_neighbour_of_the_optimum_is_better(weights: list[float], num_samples: float) -> None:
    p = torch.tensor(weights, dtype=torch.float64)
    p = p / p.sum()
    q = coverage_optimal_distribution(p, num_samples=num_samples)
    assert float(q.sum()) == pytest.approx(1)
    for step in torch.rand(10, len(p), dtype=torch.float64):
        other = 0.95 * q + 0.05 * step / step.sum()
        assert coverage_of(p, other, num_samples) <= coverage_of(p, q, num_samples) + 1e-9


def test_coverage_parts_from_accuracy() -> None:
    certain = torch.tensor([0.0, -1e9])
    cautious = torch.tensor([0.1, 0.1]).log()
    for n, expected in ((1, 0.1), (7, 0.5217)):
        assert float(coverage_from_log_prob(certain, num_samples=n).mean()) == 0.5
        assert float(coverage_from_log_prob(cautious, num_samples=n).mean()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direct_coverage_optimization_loss(torch.zeros(1), num_samples=0.5), "`num_samples` to be at least 1"),
        (lambda: direct_coverage_optimization_loss(torch.tensor([1e-3]), num_samples=2), "`log_prob`"),
        (lambda: coverage_gradient_factor(torch.tensor([math.nan]), num_samples=2), "`log_prob`"),
        (lambda: DirectCoverageLoss(num_samples=math.inf), "`num_samples`"),
        (
            lambda: stepwise_direct_coverage_loss(
                -torch.ones(2, 2), torch.tensor([[True, False], [False, False]]), effective_samples=2
            ),
            "none of row 1",
        ),
        (
            lambda: stepwise_direct_coverage_loss(-torch.ones(1, 1), torch.ones(1, 1).bool(), effective_samples=0),
            "`effective_samples`",
        ),
        (lambda: approximate_coverage_loss(-torch.ones(1), torch.tensor([1.5]), num_samples=2), "`mode_confidence`"),
        (lambda: coverage_optimal_distribution(torch.tensor([0.5, 0.2]), num_samples=2), "`probs`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
