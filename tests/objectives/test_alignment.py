"""Alignment of tokenizations: by hand, by a slow walk, and with real tokenizers on random Unicode."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import ByteTokenizer, boundary_token_mask, byte_level_tokens, train_bpe
from tutelage.data.byte_level import vocabulary_bytes
from tutelage.objectives import align_tokens, alignment_matrices, minimum_edit_distance_mapping

TEXT = ["the quick brown fox jumps over the lazy dog", "a naïve café — 東京", "x = x + 1\n\tx *= 2"] * 3


@functools.cache
def _tokenizer(kind: str) -> Any:
    """A real tokenizer of every style, trained here."""
    if kind == "byte":
        return ByteTokenizer()
    if kind == "gpt2":
        return train_bpe(TEXT, 330)
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    fast = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="never")])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    fast.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=360, special_tokens=special, show_progress=False))
    wrap: Any = PreTrainedTokenizerFast
    return wrap(tokenizer_object=fast, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


KINDS = ("byte", "gpt2", "sentencepiece")


def _ids(kind: str, text: str) -> list[int]:
    tokenizer = _tokenizer(kind)
    return tokenizer.encode(text) if kind == "byte" else tokenizer.encode(text, add_special_tokens=False)


def _walk(teacher: list[bytes], student: list[bytes]) -> list[tuple[int, int, int, int]]:
    """Token by token: advance whoever is behind, close a chunk when both have read as many bytes."""
    spans, i, j, read_i, read_j, start_i, start_j = [], 0, 0, 0, 0, 0, 0
    while True:
        if read_i == read_j:
            if i > start_i:
                spans.append((start_i, i, start_j, j))
                start_i, start_j = i, j
            if i == len(teacher) or j == len(student):
                return spans
            read_i, i = read_i + len(teacher[i]), i + 1
            read_j, j = read_j + len(student[j]), j + 1
        elif read_i < read_j:
            if i == len(teacher):
                return spans
            read_i, i = read_i + len(teacher[i]), i + 1
        else:
            if j == len(student):
                return spans
            read_j, j = read_j + len(student[j]), j + 1


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=30))
@settings(max_examples=25, deadline=None)
def test_tokens_join_to_the_text(kind: str, text: str) -> None:
    if kind == "sentencepiece":
        text = text.replace("\u2581", "")  # its own mark for a space can not be told from one
    assert b"".join(byte_level_tokens(_tokenizer(kind), _ids(kind, text))) == text.encode()


@pytest.mark.parametrize("first", KINDS)
@pytest.mark.parametrize("second", KINDS)
@given(text=st.text(alphabet=st.sampled_from("the quick fox,é東\n 1"), max_size=40))
@settings(max_examples=15, deadline=None)
def test_chunks_are_the_finest_common_cut(first: str, second: str, text: str) -> None:
    teacher, student = (byte_level_tokens(_tokenizer(kind), _ids(kind, text)) for kind in (first, second))
    spans = align_tokens(teacher, student)
    assert spans == _walk(teacher, student)
    for i0, i1, j0, j1 in spans:
        assert b"".join(teacher[i0:i1]) == b"".join(student[j0:j1])
    assert b"".join(b"".join(teacher[i0:i1]) for i0, i1, _, _ in spans) == text.encode()
    assert [(j0, j1, i0, i1) for i0, i1, j0, j1 in spans] == align_tokens(student, teacher)
    if first == second:
        assert spans == [(place, place + 1, place, place + 1) for place in range(len(teacher))]


def test_the_examples_of_the_method() -> None:
    teacher, student = [b"Hel", b"lo", b" wor", b"ld", b"!"], [b"Hello", b" ", b"w", b"o", b"r", b"l", b"d", b"!"]
    assert align_tokens(teacher, student) == [(0, 2, 0, 1), (2, 3, 1, 5), (3, 4, 5, 7), (4, 5, 7, 8)]
    assert align_tokens([b"abc", b"de"], [b"ab", b"cde"]) == [(0, 2, 0, 2)]


def test_special_tokens_pair_by_position_and_others_are_left_out() -> None:
    teacher, student = [b"", b"a", b"b", b""], [b"", b"", b"ab", b""]
    assert align_tokens(teacher, student, special_pairs=[(0, 0), (3, 3)]) == [(0, 1, 0, 1), (1, 3, 2, 3), (3, 4, 3, 4)]
    assert align_tokens(teacher, student) == [(1, 3, 2, 3)]


def test_a_space_at_the_very_start_is_overlooked() -> None:
    assert align_tokens([b" Hello", b" you"], [b"Hel", b"lo", b" you"]) == [(0, 1, 0, 2), (1, 2, 2, 3)]


def test_texts_cut_at_different_places_align_as_far_as_both_go() -> None:
    assert align_tokens([b"ab", b"cd"], [b"ab", b"c"]) == [(0, 1, 0, 1)]


def test_different_texts_are_refused_or_their_chunks_dropped() -> None:
    with pytest.raises(ValueError, match="one text on both sides"):
        align_tokens([b"ab", b"cd"], [b"ax", b"cd"])
    with pytest.warns(UserWarning, match="1 of 2 chunks differ"):
        assert align_tokens([b"ab", b"cd"], [b"ax", b"cd"], check=False) == [(1, 2, 1, 2)]
    with pytest.raises(ValueError, match="`special_pairs`"):
        align_tokens([b"a"], [b"a"], special_pairs=[(0, 0)])


def test_matrices_leave_out_what_does_not_fit() -> None:
    spans = [(0, 2, 0, 1), (2, 3, 1, 4), (3, 4, 4, 5)]
    teacher, student = alignment_matrices(spans, 4, 4, 2)
    assert teacher.int().tolist() == [[1, 0], [1, 0], [0, 1], [0, 0]]
    assert student.int().tolist() == [[1, 0], [0, 1], [0, 1], [0, 1]]


def test_wordpiece_is_refused() -> None:
    class WordPiece:
        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["play", "##ing"]

        def __len__(self) -> int:
            return 2

    with pytest.raises(ValueError, match="WordPiece"):
        byte_level_tokens(WordPiece(), [0])


@pytest.mark.parametrize("kind", KINDS)
def test_boundaries_are_spaces_and_special_tokens(kind: str) -> None:
    tokenizer = _tokenizer(kind)
    mask, spelled = boundary_token_mask(tokenizer), vocabulary_bytes(tokenizer)
    assert mask.shape == (len(tokenizer),)
    for number, token in enumerate(spelled):
        assert bool(mask[number]) == (token == b"" or token[:1] in (b" ", b"\t", b"\n"))
    assert boundary_token_mask(tokenizer, size=len(tokenizer) + 5)[-5:].sum() == 0
    with pytest.raises(ValueError, match="`size`"):
        boundary_token_mask(tokenizer, size=3)


def _levenshtein(first: bytes, second: bytes) -> int:
    @functools.cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(
            distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        )

    return distance(len(first), len(second))


@given(
    st.lists(st.binary(max_size=6), min_size=1, max_size=8),
    st.lists(st.binary(max_size=6), min_size=1, max_size=8),
)
@settings(max_examples=25, deadline=None)
def test_the_nearest_token_is_that_of_the_plain_recursion(teacher: list[bytes], student: list[bytes]) -> None:
    mapping = minimum_edit_distance_mapping(teacher, student).tolist()
    for token, found in zip(student, mapping, strict=True):
        assert _levenshtein(token, teacher[found]) == min(_levenshtein(token, other) for other in teacher)
    assert torch.equal(minimum_edit_distance_mapping(teacher, teacher[:1]), torch.tensor([0]))
