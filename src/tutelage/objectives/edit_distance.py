"""Which token of one vocabulary looks most like a token of another: the mapping that MinED distils through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def minimum_edit_distance_mapping(teacher_tokens: Sequence[bytes], student_tokens: Sequence[bytes]) -> Tensor:
    """For every student token the teacher token with the smallest edit distance; the first one among equals.

    Equal tokens map to each other. Distances are those of Levenshtein over bytes, computed for one student token
    against all teacher tokens at a time.

    Args:
        teacher_tokens: The bytes of every token, see `vocabulary_bytes`.
        student_tokens: Likewise.

    Returns:
        `[student vocabulary]` int64 teacher tokens.

    Raises:
        ValueError: An empty vocabulary.

    Source: the baseline of Wan et al. 2024, as used by Minixhofer et al. 2025.

    >>> minimum_edit_distance_mapping([b"house", b"cat"], [b"cats", b"house", b"mouse"]).tolist()
    [1, 0, 0]
    """
    if not teacher_tokens or not student_tokens:
        raise ValueError("Expected two vocabularies with tokens, but one of them is empty.")
    exact: dict[bytes, int] = {}
    for number, token in enumerate(teacher_tokens):
        exact.setdefault(token, number)
    longest = max(map(len, teacher_tokens))
    letters = np.full((len(teacher_tokens), longest), -1, dtype=np.int16)
    for row, token in enumerate(teacher_tokens):
        letters[row, : len(token)] = np.frombuffer(token, np.uint8)
    lengths = np.fromiter(map(len, teacher_tokens), np.int64, len(teacher_tokens))
    mapping = [
        exact[token] if token in exact else int(_distances(token, letters, lengths).argmin())
        for token in student_tokens
    ]
    return torch.tensor(mapping)


def _distances(token: bytes, letters: NDArray[np.int16], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edit distances of a token from all rows of letters: one row of the usual table at a time, for all at once."""
    count, longest = letters.shape
    before = np.tile(np.arange(longest + 1), (count, 1))
    for letter in token:
        row = np.empty_like(before)
        row[:, 0] = before[:, 0] + 1
        np.minimum(before[:, :-1] + (letters != letter), before[:, 1:] + 1, out=row[:, 1:])
        # An insertion costs one a step: the running minimum of (cost − place), plus the place.
        places = np.arange(longest + 1)
        before = np.minimum.accumulate(row - places, axis=1) + places
    return before[np.arange(count), lengths]
