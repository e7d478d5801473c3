from __future__ import annotations

import itertools
import random

import pytest

from tutelage.data import toy_texts
from tutelage.data.toy_texts import (
    entailment_pairs,
    expression_paraphrases,
    grammatical_strings,
    is_grammatical,
    words_by_language,
)

GENERATED = pytest.mark.parametrize("task", [entailment_pairs, grammatical_strings, expression_paraphrases])


@GENERATED
def test_texts_are_distinct_balanced_and_drawn_from_the_seed(task) -> None:
    texts, labels = task(600, seed=3)
    assert len(set(texts)) == len(texts) == len(labels) == 600
    assert 0.4 < sum(labels) / 600 < 0.6
    assert task(600, seed=3) == (texts, labels)
    assert task(600, seed=4)[0] != texts
    with pytest.raises(ValueError, match="`count` to be at least 1, but got 0"):
        task(0)


def test_claims_follow_from_the_ages() -> None:
    for text, label in zip(*entailment_pairs(200), strict=True):
        known, claim = text.split("|")
        ages = {known[place]: int(known[place + 1]) for place in range(0, len(known), 2)}
        older = ages[claim[0]] > ages[claim[2]]
        assert label == (older == (claim[1] == ">"))


def all_sentences(length: int) -> set[str]:
    """The grammar's sentences up to a length, by growing phrases until nothing new comes."""
    phrases: dict[str, str] = {}
    while True:
        grown = dict(phrases)
        for noun, verb in (("n", "v"), ("m", "w")):
            for adjectives in range(length):
                head = "d" + "a" * adjectives + noun
                grown[head] = verb
                grown |= {head + inner + asked: verb for inner, asked in phrases.items()}
        grown = {phrase: verb for phrase, verb in grown.items() if len(phrase) <= length}
        if grown == phrases:
            break
        phrases = grown
    sentences = {phrase + verb + rest for phrase, verb in phrases.items() for rest in ("", *phrases)}
    return {sentence for sentence in sentences if len(sentence) <= length}


def test_recogniser_agrees_with_an_enumeration_of_the_language() -> None:
    expected = all_sentences(7)
    assert "dndmwv" in expected
    found = {
        "".join(letters)
        for length in range(1, 8)
        for letters in itertools.product("danmvw", repeat=length)
        if letters[0] == "d" and is_grammatical("".join(letters))
    }
    assert found == expected
    assert not is_grammatical("")
    assert not is_grammatical("nv")


def test_paraphrases_are_equal_at_random_points_and_others_are_not() -> None:
    draw = random.Random(0)
    points = [{letter: draw.randint(-9, 9) for letter in "abcdefgh"} for _ in range(20)]
    for text, label in zip(*expression_paraphrases(200), strict=True):
        left, right = text.split("=")
        assert label == all(eval(left, dict(point)) == eval(right, dict(point)) for point in points), text


def test_words_come_evenly_from_each_language() -> None:
    words, labels = words_by_language(600, seed=1)
    assert [labels.count(label) for label in range(6)] == [100] * 6
    assert all(3 <= len(word) <= 8 and word.isalpha() for word in words)
    assert len(set(zip(words, labels, strict=True))) == 600
    assert words_by_language(600, seed=1) == (words, labels)


def test_too_many_are_refused() -> None:
    with pytest.raises(ValueError, match="at most about 2, but got 5"):
        toy_texts._distinct(lambda draw: (draw.choice("xy"), 0), 5, "seed")
