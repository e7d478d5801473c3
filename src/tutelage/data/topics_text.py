"""Real English text that every Python has: the language reference behind `help()`, as windows for language models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_option
from tutelage.data.arrays import ArraySamples
from tutelage.data.characters import ByteTokenizer, CharacterTokenizer, encode_text, train_bpe
from tutelage.data.parts import assemble
from tutelage.data.samples import Data


def topics_text(
    *,
    tokenizer: Any = "character",
    length: int = 128,
    stride: int | None = None,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    vocab_size: int = 512,
) -> Data:
    """Windows of the texts of `pydoc_data.topics`, in which every position predicts the next token.

    The text is cut in three in its order (topics sorted by name), so no window of one part overlaps another part. It
    differs a little between Python versions; its fingerprint says which one was used.

    Args:
        tokenizer: `"character"` (the characters that occur), `"byte"`, `"bpe"` (trained on the training part), or a
            tokenizer from here or `transformers`.
        length: Tokens a window.
        stride: Tokens from one window to the next; `length` by default (no overlap).
        fractions: Train, validation and test shares of the text.
        vocab_size: Tokens of `"bpe"`.

    Returns:
        Inputs `input_ids` and `attention_mask` `[windows, length]`; extras `tokenizer` and `text` (a string a part).

    >>> data = topics_text(length=32)
    >>> batch = data.train.batch(slice(0, 2))
    >>> bool((batch.inputs["input_ids"][:, 1:] == batch.target[:, :-1]).all())
    True
    """
    check_at_least(length, "length", 1)
    step = length if stride is None else stride
    check_at_least(step, "stride", 1)
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"Expected argument `fractions` to hold 3 positive numbers that sum to 1, but got {tuple(fractions)}."
        )
    whole = read_topics()
    cuts = [0, round(fractions[0] * len(whole)), round((fractions[0] + fractions[1]) * len(whole)), len(whole)]
    text = {part: whole[cuts[number] : cuts[number + 1]] for number, part in enumerate(("train", "validation", "test"))}
    if isinstance(tokenizer, str):
        check_option(tokenizer, "tokenizer", ("character", "byte", "bpe"))
        if tokenizer == "character":
            tokenizer = CharacterTokenizer("".join(sorted(set(whole))))
        else:
            tokenizer = (
                ByteTokenizer() if tokenizer == "byte" else train_bpe(text["train"].splitlines(True), vocab_size)
            )
    parts, start = {}, 0
    for part, written in text.items():
        windows = _windows(torch.tensor(encode_text(tokenizer, written)), length, step, part)
        ids = windows[:, :-1]
        parts[part] = ArraySamples(
            {"input_ids": ids.contiguous(), "attention_mask": torch.ones_like(ids)},
            windows[:, 1:].contiguous(),
            index=torch.arange(start, start + len(ids)),
        )
        start += len(ids)
    return assemble(
        "topics_text",
        parts,
        task="causal_lm",
        num_classes=len(tokenizer),
        description=f"{len(whole.split())} words of the Python language reference, in windows of {length} tokens",
        extras={"tokenizer": tokenizer, "text": text},
    )


def read_topics() -> str:
    """The texts of `pydoc_data.topics`, sorted by topic and joined by blank lines."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise ValueError(
            "Expected this Python to have its help texts (`pydoc_data.topics`), but it has none."
        ) from error
    return "\n\n".join(topics[name].strip() for name in sorted(topics))


def _windows(ids: Tensor, length: int, stride: int, part: str) -> Tensor:
    if len(ids) <= length:
        raise ValueError(f"Expected argument `length` to be below {len(ids)}, the tokens of {part}, but got {length}.")
    return ids.unfold(0, length + 1, stride)
