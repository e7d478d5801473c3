from __future__ import annotations

import pytest
import torch

from tutelage.assessment import spans_from_tags
from tutelage.data import load_data
from tutelage.data.topics_tags import TAGS, encode_passages, tagged_passages, word_shape
from tutelage.data.topics_text import read_topics


def test_marks_become_tags_and_leave_the_words() -> None:
    text = "\n\n".join(
        [
            "The *immutable object* of a **PEP 8** class, as in\n\"a[1]\".",
            "The *immutable object* of a **PEP 8** class, as in \"a[1]\".",  # the same again
            "funcdef ::= the grammar of a function and to be left out.",
            'Too "short" the a.',
            'A quotation mark of the kind """ cannot be told apart, and to be sure it is left out.',
            "   for line in file:\n       print(line)",
        ]
    )  # fmt: skip
    (passage,) = tagged_passages(text)
    words, tags = passage
    assert words == ["The", "immutable", "object", "of", "a", "PEP", "8", "class", ",", "as", "in", *"a[1].".strip()]
    assert spans_from_tags(tags) == {("term", 1, 2), ("code", 11, 14)}


def test_real_passages_have_no_marks_and_few_positives() -> None:
    passages = tagged_passages(read_topics())
    words = [word for of_passage, _ in passages for word in of_passage]
    tags = [tag for _, of_passage in passages for tag in of_passage]
    assert len(words) == len(tags) > 20_000
    assert 0.003 < tags.count("B-term") / len(tags) < 0.03
    assert 0.02 < tags.count("B-code") / len(tags) < 0.08
    assert all(len(of_words) == len(of_tags) for of_words, of_tags in passages)
    code = {word for word, tag in zip(words, tags, strict=True) if tag == "B-code"}
    plain = {word for word, tag in zip(words, tags, strict=True) if tag == "O"}
    assert {"in", "type", "for"} <= code & plain, "a word alone does not give the tag away"


def test_rows_hold_every_passage_once() -> None:
    data = load_data("topics_tags", length=48, fractions=(0.5, 0.3, 0.2))
    vocabulary = data.extras["vocabulary"]
    counts = [0] * len(TAGS)
    for part in (data.train, data.validation, data.test):
        assert part.inputs.shape == part.target.shape
        assert part.inputs.shape[1] == 48
        assert torch.equal(part.inputs == 0, part.target == -100)
        assert 0 <= int(part.inputs.min()) <= int(part.inputs.max()) < len(vocabulary)
        for tag in range(len(TAGS)):
            counts[tag] += int((part.target == tag).sum())
    tags = [tag for _, of_passage in tagged_passages(read_topics()) for tag in of_passage]
    assert counts == [tags.count(tag) for tag in TAGS]
    assert data.class_names == TAGS


def test_parts_depend_on_the_seed_alone() -> None:
    first, again, other = (load_data("topics_tags", seed=seed) for seed in (0, 0, 1))
    assert first.train.fingerprint() == again.train.fingerprint() != other.train.fingerprint()


def test_words_outside_the_vocabulary_have_a_shape() -> None:
    vocabulary = ["[SEP]", *(f"[{shape}]" for shape in ("lower", "Capital", "snake_case")), "of"]
    tokens, target = encode_passages(
        [(["of", "Foo", "a_b"], ["O", "B-term", "I-term"]), (["bar"], ["B-code"])], vocabulary, length=3
    )
    assert tokens.tolist() == [[4, 2, 3], [0, 1, 0]]
    assert target.tolist() == [[0, 3, 4], [-100, 1, -100]]
    assert word_shape("Naïve") == "Capital"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "`length`"),
        ({"minimum_count": 0}, "`minimum_count`"),
        ({"fractions": (0.5, 0.5, 0.5)}, "sum to 1"),
    ],
)
def test_bad_input(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        load_data("topics_tags", **options)
