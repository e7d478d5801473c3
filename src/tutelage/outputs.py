"""What a model says about a batch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

from torch import Tensor


class TopClasses(NamedTuple):
    """A model's likeliest classes, and how much is left for all others.

    Attributes:
        log_probs: `[…, k]` log-probabilities, float32, in descending order.
        classes: `[…, k]` int64.
        log_rest: `[…]` the log of the probability that all other classes share, float32.
    """

    log_probs: Tensor
    classes: Tensor
    log_rest: Tensor


@dataclass(slots=True)
class Outputs:
    """What a model says about a batch; every part is optional, and an objective names the parts it reads.

    Attributes:
        logits: `[batch, classes]`, or `[batch, time, vocabulary]` for sequences.
        embedding: `[batch, width]`, what the head reads.
        features: Tapped activations by name.
        hidden: `[batch, time, width]`; together with `head` it stands for logits that are never built (fused losses).
        head: `[vocabulary, width]`, the weight of the output layer.
        head_bias: `[vocabulary]`, its bias, where it has one.
        head_softcap: κ of κ·tanh(logit / κ), where logits are capped (Gemma 2).
        top: The likeliest classes `[batch, …, k]`, in place of logits that nobody keeps (a teacher read from disk, or
            one that is served and tells no more).

    >>> import torch
    >>> Outputs(logits=torch.zeros(2, 3)).logits.shape
    torch.Size([2, 3])
    """

    logits: Tensor | None = None
    embedding: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None
    head: Tensor | None = None
    head_bias: Tensor | None = None
    head_softcap: float | None = None
    top: TopClasses | None = None

    def detach(self) -> Outputs:
        """The same outputs, cut off from the graph that made them."""
        return self._map(Tensor.detach)

    def to(self, device: object) -> Outputs:
        """The same outputs on another device."""
        return self._map(lambda value: value.to(device))  # type: ignore[call-overload, no-any-return]

    def _map(self, change: object) -> Outputs:
        assert callable(change)
        changed: dict[str, Tensor] = {
            part.name: change(value)
            for part in fields(self)
            if part.name not in ("features", "top", "head_softcap") and (value := getattr(self, part.name)) is not None
        }
        top = None if self.top is None else TopClasses(*map(change, self.top))
        features = {name: change(value) for name, value in self.features.items()}
        return replace(self, **changed, features=features, top=top)  # type: ignore[arg-type]
