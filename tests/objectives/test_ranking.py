from __future__ import annotations

import math
from collections.abc import Callable
from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tutelage.batch import Batch
from tutelage.data import pad_lists
from tutelage.objectives import (
    LambdaLoss,
    ListwiseSoftmaxLoss,
    Objective,
    RanknetLoss,
    lambda_loss,
    listmle,
    listwise_softmax_loss,
    plackett_luce_log_likelihood,
    ranknet_loss,
)
from tutelage.outputs import Outputs


def test_known_answer() -> None:
    scores = torch.tensor([[2.0, 1.0, 0.0]])
    order = torch.tensor([[0, 1, 2]])
    first = math.log(1 + math.exp(-1) + math.exp(-2))
    second = math.log(1 + math.exp(-1))
    assert listmle(scores, order).item() == pytest.approx(first + second, abs=1e-6)
    assert listmle(scores, order, weights="position").item() == pytest.approx((3 * first + second) / 4, abs=1e-6)
    weights = torch.tensor([0.5, 2.0, 7.0])
    assert listmle(scores, order, weights=weights).item() == pytest.approx(0.5 * first + 2 * second, abs=1e-6)


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_agrees_with_the_log_likelihood(scale: float) -> None:
    scores = (scale * torch.randn(5, 7, dtype=torch.float64)).requires_grad_()
    permutation = torch.stack([torch.randperm(7) for _ in range(5)])
    weights = torch.rand(5, 7, dtype=torch.float64)
    weights[0, 2] = 0
    values = listmle(scores, permutation, weights=weights, reduction="none")
    expected = -(weights * plackett_luce_log_likelihood(scores, permutation, per_rank=True)).sum(dim=1)
    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(
        torch.autograd.grad(values.sum(), scores), torch.autograd.grad(expected.sum(), scores), rtol=1e-9, atol=1e-9
    )


def test_half_precision_and_empty_batches() -> None:
    scores = torch.randn(3, 4, dtype=torch.float16)
    permutation = torch.stack([torch.randperm(4) for _ in range(3)])
    assert listmle(scores, permutation).dtype == torch.float32
    torch.testing.assert_close(listmle(scores, permutation).double(), listmle(scores.double(), permutation))
    assert listmle(scores[:0], permutation[:0], reduction="none").shape == (0,)


@pytest.mark.parametrize(
    ("permutation", "options", "message"),
    [
        ([[0, 1, 1]], {}, "name each of 3 items once"),
        ([[0, 1, 3]], {}, "name each of 3 items once"),
        ([[0, 1, -1]], {}, "name each of 3 items once"),
        ([[0, 1]], {}, "same shape"),
        ([[0, 1, 2]], {"weights": "teacher"}, "`weights` to be one of"),
        ([[0, 1, 2]], {"weights": torch.ones(2)}, r"`weights` to have shape \(3,\) or \(1, 3\), but got \(2,\)"),
        ([[0, 1, 2]], {"weights": torch.tensor([1.0, -1.0, 0.0])}, "`weights` to be at least 0"),
        ([[0, 1, 2]], {"reduction": "average"}, "`reduction`"),
    ],
)
def test_bad_input_is_named(permutation: list[list[int]], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        unwrap(listmle)(torch.zeros(1, 3), torch.tensor(permutation), **options)  # annotations unchecked, as in use


# ---- Losses on relevance ---------------------------------------------------------------------------------------------

sizes_of_lists = st.lists(st.integers(1, 7), min_size=1, max_size=4)
SCHEMES = (None, "ranknet", "lambdarank", "ndcg_loss1", "ndcg_loss2", "ndcg_loss2pp")


def random_lists(sizes: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    scores = 2 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
    return scores, torch.randint(4, (sum(sizes),), generator=generator), torch.tensor(sizes)


def padded(values: Tensor, sizes: Tensor, filling: float = 9) -> tuple[Tensor, Tensor]:
    return pad_lists(values, sizes, padding_value=filling)


def slow_lambda_loss(scores, grades, *, scheme, sigma, mu, k, log_base):
    """One list, as the formulas read: two loops over ranks that count from 1."""
    order = sorted(range(len(scores)), key=lambda item: -scores[item].item())
    k = len(scores) if k is None else k
    ideal = sum((2**y - 1) / math.log2(1 + r) for r, y in enumerate(sorted(grades.tolist(), reverse=True)[:k], 1))

    def discount(rank: int) -> float:
        return math.log2(1 + rank)

    total = scores.new_zeros(())
    for rank_i, i in enumerate(order[:k], 1):
        for rank_j, j in enumerate(order[:k], 1):
            if scheme != "ndcg_loss1" and grades[i] <= grades[j]:
                continue
            gains = [(2 ** grades[item].item() - 1) / max(ideal, 1e-10) for item in (i, j)]
            lambdarank = abs(1 / discount(rank_i) - 1 / discount(rank_j)) * abs(gains[0] - gains[1])
            apart = abs(rank_i - rank_j)
            two = abs(1 / discount(apart) - 1 / discount(apart + 1)) * abs(gains[0] - gains[1]) if apart else 0.0
            weight = {
                None: 1.0,
                "ranknet": 1.0,
                "lambdarank": lambdarank,
                "ndcg_loss1": gains[0] / discount(rank_i),
                "ndcg_loss2": two,
                "ndcg_loss2pp": mu * two + lambdarank,
            }[scheme]
            total = total - weight * torch.sigmoid(sigma * (scores[i] - scores[j])).log() / math.log(log_base)
    return total


@settings(max_examples=25, deadline=None)
@given(sizes=sizes_of_lists, scheme=st.sampled_from(SCHEMES), k=st.sampled_from([None, 1, 3, 20]))
def test_lambda_loss_agrees_with_two_loops_over_ranks(sizes: list[int], scheme: str | None, k: int | None) -> None:
    scores, grades, list_sizes = random_lists(sizes)
    options = {"scheme": scheme, "sigma": 0.7, "mu": 3.0, "k": k, "log_base": 2.0}
    losses = torch.stack(
        [slow_lambda_loss(s, y, **options) for s, y in zip(scores.split(sizes), grades.split(sizes), strict=True)]
    )
    torch.testing.assert_close(lambda_loss(scores, grades, list_sizes, drop_zero_lists=False, **options), losses.mean())
    kept = losses[losses != 0]
    expected = kept.mean() if len(kept) else losses.sum()
    torch.testing.assert_close(lambda_loss(scores, grades, list_sizes, **options), expected)
    rows, mask = padded(scores, list_sizes, math.nan)
    torch.testing.assert_close(lambda_loss(rows, padded(grades, list_sizes)[0], mask=mask, **options), expected)


def test_lambda_loss_known_answer() -> None:
    """Two items in the wrong order: maxDCG 1, discounts 1 and log2(3)."""
    swap = 1 - 1 / math.log2(3)
    wrong = math.log2(1 + math.e)
    loss = lambda_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1, 0]]))
    assert loss.item() == pytest.approx(swap * wrong, abs=1e-6)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_lambda_loss_has_the_gradient_of_fixed_weights(scheme: str | None) -> None:
    scores, grades, sizes = random_lists([4, 6])
    scores.requires_grad_()
    torch.autograd.gradcheck(lambda s: lambda_loss(s, grades, sizes, scheme=scheme), scores)
    (slope,) = torch.autograd.grad(lambda_loss(scores, grades, sizes, scheme=scheme), scores)
    for part in slope.split([4, 6]):
        assert part.sum().abs() < 1e-12


def test_ranknet_known_answers() -> None:
    scores, targets = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 2.0]])
    losses = ranknet_loss(scores, targets, reduction="none")[0]
    torch.testing.assert_close(losses[[0, 0, 1], [1, 2, 2]], torch.tensor([0.4324646, 0.6648109, 1.0443203]))
    assert ranknet_loss(scores, targets).item() == pytest.approx(0.7138652, abs=1e-6)
    assert ranknet_loss(scores, targets, reduction="sum").item() == pytest.approx(3 * 0.7138652, abs=1e-6)
    hard = ranknet_loss(scores, torch.tensor([[1, 0, 0]]), soft=False, reduction="none")[0]
    log_one = math.log(1 + math.exp(-1))
    expected = torch.tensor([log_one, math.log(1 + math.exp(-2)), log_one + 0.5])  # a tie wants ½
    torch.testing.assert_close(hard[[0, 0, 1], [1, 2, 2]], expected)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(2, 6), min_size=1, max_size=4), soft=st.booleans())
def test_ranknet_agrees_with_a_loop_over_pairs(sizes: list[int], soft: bool) -> None:
    scores, targets, list_sizes = random_lists(sizes)
    losses, weighted = [], []
    rows, mask = padded(scores, list_sizes, math.nan)
    weights = torch.rand(*mask.shape, mask.shape[1], dtype=torch.float64)
    for number, (s, t) in enumerate(zip(scores.split(sizes), targets.split(sizes), strict=True)):
        for i in range(len(s)):
            for j in range(i + 1, len(s)):
                apart = (t[i] - t[j]).double()
                p = torch.sigmoid(apart) if soft else (apart.sign() + 1) / 2
                right = torch.sigmoid(s[i] - s[j])
                losses.append(-p * right.log() - (1 - p) * (1 - right).log())
                weighted.append(losses[-1] * weights[number, i, j])
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(ranknet_loss(scores, targets, list_sizes, soft=soft), expected)
    torch.testing.assert_close(ranknet_loss(rows, padded(targets, list_sizes)[0], mask=mask, soft=soft), expected)
    found = ranknet_loss(scores, targets, list_sizes, soft=soft, weights=weights)
    torch.testing.assert_close(found, torch.stack(weighted).mean())


def test_ranknet_is_smallest_at_shifted_targets_and_moves_no_teacher() -> None:
    targets = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    scores = (targets.detach() + torch.randn(3, 1, dtype=torch.float64)).requires_grad_()
    ranknet_loss(scores, targets).backward()
    assert targets.grad is None
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-12
    other = scores.detach() + 0.3 * torch.randn(3, 5, dtype=torch.float64)
    assert ranknet_loss(other, targets) > ranknet_loss(scores, targets)
    torch.autograd.gradcheck(lambda s: ranknet_loss(s, targets), other.requires_grad_())


@settings(max_examples=25, deadline=None)
@given(sizes=sizes_of_lists, item_reduction=st.sampled_from(["mean", "sum"]), drop=st.booleans())
def test_softmax_loss_agrees_with_a_loop_over_lists(sizes: list[int], item_reduction: str, drop: bool) -> None:
    scores, grades, list_sizes = random_lists(sizes)
    losses = torch.stack(
        [
            getattr(-(y * s.log_softmax(dim=0)), item_reduction)()
            for s, y in zip(scores.split(sizes), grades.split(sizes), strict=True)
        ]
    )
    kept = losses[losses != 0] if drop else losses
    expected = kept.mean() if len(kept) else losses.sum()
    options = {"item_reduction": item_reduction, "drop_zero_lists": drop}
    torch.testing.assert_close(listwise_softmax_loss(scores, grades, list_sizes, **options), expected)
    rows, mask = padded(scores, list_sizes, math.nan)
    found = listwise_softmax_loss(rows, padded(grades, list_sizes)[0], mask=mask, **options)
    torch.testing.assert_close(found, expected)
    scores.requires_grad_()
    torch.autograd.gradcheck(lambda s: listwise_softmax_loss(s, grades, list_sizes, **options), scores)


def test_lists_without_a_relevant_item_teach_nothing() -> None:
    scores = torch.randn(2, 4, requires_grad=True)
    for loss in (listwise_softmax_loss, lambda_loss):
        value = loss(scores, torch.zeros(2, 4, dtype=torch.int64))
        (slope,) = torch.autograd.grad(value, scores)
        assert value == 0
        assert not slope.any()


def test_extreme_scores_and_half_precision() -> None:
    grades = torch.tensor([[1, 0, 2], [0, 1, 0]])
    for scores in (torch.tensor([[-1e4, 1e4, 0.0], [0.0, 0.0, 1e4]]), torch.randn(2, 3).half()):
        scores.requires_grad_()
        for loss in (
            listwise_softmax_loss(scores, grades),
            lambda_loss(scores, grades),
            ranknet_loss(scores, grades),
            lambda_loss(scores, grades, scheme="ndcg_loss2pp"),
        ):
            assert loss.dtype == torch.float32
            assert torch.isfinite(loss)
            assert torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()


@pytest.mark.parametrize(
    ("objective", "function"),
    [
        (LambdaLoss(scheme="ndcg_loss2", sigma=2.0, k=2, log_base=10.0), lambda_loss),
        (ListwiseSoftmaxLoss(item_reduction="sum", drop_zero_lists=False), listwise_softmax_loss),
        (RanknetLoss(soft=False), ranknet_loss),
    ],
)
def test_modules_read_a_batch(objective: Objective, function: Callable[..., Tensor]) -> None:
    scores, grades = torch.randn(2, 4), torch.randint(3, (2, 4))
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    extras = {"mask": mask}
    batch = Batch(torch.zeros(2, 1), grades, torch.arange(2), extras)
    skip = {"training", "taps", "reads"}
    options = {name: value for name, value in vars(objective).items() if not name.startswith("_") and name not in skip}
    found = objective(Outputs(logits=scores), Outputs(logits=grades.float()), batch)
    assert found == function(scores, grades, mask=mask, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, y: lambda_loss(s, y, scheme="lamdbarank"), r"`scheme` to be one of .*did you mean 'lambdarank'"),
        (lambda s, y: lambda_loss(s, y, sigma=0.0), "`sigma` to be positive"),
        (lambda s, y: lambda_loss(s, y, mu=-1.0), "`mu` to be positive"),
        (lambda s, y: lambda_loss(s, y, k=0), "`k` to be at least 1"),
        (lambda s, y: lambda_loss(s, y, log_base=1.0), "`log_base` to be above 1"),
        (lambda s, y: lambda_loss(s, -y), "`relevance` to be at least 0"),
        (lambda s, y: lambda_loss(s, y / 0.0), "`relevance` to be finite"),
        (lambda s, y: listwise_softmax_loss(s, y, item_reduction="none"), "`item_reduction` to be one of"),
        (lambda s, y: listwise_softmax_loss(s, y[:, :2]), "same shape"),
        (lambda s, y: ranknet_loss(s, y, reduction="average"), "`reduction` to be one of"),
        (lambda s, y: ranknet_loss(s[:, :1], y[:, :1]), "at least two items"),
        (lambda s, y: ranknet_loss(s, y, weights=torch.ones(1, 3)), "`weights`"),
    ],
)
def test_bad_options_are_named(call: Callable[[Tensor, Tensor], Tensor], message: str, monkeypatch) -> None:
    for function in (lambda_loss, listwise_softmax_loss, ranknet_loss):
        monkeypatch.setitem(globals(), function.__name__, unwrap(function))  # annotations unchecked, as in use
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 2.0]]))
