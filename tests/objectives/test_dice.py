from __future__ import annotations

import warnings
from functools import partial
from inspect import unwrap

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from sklearn.metrics import f1_score
from torch import Tensor

from tutelage.objectives import (
    DiceLoss,
    SelfAdjustingDiceLoss,
    TverskyLoss,
    dice_loss,
    self_adjusting_dice_loss,
    tversky_loss,
)


def dice(p: list[float], y: list[int], **options) -> Tensor:
    return dice_loss(torch.tensor(p, dtype=torch.float64), torch.tensor(y), from_logits=False, **options)


def slow_reference(
    p: Tensor, y: Tensor, *, alpha: float, square: bool, aggregation: str, gamma: float, tversky: tuple | None
) -> Tensor:
    """The formulas on items × classes of probabilities and one-hot labels: one value a class, or one an item."""
    g = (1 - p) ** alpha * p

    def total(x: Tensor) -> Tensor:
        return x.sum(0) if aggregation == "set" else x

    if tversky is None:
        lower = (g**2 if square else g) + y
        values = 1 - (2 * total(g * y) + gamma) / (total(lower) + gamma)
    else:
        a, b = tversky
        hit = total(g * y)
        values = 1 - (hit + gamma) / (hit + a * total(g * (1 - y)) + b * total((1 - g) * y) + gamma)
    return values if aggregation == "set" else values.sum(-1)


@pytest.mark.parametrize(
    ("label", "square", "expected"), [(1, False, 0.2), (1, True, 1 / 9), (0, False, 1 / 3), (0, True, 0.2)]
)
def test_one_item_by_hand(label: int, square: bool, expected: float) -> None:
    for aggregation in ("set", "example"):
        loss = dice([0.5], [label], square_denominator=square, aggregation=aggregation)
        assert loss.item() == pytest.approx(expected)


def test_a_set_by_hand() -> None:
    assert dice([0.5, 0.5], [1, 0], square_denominator=False).item() == pytest.approx(1 / 3)
    assert dice([0.0, 0.0], [0, 0]).item() == 0
    assert dice([1.0] * 5, [0] * 5, square_denominator=False, smooth=0.5).item() == pytest.approx(1 - 0.5 / 5.5)


def test_the_authors_known_answer() -> None:
    p = torch.tensor([[0.9, 0.03, 0.03, 0.03], [0.03, 0.9, 0.03, 0.03]])
    loss = self_adjusting_dice_loss(p, torch.tensor([0, 1]), from_logits=False, aggregation="example", reduction="none")
    torch.testing.assert_close(loss, torch.full((2,), 0.0079), atol=5e-5, rtol=0)


@pytest.mark.parametrize("aggregation", ["set", "example"])
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.15])
@pytest.mark.parametrize("square", [True, False])
@pytest.mark.parametrize("classes", [2, 5])
def test_agreement_with_the_formula_and_its_gradient(aggregation, alpha, square, classes) -> None:
    logits = 2 * torch.randn(7, classes, dtype=torch.float64)
    target = torch.randint(classes, (7,))
    y = torch.nn.functional.one_hot(target, classes).double()
    settings = {"alpha": alpha, "square": square, "aggregation": aggregation, "gamma": 0.7, "tversky": None}
    results = []
    for loss in (
        lambda z: self_adjusting_dice_loss(
            z, target, alpha=alpha, smooth=0.7, square_denominator=square, aggregation=aggregation, reduction="none"
        ),
        lambda z: self_adjusting_dice_loss(
            z.softmax(-1), target, from_logits=False, alpha=alpha, smooth=0.7, square_denominator=square,
            aggregation=aggregation, reduction="none",
        ),
        lambda z: slow_reference(z.softmax(-1), y, **settings),
    ):  # fmt: skip
        z = logits.clone().requires_grad_()
        value = loss(z)
        (gradient,) = torch.autograd.grad((value * torch.arange(1.0, len(value) + 1)).sum(), z)
        results.append((value.detach(), gradient))
    torch.testing.assert_close(results[0], results[2])
    torch.testing.assert_close(results[1], results[2])


@pytest.mark.parametrize("aggregation", ["set", "example"])
@pytest.mark.parametrize("weights", [(0.5, 0.5), (0.3, 0.9), (0.0, 1.0)])
def test_tversky_agrees_with_its_formula(aggregation, weights) -> None:
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(3, (6,))
    y = torch.nn.functional.one_hot(target, 3).double()
    ours = tversky_loss(
        logits, target, alpha=weights[0], beta=weights[1], smooth=0.4, aggregation=aggregation, reduction="none"
    )
    theirs = slow_reference(
        logits.softmax(-1), y, alpha=0.0, square=False, aggregation=aggregation, gamma=0.4, tversky=weights
    )
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_relations_between_the_losses() -> None:
    logits, target = torch.randn(20), torch.randint(2, (20,))
    torch.testing.assert_close(self_adjusting_dice_loss(logits, target, alpha=0.0), dice_loss(logits, target))
    torch.testing.assert_close(
        tversky_loss(logits, target, smooth=0.5), dice_loss(logits, target, square_denominator=False)
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=12))
def test_hard_predictions_of_a_set_give_one_minus_f1(pairs) -> None:
    predicted, actual = [0, *(p for p, _ in pairs)], [1, *(y for _, y in pairs)]
    for square in (True, False):
        loss = dice([float(p) for p in predicted], actual, smooth=1e-9, square_denominator=square)
        assert loss.item() == pytest.approx(1 - f1_score(actual, predicted), abs=1e-6)


def test_order_range_and_shapes() -> None:
    logits, target = 3 * torch.randn(12, 4), torch.randint(4, (12,))
    order = torch.randperm(12)
    by_class = self_adjusting_dice_loss(logits, target, reduction="none")
    torch.testing.assert_close(by_class, self_adjusting_dice_loss(logits[order], target[order], reduction="none"))
    assert by_class.shape == (4,)
    assert ((by_class >= 0) & (by_class <= 1)).all()
    torch.testing.assert_close(self_adjusting_dice_loss(logits, target), by_class.sum())
    torch.testing.assert_close(self_adjusting_dice_loss(logits, target, class_reduction="mean"), by_class.mean())
    by_item = dice_loss(logits.reshape(3, 4, 4), target.reshape(3, 4), aggregation="example", reduction="none")
    assert by_item.shape == (3, 4)
    torch.testing.assert_close(dice_loss(logits, target, aggregation="example"), by_item.mean())
    torch.testing.assert_close(dice_loss(logits, target, aggregation="example", reduction="sum"), by_item.sum())
    binary = dice_loss(torch.zeros(5, 1), torch.ones(5, 1), aggregation="example", reduction="none")
    assert binary.shape == (5,)


@pytest.mark.parametrize("aggregation", ["set", "example"])
@pytest.mark.parametrize("shape", [(6,), (6, 3)])
def test_left_out_items_say_nothing(aggregation, shape) -> None:
    logits = torch.randn(shape)
    target = torch.randint(2, (6,))
    mask = torch.tensor([1, 0, 1, 1, 0, 1])
    kept = mask.bool()
    expected = self_adjusting_dice_loss(logits[kept], target[kept], aggregation=aggregation)
    poisoned = logits.clone()
    poisoned[~kept] = torch.nan
    torch.testing.assert_close(self_adjusting_dice_loss(poisoned, target, mask=mask, aggregation=aggregation), expected)
    labels = target.masked_fill(~kept, -100)
    result = self_adjusting_dice_loss(poisoned, labels, ignore_index=-100, aggregation=aggregation)
    torch.testing.assert_close(result, expected)
    values = dice_loss(logits, labels, ignore_index=-100, aggregation="example", reduction="none")
    assert (values[~kept] == 0).all()
    nothing = dice_loss(logits, torch.full((6,), -100), ignore_index=-100, aggregation=aggregation)
    assert nothing.item() == 0


@pytest.mark.parametrize("classes", [None, 3])
def test_mining_drops_negatives_as_if_they_were_never_predicted(classes) -> None:
    p = torch.rand(10, dtype=torch.float64) if classes is None else torch.rand(10, 3, dtype=torch.float64).softmax(-1)
    target = torch.tensor([1, 0, 0, 0, 1, 0, 0, 0, 0, 0])
    y = target if classes is None else torch.nn.functional.one_hot(target, 3)
    matrix, labels = (p[:, None], y[:, None]) if classes is None else (p, y)
    dropped = matrix.clone()
    for c in range(matrix.shape[1]):
        negatives = sorted((i for i in range(10) if labels[i, c] == 0), key=lambda i, c=c: -float(matrix[i, c]))
        for i in negatives[int(0.5 * int(labels[:, c].sum())) :]:
            dropped[i, c] = 0
    expected = dice_loss(dropped.reshape(p.shape), y, from_logits=False)  # binary; by class below
    if classes is not None:
        expected = sum(dice_loss(dropped[:, c], y[:, c], from_logits=False) for c in range(3))
    logits = p.logit() if classes is None else p.log()
    for input, from_logits in ((p, False), (logits, True)):
        ours = self_adjusting_dice_loss(input, target, alpha=0.0, ohem_ratio=0.5, from_logits=from_logits)
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("eta", "best"), [(0.49, 0.0), (0.51, 1.0)])
def test_per_example_dice_decides_as_accuracy_does(eta: float, best: float) -> None:
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    options = {"from_logits": False, "square_denominator": False, "aggregation": "example", "reduction": "none"}
    expected = eta * dice_loss(grid, torch.ones_like(grid), **options)
    expected = expected + (1 - eta) * dice_loss(grid, torch.zeros_like(grid), **options)
    assert grid[expected.argmin()].item() == best


@pytest.mark.parametrize(("eta", "sure"), [(0.56, False), (0.58, True)])
def test_a_squared_denominator_is_more_careful_than_cross_entropy(eta: float, sure: bool) -> None:
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    options = {"from_logits": False, "aggregation": "example", "reduction": "none"}
    expected = eta * dice_loss(grid, torch.ones_like(grid), **options)
    expected = expected + (1 - eta) * dice_loss(grid, torch.zeros_like(grid), **options)
    assert (grid[expected.argmin()].item() > 0.5) is sure


@pytest.mark.parametrize("square", [True, False])
def test_a_set_accepts_what_single_examples_refuse(square: bool) -> None:
    target = torch.cat([torch.ones(40), torch.zeros(60), torch.zeros(900)])  # of 100 items alike, 40 are positive
    accepted, refused = torch.cat([torch.ones(100), torch.zeros(900)]), torch.zeros(1000)
    loss = partial(dice_loss, target=target, from_logits=False, square_denominator=square)
    assert loss(accepted) < loss(refused)
    assert loss(accepted, aggregation="example") > loss(refused, aggregation="example")


def test_beyond_the_cap_muting_pushes_negatives_up() -> None:
    for p, sign in ((0.45, 1), (0.55, -1)):
        logits = torch.tensor([p]).logit().requires_grad_()
        with pytest.warns(UserWarning, match="alpha"):
            loss = self_adjusting_dice_loss(logits, torch.zeros(1), alpha=1.0)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.sign().item() == sign


@pytest.mark.parametrize("aggregation", ["set", "example"])
@pytest.mark.parametrize("ohem_ratio", [None, 0.5])
@pytest.mark.parametrize("shape", [(6,), (6, 4)])
def test_gradients(aggregation, ohem_ratio, shape) -> None:
    logits = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 0, 0, 1, 0])
    options = {"target": target, "aggregation": aggregation}
    assert torch.autograd.gradcheck(
        partial(self_adjusting_dice_loss, alpha=0.1, ohem_ratio=ohem_ratio, **options), logits
    )
    assert torch.autograd.gradcheck(partial(tversky_loss, alpha=0.3, beta=0.8, **options), logits)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.floats(0.01, 5), st.sampled_from(["set", "example"]))
def test_every_value_of_a_class_lies_between_zero_and_one(seed: int, smooth: float, aggregation: str) -> None:
    draw = torch.Generator().manual_seed(seed)
    logits, target = 5 * torch.randn(9, generator=draw), torch.randint(2, (9,), generator=draw)
    for loss in (dice_loss, self_adjusting_dice_loss, tversky_loss):
        values = loss(logits, target, smooth=smooth, aggregation=aggregation, reduction="none")
        assert ((values >= 0) & (values <= 1)).all()


def test_muting_caps_the_confidence_of_positives() -> None:
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    loss = self_adjusting_dice_loss(
        grid, torch.ones_like(grid), alpha=0.1, from_logits=False, aggregation="example", reduction="none"
    )
    assert grid[loss.argmin()].item() == pytest.approx(1 / 1.1, abs=1e-3)
    assert loss[-1].item() == pytest.approx(1 - 1 / 2)  # g = 0 at p = 1: 1 − γ / (1 + γ)


@pytest.mark.parametrize("aggregation", ["set", "example"])
def test_gradients_at_certain_probabilities_are_finite(aggregation) -> None:
    for p, target in (
        (torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])),
        (torch.eye(3), torch.tensor([0, 2, 1])),
    ):
        p = p.clone().requires_grad_()
        loss = self_adjusting_dice_loss(p, target, from_logits=False, aggregation=aggregation)
        assert torch.isfinite(torch.autograd.grad(loss, p)[0]).all()


def test_the_muting_factor_survives_where_one_minus_p_rounds_to_zero() -> None:
    z = torch.tensor([30.0, 300.0])
    g = (-0.01 * z).exp()  # (1 − p)^0.01 for p = 1 / (1 + e^−z)
    expected = 1 - (2 * g + 1) / (g + 2)
    options = {"square_denominator": False, "aggregation": "example", "reduction": "none"}
    ones = torch.ones(2, dtype=torch.int64)
    for logits in (z, torch.stack([torch.zeros(2), z], dim=1)):
        loss = self_adjusting_dice_loss(logits, ones, **options)
        if logits.ndim == 2:
            loss = loss - (1 - 1 / (1 + (-z).exp()))  # the other class
        torch.testing.assert_close(loss, expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.01])
@pytest.mark.parametrize("aggregation", ["set", "example"])
@pytest.mark.parametrize("binary", [True, False])
def test_huge_logits_and_bfloat16_agree_with_float64(alpha, aggregation, binary) -> None:
    shape = (16,) if binary else (16, 6)
    target = torch.randint(2 if binary else 6, (16,))
    for logits, tolerance in (
        (1e4 * torch.randn(shape).sign(), 1e-5),
        (100 * torch.randn(shape), 1e-4),
        (2 * torch.randn(shape).bfloat16(), 1e-2),
    ):
        results = []
        for z in (logits.clone(), logits.double()):
            z.requires_grad_()
            loss = self_adjusting_dice_loss(z, target, alpha=alpha, aggregation=aggregation)
            results.append((loss.detach().double(), torch.autograd.grad(loss, z)[0].double()))
        torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(results[0][1], results[1][1], rtol=tolerance, atol=1e-6)


def test_a_gradient_of_the_gradient() -> None:
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1, 2, 1])
    for aggregation in ("set", "example"):
        loss = partial(self_adjusting_dice_loss, target=target, alpha=0.1, aggregation=aggregation)
        assert torch.autograd.gradgradcheck(loss, logits)


def test_blocks_of_rows_make_no_difference(monkeypatch) -> None:
    logits, target = torch.randn(9, 4, dtype=torch.float64), torch.randint(4, (9,))
    whole = [dice_loss(logits, target, aggregation=a, reduction="none") for a in ("set", "example")]
    monkeypatch.setattr("tutelage.objectives.muted_probabilities._BLOCK", 8)
    parts = [dice_loss(logits, target, aggregation=a, reduction="none") for a in ("set", "example")]
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("kind", [DiceLoss, SelfAdjustingDiceLoss, TverskyLoss])
def test_objectives_read_one_logit_as_binary(kind) -> None:
    logits, target = torch.randn(6, 1), torch.tensor([0, 1, -100, 1, 0, -100])
    torch.testing.assert_close(kind()(logits, target), kind()(logits[:, 0], target))


def test_a_large_alpha_is_warned_of() -> None:
    with pytest.warns(UserWarning, match=r"probability 0\.5"):
        self_adjusting_dice_loss(torch.zeros(2), torch.tensor([0, 1]), alpha=1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        self_adjusting_dice_loss(torch.zeros(2), torch.tensor([0, 1]), alpha=0.1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: dice_loss(z, y, smooth=0.0), "`smooth` to be positive"),
        (lambda z, y: dice_loss(z, y + 1), "labels 0 and 1"),
        (lambda z, y: dice_loss(z[:, None].expand(4, 3), y[:3]), "one more dimension"),
        (lambda z, y: dice_loss(z[:, None], y), "at least 2 classes"),
        (lambda z, y: dice_loss(z[:, None].expand(4, 3), y + 2), r"\[0, 3\)"),
        (lambda z, y: unwrap(dice_loss)(z, y, aggregation="batch"), "`aggregation`"),
        (lambda z, y: dice_loss(z + 2, y, from_logits=False), r"`input` to hold values in \[0, 1\]"),
        (lambda z, y: dice_loss(z, y, mask=y[:2]), "`mask`"),
        (lambda z, y: self_adjusting_dice_loss(z, y, alpha=-0.1), "`alpha`"),
        (lambda z, y: self_adjusting_dice_loss(z, y, ohem_ratio=-1.0), "`ohem_ratio`"),
        (lambda z, y: tversky_loss(z, y, beta=-1.0), "`beta`"),
        (lambda z, y: DiceLoss(smooth=-1.0), "`smooth`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4), torch.tensor([0, 1, 0, 1]))
