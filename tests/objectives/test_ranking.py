from __future__ import annotations

import math
from inspect import unwrap

import pytest
import torch

from tutelage.objectives import listmle, plackett_luce_log_likelihood


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
