"""How likely each token of a text is private: scorers for methods that treat private tokens with care."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_option, check_same_shape, check_unit_interval
from tutelage.data.arrays import IGNORE_INDEX
from tutelage.data.characters import ByteTokenizer, CharacterTokenizer, encode_text

PRIVATE_PATTERNS: Mapping[str, str] = MappingProxyType(
    {
        "digits": r"\d{3,}",
        "email": r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
        "phone": r"\+?\(?\d(?:[ ()./-]?\d){6,14}",
        "card": r"\d{4}(?:[ -]?\d{4}){2}[ -]?\d{1,7}",
        "identifier": r"\b(?=[A-Za-z-]*\d)[A-Za-z0-9]{2,}(?:-[A-Za-z0-9]{2,})+\b|\b[A-Z]{1,3}\d{5,}[A-Z]?\b",
    }
)
"""What looks private: runs of three digits and more, e-mail addresses, phone and card numbers, identifiers."""


def pattern_sensitivity(
    texts: Sequence[str], tokenizer: Any, patterns: Mapping[str, str] | Iterable[str] = PRIVATE_PATTERNS
) -> list[Tensor]:
    """1 for every token that shares a character with a match of any pattern, 0 for all others.

    A word list is a pattern as well: `"|".join(map(re.escape, words))`.

    Args:
        texts: The texts.
        tokenizer: `CharacterTokenizer`, `ByteTokenizer`, or a fast one of `transformers` (which knows where in the text
            its tokens come from).
        patterns: Regular expressions, by name or without.

    Returns:
        A tensor a text, `[tokens]`, for its tokens without special ones. In the target of a language model that learns
        whole texts (`completion_samples` with empty prompts) they stand first, then the end token, then padding: pad
        them on the right with zeros.

    Raises:
        ValueError: A pattern is no regular expression, or the tokenizer does not tell where its tokens come from.

    >>> from tutelage.data import CharacterTokenizer
    >>> pattern_sensitivity(["pin 4071"], CharacterTokenizer(" 0123456789inp"))[0].tolist()
    [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]
    """
    compiled = []
    for pattern in patterns.values() if isinstance(patterns, Mapping) else patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(
                f"Expected argument `patterns` to hold regular expressions, but {pattern!r}: {error}."
            ) from error
    scores = []
    for text in texts:
        private = torch.zeros(len(text) + 1)
        for pattern in compiled:
            for match in pattern.finditer(text):
                private[match.start() : match.end()] = 1.0
        before = private.cumsum(0).roll(1)  # private characters before each one
        before[0] = 0.0
        start, stop = torch.tensor(token_spans(tokenizer, text), dtype=torch.int64).reshape(-1, 2).unbind(1)
        scores.append((before[stop] > before[start]).float())
    return scores


def token_spans(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """From which characters of a text each of its tokens comes, as (start, stop), without special tokens.

    >>> from tutelage.data import ByteTokenizer
    >>> token_spans(ByteTokenizer(), "né")
    [(0, 1), (1, 2), (1, 2)]
    """
    if isinstance(tokenizer, ByteTokenizer):
        return [(place, place + 1) for place, character in enumerate(text) for _ in character.encode("utf-8")]
    if isinstance(tokenizer, CharacterTokenizer):
        return [(place, place + 1) for place in range(len(encode_text(tokenizer, text)))]
    if getattr(tokenizer, "is_fast", False):
        return [
            (int(start), int(stop))
            for start, stop in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        ]
    raise ValueError(
        f"Expected a tokenizer that tells where its tokens come from (a fast one), but got {type(tokenizer).__name__}."
    )


def document_frequency(documents: Iterable[Sequence[int] | Tensor], vocab_size: int) -> Float[Tensor, "vocabulary"]:
    """The share of documents that hold each token at least once.

    Args:
        documents: Token ids of each document; -100 is skipped.
        vocab_size: Tokens.

    Returns:
        `[vocab_size]` in [0, 1].

    Raises:
        ValueError: No documents, or a token outside the vocabulary.

    >>> document_frequency([[0, 1, 1], [1]], 3)
    tensor([0.5000, 1.0000, 0.0000])
    """
    counts = torch.zeros(vocab_size)
    total = 0
    for document in documents:
        tokens = torch.unique(torch.as_tensor(document, dtype=torch.int64))
        tokens = tokens[tokens != IGNORE_INDEX]
        _check_tokens(tokens, vocab_size, "documents")
        counts[tokens] += 1
        total += 1
    check_at_least(total, "len(documents)", 1)
    return counts / total


def rarity_sensitivity(
    token_ids: Int[Tensor, "batch time"], document_frequency: Float[Tensor, "vocabulary"]
) -> Float[Tensor, "batch time"]:
    """1 − the share of documents that hold the token: what hardly anyone else writes may be private.

    Args:
        token_ids: `[batch, time]`; -100 (positions to skip) scores 0.
        document_frequency: `[vocabulary]` shares in [0, 1], see `document_frequency`.

    Returns:
        `[batch, time]` in [0, 1].

    Raises:
        ValueError: A share outside [0, 1], or a token outside the vocabulary.

    >>> rarity_sensitivity(torch.tensor([[0, 1, -100]]), torch.tensor([0.25, 1.0]))
    tensor([[0.7500, 0.0000, 0.0000]])
    """
    check_unit_interval(document_frequency, "document_frequency", tolerance=0.0)
    skipped = token_ids == IGNORE_INDEX
    _check_tokens(token_ids[~skipped], len(document_frequency), "token_ids")
    return (1 - document_frequency)[token_ids.masked_fill(skipped, 0).long()].masked_fill(skipped, 0.0)


def combine_sensitivity(*scores: Float[Tensor, "..."], how: Literal["max", "mean"] = "max") -> Float[Tensor, "..."]:
    """Several scores of the same tokens as one: the largest (a token is private if any scorer says so), or the mean.

    Args:
        scores: Tensors of one shape, in [0, 1].
        how: `"max"` or `"mean"`.

    Raises:
        ValueError: No scores, different shapes, a score outside [0, 1], or an unknown `how`.

    >>> combine_sensitivity(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5]))
    tensor([0.5000, 1.0000])
    """
    check_option(how, "how", ("max", "mean"))
    check_at_least(len(scores), "len(scores)", 1)
    for score in scores:
        check_same_shape(scores[0], score, "scores[0]", "scores")
        check_unit_interval(score, "scores", tolerance=0.0)
    stacked = torch.stack(scores)
    return stacked.amax(dim=0) if how == "max" else stacked.mean(dim=0)


def _check_tokens(tokens: Tensor, vocab_size: int, name: str) -> None:
    outside = tokens[(tokens < 0) | (tokens >= vocab_size)]
    if outside.numel():
        raise ValueError(f"Expected argument `{name}` to hold tokens in [0, {vocab_size}), but got {int(outside[0])}.")
