"""Texts from tables as data for causal language models: whole texts, or prompts with completions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tutelage._checks import check_at_least, nearest
from tutelage.data.arrays import ArraySamples
from tutelage.data.characters import ByteTokenizer, CharacterTokenizer, completion_samples, train_bpe
from tutelage.data.packing import pack_samples
from tutelage.data.parts import FRACTIONS, assemble
from tutelage.data.samples import Data, Samples


def text_data(
    name: str,
    frames: Mapping[str, Any],
    *,
    completion_column: str,
    prompt_column: str | None = None,
    tokenizer: Any = "byte",
    length: int = 512,
    packed: bool = False,
    vocab_size: int = 1024,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> Data:
    """Texts from tables, in which only completions are learned.

    Args:
        name: What the data is called in reports.
        frames: A table a part (`train`, and optionally `validation` and `test`).
        completion_column: The column of what is learned.
        prompt_column: The column of what is given; without it, whole texts are learned.
        tokenizer: `"byte"`, `"character"` (the characters that occur), `"bpe"` (trained on the training texts), a
            tokenizer, or a folder or Hugging Face name of one. Teacher and student must share it.
        length: Longest text in tokens, start and end included; a longer one is an error.
        packed: Put several texts into one training row (see `pack_samples`). Teachers that answer by text (served
            ones, the student's own responses) need texts in rows of their own.
        vocab_size: Tokens of `"bpe"`.
        fractions: Shares of the parts that are cut from `train` when they are missing.
        seed: Fixes that cut.

    Returns:
        Data of the task `causal_lm`; extras `tokenizer`.

    Raises:
        ValueError: A column does not exist or holds something else than text, or a text is too long.

    >>> import pandas
    >>> frame = pandas.DataFrame({"question": ["1+1=", "2+2="] * 10, "answer": ["2", "4"] * 10})
    >>> data = text_data("sums", {"train": frame}, prompt_column="question", completion_column="answer")
    >>> data.task, data.num_classes, len(data.train)
    ('causal_lm', 259, 14)
    """
    check_at_least(length, "length", 2)
    texts = {part: _columns(frame, prompt_column, completion_column) for part, frame in frames.items()}
    known = _tokenizer(tokenizer, texts, vocab_size)
    samples: dict[str, Samples] = {}
    start = 0
    for part, (prompts, completions) in texts.items():
        one = completion_samples(prompts, completions, known, max_length=length)
        samples[part] = ArraySamples(one.inputs, one.target, index=one.index + start, extras=one.extras)
        start += len(one)
    tokens = len(known)
    data = assemble(
        name,
        samples,
        task="causal_lm",
        num_classes=tokens,
        description=f"{start} texts of at most {length} tokens, {tokens} different ones",
        fractions=fractions,
        seed=seed,
        extras={"tokenizer": known},
    )
    if not packed:
        return data
    whole = data.train.batch(torch.arange(len(data.train)))
    rows = pack_samples(ArraySamples(whole.inputs, whole.target), length, padding_token=known.pad_token_id)
    return dataclasses.replace(data, train=rows)


def _columns(frame: Any, prompt_column: str | None, completion_column: str) -> tuple[list[str], list[str]]:
    for column in (prompt_column, completion_column):
        if column is None:
            continue
        if column not in frame.columns:
            listed = ", ".join(map(repr, list(frame.columns)[:12]))
            raise ValueError(f"Expected a column among {listed}, but got {column!r}{nearest(column, frame.columns)}.")
        wrong = next((value for value in frame[column] if not isinstance(value, str)), None)
        if wrong is not None or frame[column].isna().any():
            raise ValueError(f"Expected the column {column!r} to hold texts, but got {wrong!r}.")
    completions = list(frame[completion_column])
    return ([""] * len(completions) if prompt_column is None else list(frame[prompt_column])), completions


def _tokenizer(tokenizer: Any, texts: Mapping[str, tuple[list[str], list[str]]], vocab_size: int) -> Any:
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    if tokenizer == "byte":
        return ByteTokenizer()
    if tokenizer == "character":
        characters = {letter for prompts, completions in texts.values() for letter in "".join(prompts + completions)}
        return CharacterTokenizer("".join(sorted(characters)))
    if tokenizer == "bpe":
        return train_bpe([prompt + text for prompt, text in zip(*texts["train"], strict=True)], vocab_size)
    import transformers

    try:
        found: Any = transformers.AutoTokenizer.from_pretrained(
            str(Path(tokenizer).expanduser()), trust_remote_code=False
        )
    except Exception as error:  # a damaged file may raise anything
        cause = " ".join(str(error).split()).rstrip(".")[:500] or type(error).__name__
        raise ValueError(
            f"Expected the tokenizer to be 'byte', 'character', 'bpe', a folder or a Hugging Face name, but got "
            f"{tokenizer!r}: {cause}."
        ) from error
    if found.pad_token_id is None:
        found.pad_token = found.eos_token
    return found
