from __future__ import annotations

import math
from inspect import unwrap

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings

from tutelage.batch import Batch
from tutelage.objectives import (
    AtomSupport,
    HistogramSupport,
    HLGaussLoss,
    c51_loss,
    categorical_expectation,
    categorical_projection,
    hl_gauss_loss,
    hl_gauss_target,
    two_hot_loss,
    two_hot_target,
)
from tutelage.outputs import Outputs

ATARI = HistogramSupport(-10.0, 10.0, 51)
ATOMS = AtomSupport(-10.0, 10.0, 51)
double = {"dtype": torch.float64}


def test_known_histograms() -> None:
    support = HistogramSupport(0.0, 1.0, 2)
    probs = hl_gauss_target(torch.tensor([0.5, 0.25], **double), support, sigma=0.5)
    expected = torch.tensor([[0.5, 0.5], [0.613018, 0.386982]], **double)
    torch.testing.assert_close(probs, expected, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.floats(-1e4, 1e4), st.floats(0.05, 20), st.sampled_from([torch.float32, torch.float64]))
def test_a_histogram_is_a_distribution(value: float, ratio: float, dtype: torch.dtype) -> None:
    probs = hl_gauss_target(torch.tensor(value, dtype=dtype), ATARI, sigma_to_bin_ratio=ratio)
    assert (probs >= 0).all()
    assert probs.sum().item() == pytest.approx(1, abs=1e-6)


def test_symmetry_and_shift() -> None:
    centre = hl_gauss_target(torch.tensor(0.0, **double), ATARI)
    torch.testing.assert_close(centre, centre.flip(0))
    values = torch.tensor([-2.3, -2.3 + ATARI.bin_width], **double)
    first, second = hl_gauss_target(values, ATARI)
    torch.testing.assert_close(first[:-1], second[1:])


def test_narrow_and_wide() -> None:
    value = torch.tensor([-9.9, 0.1, 7.7])
    narrow = hl_gauss_target(value, ATARI, sigma=1e-6)
    assert narrow.argmax(-1).tolist() == torch.bucketize(value.double(), ATARI.edges).sub(1).tolist()
    torch.testing.assert_close(narrow.amax(-1), torch.ones(3))
    wide = hl_gauss_target(value.double(), ATARI, sigma=1e6)
    torch.testing.assert_close(wide, torch.full((3, 51), 1 / 51, **double), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("ratio", "error"), [(0.75, 1e-4), (0.5, 0.0024), (0.25, 0.094)])
def test_the_mean_is_the_target_away_from_the_limits(ratio: float, error: float) -> None:
    values = torch.linspace(-7, 7, 101, **double)
    found = hl_gauss_target(values, ATARI, sigma_to_bin_ratio=ratio) @ ATARI.centers
    assert (found - values).abs().max().item() <= error * ATARI.bin_width


def test_the_mean_is_biased_at_a_limit_unless_there_is_a_margin() -> None:
    value = torch.tensor(-10.0, **double)
    assert (hl_gauss_target(value, ATARI) @ ATARI.centers).item() == pytest.approx(-9.7294, abs=1e-4)
    wider = HistogramSupport(-10.0, 10.0, 51, margin=2.25)
    assert (hl_gauss_target(value, wider) @ wider.centers).item() == pytest.approx(-10.0, abs=0.01 * wider.bin_width)
    assert wider.v_max - 10.0 == pytest.approx(2.25 * wider.bin_width)


def test_targets_outside() -> None:
    value = torch.tensor([-1e30, 12.0, 3.0])
    torch.testing.assert_close(hl_gauss_target(value, ATARI), hl_gauss_target(value.clamp(-10, 10), ATARI))
    assert ATARI.fraction_outside(value) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match=r"66\.67% of it is not"):
        hl_gauss_target(value, ATARI, out_of_range="raise")


def test_loss_is_cross_entropy_with_that_histogram() -> None:
    logits = torch.randn(2, 3, 51, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(-8, 8, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    probs = hl_gauss_target(target, ATARI)
    loss = hl_gauss_loss(logits, target, ATARI)
    torch.testing.assert_close(loss, F.cross_entropy(logits.reshape(6, 51), probs.reshape(6, 51)))
    loss.backward()
    assert target.grad is None
    torch.testing.assert_close(logits.grad, (logits.softmax(-1) - probs) / 6)
    assert hl_gauss_loss(logits, target, ATARI, reduction="none").shape == (2, 3)
    entropy = -(torch.special.xlogy(probs, probs)).sum(-1).mean()
    lowest = hl_gauss_loss(probs.clamp(min=1e-300).log(), target, ATARI)
    torch.testing.assert_close(lowest, entropy)


def test_gradients_stay_small_however_large_the_target() -> None:
    logits = torch.randn(4, 51, requires_grad=True)
    loss = hl_gauss_loss(logits, torch.tensor([1e6, -1e6, 1e30, 0.0]), ATARI)
    assert torch.autograd.grad(loss, logits)[0].abs().max() <= 1 / 4


def test_two_hot() -> None:
    values = torch.linspace(-10, 10, 37, **double)
    probs = two_hot_target(values, ATOMS)
    torch.testing.assert_close(probs @ ATOMS.atoms, values)
    assert ((probs > 0).sum(-1) <= 2).all()
    on_atoms = two_hot_target(ATOMS.atoms, ATOMS)
    torch.testing.assert_close(on_atoms, torch.eye(51, **double), atol=1e-12, rtol=0)
    assert two_hot_target(torch.tensor(99.0), ATOMS)[-1] == 1
    logits = torch.randn(37, 51, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(two_hot_loss(logits, values, ATOMS), F.cross_entropy(logits, probs))
    torch.autograd.gradcheck(lambda z: two_hot_loss(z, values[:2], ATOMS), logits.detach()[:2].requires_grad_())


def slow_projection(probs: torch.Tensor, reward: float, discount: float, atoms: torch.Tensor) -> torch.Tensor:
    """Each atom's mass on the two atoms around where it lands."""
    result, spacing = torch.zeros_like(probs), float(atoms[1] - atoms[0])
    for p, z in zip(probs, atoms, strict=True):
        landed = min(max(reward + discount * float(z), float(atoms[0])), float(atoms[-1]))
        for i, atom in enumerate(atoms):
            result[i] += p * max(0.0, 1 - abs(landed - float(atom)) / spacing)
    return result


def test_projection() -> None:
    support = AtomSupport(-2.0, 3.0, 6)
    probs = torch.rand(5, 6, **double).softmax(-1)
    reward = torch.tensor([0.0, 0.5, -4.0, 2.2, 0.3], **double)
    discount = torch.tensor([1.0, 0.0, 0.9, 0.9, 0.2], **double)
    found = categorical_projection(probs, reward, discount, support)
    for row in range(5):
        expected = slow_projection(probs[row], float(reward[row]), float(discount[row]), support.atoms)
        torch.testing.assert_close(found[row], expected)
    torch.testing.assert_close(found[0], probs[0])  # r = 0, γ = 1
    torch.testing.assert_close(found[1], two_hot_target(reward[1], support))  # γ = 0
    torch.testing.assert_close(found.sum(-1), torch.ones(5, **double))
    torch.testing.assert_close(found[4] @ support.atoms, 0.3 + 0.2 * (probs[4] @ support.atoms))  # nothing clipped


def test_c51_learns_nothing_through_its_target() -> None:
    support = AtomSupport(-2.0, 3.0, 6)
    logits = torch.randn(3, 6, requires_grad=True)
    scores = torch.randn(3, 6, requires_grad=True)
    reward, discount = torch.randn(3), torch.full((3,), 0.9)
    loss = c51_loss(logits, scores.softmax(-1), reward, discount, support)
    projected = categorical_projection(scores.detach().softmax(-1), reward, discount, support)
    torch.testing.assert_close(loss, F.cross_entropy(logits, projected))
    loss.backward()
    assert scores.grad is None


def test_expectation() -> None:
    logits = torch.randn(2, 3, 51)
    torch.testing.assert_close(
        categorical_expectation(logits, ATARI), (logits.softmax(-1) * ATARI.centers.float()).sum(-1)
    )
    sure = torch.full((6,), -1e4).index_fill(0, torch.tensor(2), 1e4)
    assert categorical_expectation(sure, AtomSupport(0.0, 5.0, 6)).item() == 2


@pytest.mark.parametrize("loss", ["hl_gauss", "two_hot", "c51"])
def test_huge_logits_and_bfloat16_agree_with_float64(loss: str) -> None:
    target = torch.linspace(-12, 12, 8).bfloat16()

    def value(logits: torch.Tensor) -> torch.Tensor:
        exact = target.to(logits.dtype)
        if loss == "hl_gauss":
            return hl_gauss_loss(logits, exact, ATARI)
        if loss == "two_hot":
            return two_hot_loss(logits, exact, ATOMS)
        uniform = torch.full_like(logits, 1 / 51).float().to(logits.dtype)
        return c51_loss(logits, uniform / uniform.sum(-1, keepdim=True), exact, torch.full_like(exact, 0.5), ATOMS)

    for logits in (1e4 * torch.randn(8, 51).sign(), torch.randn(8, 51).bfloat16()):
        half = logits.dtype == torch.bfloat16
        results = []
        for z in (logits.clone(), logits.double()):
            z.requires_grad_()
            found = value(z)
            results.append((found.detach().double(), torch.autograd.grad(found, z)[0].double()))
        rough = 1e-2 if half and loss == "c51" else 1e-5  # its probabilities are rounded too
        torch.testing.assert_close(results[0][0], results[1][0], rtol=rough, atol=1e-5)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-2, atol=1e-3 if half else 1e-6)
        assert value(logits).dtype == torch.float32


def test_the_objective_finds_the_histogram_of_a_head() -> None:
    objective = HLGaussLoss((-10, 10, 51))
    logits, target = torch.randn(4, 51), torch.randn(4)
    outputs = Outputs(logits=torch.zeros(4), features={"histogram": logits})
    batch = Batch(torch.zeros(4, 1), target, torch.arange(4))
    objective.build(outputs, None, batch)
    torch.testing.assert_close(objective(outputs, None, batch), hl_gauss_loss(logits, target, ATARI))
    plain = HLGaussLoss(ATARI)
    torch.testing.assert_close(plain(Outputs(logits=logits), None, batch), hl_gauss_loss(logits, target, ATARI))


def test_a_checkpoint_of_other_bins_is_refused() -> None:
    state = HLGaussLoss(ATARI).state_dict()
    assert state["edges"].shape == (52,)
    HLGaussLoss(ATARI).load_state_dict(state)
    with pytest.raises(ValueError, match=r"bins on \[-5, 10\]"):
        HLGaussLoss((-5, 10, 51)).load_state_dict(state)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: HistogramSupport(1.0, 1.0, 5), "`v_min` to be below `v_max`"),
        (lambda: AtomSupport(0.0, math.inf, 5), "`v_min` to be below `v_max`"),
        (lambda: HistogramSupport(0.0, 1.0, 1), "`num_bins`"),
        (lambda: AtomSupport(0.0, 1.0, 1), "`num_atoms`"),
        (lambda: HistogramSupport(0.0, 1.0, 4, margin=2.0), "`margin`"),
        (lambda: hl_gauss_target(torch.zeros(1), ATARI, sigma=0.0), "`sigma`"),
        (lambda: HLGaussLoss(ATARI, sigma_to_bin_ratio=-1.0), "`sigma_to_bin_ratio`"),
        (lambda: HLGaussLoss((0.0, 1.0, 2.5)), "v_min, v_max, num_bins"),
        (lambda: hl_gauss_target(torch.tensor([math.nan]), ATARI), "`target` to be finite"),
        (lambda: two_hot_target(torch.tensor([math.inf]), ATOMS), "`target` to be finite"),
        (lambda: hl_gauss_loss(torch.zeros(1, 50), torch.zeros(1), ATARI), "last dimension of 51"),
        (lambda: two_hot_loss(torch.zeros(2, 51), torch.zeros(1), ATOMS), "same shape"),
        (
            lambda: categorical_projection(torch.full((1, 51), 1 / 51), torch.zeros(1), torch.tensor([1.1]), ATOMS),
            "`discount`",
        ),
        (lambda: unwrap(hl_gauss_loss)(torch.zeros(1, 51), torch.zeros(1), ATARI, reduction="men"), "`reduction`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
