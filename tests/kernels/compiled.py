"""Compiled without a break in the graph, the linear losses give what they give uncompiled."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tutelage.kernels import linear_cross_entropy, linear_distillation

generator = torch.Generator().manual_seed(0)
hidden, weight = (
    torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (9, 4))
)
target = torch.randint(9, (6,), generator=generator)


def fused(states: Tensor, weight: Tensor) -> Tensor:
    return linear_cross_entropy(states, weight, target)  # type: ignore[return-value]


def recompute(states: Tensor, weight: Tensor) -> Tensor:
    return linear_cross_entropy(states, weight, target, mode="recompute", reduction="none").square().sum()  # type: ignore[union-attr]


def distillation(states: Tensor, weight: Tensor) -> Tensor:
    return linear_distillation(states, weight, states.detach() + 1, weight.detach(), divergence="jsd")  # type: ignore[return-value]


def check(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    def function(hidden: Tensor, weight: Tensor) -> Tensor:
        return 2 * loss(hidden.tanh(), weight)

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    found, expected = compiled(hidden, weight), function(hidden, weight)
    torch.testing.assert_close(found, expected)
    mine, theirs = (torch.autograd.grad(value, (hidden, weight)) for value in (found, expected))
    torch.testing.assert_close(mine, theirs)


if __name__ == "__main__":
    for loss in (fused, recompute, distillation):
        check(loss)
