from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from tutelage.kernels import linear_log_sum_exp, linear_target_logit, z_loss

BACKENDS = ["dense", "torch"] + (["triton"] if importlib.util.find_spec("triton") else [])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_agrees_with_logits(backend: str, softcap: float | None) -> None:
    hidden, weight, bias = (
        torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 5), (70, 5), (70,))
    )
    leaves = (hidden, weight, bias)
    logits = hidden @ weight.t() + bias
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    expected = logits.logsumexp(-1)
    found = linear_log_sum_exp(hidden, weight, bias, softcap, backend=backend, block_size=(2, 16))
    torch.testing.assert_close(found, expected)
    upstream = torch.randn(2, 3).double()
    mine, theirs = (torch.autograd.grad(value, leaves, upstream) for value in (found, expected))
    torch.testing.assert_close(mine, theirs)


def test_gradcheck() -> None:
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2), (5, 2), (5,))]
    assert torch.autograd.gradcheck(lambda *tensors: linear_log_sum_exp(*tensors, 2.0, block_size=(2, 2)), leaves)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_target_logit_is_one_of_the_logits(softcap: float | None) -> None:
    hidden, weight, bias = torch.randn(2, 3, 5).double(), torch.randn(7, 5).double(), torch.randn(7).double()
    target = torch.randint(7, (2, 3))
    logits = hidden @ weight.t() + bias
    if softcap:
        logits = softcap * (logits / softcap).tanh()
    found = linear_target_logit(hidden, weight, target, bias, softcap)
    torch.testing.assert_close(found, logits.gather(-1, target[..., None]).squeeze(-1))


def test_z_loss_by_hand() -> None:
    lse = torch.tensor([1.0, 3.0, 7.0])
    assert z_loss(lse) == pytest.approx(59 / 3)
    assert z_loss(lse, torch.tensor([0, 1, -100])) == 5
    assert z_loss(lse, torch.tensor([-100] * 3)) == 0
    assert z_loss(lse[:0]) == 0
    with pytest.raises(ValueError, match="the same shape"):
        z_loss(lse, torch.tensor([0]))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_log_sum_exp(torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(5)), "`bias` to have shape"),
        (lambda: linear_log_sum_exp(torch.zeros(2, 3), torch.zeros(4, 3), softcap=-1.0), "`softcap` to be positive"),
        (lambda: linear_log_sum_exp(torch.zeros(2, 3), torch.zeros(4, 3), backend="gpu"), "`backend` to be one of"),
        (
            lambda: linear_target_logit(torch.zeros(2, 3), torch.zeros(4, 3), torch.tensor([0, 4])),
            "`target` to hold classes",
        ),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
