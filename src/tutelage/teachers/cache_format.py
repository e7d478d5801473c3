"""How a teacher's signals are packed into records of fixed size, and unpacked again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage._checks import check_at_least, check_option
from tutelage.outputs import Outputs, TopClasses

StoredDtype = Literal["float16", "float32"]
"""The precision of stored signals."""

LOWEST = -65504.0
"""The lowest float16 number; stands for a logit of -inf."""

_TORCH_TYPES = {
    "<i8": torch.int64,
    "<i4": torch.int32,
    "<u2": torch.uint16,
    "<f4": torch.float32,
    "<f2": torch.float16,
}


def check_signals(signals: Sequence[str], top_k: int | None, dtype: str) -> None:
    """Raise `ValueError` unless the signals, `top_k` and the stored precision can be written.

    >>> check_signals(["logit"], None, "float16")
    Traceback (most recent call last):
    ValueError: Expected argument `signals` to be one of 'logits', 'embedding', 'features.NAME', but got 'logit' ...
    """
    check_option(dtype, "dtype", ("float16", "float32"))
    if not signals:
        raise ValueError("Expected argument `signals` to name at least one signal, but got none.")
    for signal in signals:
        if not (signal.startswith("features.") and signal != "features."):
            check_option(signal, "signals", ("logits", "embedding", "features.NAME"))
    if len(set(signals)) < len(signals):
        raise ValueError(f"Expected argument `signals` to name every signal once, but got {tuple(signals)}.")
    if top_k is not None:
        check_at_least(top_k, "top_k", 1)
        if "logits" not in signals:
            raise ValueError(f"Expected argument `top_k` to be None without the signal 'logits', but got {top_k}.")


def pack(
    outputs: Outputs,
    index: Tensor,
    signals: Sequence[str],
    *,
    top_k: int | None,
    dtype: StoredDtype,
    num_classes: int | None = None,
) -> NDArray[Any]:
    """The records of a batch: one for each sample, `index` first.

    Logits in float16 are stored less their row's maximum, which is stored in float32: a logit comes back within
    2⁻¹¹ · (its distance to the maximum) and -inf as the maximum - 65504. With `top_k` the log-probabilities of the k
    likeliest classes are stored in this way, and in float32 the log of what remains for the others, at least -65504.

    Args:
        outputs: What the teacher says. With `top_k`, its `top` stands for logits that it does not give.
        index: `[batch]` int64.
        signals: See `build_cache`.
        top_k: Classes to keep, or None for all of them.
        dtype: Precision of the signals.
        num_classes: Classes in all, where the teacher gives `top` and no logits.

    Returns:
        `[batch]` of a structured type, whose layout `Layout` reads.

    Raises:
        ValueError: A signal is missing, NaN or infinite, or (embedding, features) too large for float16; `top_k` is
            not below the number of classes.
    """
    columns: dict[str, Tensor] = {"index": index.to(torch.int64)}
    for signal in signals:
        if signal == "logits" and outputs.logits is None and outputs.top is not None and top_k is not None:
            columns |= _columns_of_top(outputs.top, top_k, num_classes, dtype)
            continue
        value = _signal(outputs, signal)
        if signal != "logits":
            columns[signal] = _to_stored(value, signal, dtype)
        elif top_k is None:
            columns |= _shifted("logits", value, dtype)
        else:
            columns |= _top_columns(value, top_k, dtype)
    arrays = {name: value.cpu().contiguous().numpy() for name, value in columns.items()}
    kind = np.dtype([(name, array.dtype.newbyteorder("<"), array.shape[1:]) for name, array in arrays.items()])
    records = np.empty(len(index), dtype=kind)
    for name, array in arrays.items():
        records[name] = array
    return records


def _signal(outputs: Outputs, signal: str) -> Tensor:
    part, _, name = signal.partition(".")
    value = outputs.features.get(name) if part == "features" else getattr(outputs, part)
    if value is None:
        raise ValueError(f"Expected the teacher to give the signal {signal!r}, but it gives none.")
    checked: Tensor = value.detach().float()
    rows = checked.amax(dim=-1) if signal == "logits" and checked.ndim > 1 and checked.numel() else checked
    if torch.isnan(checked).any() or not torch.isfinite(rows).all():  # a class may be excluded by -inf, a row may not
        raise ValueError(f"Expected the teacher's {signal} to be finite, but got NaN or infinity.")
    return checked


def _to_stored(value: Tensor, signal: str, dtype: StoredDtype) -> Tensor:
    if dtype == "float16" and value.numel() and (largest := float(value.abs().amax())) > -LOWEST:
        raise ValueError(
            f"Expected the teacher's {signal} to fit float16 (at most {-LOWEST:.0f}), but got {largest:.6g}; "
            "store it with dtype 'float32'."
        )
    return value.to(getattr(torch, dtype))


def _shifted(name: str, value: Tensor, dtype: StoredDtype) -> dict[str, Tensor]:
    if dtype == "float32" or value.ndim < 2:  # one value a sample has no row to shift; four bytes keep it exact
        return {name: value}
    maximum = value.amax(dim=-1)
    return {name: (value - maximum.unsqueeze(-1)).clamp_min(LOWEST).half(), f"{name}_max": maximum}


def _top_columns(logits: Tensor, top_k: int, dtype: StoredDtype) -> dict[str, Tensor]:
    num_classes = logits.shape[-1] if logits.ndim > 1 else 1
    if top_k >= num_classes:
        raise ValueError(
            f"Expected argument `top_k` to be below the number of classes ({num_classes}), but got {top_k}; "
            "leave it out to store all logits."
        )
    log_probs = logits.log_softmax(dim=-1)
    classes = logits.topk(top_k, dim=-1).indices
    log_rest = log_probs.scatter(-1, classes, -torch.inf).logsumexp(dim=-1)
    return _stored_top(TopClasses(log_probs.gather(-1, classes), classes, log_rest), num_classes, dtype)


def _columns_of_top(top: TopClasses, top_k: int, num_classes: int | None, dtype: StoredDtype) -> dict[str, Tensor]:
    """Columns from what a teacher says who tells only its likeliest classes; what is beyond `top_k` joins the rest."""
    if num_classes is None or top.log_probs.shape[-1] < top_k:
        told = top.log_probs.shape[-1]
        raise ValueError(
            f"Expected the teacher to tell at least {top_k} classes and how many there are, but got {told}."
        )
    if torch.isnan(top.log_probs).any() or torch.isnan(top.log_rest).any():
        raise ValueError("Expected the teacher's log-probabilities to be numbers, but got NaN.")
    beyond = torch.cat([top.log_probs[..., top_k:], top.log_rest.unsqueeze(-1)], dim=-1).logsumexp(dim=-1)
    kept = TopClasses(top.log_probs[..., :top_k], top.classes[..., :top_k], beyond)
    return _stored_top(kept, num_classes, dtype)


def _stored_top(top: TopClasses, num_classes: int, dtype: StoredDtype) -> dict[str, Tensor]:
    return {
        **_shifted("top_log_probs", top.log_probs.float().clamp_min(LOWEST), dtype),
        "top_classes": top.classes.to(torch.uint16 if num_classes <= 1 << 16 else torch.int32),
        "log_rest": top.log_rest.float().clamp_min(LOWEST),
    }


@dataclass(frozen=True, slots=True)
class _Column:
    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]


class Layout:
    """Where each column lies in a record, and how columns become signals again.

    Args:
        description: Name, type and shape of every column, in order: `dtype.descr` of the records, or the same from
            JSON.
        num_classes: Classes, where logits are stored.

    Attributes:
        dtype: The records' structured type.

    Raises:
        ValueError: A column's type is none that this format knows.
    """

    def __init__(self, description: Sequence[Sequence[Any]], num_classes: int | None) -> None:
        self.num_classes = num_classes
        self.description = [
            [column[0], column[1], list(column[2]) if len(column) > 2 else []] for column in description
        ]
        for name, kind, _ in self.description:
            check_option(kind, f"type of column {name!r}", _TORCH_TYPES)
        self.dtype = np.dtype([(name, kind, tuple(shape)) for name, kind, shape in self.description])
        self._columns: dict[str, _Column] = {}
        start = 0
        for name, kind, shape in self.description:
            stop = start + np.dtype(kind).itemsize * math.prod(shape)
            self._columns[name] = _Column(start, stop, _TORCH_TYPES[kind], tuple(shape))
            start = stop

    def check_classes(self) -> None:
        """Raise `ValueError` unless there are more classes than a record keeps of them."""
        if "top_log_probs" in self._columns:
            kept = {self._columns[name].shape[-1:] for name in ("top_log_probs", "top_classes")}
            classes = self.num_classes
            if len(kept) != 1 or not isinstance(classes, int) or not (0 < min(kept)[-1] < classes < 1 << 31):
                raise ValueError(f"{sorted(kept)} of {classes} classes cannot be kept")

    def column(self, records: Tensor, name: str) -> Tensor:
        """One column `[batch, …]` of records given as bytes `[batch, record_bytes]` (uint8), in its stored type."""
        place = self._columns[name]
        part = records[:, place.start : place.stop].clone(memory_format=torch.contiguous_format)
        typed = part.view(place.dtype)
        return typed if len(place.shape) == 1 else typed.view(records.shape[0], *place.shape)

    def outputs(self, records: Tensor, *, dense: bool = True) -> Outputs:
        """All signals of records `[batch, record_bytes]` as float32; with `dense`, logits of a stored top-k too."""
        outputs = Outputs()
        for name in self._columns:
            if name == "logits":
                outputs.logits = self._unshifted(records, name)
            elif name == "top_log_probs":
                outputs.top = self.top_classes(records)
                outputs.logits = self._dense(outputs.top) if dense else None
            elif name == "embedding":
                outputs.embedding = self.column(records, name).float()
            elif name.startswith("features."):
                outputs.features[name.removeprefix("features.")] = self.column(records, name).float()
        return outputs

    def top_classes(self, records: Tensor) -> TopClasses:
        """The stored top-k of records `[batch, record_bytes]`."""
        return TopClasses(
            log_probs=self._unshifted(records, "top_log_probs"),
            classes=self.column(records, "top_classes").to(torch.int64),
            log_rest=self.column(records, "log_rest"),
        )

    def full_logits_bytes(self) -> int | None:
        """Bytes that all logits of a sample take in float32; None when no logits are stored."""
        if "logits" in self._columns:
            return 4 * math.prod(self._columns["logits"].shape)
        if "top_log_probs" in self._columns:
            assert self.num_classes is not None
            return 4 * math.prod(self._columns["top_log_probs"].shape[:-1]) * self.num_classes
        return None

    def _unshifted(self, records: Tensor, name: str) -> Tensor:
        value = self.column(records, name).float()
        if f"{name}_max" in self._columns:
            value += self.column(records, f"{name}_max").unsqueeze(-1)
        return value

    def _dense(self, top: TopClasses) -> Tensor:
        assert self.num_classes is not None
        return dense_log_probs(top, self.num_classes)


def dense_log_probs(top: TopClasses, num_classes: int) -> Tensor:
    """Log-probabilities of all classes `[…, classes]`: those that are known, and an equal share of the rest for others.

    >>> dense_log_probs(TopClasses(torch.tensor([0.5]).log(), torch.tensor([2]), torch.tensor(0.5).log()), 3).exp()
    tensor([0.2500, 0.2500, 0.5000])
    """
    others = top.log_rest - math.log(num_classes - top.classes.shape[-1])
    dense = others.unsqueeze(-1).repeat(*[1] * others.ndim, num_classes)
    return dense.scatter_(-1, top.classes, top.log_probs)
