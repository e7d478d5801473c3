"""Embeddings for a new tokenizer, made from those of the old one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tutelage._checks import check_floating


def fast_vocabulary_transfer(
    old_tokenizer: Any, new_tokenizer: Any, embeddings: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Initial embeddings for another tokenizer's tokens (FVT).

    A token that the old vocabulary has is copied; another one gets the mean of the embeddings of the pieces into which
    the old vocabulary cuts it (the longest known beginning first). Special tokens are copied by their role. What no
    rule reaches is drawn from a normal distribution with each channel's mean and deviation.

    Args:
        old_tokenizer: See `tutelage.data.byte_level_tokens`.
        new_tokenizer: Likewise.
        embeddings: `[old vocabulary, width]`; treat input and output tables alike.
        generator: Where chance comes from.

    Returns:
        `[new vocabulary, width]`, without a graph.

    Raises:
        ValueError: Fewer embeddings than the old tokenizer has tokens.

    Source: Gee et al. 2022; Minixhofer et al. 2025, step 10.

    >>> from tutelage.data import ByteTokenizer, CharacterTokenizer
    >>> old = torch.arange(259.0).unsqueeze(1)
    >>> fast_vocabulary_transfer(ByteTokenizer(), CharacterTokenizer("aé"), old).flatten().tolist()
    [0.0, 1.0, 2.0, 100.0, 185.0]
    """
    from tutelage.data.byte_level import special_roles, vocabulary_bytes

    check_floating(embeddings, "embeddings")
    old, new = vocabulary_bytes(old_tokenizer), vocabulary_bytes(new_tokenizer)
    if len(embeddings) < len(old):
        raise ValueError(f"Expected at least {len(old)} embeddings, one a token, but got {len(embeddings)}.")
    table = embeddings.detach()[: len(old)]
    made = table.new_empty(len(new), table.shape[1])
    made.normal_(generator=generator)
    made = made * table.std(dim=0) + table.mean(dim=0)
    known = {spelled: number for number, spelled in reversed(list(enumerate(old))) if spelled}
    longest = max(map(len, known), default=0)
    for number, spelled in enumerate(new):
        pieces = _pieces(spelled, known, longest)
        if pieces:
            made[number] = table[pieces].mean(dim=0)
    old_roles = special_roles(old_tokenizer)
    for role, number in special_roles(new_tokenizer).items():
        if role in old_roles:
            made[number] = table[old_roles[role]]
    return made


def _pieces(spelled: bytes, known: dict[bytes, int], longest: int) -> list[int]:
    """The old tokens into which bytes are cut, the longest known beginning first; none when a byte is unknown."""
    pieces, start = [], 0
    while start < len(spelled):
        for size in range(min(longest, len(spelled) - start), 0, -1):
            piece = known.get(spelled[start : start + size])
            if piece is not None:
                pieces.append(piece)
                start += size
                break
        else:
            return []
    return pieces
