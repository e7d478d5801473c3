from __future__ import annotations

import math
from inspect import unwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.batch import Batch
from tutelage.objectives import (
    ProfitAwareBoostingObjective,
    ProfitAwarePairwiseLoss,
    profit_aware_pairwise_gradients,
    profit_aware_pairwise_loss,
)
from tutelage.outputs import Outputs


def slow_losses(scores: Tensor, amounts: Tensor, sizes: list[int], top_k: int | None, log_base: float) -> Tensor:
    """One list after the other, one pair after the other."""
    losses = []
    for s, a in zip(scores.split(sizes), amounts.split(sizes), strict=True):
        order = sorted(range(len(a)), key=lambda item: -a[item].item())[:top_k]
        total = scores.new_zeros(())
        for place, i in enumerate(order):
            for j in order[place + 1 :]:
                weight = math.log(1 + (a[i] - a[j]).item()) / math.log(log_base)
                total = total + weight * torch.log(1 + torch.exp(-(s[i] - s[j])))
        losses.append(total / len(order))
    return torch.stack(losses)


lists = st.lists(st.integers(1, 9), min_size=1, max_size=5)


def random_lists(sizes: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = 2 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    amounts = 100 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    return scores, amounts, torch.tensor(sizes)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.0, 0.0], 0.346574), ([1.0, -1.0], 0.063464), ([-1.0, 1.0], 1.063464)],
)
def test_known_answers(scores: list[float], expected: float) -> None:
    loss = profit_aware_pairwise_loss(torch.tensor(scores), torch.tensor([9.0, 0.0]), torch.tensor([2]), top_k=2)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    unlike = profit_aware_pairwise_loss(torch.tensor(scores[::-1]), torch.tensor([0.0, 9.0]), torch.tensor([2]))
    assert unlike.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(sizes=lists, top_k=st.sampled_from([2, 4, 6, None]), log_base=st.sampled_from([2.0, 10.0]))
def test_agrees_with_a_loop_over_pairs_in_both_layouts(sizes: list[int], top_k: int | None, log_base: float) -> None:
    scores, amounts, list_sizes = random_lists(sizes, seed=sum(sizes))
    expected = slow_losses(scores, amounts, sizes, top_k, log_base)
    options = {"top_k": top_k, "log_base": log_base}
    found = profit_aware_pairwise_loss(scores, amounts, list_sizes, reduction="none", **options)
    torch.testing.assert_close(found, expected)
    kept = expected[expected != 0]
    mean = kept.mean() if len(kept) else expected.sum()
    torch.testing.assert_close(profit_aware_pairwise_loss(scores, amounts, list_sizes, **options), mean)

    mask = torch.arange(max(sizes)) < list_sizes[:, None]
    padded = torch.full((2, *mask.shape), math.nan, dtype=torch.float64)
    padded[0][mask], padded[1][mask] = scores, amounts
    again = profit_aware_pairwise_loss(padded[0], padded[1], mask=mask, reduction="none", **options)
    torch.testing.assert_close(again, expected)


@settings(max_examples=20, deadline=None)
@given(sizes=lists, top_k=st.sampled_from([2, 3, 6, None]))
def test_the_gradient_sums_to_zero_and_reaches_only_the_top(sizes: list[int], top_k: int | None) -> None:
    scores, amounts, list_sizes = random_lists(sizes, seed=len(sizes))
    scores.requires_grad_()
    loss = profit_aware_pairwise_loss(scores, amounts, list_sizes, top_k=top_k, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, scores)
    for slope, money in zip(gradient.split(sizes), amounts.split(sizes), strict=True):
        order = money.argsort(descending=True)
        depth = len(money) if top_k is None else min(top_k, len(money))
        assert slope.sum().abs() < 1e-12
        assert slope[order[0]] <= 0
        assert slope[order[depth - 1]] >= 0
        assert not slope[order[depth:]].any()
        if depth > 1:
            assert slope[order[0]] < 0


def test_shifts_change_nothing_and_permutations_permute_the_gradient() -> None:
    sizes = [5, 8]
    scores, amounts, list_sizes = random_lists(sizes)
    shift = torch.tensor([3.0, -40.0], dtype=torch.float64).repeat_interleave(list_sizes)
    order = torch.cat([torch.randperm(5), 5 + torch.randperm(8)])

    def loss_and_gradient(scores: Tensor, amounts: Tensor) -> tuple[Tensor, Tensor]:
        scores = scores.clone().requires_grad_()
        loss = profit_aware_pairwise_loss(scores, amounts, list_sizes)
        return loss.detach(), torch.autograd.grad(loss, scores)[0]

    loss, gradient = loss_and_gradient(scores, amounts)
    torch.testing.assert_close(loss_and_gradient(scores + shift, amounts)[0], loss)
    torch.testing.assert_close(loss_and_gradient(scores, amounts + shift)[0], loss)
    other_loss, other_gradient = loss_and_gradient(scores[order], amounts[order])
    torch.testing.assert_close(other_loss, loss)
    torch.testing.assert_close(other_gradient, gradient[order])


def test_tied_and_single_lists_are_dropped() -> None:
    scores = torch.tensor([0.3, -0.2, 0.1, 5.0, 1.0, -1.0], requires_grad=True)
    amounts = torch.tensor([7.0, 7.0, 7.0, 1.0, 9.0, 0.0])
    sizes = torch.tensor([3, 1, 2])
    assert profit_aware_pairwise_loss(scores, amounts, sizes).item() == pytest.approx(0.063464, abs=1e-6)
    kept = profit_aware_pairwise_loss(scores, amounts, sizes, drop_zero_lists=False)
    assert kept.item() == pytest.approx(0.063464 / 3, abs=1e-6)
    nothing = profit_aware_pairwise_loss(scores[:4], amounts[:4], sizes[:2])
    (gradient,) = torch.autograd.grad(nothing, scores)
    assert nothing.item() == 0
    assert not gradient.any()


def test_ties_at_the_last_place_take_the_earlier_item() -> None:
    scores = torch.zeros(4, requires_grad=True)
    loss = profit_aware_pairwise_loss(scores, torch.tensor([1.0, 5.0, 1.0, 1.0]), torch.tensor([4]), top_k=2)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert (gradient != 0).tolist() == [True, True, False, False]


def test_scale_and_base_of_the_weights() -> None:
    scores, amounts, sizes = torch.zeros(2), torch.tensor([900.0, 0.0]), torch.tensor([2])
    in_euros = profit_aware_pairwise_loss(scores, amounts, sizes, amount_scale=0.01)
    assert in_euros.item() == pytest.approx(0.346574, abs=1e-6)
    base_two = profit_aware_pairwise_loss(scores, amounts, sizes, amount_scale=0.01, log_base=2)
    assert base_two.item() == pytest.approx(0.346574 * math.log2(10), abs=1e-5)


def test_large_amounts_stay_finite_and_keep_their_cents() -> None:
    scores, sizes = torch.zeros(2, requires_grad=True), torch.tensor([2])
    huge = profit_aware_pairwise_loss(scores, torch.tensor([1e9, -1e9]), sizes)
    assert torch.isfinite(torch.autograd.grad(huge, scores)[0]).all()
    cent = torch.tensor([1e9 + 0.01, 1e9], dtype=torch.float64)
    weight = profit_aware_pairwise_loss(scores, cent, sizes).item() * 2 / math.log(2)
    assert weight == pytest.approx(math.log10(1.01), rel=1e-4)
    wide = profit_aware_pairwise_loss(torch.tensor([-1e4, 1e4]), torch.tensor([9.0, 0.0]), sizes)
    assert wide.item() == pytest.approx(1e4)


def test_gradcheck_half_precision_and_no_gradient_for_amounts() -> None:
    scores, amounts, sizes = random_lists([4, 7, 1])
    scores.requires_grad_()
    torch.autograd.gradcheck(lambda s: profit_aware_pairwise_loss(s, amounts, sizes), scores)
    torch.autograd.gradgradcheck(lambda s: profit_aware_pairwise_loss(s, amounts, sizes), scores)
    half = scores.detach().bfloat16()
    loss = profit_aware_pairwise_loss(half, amounts, sizes)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss.double(), profit_aware_pairwise_loss(half.double(), amounts, sizes), rtol=1e-5, atol=0
    )
    money = amounts.clone().requires_grad_()
    profit_aware_pairwise_loss(scores, money, sizes).backward()
    assert money.grad is None


@settings(max_examples=20, deadline=None)
@given(sizes=lists, top_k=st.sampled_from([2, 5, 20, None]))
def test_boosting_derivatives_are_those_of_the_sum_over_pairs(sizes: list[int], top_k: int | None) -> None:
    scores, amounts, list_sizes = random_lists(sizes, seed=sum(sizes))
    depth = torch.tensor([size if top_k is None else min(size, top_k) for size in sizes])

    def total(scores: Tensor) -> Tensor:
        return (depth * slow_losses(scores, amounts, sizes, top_k, math.e)).sum()

    gradient, hessian = profit_aware_pairwise_gradients(scores, amounts, list_sizes, top_k=top_k)
    expected = torch.autograd.functional.jacobian(total, scores)
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(total, scores).diagonal())
    assert (hessian >= 0).all()
    objective = ProfitAwareBoostingObjective(amounts, list_sizes, top_k=top_k)
    for found, reference in zip(objective(scores.numpy()), (gradient, hessian), strict=True):
        np.testing.assert_allclose(found, reference.numpy(), rtol=1e-12, atol=1e-15)


def test_a_lightgbm_booster_learns_from_it() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(60 * 20, 3, generator=generator, dtype=torch.float64)
    amounts = 100 * features[:, 0] + 10 * torch.randn(len(features), generator=generator, dtype=torch.float64)
    sizes = torch.full((60,), 20)
    objective = ProfitAwareBoostingObjective(amounts, sizes)
    options = {"objective": objective, "num_leaves": 7, "learning_rate": 0.1, "verbosity": -1, "num_threads": 1}
    booster = lightgbm.train(options, lightgbm.Dataset(features.numpy(), amounts.numpy()), num_boost_round=25)
    scores = torch.tensor(booster.predict(features.numpy()))

    before = profit_aware_pairwise_loss(torch.zeros_like(scores), amounts, sizes, top_k=20)
    assert profit_aware_pairwise_loss(scores, amounts, sizes, top_k=20) < 0.5 * before
    best = amounts.reshape(60, 20).argmax(dim=1)
    found = scores.reshape(60, 20).topk(3, dim=1).indices
    assert (found == best[:, None]).any(dim=1).double().mean() > 0.9
    upside_down = ProfitAwareBoostingObjective(-amounts, sizes)
    booster = lightgbm.train(
        {**options, "objective": upside_down}, lightgbm.Dataset(features.numpy(), amounts.numpy()), num_boost_round=25
    )
    reversed_scores = torch.tensor(booster.predict(features.numpy()))
    assert profit_aware_pairwise_loss(reversed_scores, amounts, sizes, top_k=20) > 1.5 * before


def test_module_reads_scores_amounts_and_mask_from_a_batch() -> None:
    scores, amounts = torch.randn(3, 5), torch.randn(3, 5)
    mask = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    objective = ProfitAwarePairwiseLoss(top_k=3, log_base=2.0, amount_scale=3.0)
    expected = profit_aware_pairwise_loss(scores, amounts, mask=mask, top_k=3, log_base=2.0, amount_scale=3.0)
    batch = Batch(torch.zeros(3, 1), None, torch.arange(3), {"amounts": amounts, "mask": mask})
    assert objective(Outputs(logits=scores), None, batch) == expected
    assert not objective.needs_teacher
    flat = profit_aware_pairwise_loss(scores.flatten(), amounts.flatten(), torch.tensor([5, 5, 5]))
    assert ProfitAwarePairwiseLoss()(scores.flatten(), amounts.flatten(), torch.tensor([5, 5, 5])) == flat


@pytest.mark.parametrize(
    ("amounts", "sizes", "options", "message"),
    [
        ([1.0, 2.0, 3.0], [2], {}, r"sum to the number of items \(3\), but got 2"),
        ([1.0, 2.0, 3.0], [3, 0], {}, "sizes of at least 1"),
        ([1.0, math.nan, 3.0], [3], {}, "`amounts` to be finite"),
        ([1.0, math.inf, 3.0], [3], {}, "`amounts` to be finite"),
        ([1.0, 2.0], [3], {}, "`scores` and `amounts` to have the same shape"),
        ([1.0, 2.0, 3.0], [3], {"top_k": 1}, "`top_k` to be at least 2, but got 1"),
        ([1.0, 2.0, 3.0], [3], {"log_base": 1.0}, "`log_base` to be above 1, but got 1.0"),
        ([1.0, 2.0, 3.0], [3], {"amount_scale": 0.0}, "`amount_scale` to be positive"),
        ([1.0, 2.0, 3.0], [3], {"reduction": "average"}, "`reduction` to be one of"),
    ],
)
def test_bad_input_is_named(amounts: list[float], sizes: list[int], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unwrap(profit_aware_pairwise_loss)(torch.zeros(3), torch.tensor(amounts), torch.tensor(sizes), **options)
    if "amount_scale" not in options and "reduction" not in options:
        with pytest.raises(ValueError, match=message):
            unwrap(profit_aware_pairwise_gradients)(
                torch.zeros(3), torch.tensor(amounts), torch.tensor(sizes), **options
            )
    if options and "reduction" not in options:
        with pytest.raises(ValueError, match=message):
            ProfitAwarePairwiseLoss(**options)  # type: ignore[arg-type]
