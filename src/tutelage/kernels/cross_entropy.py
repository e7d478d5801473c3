"""Cross-entropy of a linear output layer without its logits (cut cross-entropy)."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import Reduction, check_in_range, check_non_negative, check_option
from tutelage.kernels.arguments import (
    BACKENDS,
    as_autocast,
    check_block_size,
    check_head,
    check_labels,
    check_triton,
    wanted_gradients,
)
from tutelage.kernels.dense import dense_row_values
from tutelage.kernels.operators import NOWHERE, fused_operator, row_values_operator
from tutelage.kernels.vocab_parallel import VocabParallel, parallel_row_values

Backend = Literal["auto", "torch", "triton", "dense"]
Mode = Literal["auto", "fused", "recompute"]


def linear_cross_entropy(
    hidden: Float[Tensor, "*positions width"],
    weight: Float[Tensor, "vocabulary width"],
    target: Int[Tensor, "*positions"],
    *,
    bias: Tensor | None = None,
    ignore_index: int = -100,
    softcap: float | None = None,
    shift: bool | int = 0,
    reduction: Reduction = "mean",
    return_lse: bool = False,
    label_smoothing: float = 0.0,
    filter_eps: float | Literal["auto"] | None = "auto",
    filter_hidden_grad: bool = True,
    filter_classifier_grad: bool = True,
    sort_vocabulary: bool = True,
    block_size: tuple[int, int] | None = None,
    empty: Literal["nan", "zero"] = "nan",
    accumulate: Literal["input", "float32", "compensated"] = "input",
    mode: Mode = "auto",
    backend: Backend = "auto",
    vocab_parallel: VocabParallel | None = None,
    validate: bool | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Cross-entropy of softmax(hidden · weightᵀ + bias), in which the token × vocabulary logits are never stored.

    Source: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, arXiv 2411.09009, sections
    4 and 5; the fused mode for scalar losses is ours. Logits, log-sum-exp and loss are float32 for half-precision
    input; gradients come in the dtypes of their tensors. Under autocast, hidden states, weight and bias are cast first.

    Args:
        hidden: `[..., width]`, what the output layer reads.
        weight: `[vocabulary, width]`, the output layer; with `vocab_parallel` the rows of this rank.
        target: `[...]`, the token that each position predicts, or `ignore_index`.
        bias: `[vocabulary]`.
        ignore_index: The target of positions that are left out: they get loss 0 and exactly no gradient, whatever they
            hold.
        softcap: κ: logits become κ·tanh(logit / κ), after the bias (Gemma 2).
        shift: Position t is to predict the target at t + `shift` (True: 1), so that inputs can be targets. The last
            `shift` positions drop out.
        reduction: `"mean"` over the positions that count, their `"sum"`, or `"none"`: the shape of `target` without the
            last `shift` positions, 0 where it is ignored.
        return_lse: Also return the log-sum-exp of every position, in the layout of `"none"`; it has a gradient.
        label_smoothing: Share of the uniform distribution in the target, as in `torch.nn.functional.cross_entropy`.
        filter_eps: A part of the gradient is skipped when every |softmax − onehot| in it is below this: a column of a
            block of tokens in mode `"fused"`, a tile in mode `"recompute"`. None or 0 skips nothing. `"auto"`: 2⁻¹² in
            half precision; nothing in float32 and float64, with `return_lse`, or with `label_smoothing`. The loss is
            never filtered.
        filter_hidden_grad: Whether the gradient of `hidden` may be filtered.
        filter_classifier_grad: Whether the gradient of `weight` may be. Turn it off for pretraining: rare tokens
            otherwise get no gradient at all (paper, section 5.3). The gradient of `bias` is filtered with both.
        sort_vocabulary: In mode `"recompute"`, group columns by their mean logit (before the soft-cap), so that likely
            tokens share tiles and more tiles can be skipped. A fused filter has columns of its own and nothing to sort.
        block_size: Tokens and vocabulary entries of a tile: the knob between speed and memory. None lets the back-end
            choose: in mode `"fused"`, which holds tokens × vocabulary numbers, at most an eighth of the logits or 32
            MiB, whichever is more, and about 64 MiB at most; in mode `"recompute"` some MiB.
        empty: The `"mean"` over no position: NaN as in PyTorch, or zero. Its gradients are zero.
        accumulate: How mode `"fused"` sums up the gradient of a half-precision `weight`: in its own dtype, in float32,
            or in its own dtype with compensation. Everything else is summed in float32.
        mode: `"fused"`: gradients are computed with the loss, three matrix products in all; for scalar losses without
            `return_lse`. `"recompute"`: the backward pass makes the logits again, tile by tile; the least memory.
            `"auto"`: fused where it can be and a gradient is wanted.
        backend: `"torch"`: blocks of PyTorch operations on any device. `"triton"`: GPU kernels (mode `"recompute"`).
            `"dense"`: the reference that stores the logits and filters nothing. `"auto"`: `"torch"`.
        vocab_parallel: How the vocabulary is spread over ranks; targets are numbers in the whole vocabulary, and the
            loss is the same on all ranks. Always in mode `"recompute"`.
        validate: Whether to look for targets outside the vocabulary; None: on a CPU only, outside a compiler.

    Returns:
        The loss in nats, in float32 or wider; or (loss, lse) with `return_lse`.

    Raises:
        ValueError: Shapes that do not fit, a target outside the vocabulary, a setting out of range, or a combination
            that has no meaning.
        RuntimeError: On a backward pass with `create_graph=True`: only `"dense"` has second derivatives.

    >>> hidden, weight = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> linear_cross_entropy(hidden, weight, torch.tensor([0]))
    tensor(0.4076)
    >>> linear_cross_entropy(hidden, weight, torch.tensor([0]), softcap=2.0)
    tensor(0.4410)
    """
    check_head(hidden, weight, bias, softcap)
    for value, name, allowed in (
        (reduction, "reduction", ("mean", "sum", "none")),
        (empty, "empty", ("nan", "zero")),
        (accumulate, "accumulate", ("input", "float32", "compensated")),
        (mode, "mode", ("auto", "fused", "recompute")),
        (backend, "backend", BACKENDS),
    ):
        check_option(value, name, allowed)
    check_in_range(label_smoothing, "label_smoothing", 0.0, 1.0)
    vocabulary = weight.shape[0]
    if vocab_parallel is not None:
        vocab_parallel.check_shard(vocabulary)
        vocabulary = vocab_parallel.vocabulary(hidden.device)
    check_labels(target, hidden.shape[:-1], vocabulary, ignore_index, validate)
    shift = int(shift)
    _check_shift(shift, target)
    hidden, weight, bias = as_autocast(hidden, weight, bias)  # type: ignore[assignment]
    epsilon = _epsilon(filter_eps, hidden.dtype, return_lse or label_smoothing > 0)
    tile = check_block_size(block_size)
    needs = wanted_gradients(hidden, weight, bias)
    scalar = reduction != "none" and not return_lse and vocab_parallel is None
    if mode == "fused" and not (scalar and backend in ("auto", "torch")):
        raise ValueError(
            "Expected argument `mode` not to be 'fused' with `reduction='none'`, `return_lse`, `vocab_parallel` or "
            f"another back-end than 'torch', but got reduction {reduction!r} and back-end {backend!r}."
        )

    if backend == "triton":
        check_triton(hidden)

    rows = hidden.reshape(-1, hidden.shape[-1])
    labels = _rows_to_predict(target, shift, ignore_index)
    nothing = 0.0 if empty == "zero" else float("nan")
    filtered = [filter_hidden_grad, filter_classifier_grad]
    if scalar and backend in ("auto", "torch") and (mode == "fused" or (mode == "auto" and any(needs))):
        fused = (label_smoothing, reduction == "mean", nothing, needs, epsilon, filtered, tile, accumulate)
        loss: Tensor = fused_operator(rows, weight, bias, labels, softcap, *fused)[0]
        return loss
    sorts = bool(epsilon) and sort_vocabulary and any(filtered) and any(needs)
    if vocab_parallel is not None:
        lse, label, total = parallel_row_values(
            rows, weight, bias, labels, vocab_parallel, softcap, label_smoothing > 0, sorts, epsilon, filtered, tile
        )
    elif backend == "dense":
        lse, label, total = dense_row_values(rows, weight, bias, labels, softcap)
    else:
        kind = "triton" if backend == "triton" else "torch"
        options = (softcap, label_smoothing > 0, sorts, epsilon, filtered, tile, kind)
        lse, label, total = row_values_operator(rows, weight, bias, labels, *options)
    values = lse - (1 - label_smoothing) * label
    if label_smoothing:
        values = values - label_smoothing / vocabulary * total
    loss = _reduced(values, labels, target, shift, reduction, nothing)
    return (loss, _layout(lse, target, shift)) if return_lse else loss


def _check_shift(shift: int, target: Tensor) -> None:
    if shift == 0:
        return
    if not target.ndim or not 0 <= shift < max(target.shape[-1], 1):
        length = target.shape[-1] if target.ndim else "no"
        raise ValueError(
            f"Expected argument `shift` to be at least 0 and below the number of positions, {length}, but got {shift}."
        )


def _epsilon(filter_eps: float | str | None, dtype: torch.dtype, exact: bool) -> float | None:
    if filter_eps == "auto":
        return None if exact or dtype not in (torch.bfloat16, torch.float16) else 2.0**-12
    if isinstance(filter_eps, str):
        check_option(filter_eps, "filter_eps", ("auto",))
    if filter_eps is not None:
        check_non_negative(float(filter_eps), "filter_eps")
    return float(filter_eps) if filter_eps else None


def _rows_to_predict(target: Tensor, shift: int, ignore_index: int) -> Tensor:
    """The target of every row, `NOWHERE` for rows that are left out; the targets move and not the hidden states."""
    target = target.long()
    if shift:
        target = F.pad(target[..., shift:], (0, shift), value=ignore_index)
    return torch.where(target == ignore_index, NOWHERE, target).reshape(-1)


def _layout(values: Tensor, target: Tensor, shift: int) -> Tensor:
    values = values.reshape(target.shape)
    return values[..., : target.shape[-1] - shift] if shift else values


def _reduced(values: Tensor, labels: Tensor, target: Tensor, shift: int, reduction: str, nothing: float) -> Tensor:
    if reduction == "none":
        return _layout(values, target, shift)
    total = values.sum()
    if reduction == "sum":
        return total
    count = (labels != NOWHERE).sum()
    return torch.where(count > 0, total / count.clamp(min=1), nothing)


class LinearCrossEntropyLoss(nn.Module):
    """`linear_cross_entropy` with its settings, for use like `torch.nn.CrossEntropyLoss`.

    Args:
        settings: Keyword arguments of `linear_cross_entropy` other than `bias`.

    >>> loss = LinearCrossEntropyLoss(shift=1, softcap=30.0)
    >>> loss(torch.zeros(2, 5, 3), torch.zeros(11, 3), torch.zeros(2, 5, dtype=torch.int64))
    tensor(2.3979)
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings

    def forward(
        self, hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """The loss of hidden states `[..., width]` under a head `[vocabulary, width]`."""
        return linear_cross_entropy(hidden, weight, target, bias=bias, **self.settings)

    def extra_repr(self) -> str:
        """The settings."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
