"""Two tokenizations of one text, cut at every place where both have a boundary."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tutelage._checks import check_at_least

Span = tuple[int, int, int, int]
"""A chunk: first teacher token and end, first student token and end (ends exclusive)."""


def align_tokens(
    teacher: Sequence[bytes],
    student: Sequence[bytes],
    *,
    special_pairs: Iterable[tuple[int, int]] | None = None,
    check: bool = True,
) -> list[Span]:
    """The smallest chunks that begin and end at the same byte in both tokenizations, in the order of the text.

    Tokens without bytes (special ones) belong to no chunk, unless a pair joins them: a pair is a chunk of its own. A
    space that only one side has at the very start of the text is overlooked (SentencePiece puts one there). What
    follows the last common boundary (texts cut off at different places) belongs to no chunk.

    Args:
        teacher: The bytes of every token, see `byte_level_tokens`.
        student: Likewise.
        special_pairs: Positions (in the teacher's tokens, in the student's) of special tokens with the same role.
        check: Refuse texts that differ. Otherwise chunks whose bytes differ are dropped, with a warning.

    Returns:
        Chunks (i0, i1, j0, j1). Their number is at most the smaller number of tokens.

    Raises:
        ValueError: The texts differ and are checked, or a pair is out of range or of tokens with bytes.

    Source: Minixhofer et al. 2025, section 3.

    >>> align_tokens([b"Hel", b"lo", b" wor", b"ld", b"!"], [b"Hello", b" ", b"w", b"o", b"r", b"l", b"d", b"!"])
    [(0, 2, 0, 1), (2, 3, 1, 5), (3, 4, 5, 7), (4, 5, 7, 8)]
    >>> align_tokens([b"abc", b"de"], [b"ab", b"cde"])
    [(0, 2, 0, 2)]
    """
    texts = b"".join(teacher), b"".join(student)
    shift_teacher, shift_student = _leading_spaces(*texts)
    if check:
        first, second = b" " * shift_teacher + texts[0], b" " * shift_student + texts[1]
        shorter = min(len(first), len(second))
        if first[:shorter] != second[:shorter]:
            place = next(place for place in range(shorter) if first[place] != second[place])
            around = slice(max(0, place - 10), place + 10)
            raise ValueError(f"Expected one text on both sides, but got {first[around]!r} and {second[around]!r}.")
    spans = _spans(teacher, student, shift_teacher, shift_student)
    if not check:
        spans = _equal_chunks(spans, teacher, student, padded=bool(shift_teacher or shift_student))
    pairs = [] if special_pairs is None else list(special_pairs)
    for i, j in pairs:
        if not (0 <= i < len(teacher) and 0 <= j < len(student)) or teacher[i] or student[j]:
            raise ValueError(f"Expected argument `special_pairs` to name tokens without bytes, but got {(i, j)}.")
    return sorted(spans + [(i, i + 1, j, j + 1) for i, j in pairs])


def alignment_matrices(
    spans: Sequence[Span], teacher_length: int, student_length: int, max_chunks: int
) -> tuple[Tensor, Tensor]:
    """Which token belongs to which chunk, as two 0/1 matrices.

    Args:
        spans: Chunks, see `align_tokens`.
        teacher_length: Rows of the teacher's matrix; what lies beyond is left out.
        student_length: Rows of the student's.
        max_chunks: Columns of both; further chunks are left out. A chunk that either side does not hold whole is too.

    Returns:
        `[teacher_length, max_chunks]` and `[student_length, max_chunks]`, bool.

    >>> [matrix.int().tolist() for matrix in alignment_matrices([(0, 2, 0, 1)], 2, 2, 1)]
    [[[1], [1]], [[1], [0]]]
    """
    check_at_least(max_chunks, "max_chunks", 1)
    numbers = chunk_numbers(spans, teacher_length, student_length, max_chunks)
    columns = torch.arange(max_chunks)
    return numbers[0].unsqueeze(1) == columns, numbers[1].unsqueeze(1) == columns


def chunk_numbers(
    spans: Sequence[Span], teacher_length: int, student_length: int, max_chunks: int | None = None
) -> tuple[Tensor, Tensor]:
    """The number of every token's chunk, -1 where it has none: the compact form of `alignment_matrices`.

    >>> chunk_numbers([(0, 2, 1, 2)], 3, 3)
    (tensor([ 0,  0, -1]), tensor([-1,  0, -1]))
    """
    teacher, student = [-1] * teacher_length, [-1] * student_length
    whole = [span for span in spans if span[1] <= teacher_length and span[3] <= student_length][:max_chunks]
    for number, (i0, i1, j0, j1) in enumerate(whole):
        teacher[i0:i1] = [number] * (i1 - i0)
        student[j0:j1] = [number] * (j1 - j0)
    return torch.tensor(teacher, dtype=torch.int64), torch.tensor(student, dtype=torch.int64)


def _leading_spaces(teacher: bytes, student: bytes) -> tuple[int, int]:
    """How many bytes to put before each text, so that a space that only one of them begins with does no harm."""
    if teacher[:1] == student[:1]:
        return 0, 0
    if teacher[:1] == b" " and teacher[1:2] == student[:1]:
        return 0, 1
    return (1, 0) if student[:1] == b" " and student[1:2] == teacher[:1] else (0, 0)


def _spans(teacher: Sequence[bytes], student: Sequence[bytes], read_i: int, read_j: int) -> list[Span]:
    """Walk both: advance whoever has read fewer bytes, and close a chunk where both have read as many."""
    kept_i, kept_j = ([number for number, token in enumerate(tokens) if token] for tokens in (teacher, student))
    sizes_i, sizes_j = ([len(token) for token in tokens if token] for tokens in (teacher, student))
    length_i, length_j = len(sizes_i), len(sizes_j)
    spans: list[Span] = []
    i = j = start_i = start_j = 0
    while True:
        if read_i <= read_j:
            if i == length_i:
                return spans
            read_i += sizes_i[i]
            i += 1
        else:
            if j == length_j:
                return spans
            read_j += sizes_j[j]
            j += 1
        if read_i == read_j and i > start_i and j > start_j:
            spans.append((kept_i[start_i], kept_i[i - 1] + 1, kept_j[start_j], kept_j[j - 1] + 1))
            start_i, start_j = i, j


def _equal_chunks(spans: list[Span], teacher: Sequence[bytes], student: Sequence[bytes], *, padded: bool) -> list[Span]:
    equal = []
    for number, span in enumerate(spans):
        i0, i1, j0, j1 = span
        first, second = b"".join(teacher[i0:i1]), b"".join(student[j0:j1])
        if first == second or (padded and number == 0 and first.lstrip() == second.lstrip()):
            equal.append(span)
    if len(equal) < len(spans):
        warnings.warn(
            f"{len(spans) - len(equal)} of {len(spans)} chunks differ in their bytes and are left out.", stacklevel=3
        )
    return equal
