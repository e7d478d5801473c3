"""Texts cut into windows of whole words, and questions about which word comes next."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


def windows(text: str, size: int) -> list[str]:
    """A text in pieces of at most `size` bytes that end with words; joined, they are the text.

    >>> windows("one two three four", 9)
    ['one two', ' three', ' four']
    """
    pieces, current = [], ""
    for word in re.findall(r"\s*\S+", text):
        if current and len((current + word).encode()) > size:
            pieces.append(current)
            current = ""
        current += word
    return [piece for piece in [*pieces, current] if 0 < len(piece.encode()) <= size]


def cloze_items(texts: Sequence[str], count: int) -> list[tuple[str, list[str]]]:
    """Beginnings of windows with four words to go on with: the true one first, three from elsewhere in the texts."""
    chance = np.random.default_rng(0)
    cut = [re.findall(r"\s*\S+", text) for text in texts]
    plain = re.compile(r" [a-z]{4,}")
    words = sorted({word for pieces in cut for word in pieces if plain.fullmatch(word)})
    items: list[tuple[str, list[str]]] = []
    for number in chance.permutation(len(cut)):
        pieces = cut[number]
        places = [place for place in range(len(pieces) // 2, len(pieces)) if plain.fullmatch(pieces[place])]
        if places and len(items) < count:
            place = int(chance.choice(places))
            others = [word for word in words if word != pieces[place]]
            wrong = chance.choice(len(others), 3, replace=False)
            items.append(("".join(pieces[:place]), [pieces[place], *(others[one] for one in wrong)]))
    return items
