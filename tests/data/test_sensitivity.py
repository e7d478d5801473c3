from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from tutelage.data import (
    ByteTokenizer,
    CharacterTokenizer,
    combine_sensitivity,
    completion_samples,
    document_frequency,
    pattern_sensitivity,
    rarity_sensitivity,
    token_spans,
    train_bpe,
)

LETTERS = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz0123456789 .@+-=")


def marked(text: str, **options) -> str:
    """The characters of a text that score 1; a dot for each other one."""
    (scores,) = pattern_sensitivity([text], LETTERS, **options)
    assert set(scores.tolist()) <= {0.0, 1.0}
    return "".join(character if score else "." for character, score in zip(text, scores, strict=True))


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("the code is 4071", "............4071"),
        ("at 17 or 42", "..........."),
        ("12+30=42", "........"),
        ("mail anna@web.org now", ".....anna@web.org...."),
        ("call 030 555-12 34", ".....030 555-12 34"),
        ("pay 4000 1234 5678 9010", "....4000 1234 5678 9010"),
        ("no digits", "........."),
        ("", ""),
    ],
)
def test_patterns_find_what_looks_private(text, private):
    assert marked(text) == private


def test_patterns_of_ones_own_replace_the_usual_ones():
    assert marked("anna has 4071", patterns=["anna|otto"]) == "anna........."
    assert marked("anna has 4071", patterns={"none": "x"}) == "." * 13


def test_every_piece_of_a_secret_is_covered_whatever_the_tokenizer():
    text = "ätna code 407123 ok"
    byte = pattern_sensitivity([text], ByteTokenizer())[0]
    assert len(byte) == len(text.encode())
    assert bytes(c for c, s in zip(text.encode(), byte, strict=True) if s) == b"407123"
    bpe = train_bpe([text, "40 71 23 407 code 4071"] * 3, 275)
    scores = pattern_sensitivity([text], bpe)[0]
    spans = token_spans(bpe, text)
    assert len(scores) == len(bpe.encode(text, add_special_tokens=False)) == len(spans)
    start = text.index("4")
    for score, (first, last) in zip(scores, spans, strict=True):
        assert score == float(first < start + 6 and last > start)


def test_scores_stand_where_the_target_of_a_whole_text_stands():
    text = "code 4071"
    target = completion_samples([""], [text], LETTERS).target[0]
    scores = pattern_sensitivity([text], LETTERS)[0]
    assert LETTERS.decode(target[:-1][scores.bool()]) == "4071"


def test_document_frequency_counts_documents_not_tokens():
    shares = document_frequency([[1, 1, 2], torch.tensor([2, -100]), [2, 0]], 4)
    assert shares.tolist() == pytest.approx([1 / 3, 1 / 3, 1.0, 0.0])


def test_rarity_is_what_documents_lack():
    shares = torch.tensor([1.0, 0.25, 0.0])
    scores = rarity_sensitivity(torch.tensor([[0, 1], [2, -100]]), shares)
    assert scores.tolist() == [[0.0, 0.75], [1.0, 0.0]]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_combination_lies_between_its_scores(rows):
    scores = [torch.tensor(row) for row in rows]
    stacked = torch.stack(scores)
    assert torch.equal(combine_sensitivity(*scores), stacked.amax(dim=0))
    mean = combine_sensitivity(*scores, how="mean")
    assert (mean <= stacked.amax(dim=0) + 1e-6).all()
    assert (mean >= stacked.amin(dim=0) - 1e-6).all()
    assert torch.equal(combine_sensitivity(*reversed(scores)), combine_sensitivity(*scores))


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="regular expressions, but '\\['"):
        pattern_sensitivity(["a"], LETTERS, patterns=["["])
    with pytest.raises(ValueError, match="tells where its tokens come from"):
        pattern_sensitivity(["a"], object())
    with pytest.raises(ValueError, match="hold tokens in \\[0, 2\\), but got 2"):
        rarity_sensitivity(torch.tensor([[2]]), torch.tensor([0.5, 0.5]))
    with pytest.raises(ValueError, match="`document_frequency` to hold values in"):
        rarity_sensitivity(torch.tensor([[0]]), torch.tensor([1.5]))
    with pytest.raises(ValueError, match="`documents` to hold tokens"):
        document_frequency([[5]], 3)
    with pytest.raises(ValueError, match="at least 1"):
        document_frequency([], 3)
    with pytest.raises(ValueError, match="same shape"):
        combine_sensitivity(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="`scores` to hold values in"):
        combine_sensitivity(torch.tensor([2.0]))
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        combine_sensitivity(torch.zeros(2), how="sum")
    with pytest.raises(ValueError, match="at least 1"):
        combine_sensitivity()
