"""What the linear losses are given: checked, cast as autocast wants it, and laid out as rows of tokens."""

from __future__ import annotations

import importlib.util
import os
import sys

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_floating, check_positive, check_target

BACKENDS = ("auto", "torch", "triton", "dense")


def check_head(hidden: Tensor, weight: Tensor, bias: Tensor | None, softcap: float | None, prefix: str = "") -> None:
    """Raise `ValueError` unless hidden states, weight and bias belong to one output layer.

    Args:
        hidden: `[..., width]`.
        weight: `[vocabulary, width]`.
        bias: `[vocabulary]` or None.
        softcap: Positive, or None.
        prefix: What the names of the arguments begin with in error texts (`"student_"`).
    """
    distributed = sys.modules.get("torch.distributed.tensor")
    for value, name in ((hidden, "hidden"), (weight, "weight"), (bias, "bias")):
        if value is None:
            continue
        if distributed is not None and isinstance(value, distributed.DTensor):
            raise ValueError(
                f"Expected argument `{prefix}{name}` to be a plain tensor, but got a DTensor (for a head whose "
                "vocabulary is spread over ranks use `vocab_parallel` and the local tensors)."
            )
        check_floating(value, f"{prefix}{name}")
    if weight.ndim != 2 or not weight.shape[0]:
        raise ValueError(
            f"Expected argument `{prefix}weight` to have shape (vocabulary, width), but got {tuple(weight.shape)}."
        )
    if not hidden.ndim or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"Expected arguments `{prefix}hidden` and `{prefix}weight` to have the same width, "
            f"but got {tuple(hidden.shape)} and {tuple(weight.shape)}."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(
            f"Expected argument `{prefix}bias` to have shape {tuple(weight.shape[:1])}, but got {tuple(bias.shape)}."
        )
    if softcap is not None:
        check_positive(softcap, f"{prefix}softcap")


def check_labels(
    target: Tensor, shape: torch.Size, vocabulary: int, ignore_index: int | None, validate: bool | None
) -> None:
    """Raise `ValueError` unless targets have that shape and are tokens or `ignore_index`.

    Args:
        target: The targets.
        shape: Their shape.
        vocabulary: Number of tokens.
        ignore_index: The target of tokens that are left out.
        validate: Whether to read the values. None: on a CPU, where it costs little; not while compiling.
    """
    if tuple(target.shape) != tuple(shape):
        raise ValueError(f"Expected argument `target` to have shape {tuple(shape)}, but got {tuple(target.shape)}.")
    if validate is None:
        validate = target.device.type == "cpu"
    if validate and not torch.compiler.is_compiling():
        check_target(target, vocabulary, shape=shape, ignore_index=ignore_index)
    elif target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise ValueError(f"Expected argument `target` to hold integer classes, but got {target.dtype}.")


def check_block_size(block_size: tuple[int, int] | None) -> list[int] | None:
    """A block size as operators take it.

    Raises:
        ValueError: It is not two positive numbers.
    """
    if block_size is None:
        return None
    if len(block_size) != 2:
        raise ValueError(f"Expected argument `block_size` to be (rows, columns), but got {block_size}.")
    for size in block_size:
        check_at_least(size, "block_size", 1)
    return list(block_size)


def as_autocast(*values: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors in the dtype of autocast, where it is on; float64 stays, as it does in PyTorch's own layers."""
    first = values[0]
    assert first is not None
    kind = first.device.type
    if not torch.is_autocast_enabled(kind):
        return values
    dtype = torch.get_autocast_dtype(kind)
    return tuple(value if value is None or value.dtype == torch.float64 else value.to(dtype) for value in values)


def wanted_gradients(*values: Tensor | None) -> list[bool]:
    """Which tensors want a gradient, here and now."""
    return [torch.is_grad_enabled() and value is not None and value.requires_grad for value in values]


def check_triton(hidden: Tensor) -> None:
    """Raise unless Triton kernels can run on these hidden states.

    Raises:
        ImportError: Triton is not installed.
        ValueError: They are on a CPU and Triton's interpreter is not switched on, or it is and they are bfloat16, whose
            products it gets wrong.
    """
    if importlib.util.find_spec("triton") is None:
        raise ImportError("Expected the package `triton` to be installed for `backend='triton'`.")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if hidden.device.type == "cpu" and not interpreted:
        raise ValueError(
            "Expected tensors on a GPU with `backend='triton'`, but got a CPU (TRITON_INTERPRET=1 runs kernels there)."
        )
    if interpreted and hidden.dtype == torch.bfloat16:
        raise ValueError("Expected another dtype than bfloat16 in Triton's interpreter, which gets its products wrong.")
