"""Responses of a causal language model to prompts, sampled token by token."""

from __future__ import annotations

import inspect
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative
from tutelage.batch import Batch
from tutelage.models.call import call_model

IGNORE_INDEX = -100


class Responses(NamedTuple):
    """Prompts and what a model wrote after them.

    Attributes:
        prompt_ids: `[batch, prompt]`, as they were given.
        response_ids: `[batch, response]`; the end token is the last one that counts, padding follows it.
        mask: `[batch, response]` bool, True where a token of the response counts.
    """

    prompt_ids: Tensor
    response_ids: Tensor
    mask: Tensor


def generate_responses(
    model: nn.Module,
    prompts: Int[Tensor, "batch prompt"],
    *,
    prompt_mask: Int[Tensor, "batch prompt"] | Bool[Tensor, "batch prompt"] | None = None,
    max_new_tokens: int,
    temperature: float = 1.0,
    end_token: int | None = None,
    padding_token: int = 0,
    generator: torch.Generator | None = None,
) -> Responses:
    """Sample a response to every prompt, from the whole softmax (no truncation).

    The model is in evaluation mode meanwhile and in its own mode afterwards; no gradient is kept. A model of
    `transformers` keeps its keys and values from token to token; any other one that maps `[batch, time]` tokens to
    logits reads the whole text again for every token.

    Args:
        model: A causal language model.
        prompts: `[batch, prompt]` tokens, each prompt with at least one.
        prompt_mask: 1 where a token belongs to the prompt; padding may stand on either side. By default all do.
        max_new_tokens: The most tokens of a response, its end token included.
        temperature: Of the softmax; 0 takes the likeliest token.
        end_token: Ends a response; None never does.
        padding_token: What follows the end.
        generator: Where chance comes from, on the model's device; by default PyTorch's own.

    Returns:
        The prompts as given, the responses (as long as the longest of them), and which of their tokens count.

    Raises:
        ValueError: A prompt without a token, a negative temperature, or no room for a token.

    >>> class Counts(nn.Module):
    ...     def forward(self, ids):
    ...         return nn.functional.one_hot((ids + 1) % 5, 5) * 100.0
    >>> told = generate_responses(Counts(), torch.tensor([[0, 1]]), max_new_tokens=9, temperature=0, end_token=4)
    >>> told.response_ids, told.mask
    (tensor([[2, 3, 4]]), tensor([[True, True, True]]))
    """
    check_at_least(max_new_tokens, "max_new_tokens", 1)
    check_non_negative(temperature, "temperature")
    given = torch.ones_like(prompts, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
    if not bool(given.any(dim=1).all()):
        raise ValueError("Expected every prompt to hold at least one token, but one of them is all padding.")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            ids, mask = _left_padded(prompts, given, padding_token)
            tokens, counted = _sample(
                _NextToken(model), ids, mask, max_new_tokens, temperature, end_token, padding_token, generator
            )
    finally:
        model.train(was_training)
    return Responses(prompts, tokens, counted)


def response_batch(responses: Responses, prompt_mask: Tensor, index: Tensor, *, padding_token: int = 0) -> Batch:
    """A batch that teaches responses: inputs padded on the right, targets −100 on prompts and padding.

    Args:
        responses: Prompts and responses.
        prompt_mask: `[batch, prompt]`, True where a token belongs to the prompt.
        index: `[batch]` stable indices of the prompts.
        padding_token: Fills up.

    Returns:
        Inputs `input_ids` and `attention_mask`; `extras["prompt_length"]` counts the tokens of the prompts.

    >>> responses = Responses(torch.tensor([[5, 6]]), torch.tensor([[7, 2]]), torch.tensor([[True, True]]))
    >>> batch = response_batch(responses, torch.tensor([[True, True]]), torch.tensor([0]))
    >>> batch.inputs["input_ids"].tolist(), batch.target.tolist()
    ([[5, 6, 7]], [[-100, 7, 2]])
    """
    ids = torch.cat([responses.prompt_ids, responses.response_ids], dim=1)
    counted = torch.cat([prompt_mask.bool(), responses.mask], dim=1)
    learned = torch.cat([torch.zeros_like(prompt_mask.bool()), responses.mask], dim=1)
    order = (~counted).long().argsort(dim=1, stable=True)  # what counts comes first, in its order
    longest = int(counted.sum(dim=1).max())
    ids, counted, learned = (value.gather(1, order)[:, :longest] for value in (ids, counted, learned))
    ids = ids.masked_fill(~counted, padding_token)
    target = ids.masked_fill(~learned, IGNORE_INDEX)[:, 1:]
    # The last token of a text predicts nothing: it is an input to nobody.
    has_successor = counted[:, 1:]
    return Batch(
        {"input_ids": ids[:, :-1].masked_fill(~has_successor, padding_token), "attention_mask": has_successor.long()},
        target,
        index,
        extras={"prompt_length": prompt_mask.sum(dim=1)},
    )


class _NextToken:
    """Logits `[batch, vocabulary]` of the next token, with keys and values kept where the model can."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        names = inspect.signature(model.forward).parameters
        self.keeps = "past_key_values" in names and "use_cache" in names
        self.takes_positions = "position_ids" in names
        self.takes_mask = "attention_mask" in names
        self._past: object = None

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        if not self.keeps:
            inputs = {"input_ids": ids, "attention_mask": mask.long()} if self.takes_mask else ids
            logits = call_model(self.model, inputs).logits
            assert logits is not None
            return logits[:, -1]
        fresh = ids if self._past is None else ids[:, -1:]
        extras = {}
        if self.takes_positions:
            positions = (mask.long().cumsum(dim=1) - 1).clamp_min(0)
            extras["position_ids"] = positions if self._past is None else positions[:, -1:]
        told = self.model(
            input_ids=fresh, attention_mask=mask.long(), past_key_values=self._past, use_cache=True, **extras
        )
        self._past = told.past_key_values
        last: Tensor = told.logits[:, -1]
        return last


def _sample(
    following: _NextToken,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    temperature: float,
    end_token: int | None,
    padding_token: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    tokens, counted = [], []
    going = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    for _ in range(max_new_tokens):
        logits = following(ids, mask).float()
        if temperature == 0:
            token = logits.argmax(dim=-1)
        else:
            token = torch.multinomial((logits / temperature).softmax(dim=-1), 1, generator=generator).squeeze(1)
        token = torch.where(going, token, padding_token)
        tokens.append(token)
        counted.append(going)
        ids = torch.cat([ids, token.unsqueeze(1)], dim=1)
        mask = torch.cat([mask, going.unsqueeze(1)], dim=1)
        if end_token is not None:
            going = going & (token != end_token)
            if not bool(going.any()):
                break
    return torch.stack(tokens, dim=1), torch.stack(counted, dim=1)


def _left_padded(ids: Tensor, mask: Tensor, padding_token: int) -> tuple[Tensor, Tensor]:
    """The same prompts with all padding on the left, and no column of padding alone."""
    order = mask.long().argsort(dim=1, stable=True)
    longest = int(mask.sum(dim=1).max())
    moved, kept = ids.gather(1, order)[:, -longest:], mask.gather(1, order)[:, -longest:]
    return moved.masked_fill(~kept, padding_token), kept
