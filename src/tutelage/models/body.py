"""A causal language model without its last product: hidden states and the output layer that would make logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tutelage.batch import Inputs
from tutelage.kernels.causal_lm import CausalHead
from tutelage.models.call import call_model
from tutelage.outputs import Outputs


def call_body(model: nn.Module, inputs: Inputs) -> Outputs:
    """What a causal language model knows before it makes logits.

    Args:
        model: One of `transformers` (with or without PEFT's adapters) whose output layer is linear, or a module that
            returns `Outputs` with `hidden` and `head` itself.
        inputs: Tokens, or tensors by name.

    Returns:
        `hidden` `[batch, time, width]`, `head` and, where the model has them, `head_bias` and `head_softcap`; a scale
        of the logits is in `hidden` and `head_bias` already. No `logits`.

    Raises:
        ValueError: The model has no linear output layer.

    >>> from tutelage.models import causal_lm
    >>> outputs = call_body(causal_lm(11, hidden_size=8), torch.zeros(2, 5, dtype=torch.int64))
    >>> tuple(outputs.hidden.shape), tuple(outputs.head.shape), outputs.logits
    ((2, 5, 8), (11, 8), None)
    """
    plain: Any = model.get_base_model() if hasattr(model, "peft_config") else model  # type: ignore[operator]
    if not hasattr(plain, "get_output_embeddings"):
        outputs = call_model(model, inputs)
        if outputs.hidden is None or outputs.head is None:
            raise ValueError(
                f"Expected {type(model).__name__} to be a causal language model of `transformers`, or to return "
                "`Outputs` with `hidden` and `head`, but it does neither."
            )
        return outputs
    head = CausalHead.of(plain)
    named = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
    hidden: Tensor = plain.base_model(**named).last_hidden_state
    bias: Tensor | None = head.layer.bias
    if head.scale != 1:
        hidden = hidden * head.scale
        bias = None if bias is None else bias * head.scale
    return Outputs(hidden=hidden, head=head.layer.weight, head_bias=bias, head_softcap=head.softcap)


def logits_of(outputs: Outputs) -> Tensor:
    """The logits `[batch, time, vocabulary]` that hidden states and output layer stand for.

    >>> logits_of(Outputs(hidden=torch.ones(1, 1, 2), head=torch.ones(3, 2)))
    tensor([[[2., 2., 2.]]])
    """
    assert outputs.hidden is not None
    assert outputs.head is not None
    logits = nn.functional.linear(outputs.hidden, outputs.head, outputs.head_bias)
    if outputs.head_softcap is None:
        return logits
    return outputs.head_softcap * torch.tanh(logits / outputs.head_softcap)
