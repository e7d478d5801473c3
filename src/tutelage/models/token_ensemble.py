"""Several language models of one vocabulary that speak with one voice, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_option
from tutelage.models.call import call_model
from tutelage.outputs import Outputs

Mode = Literal["probabilities", "log_probabilities"]


class TokenLevelEnsemble(nn.Module):
    """Models whose next-token distributions are averaged; called like any of them, it gives log-probabilities.

    Models of different tokenizers join once each has been transferred to a common one (`fast_vocabulary_transfer`, and
    distillation with `ApproximateLikelihoodMatching`). A larger vocabulary is cut to the smallest.

    Args:
        models: The members.
        mode: `"probabilities"`: the mean of what they say; `"log_probabilities"`: their geometric mean, normalised.
    """

    main_input_name = "input_ids"

    def __init__(self, models: Sequence[nn.Module], mode: Mode = "probabilities") -> None:
        super().__init__()
        check_option(mode, "mode", ("probabilities", "log_probabilities"))
        if not models:
            raise ValueError("Expected argument `models` to hold at least one model, but it is empty.")
        self.members = nn.ModuleList(models)
        self.mode = mode

    def forward(self, **inputs: Any) -> Outputs:
        """Log-probabilities `[batch, time, vocabulary]` of the next token at every position."""
        told: list[Tensor] = []
        for member in self.members:
            logits = call_model(member, dict(inputs)).logits
            assert logits is not None
            told.append(logits.float())
        vocabulary = min(logits.shape[-1] for logits in told)
        log_probs = torch.stack([logits[..., :vocabulary].log_softmax(dim=-1) for logits in told])
        if self.mode == "probabilities":
            return Outputs(logits=log_probs.logsumexp(dim=0) - math.log(len(told)))
        return Outputs(logits=log_probs.mean(dim=0).log_softmax(dim=-1))


def token_level_ensemble(models: Sequence[nn.Module], mode: Mode = "probabilities") -> TokenLevelEnsemble:
    """A `TokenLevelEnsemble` of some models.

    >>> from tutelage.models import causal_lm
    >>> ensemble = token_level_ensemble([causal_lm(9, hidden_size=8), causal_lm(9, hidden_size=16)])
    >>> ensemble(input_ids=torch.zeros(1, 3, dtype=torch.int64)).logits.exp().sum(dim=-1).round(decimals=4).tolist()
    [[1.0, 1.0, 1.0]]
    """
    return TokenLevelEnsemble(models, mode)
