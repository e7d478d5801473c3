"""Tokenizers that need no training: one token a character, or one a byte; and padded batches from texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_at_least
from tutelage.data.arrays import IGNORE_INDEX, ArraySamples


class CharacterTokenizer:
    """One token a character, after three special tokens: padding (0), start (1) and end (2).

    Args:
        alphabet: The characters, in the order of their ids from 3.

    Raises:
        ValueError: Characters that repeat, or (when encoding) one outside the alphabet.

    >>> tokenizer = CharacterTokenizer("0123456789+=")
    >>> tokenizer.encode("1+2"), tokenizer.decode([1, 4, 13, 5, 2]), tokenizer.vocab_size
    ([4, 13, 5], '1+2', 15)
    """

    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2

    def __init__(self, alphabet: str) -> None:
        if not alphabet or len(set(alphabet)) != len(alphabet):
            raise ValueError(f"Expected argument `alphabet` to hold distinct characters, but got {alphabet!r}.")
        self.alphabet = alphabet
        self._ids = {character: number for number, character in enumerate(alphabet, start=3)}

    @property
    def vocab_size(self) -> int:
        """Tokens, the special ones included."""
        return len(self.alphabet) + 3

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise ValueError(f"Expected characters of {self.alphabet!r}, but got {error.args[0]!r}.") from error

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of some ids; special tokens are left out."""
        return "".join(self.alphabet[number - 3] for number in map(int, ids) if number >= 3)

    def to_transformers(self) -> Any:
        """The same tokenizer, with the same ids, as a `transformers.PreTrainedTokenizerFast` (for TRL and saving)."""
        from tokenizers import Regex, decoders, models, pre_tokenizers
        from tokenizers import Tokenizer as FastTokenizer

        special = {"<pad>": 0, "<s>": 1, "</s>": 2}
        fast = FastTokenizer(models.WordLevel({**special, **self._ids}, unk_token="<pad>"))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        fast.decoder = decoders.Fuse()
        return _wrap(fast)


class ByteTokenizer:
    """One token a byte of UTF-8, after padding (0), start (1) and end (2): any text, 259 tokens, nothing to train.

    >>> ByteTokenizer().encode("é"), ByteTokenizer().decode([198, 172])
    ([198, 172], 'é')
    """

    pad_token_id = 0
    bos_token_id = 1
    eos_token_id = 2
    vocab_size = 259

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without special tokens."""
        return [byte + 3 for byte in text.encode("utf-8")]

    def decode(self, ids: Iterable[int] | Tensor) -> str:
        """The text of some ids; special tokens are left out, and broken characters become U+FFFD."""
        return bytes(number - 3 for number in map(int, ids) if number >= 3).decode("utf-8", errors="replace")


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer trained on some texts, with padding (0), start (1) and end (2).

    Args:
        texts: What it is trained on.
        vocab_size: Tokens, at least 259 (the bytes and the special tokens).

    Returns:
        A `transformers.PreTrainedTokenizerFast`.

    >>> tokenizer = train_bpe(["a rose is a rose is a rose"], 270)
    >>> tokenizer.decode(tokenizer.encode("a rose is red")), len(tokenizer) <= 270
    ('a rose is red', True)
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, pre_tokenizers, trainers

    check_at_least(vocab_size, "vocab_size", 259)
    fast = FastTokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    fast.train_from_iterator(texts, trainer)
    return _wrap(fast)


def _wrap(fast: Any) -> Any:
    from transformers import PreTrainedTokenizerFast

    wrap: Any = PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=fast,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        clean_up_tokenization_spaces=False,
    )


def encode_text(tokenizer: Any, text: str) -> list[int]:
    """The ids of a text without special tokens, by a tokenizer from here or from `transformers`."""
    if hasattr(tokenizer, "build_inputs_with_special_tokens") or hasattr(tokenizer, "add_special_tokens"):
        return list(tokenizer.encode(text, add_special_tokens=False))
    return list(tokenizer.encode(text))


def pad_sequences(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    """Id lists as one tensor `[sequences, longest]`, filled up on the right.

    >>> pad_sequences([[1, 2], [3]], 0).tolist()
    [[1, 2], [3, 0]]
    """
    longest = max(map(len, sequences))
    return torch.tensor([[*sequence, *[value] * (longest - len(sequence))] for sequence in sequences])


def completion_samples(
    prompts: Sequence[str],
    completions: Sequence[str],
    tokenizer: Any,
    *,
    max_length: int | None = None,
    index: Tensor | None = None,
    extras: dict[str, Tensor] | None = None,
) -> ArraySamples:
    """Samples for a causal language model that learns to complete prompts.

    A text is start, prompt, completion, end. Inputs are `input_ids` and `attention_mask` `[samples, time]`, padded on
    the right; the target is aligned with the logits (`target[:, t]` follows position t), and -100 wherever the next
    token belongs to the prompt or the padding. `extras["prompt_length"]` counts the tokens of start and prompt.

    Args:
        prompts: Texts that are given.
        completions: Texts that are learned.
        tokenizer: `CharacterTokenizer`, `ByteTokenizer` or one of `transformers`, with ids for padding and end; one
            without a start token (Qwen's) begins with the prompt.
        max_length: Longest text in tokens, start and end included; a longer one is an error.
        index: Stable indices.
        extras: More per-sample tensors.

    Raises:
        ValueError: As many prompts as completions are not given, or a text that is too long.

    >>> samples = completion_samples(["1+2="], ["3"], CharacterTokenizer("0123456789+="))
    >>> batch = samples.batch(torch.tensor([0]))
    >>> batch.inputs["input_ids"].tolist(), batch.target.tolist()
    ([[1, 4, 13, 5, 14, 6]], [[-100, -100, -100, -100, 6, 2]])
    """
    if len(prompts) != len(completions):
        raise ValueError(
            f"Expected as many `completions` as `prompts`, but got {len(completions)} for {len(prompts)} prompts."
        )
    end, padding = tokenizer.eos_token_id, tokenizer.pad_token_id
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts, targets, lengths = [], [], []
    for prompt, completion in zip(prompts, completions, strict=True):
        given = start + encode_text(tokenizer, prompt)
        if not given:
            raise ValueError("Expected prompts that are not empty, since the tokenizer has no start token.")
        learned = [*encode_text(tokenizer, completion), end]
        if max_length is not None and len(given) + len(learned) > max_length:
            raise ValueError(
                f"Expected texts of at most {max_length} tokens, but {prompt!r} and its completion take "
                f"{len(given) + len(learned)}."
            )
        texts.append((given + learned)[:-1])
        targets.append([IGNORE_INDEX] * (len(given) - 1) + learned)
        lengths.append(len(given))
    size = torch.tensor([len(text) for text in texts])
    ids = pad_sequences(texts, padding)
    return ArraySamples(
        {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < size[:, None]).long()},
        pad_sequences(targets, IGNORE_INDEX),
        index=index,
        extras={**(extras or {}), "prompt_length": torch.tensor(lengths)},
    )
