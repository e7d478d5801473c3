"""The only place that validates arguments: one clear line that names the argument, the value and what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sized
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]
"""How per-sample values become a result: their mean, their sum, or as they are."""


def check_positive(value: float, name: str) -> None:
    """Raise `ValueError` unless `value` is a finite number above zero.

    >>> check_positive(-1.0, "temperature")
    Traceback (most recent call last):
    ValueError: Expected argument `temperature` to be positive, but got -1.0.
    """
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"Expected argument `{name}` to be positive, but got {value}.")


def check_non_negative(value: float, name: str) -> None:
    """Raise `ValueError` unless `value` is a finite number of at least zero."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"Expected argument `{name}` to be at least 0, but got {value}.")


def check_in_range(value: float, name: str, low: float, high: float) -> None:
    """Raise `ValueError` unless low ≤ `value` ≤ high."""
    if not low <= value <= high:
        raise ValueError(f"Expected argument `{name}` to be in [{low}, {high}], but got {value}.")


def check_at_least(value: int, name: str, low: int) -> None:
    """Raise `ValueError` unless `value` ≥ `low`."""
    if value < low:
        raise ValueError(f"Expected argument `{name}` to be at least {low}, but got {value}.")


def check_option(value: object, name: str, allowed: Iterable[object]) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`; the nearest spelling is suggested.

    >>> check_option("meen", "reduction", ("mean", "sum", "none"))
    Traceback (most recent call last):
    ValueError: Expected argument `reduction` to be one of 'mean', 'sum', 'none', but got 'meen' (did you mean 'mean'?).
    """
    options = tuple(allowed)
    if value in options:
        return
    listed = ", ".join(repr(option) for option in options)
    raise ValueError(f"Expected argument `{name}` to be one of {listed}, but got {value!r}{nearest(value, options)}.")


def nearest(value: object, options: Iterable[object], *, most: int = 1) -> str:
    """' (did you mean …?)' for the option nearest to a misspelt one, or for a few of them; or nothing."""
    matches = difflib.get_close_matches(str(value), [str(option) for option in options], n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, matches))}?)" if matches else ""


def check_same_shape(first: Tensor, second: Tensor, first_name: str, second_name: str) -> None:
    """Raise `ValueError` unless two tensors have the same shape."""
    if first.shape != second.shape:
        raise ValueError(
            f"Expected arguments `{first_name}` and `{second_name}` to have the same shape, "
            f"but got {tuple(first.shape)} and {tuple(second.shape)}."
        )


def check_same_logits(student_logits: Tensor, teacher_logits: Tensor) -> None:
    """Raise `ValueError` unless student and teacher logits have the same shape; says so when the class counts part."""
    if student_logits.ndim and teacher_logits.ndim and student_logits.shape[-1] != teacher_logits.shape[-1]:
        raise ValueError(
            "Expected arguments `student_logits` and `teacher_logits` to have the same number of classes, "
            f"but got {student_logits.shape[-1]} and {teacher_logits.shape[-1]}."
        )
    check_same_shape(student_logits, teacher_logits, "student_logits", "teacher_logits")


def check_same_length(first: Sized, second: Sized, first_name: str, second_name: str) -> None:
    """Raise `ValueError` unless two collections have the same length, and it is not zero."""
    if len(first) != len(second):
        raise ValueError(
            f"Expected arguments `{first_name}` and `{second_name}` to have the same length, "
            f"but got {len(first)} and {len(second)}."
        )
    if not len(first):
        raise ValueError(f"Expected argument `{first_name}` to hold at least one value, but it is empty.")


def check_unit_interval(value: Tensor, name: str, *, tolerance: float = 1e-5) -> None:
    """Raise `ValueError` unless a tensor's values lie in [0, 1], within `tolerance` for rounding."""
    inside = (value >= -tolerance) & (value <= 1 + tolerance)  # false for NaN
    if not inside.all():
        found = float(value[~inside].flatten()[0])
        raise ValueError(f"Expected argument `{name}` to hold values in [0, 1], but got {found:.6g}.")


def check_floating(value: Tensor, name: str) -> None:
    """Raise `ValueError` unless a tensor holds floating-point numbers."""
    if not value.is_floating_point():
        raise ValueError(f"Expected argument `{name}` to be a floating-point tensor, but got {value.dtype}.")


def check_finite(value: Tensor, name: str) -> None:
    """Raise `ValueError` when a tensor holds NaN or infinity."""
    # 25 times as fast as `isfinite().all()`; as Python numbers, since `torch.isfinite` of a scalar is four operations.
    if value.numel() and not all(math.isfinite(extreme) for extreme in value.detach().aminmax()):
        raise ValueError(f"Expected argument `{name}` to be finite, but it holds NaN or infinity.")


def check_target(
    target: Tensor, num_classes: int, *, shape: Iterable[int], ignore_index: int | None = None, name: str = "target"
) -> None:
    """Raise `ValueError` unless `target` has that shape and holds classes in [0, num_classes) or `ignore_index`."""
    if target.dtype not in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8):
        raise ValueError(f"Expected argument `{name}` to hold integer classes, but got {target.dtype}.")
    expected = tuple(shape)
    if tuple(target.shape) != expected:
        raise ValueError(f"Expected argument `{name}` to have shape {expected}, but got {tuple(target.shape)}.")
    outside = (target < 0) | (target >= num_classes)
    if ignore_index is not None:
        outside &= target != ignore_index
    if outside.any():
        value = int(target[outside].flatten()[0])
        also = "" if ignore_index is None else f" or be {ignore_index}"
        raise ValueError(f"Expected argument `{name}` to hold classes in [0, {num_classes}){also}, but got {value}.")


def check_probabilities(value: Tensor, name: str, *, tolerance: float = 1e-4) -> None:
    """Raise `ValueError` unless the last dimension holds probabilities that sum to 1 within `tolerance`."""
    check_floating(value, name)
    if (value < -tolerance).any() or not torch.isfinite(value).all():
        raise ValueError(
            f"Expected argument `{name}` to hold probabilities, but it holds negative or non-finite values."
        )
    total = value.sum(dim=-1)
    error = (total - 1).abs()
    if (error > tolerance).any():
        raise ValueError(
            f"Expected argument `{name}` to hold probabilities that sum to 1, "
            f"but got a sum of {float(total.flatten()[error.flatten().argmax()]):.6g}."
        )


def reduce(values: Tensor, reduction: str) -> Tensor:
    """Apply a `Reduction` to per-sample values.

    >>> reduce(torch.tensor([1.0, 3.0]), "mean")
    tensor(2.)
    """
    check_option(reduction, "reduction", ("mean", "sum", "none"))
    if reduction == "mean":
        return values.mean()
    return values.sum() if reduction == "sum" else values
