"""The linear losses inside what else PyTorch does: compilers, checkpointing, operator checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tutelage.kernels import linear_cross_entropy
from tutelage.kernels.fused_distillation import fused_distillation_operator
from tutelage.kernels.operators import fused_operator, row_gradients_operator, row_values_operator


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in ((6, 4), (9, 4))
    )
    return hidden, weight, torch.randint(9, (6,), generator=generator)


def test_operators_keep_their_contracts() -> None:
    """PyTorch's own test: schema, fake implementation, autograd registration, and a trace with symbolic shapes."""
    hidden, weight, target = leaves()
    bias = torch.zeros(9, dtype=torch.float64, requires_grad=True)
    all_three, both, checks = [True] * 3, [True, True], ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(
        fused_operator,
        (hidden, weight, bias, target, 3.0, 0.1, True, 0.0, all_three, None, both, [2, 4], "input"),
        test_utils=checks,
    )
    torch.library.opcheck(
        row_values_operator,
        (hidden, weight, bias, target, None, True, False, None, both, None, "torch"),
        test_utils=checks,
    )
    numbers = [0.5, 2.0, 1.0, 0.5]
    rows = torch.ones(6, dtype=torch.float64)
    plain = [value.detach() for value in (hidden, weight, bias)]
    torch.library.opcheck(
        row_gradients_operator,
        (*plain, target, rows, rows, rows, None, None, all_three, True, 1e-3, both, None, "torch"),
        test_utils=checks,
    )
    torch.library.opcheck(
        fused_distillation_operator,
        (
            hidden,
            weight,
            bias,
            *plain,
            target,
            rows,
            None,
            None,
            "jsd",
            numbers,
            True,
            all_three,
            None,
            "input",
        ),
        test_utils=checks,
    )


def test_a_compiler_sees_one_opaque_call() -> None:
    """In a process of its own: a compiler does not follow the checks of annotations that tests switch on."""
    command = [sys.executable, str(Path(__file__).parent / "compiled.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("mode", ["fused", "recompute"])
def test_gradient_checkpointing(mode: Any, reentrant: bool) -> None:
    hidden, weight, target = leaves()

    def function(hidden: Tensor) -> Any:
        return linear_cross_entropy(hidden.tanh(), weight, target, mode=mode)

    found = torch.autograd.grad(function(hidden), (hidden, weight))
    checkpoint(function, hidden, use_reentrant=reentrant).backward()
    torch.testing.assert_close((hidden.grad, weight.grad), found)
