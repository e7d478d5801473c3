"""Tokens as the bytes they stand for, whatever tokenizer made them."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE_MARK = "\u2581"


def byte_level_tokens(tokenizer: Any, ids: Sequence[int] | Tensor) -> list[bytes]:
    r"""The bytes of UTF-8 that every token stands for; joined, they are the text.

    Knows tokenizers in the byte alphabet of GPT-2 (byte-level BPE), SentencePiece's (`▁` for a space, `<0x0A>` for a
    byte), and those of this toolkit (characters, bytes). A character may be split over several tokens.

    Args:
        tokenizer: One of `transformers` or of this toolkit.
        ids: `[tokens]`.

    Returns:
        One `bytes` a token; empty for special tokens, which stand for no text.

    Raises:
        ValueError: A WordPiece tokenizer (it drops spaces, so its tokens do not join to the text), one whose alphabet
            is unknown, or an id outside the vocabulary.

    >>> from tutelage.data import ByteTokenizer
    >>> byte_level_tokens(ByteTokenizer(), ByteTokenizer().encode("né") + [2])
    [b'n', b'\xc3', b'\xa9', b'']
    """
    table = _table(tokenizer)
    numbers = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    try:
        return [table[number] for number in numbers]
    except IndexError as error:
        wrong = next(number for number in numbers if number >= len(table))
        raise ValueError(f"Expected ids below {len(table)}, but got {wrong}.") from error


def vocabulary_bytes(tokenizer: Any) -> list[bytes]:
    """The bytes of every token of a vocabulary, in the order of ids; see `byte_level_tokens`."""
    return list(_table(tokenizer))


def boundary_token_mask(tokenizer: Any, boundary_bytes: bytes = b" \t\n", *, size: int | None = None) -> Tensor:
    """Which tokens can follow the end of a word: those whose first byte is a boundary, and special tokens.

    Args:
        tokenizer: See `byte_level_tokens`.
        boundary_bytes: The bytes that end a word. They must be the same for student and teacher.
        size: Columns of the model's logits, where it has more than the tokenizer has tokens; the others are False.

    Returns:
        `[vocabulary]` bool.

    Raises:
        ValueError: `size` below the number of tokens.

    >>> from tutelage.data import CharacterTokenizer
    >>> boundary_token_mask(CharacterTokenizer("ab ")).tolist()
    [True, True, True, False, False, True]
    """
    tokens = vocabulary_bytes(tokenizer)
    count = len(tokens) if size is None else size
    if count < len(tokens):
        raise ValueError(
            f"Expected argument `size` to be at least {len(tokens)}, the tokens there are, but got {size}."
        )
    special = _special_ids(tokenizer)
    mask = torch.zeros(count, dtype=torch.bool)
    for number, spelled in enumerate(tokens):
        mask[number] = number in special or spelled[:1] in {bytes([byte]) for byte in boundary_bytes}
    return mask


def special_roles(tokenizer: Any) -> dict[str, int]:
    """Special tokens by what they are for: `bos`, `eos`, `pad`, `unk`, as far as the tokenizer has them."""
    found = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad", "unk")}
    return {role: int(number) for role, number in found.items() if number is not None}


def _special_ids(tokenizer: Any) -> set[int]:
    return {int(number) for number in getattr(tokenizer, "all_special_ids", [])} | set(
        special_roles(tokenizer).values()
    )


def _table(tokenizer: Any) -> list[bytes]:
    """The vocabulary's bytes, kept with the tokenizer and made anew when it has grown."""
    kept: list[bytes] | None = getattr(tokenizer, "_tutelage_vocabulary_bytes", None)
    if kept is None or len(kept) < len(tokenizer):
        kept = tokenizer.__dict__["_tutelage_vocabulary_bytes"] = _spell(tokenizer)
    return kept


def _spell(tokenizer: Any) -> list[bytes]:
    special = _special_ids(tokenizer)
    if not hasattr(tokenizer, "convert_ids_to_tokens"):  # one of our own: characters, or bytes
        return [_own_token(tokenizer, number) for number in range(len(tokenizer))]
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    plain = [name for number, name in enumerate(names) if number not in special and name is not None]
    if any(name.startswith("##") for name in plain):
        raise ValueError(
            "Expected a tokenizer that keeps spaces, but got WordPiece, whose tokens do not join to the text."
        )
    if any(_SPACE_MARK in name for name in plain) or any(_BYTE_TOKEN.fullmatch(name) for name in plain):
        spell = _sentence_piece
    elif all(letter in _gpt2_alphabet() for name in plain for letter in name):
        spell = _byte_level
    else:
        kind = type(tokenizer).__name__
        raise ValueError(f"Expected a byte-level or SentencePiece tokenizer, but {kind} spells its tokens otherwise.")
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [
        b"" if number in special or name is None else _added(name) if number in added else spell(name)
        for number, name in enumerate(names)
    ]


def _added(name: str) -> bytes:
    """A token that was added to a vocabulary stands for its own text, or for the byte that it names."""
    byte = _BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.encode()


def _own_token(tokenizer: Any, number: int) -> bytes:
    if number < 3:
        return b""
    alphabet = getattr(tokenizer, "alphabet", None)
    return bytes([number - 3]) if alphabet is None else str(alphabet[number - 3]).encode()


def _sentence_piece(name: str) -> bytes:
    byte = _BYTE_TOKEN.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(_SPACE_MARK, " ").encode()


def _byte_level(name: str) -> bytes:
    alphabet = _gpt2_alphabet()
    return bytes(alphabet[letter] for letter in name)


@functools.cache
def _gpt2_alphabet() -> dict[str, int]:
    """The byte of every letter in GPT-2's alphabet: printable Latin-1 stands for itself, the others follow from 256."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}
