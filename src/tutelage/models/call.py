"""Calling any model the same way, and finding the layer that makes its logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tutelage.batch import Inputs
from tutelage.outputs import Outputs


def call_model(model: nn.Module | Callable[..., Any], inputs: Inputs) -> Outputs:
    """What a model says about a batch, whatever the model's own form of call and result.

    A dict of tensors is passed by name. A tensor is passed as the model's first argument, or, for a `transformers`
    model, as the argument that the model itself calls its main input (`pixel_values`, `input_ids` …). Gradients,
    training mode and devices are the caller's: nothing is detached, switched or moved.

    Args:
        model: A module or a function; returns logits as a tensor, `Outputs`, or an object or dict with `logits` (every
            `transformers` output).
        inputs: One tensor, or tensors by name; both `[batch, …]`.

    Returns:
        The model's own `Outputs`, or new ones that hold `logits`.

    Raises:
        ValueError: The model returned something else.

    >>> import torch
    >>> call_model(nn.Linear(3, 2), torch.zeros(4, 3)).logits.shape
    torch.Size([4, 2])
    """
    if isinstance(inputs, dict):
        result = model(**inputs)
    else:
        name = getattr(model, "main_input_name", None)
        result = model(inputs) if name is None else model(**{name: inputs})
    if isinstance(result, Tensor):
        return Outputs(logits=result)
    if isinstance(result, Outputs):
        return result
    logits = getattr(result, "logits", None)
    if logits is None and isinstance(result, dict):
        logits = result.get("logits")
    if isinstance(logits, Tensor):
        return Outputs(logits=logits)
    raise ValueError(
        f"Expected {type(model).__name__} to return a tensor, `Outputs`, or an object or dict with `logits`, "
        f"but got {type(result).__name__}."
    )


def head_path(model: nn.Module) -> str:
    """The dotted path of a model's output layer, whose input is the embedding.

    The rule: the layer that `get_output_embeddings()` gives, where the model has one (`transformers` language models);
    else the last `nn.Linear` in the order in which modules were registered, which in a classifier is the classifier.

    Args:
        model: Any module; it is not called.

    Returns:
        A path for `model.get_submodule`; `""` when the model itself is the output layer.

    Raises:
        ValueError: There is no such layer; name its path yourself.

    >>> head_path(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))
    '2'
    """
    output_embeddings = getattr(model, "get_output_embeddings", None)
    head = output_embeddings() if callable(output_embeddings) else None
    last: str | None = None
    path: str
    for path, module in model.named_modules():
        if head is not None and module is head:
            return path
        if isinstance(module, nn.Linear):
            last = path
    if last is None:
        raise ValueError(f"Expected {type(model).__name__} to have an output layer (an `nn.Linear`), but it has none.")
    return last
