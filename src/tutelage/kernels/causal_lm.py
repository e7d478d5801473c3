"""Causal language models of `transformers` that compute their loss without logits."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.kernels.cross_entropy import linear_cross_entropy

_MARK = "_tutelage_original_forward"


@dataclass(frozen=True)
class CausalHead:
    """The output layer of a causal language model, and what it does to its logits.

    Attributes:
        layer: The linear layer.
        softcap: κ of κ·tanh(logit / κ), or None (Gemma 2).
        scale: What logits are multiplied by (Cohere; Granite divides).
    """

    layer: nn.Linear
    softcap: float | None
    scale: float

    @classmethod
    def of(cls, model: Any) -> CausalHead:
        """The head of a `transformers` model.

        Raises:
            ValueError: Its output layer is not linear.
        """
        layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"Expected argument `model` to have a linear output layer, but got {type(layer).__name__} of "
                f"{type(model).__name__}."
            )
        config = model.config
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        return cls(layer, getattr(config, "final_logit_softcapping", None), float(scale))

    def cross_entropy(self, hidden: Tensor, target: Tensor, **settings: Any) -> Any:
        """`linear_cross_entropy` under this head."""
        bias: Tensor | None = self.layer.bias
        if self.scale != 1:
            hidden = hidden * self.scale
            bias = None if bias is None else bias * self.scale
        return linear_cross_entropy(hidden, self.layer.weight, target, bias=bias, softcap=self.softcap, **settings)


def patch_causal_lm(model: nn.Module, *, check: bool = True, **settings: Any) -> nn.Module:
    """Let a causal language model of `transformers` compute its loss with `linear_cross_entropy`, in place.

    With `labels` the model's body is run and its output has a loss and no logits; without them nothing changes, so
    `generate` works as before. The loss is that of `transformers`: labels are shifted by one (or come as
    `shift_labels`), -100 is left out, and with `num_items_in_batch` the sum is divided by that number.

    Args:
        model: A model with a linear output layer: `GPT2LMHeadModel`, `LlamaForCausalLM`, `Gemma2ForCausalLM`, ….
        check: Compare once, on a few tokens, with what the model itself does, so that an output layer that does more
            than is known of here (soft-cap, scale, bias) is refused. One small forward pass.
        settings: Keyword arguments of `linear_cross_entropy` (`filter_eps`, `mode`, `block_size` …).

    Returns:
        The same model. Patching it again changes the settings; `unpatch_causal_lm` undoes it.

    Raises:
        ValueError: The output layer is not linear, or does more than is known of here.

    >>> from tutelage.models import causal_lm
    >>> model = patch_causal_lm(causal_lm(11))
    >>> tokens = torch.zeros(2, 5, dtype=torch.int64)
    >>> output = model(input_ids=tokens, labels=tokens)
    >>> output.loss.shape, output.logits
    (torch.Size([]), None)
    """
    head = CausalHead.of(model)
    unpatch_causal_lm(model)
    if check:
        _check(model, head)
    original = model.forward

    def forward(self: Any, *arguments: Any, labels: Tensor | None = None, **options: Any) -> Any:
        if labels is None:
            return original(*arguments, **options)
        shifted, count = options.pop("shift_labels", None), options.pop("num_items_in_batch", None)
        tuples = options.pop("return_dict", None) is False
        options.pop("logits_to_keep", None)
        body = self.base_model(*arguments, **options)
        target = labels if shifted is None else shifted
        loss = CausalHead.of(self).cross_entropy(
            body.last_hidden_state,
            target.to(body.last_hidden_state.device),
            shift=shifted is None,
            reduction="mean" if count is None else "sum",
            **settings,
        )
        if count is not None:
            loss = loss / (count.to(loss.device) if isinstance(count, Tensor) else count)
        if tuples:
            return (loss,)
        from transformers.modeling_outputs import CausalLMOutputWithPast

        return CausalLMOutputWithPast(
            loss=loss,
            past_key_values=getattr(body, "past_key_values", None),
            hidden_states=getattr(body, "hidden_states", None),
            attentions=getattr(body, "attentions", None),
        )

    setattr(model, _MARK, True)
    model.forward = types.MethodType(forward, model)
    return model


def unpatch_causal_lm(model: nn.Module) -> nn.Module:
    """Give a model its own forward pass back; one that was not patched stays as it is."""
    if _MARK in vars(model):
        delattr(model, _MARK)
        del model.forward
    return model


def _check(model: Any, head: CausalHead) -> None:
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            tokens = torch.arange(4, device=head.layer.weight.device)[None] % head.layer.weight.shape[0]
            logits = model(input_ids=tokens).logits[0].float()
            hidden = model.base_model(input_ids=tokens).last_hidden_state[0]
            expected = torch.nn.functional.cross_entropy(logits, tokens[0], reduction="none")
            found = head.cross_entropy(hidden, tokens[0], reduction="none", filter_eps=None)
    finally:
        model.train(training)
    tolerance = 1e-3 if logits.dtype == hidden.dtype else 0.1
    if not torch.allclose(found, expected.to(found.dtype), rtol=tolerance, atol=tolerance):
        raise ValueError(
            f"Expected the logits of {type(model).__name__} to be those of its output layer with soft-cap "
            f"{head.softcap} and scale {head.scale}, but they differ: its head does more than is known of here."
        )
