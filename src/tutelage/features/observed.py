"""A model whose outputs come with what objectives ask for: the embedding that the head reads, and tapped features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from tutelage.batch import Inputs
from tutelage.features.taps import FeatureTaps
from tutelage.models.body import call_body, logits_of
from tutelage.models.call import call_model, head_path
from tutelage.outputs import Outputs

_EMBEDDING = "<embedding>"  # no module path or user's name holds angle brackets


class ObservedModel:
    """Calls a model and gives its `Outputs`, with the embedding and features that were asked for.

    Not a module: it holds no parameters and wraps nothing, so the model trains, saves and exports as it is.

    Args:
        model: The model to call.
        embedding: Give `Outputs.embedding`: what the head reads (see `tutelage.models.head_path`).
        taps: Give `Outputs.features`: places by feature name (see `FeatureTaps`).
        hidden: Give `Outputs.hidden` and `Outputs.head` of a causal language model (see `call_body`) and, unless
            `logits` are wanted too, never build its logits.
        logits: With `hidden`, compute the logits as well.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    >>> outputs = ObservedModel(model, embedding=True, taps={"first": "0"})(torch.zeros(5, 2))
    >>> tuple(outputs.logits.shape), tuple(outputs.embedding.shape), tuple(outputs.features["first"].shape)
    ((5, 4), (5, 3), (5, 3))
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        embedding: bool = False,
        taps: Mapping[str, str] | None = None,
        hidden: bool = False,
        logits: bool = True,
    ) -> None:
        self.model = model
        self._hidden, self._logits = hidden, logits
        places = dict(taps or {})
        if embedding:
            places[_EMBEDDING] = f"{head_path(model)}:input"
        self._places = places
        self._taps = FeatureTaps(model, places) if places else None

    def __call__(self, inputs: Inputs) -> Outputs:
        """The model's outputs for one batch of inputs, with the graph that made them."""
        if self._taps is None:
            return self._call(inputs)
        with self._taps:
            outputs = self._call(inputs)
        features = self._taps.features
        self._taps.features = {}  # the graph of this batch is the caller's now
        if len(features) < len(self._places):
            raise ValueError(self._silent(features))
        embedding = features.pop(_EMBEDDING, None)
        if outputs.embedding is None:
            outputs.embedding = embedding
        outputs.features = {**outputs.features, **features}
        return outputs

    def _call(self, inputs: Inputs) -> Outputs:
        if not self._hidden:
            return call_model(self.model, inputs)
        outputs = call_body(self.model, inputs)
        if self._logits and outputs.logits is None:
            outputs.logits = logits_of(outputs)
        return outputs

    def _silent(self, features: Mapping[str, Tensor]) -> str:
        missing = next(place for name, place in self._places.items() if name not in features)
        return (
            f"Expected {type(self.model).__name__} to call {missing!r}, where a tap reads, but it did not. (A model of "
            "`torch.compile` that was called before it was tapped does not see taps: call `torch.compiler.reset()`.)"
        )
