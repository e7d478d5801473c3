"""How far a language model is from another one, in nats a response: by sampled responses, or exactly."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.models.call import call_model

Direction = Literal["forward", "reverse", "jeffreys"]

MOST_SEQUENCES = 2_000_000
"""The most sequences that are enumerated."""


@torch.no_grad()
def response_log_probabilities(
    model: nn.Module,
    prompts: Int[Tensor, "batch prompt"],
    responses: Int[Tensor, "batch response"],
    *,
    batch_size: int = 1024,
) -> Float[Tensor, "batch response vocabulary"]:
    """What a causal language model predicts at every token of its responses: log-probabilities, without a gradient.

    Args:
        model: Maps `[batch, time]` tokens to logits; in evaluation mode meanwhile.
        prompts: `[batch, prompt]` tokens, all of one length.
        responses: `[batch, response]` tokens that follow.
        batch_size: Rows a call.

    Returns:
        `[batch, response, vocabulary]` in float32: row l was predicted before token l was seen.

    >>> bigram = nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [0.0, 100.0]]))
    >>> response_log_probabilities(bigram, torch.tensor([[0]]), torch.tensor([[1, 1]])).exp().round(decimals=2)
    tensor([[[0.5000, 0.5000],
             [0.0000, 1.0000]]])
    """
    told = []
    with evaluation_mode(model):
        for ids in torch.split(torch.cat([prompts, responses], dim=1)[:, :-1], batch_size):
            logits = call_model(model, ids).logits
            assert logits is not None
            told.append(logits[:, prompts.shape[1] - 1 :].float().log_softmax(dim=-1))
    return torch.cat(told)


def sequence_kl(
    reference: nn.Module | Tensor,
    model: nn.Module,
    prompts: Int[Tensor, "batch prompt"],
    responses: Int[Tensor, "batch response"],
    *,
    mask: Tensor | None = None,
    direction: Direction = "forward",
    length_normalized: bool = False,
    batch_size: int = 1024,
) -> Float[Tensor, "batch"]:
    """The divergence between two models over whole responses, estimated from one sampled response a prompt.

    The sum over tokens of the divergence between full next-token distributions, along the given response. Averaged over
    responses that the first argument of the divergence wrote, it is unbiased for the KL of the sequences, with less
    variance than sums of log-ratios: give responses of `reference` for `"forward"`, KL(reference ‖ model), and of
    `model` for `"reverse"`, KL(model ‖ reference). `"jeffreys"` sums both along the same responses (of `reference`);
    its second half is then a divergence along the reference's texts rather than along the model's own.

    Args:
        reference: Who is imitated; or its `response_log_probabilities`, so that it is asked only once.
        model: Who imitates.
        prompts: `[batch, prompt]` tokens, all of one length.
        responses: `[batch, response]` tokens that follow.
        mask: `[batch, response]`, true where a token counts; by default all do.
        direction: Which divergence.
        length_normalized: The mean over a response's tokens instead of their sum; the two can rank models differently.
        batch_size: Rows a call.

    Returns:
        `[batch]` nats a response (or a token), without a gradient; see `mean_and_error` for their mean over prompts.

    Raises:
        ValueError: Vocabularies that differ, an unknown direction, or a response without a token.

    Source: the distance that "On Teacher Hacking in Language Model Distillation", ICML 2025, follows along a run.

    >>> first, second = (nn.Embedding.from_pretrained(torch.tensor([p]).log()) for p in ([.7, .2, .1], [.4, .4, .2]))
    >>> asked, answered = torch.tensor([[0]]), torch.tensor([[0]])
    >>> sequence_kl(first, second, asked, answered), sequence_kl(first, second, asked, answered, direction="reverse")
    (tensor([0.1838]), tensor([0.1920]))
    """
    check_option(direction, "direction", ("forward", "reverse", "jeffreys"))
    counted = torch.ones_like(responses, dtype=torch.bool) if mask is None else mask.bool()
    if not responses.numel() or not bool(counted.any(dim=1).all()):
        raise ValueError("Expected every response to hold at least one token, but one of them is empty.")
    theirs = (
        reference
        if isinstance(reference, Tensor)
        else response_log_probabilities(reference, prompts, responses, batch_size=batch_size)
    )
    ours = response_log_probabilities(model, prompts, responses, batch_size=batch_size)
    check_same_vocabulary(theirs.shape[-1], ours.shape[-1])
    total = torch.zeros(())
    if direction != "reverse":
        total = total + _divergence(theirs, ours)
    if direction != "forward":
        total = total + _divergence(ours, theirs)
    sums = (total * counted).sum(dim=1)
    return sums / counted.sum(dim=1) if length_normalized else sums


def exact_sequence_kl(
    reference: nn.Module, model: nn.Module, prompts: Int[Tensor, "batch prompt"], max_length: int
) -> Float[Tensor, "batch"]:
    """KL(reference ‖ model) over all responses of a length, by enumeration: for tiny vocabularies.

    Args:
        reference: Who is imitated.
        model: Who imitates.
        prompts: `[batch, prompt]` tokens, all of one length.
        max_length: Tokens of a response; no token ends one early.

    Returns:
        `[batch]` nats a prompt, without a gradient.

    Raises:
        ValueError: Vocabularies that differ, or more than 2,000,000 sequences for a prompt.

    >>> first, second = (nn.Embedding.from_pretrained(torch.tensor([p, p]).log()) for p in ([.5, .5], [.9, .1]))
    >>> exact_sequence_kl(first, second, torch.tensor([[0]]), 3)  # three independent tokens
    tensor([1.5325])
    """
    check_at_least(max_length, "max_length", 1)
    sizes = [response_log_probabilities(one, prompts[:1], prompts[:1, :1]).shape[-1] for one in (reference, model)]
    check_same_vocabulary(*sizes)
    vocabulary, device = sizes[0], prompts.device
    if vocabulary**max_length > MOST_SEQUENCES:
        raise ValueError(
            f"Expected at most {MOST_SEQUENCES} sequences to enumerate, but {vocabulary} tokens give "
            f"{vocabulary**max_length} of length {max_length}."
        )
    tokens = torch.arange(vocabulary, device=device)
    every = torch.cartesian_prod(*[tokens] * max_length).view(-1, max_length)
    found = []
    for prompt in prompts:
        total = torch.zeros((), device=device)
        for responses in torch.split(every, 50_000):
            asked = prompt.expand(len(responses), -1)
            theirs, ours = (
                response_log_probabilities(one, asked, responses)
                .gather(2, responses.unsqueeze(2))
                .squeeze(2)
                .sum(dim=1)
                for one in (reference, model)
            )
            total = total + torch.where(theirs == -math.inf, 0.0, theirs.exp() * (theirs - ours)).sum()
        found.append(total)
    return torch.stack(found)


def mean_and_error(values: Float[Tensor, "samples"], *, responses_per_prompt: int = 1) -> tuple[float, float]:
    """The mean over prompts and its standard error; several responses to one prompt are averaged first.

    Args:
        values: `[prompts * responses_per_prompt]`, the responses to a prompt side by side.
        responses_per_prompt: How many belong together.

    Raises:
        ValueError: The number of values is no multiple of it, or there are fewer than two prompts.

    >>> mean_and_error(torch.tensor([1.0, 3.0, 4.0, 4.0]), responses_per_prompt=2)
    (3.0, 1.0)
    """
    check_at_least(responses_per_prompt, "responses_per_prompt", 1)
    if len(values) % responses_per_prompt:
        raise ValueError(
            f"Expected the number of values to be a multiple of {responses_per_prompt}, but got {len(values)}."
        )
    means = values.double().view(-1, responses_per_prompt).mean(dim=1)
    check_at_least(len(means), "number of prompts", 2)
    return float(means.mean()), float(means.std(correction=1)) / math.sqrt(len(means))


def check_same_vocabulary(*sizes: int) -> None:
    """Raise `ValueError` unless models predict equally many tokens."""
    if len(set(sizes)) > 1:
        raise ValueError(f"Expected all models to share a vocabulary, but got {', '.join(map(str, sizes))} tokens.")


def _divergence(first: Tensor, second: Tensor) -> Tensor:
    """KL of distributions given by their logarithms, `[..., vocabulary]`; an impossible token adds nothing."""
    return torch.where(first == -math.inf, 0.0, first.exp() * (first - second)).sum(dim=-1)
