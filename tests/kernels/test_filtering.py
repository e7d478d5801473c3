"""The gradient filter, against dense gradients with the skipped tiles set to zero."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch import Tensor

from tutelage.kernels import linear_cross_entropy

EPSILON = 2.0**-12
kinds = [("torch", "fused"), ("torch", "recompute")]
if importlib.util.find_spec("triton"):
    kinds.append(("triton", "auto"))
every_kind = pytest.mark.parametrize(("backend", "mode"), kinds)


def peaked(tokens: int = 96, width: int = 16, vocabulary: int = 192) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Labels are entries 40 to 87; all others are unlikely, so that some tiles can go, and more of them when sorted."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    target = torch.randint(40, 88, (tokens,), generator=generator)
    hidden = 1.2 * weight[target] + 0.3 * torch.randn(tokens, width, generator=generator).double()
    bias = torch.full((vocabulary,), -25.0).double()
    bias[40:88] = 0
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_(), target


def tiled(
    hidden: Tensor, weight: Tensor, bias: Tensor, target: Tensor, rows: int, columns: int, *, ordered: bool
) -> tuple[Tensor, Tensor]:
    """The gradient in the logits, and whether each entry's tile is kept."""
    logits = hidden @ weight.t() + bias
    difference = logits.softmax(1) - torch.nn.functional.one_hot(target, len(weight))
    order = logits.mean(0).argsort(stable=True) if ordered else torch.arange(len(weight))
    kept = torch.zeros_like(difference, dtype=torch.bool)
    for first in range(0, len(hidden), rows):
        for start in range(0, len(weight), columns):
            places = order[start : start + columns]
            kept[first : first + rows, places] = (difference[first : first + rows, places].abs() >= EPSILON).any()
    return difference / len(hidden), kept


@every_kind
@pytest.mark.parametrize("spared", [None, "hidden", "classifier"])
@pytest.mark.parametrize("ordered", [False, True])
def test_filtered_gradient_is_dense_without_the_skipped_tiles(
    backend: str, mode: Any, spared: str | None, ordered: bool
) -> None:
    hidden, weight, bias, target = peaked()
    rows, columns = (32, 1) if mode == "fused" else (64, 64) if backend == "triton" else (32, 16)
    loss = linear_cross_entropy(
        hidden,
        weight,
        target,
        bias=bias,
        filter_eps=EPSILON,
        filter_hidden_grad=spared != "hidden",
        filter_classifier_grad=spared != "classifier",
        sort_vocabulary=ordered,
        block_size=(32, 16),
        backend=backend,
        mode=mode,
    )
    by_hidden, by_weight, by_bias = torch.autograd.grad(loss, (hidden, weight, bias))
    with torch.no_grad():
        whole, kept = tiled(hidden, weight, bias, target, rows, columns, ordered=ordered)
        assert 0 < kept.double().mean() < 1
        cut = whole * kept
        torch.testing.assert_close(by_hidden, (whole if spared == "hidden" else cut) @ weight)
        torch.testing.assert_close(by_weight, (whole if spared == "classifier" else cut).t() @ hidden)
        torch.testing.assert_close(by_bias, (cut if spared is None else whole).sum(0))
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(hidden @ weight.t() + bias, target))


@every_kind
@pytest.mark.parametrize("epsilon", [None, 0.0])
def test_no_filter_is_exact(backend: str, mode: Any, epsilon: float | None) -> None:
    hidden, weight, _, target = peaked()
    found = linear_cross_entropy(hidden, weight, target, filter_eps=epsilon, backend=backend, mode=mode)
    expected = linear_cross_entropy(hidden, weight, target, backend="dense")
    for mine, theirs in zip(
        torch.autograd.grad(found, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-13)


@every_kind
def test_a_filter_of_more_than_one_leaves_nothing(backend: str, mode: Any) -> None:
    hidden, weight, bias, target = peaked()
    loss = linear_cross_entropy(hidden, weight, target, bias=bias, filter_eps=1.01, backend=backend, mode=mode)
    assert all((value == 0).all() for value in torch.autograd.grad(loss, (hidden, weight, bias)))


@every_kind
def test_a_certain_label_does_not_keep_its_tile(backend: str, mode: Any) -> None:
    hidden = torch.tensor([[50.0], [50.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    loss = linear_cross_entropy(hidden, weight, torch.tensor([0, 0]), filter_eps=0.1, backend=backend, mode=mode)
    assert all((value == 0).all() for value in torch.autograd.grad(loss, (hidden, weight)))


def test_automatic_filter_is_for_half_precision_alone() -> None:
    hidden, weight, _, target = peaked()

    def by_weight(dtype: torch.dtype, **settings: Any) -> Tensor:
        leaf = weight.detach().to(dtype).requires_grad_()
        result = linear_cross_entropy(hidden.detach().to(dtype), leaf, target, **settings)
        loss = result[0] if isinstance(result, tuple) else result
        return torch.autograd.grad(loss, leaf)[0]

    assert torch.equal(by_weight(torch.float32), by_weight(torch.float32, filter_eps=None))
    assert torch.equal(by_weight(torch.bfloat16), by_weight(torch.bfloat16, filter_eps=EPSILON))
    assert not torch.equal(by_weight(torch.bfloat16), by_weight(torch.bfloat16, filter_eps=None))
    options = {"return_lse": True}
    assert torch.equal(by_weight(torch.bfloat16, **options), by_weight(torch.bfloat16, filter_eps=None, **options))
