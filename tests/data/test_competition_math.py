from __future__ import annotations

import sys
import types

import pytest

from tutelage.data import CharacterTokenizer
from tutelage.data.competition_math import SOURCE, TEST, boxed_answer, competition_math

ROWS = [
    {"problem": f"{one}+{two}", "solution": rf"It is $\boxed{{{one + two}}}$."} for one in range(4) for two in range(3)
]
HELD_OUT = [{"problem": row["problem"], "answer": boxed_answer(row["solution"])} for row in ROWS[:3]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """The two data sets and a tokenizer, without a network."""

    def load_dataset(name: str, subject: str | None = None, *, split: str) -> list[dict[str, str]]:
        if name == TEST:
            assert split == "test"
            return HELD_OUT
        assert (name, subject) == (SOURCE, "sums")
        return ROWS[::2] if split == "train" else ROWS[1::2]

    datasets = types.ModuleType("datasets")
    datasets.load_dataset = load_dataset  # type: ignore[attr-defined]
    datasets.get_dataset_config_names = lambda name: ["sums"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    characters = CharacterTokenizer("0123456789+ :\nProblemAnsw")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name, **options: characters)


def texts(samples, tokenizer) -> list[str]:
    return [tokenizer.decode(row) for row in samples.inputs["input_ids"]]


def test_no_problem_is_in_two_parts_and_the_test_part_is_the_usual_one(hub: None) -> None:
    data = competition_math(tokenizer="a/model", train=6, validation=2)
    tokenizer = data.extras["tokenizer"]
    parts = [texts(part, tokenizer) for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [6, 2, 3]
    assert len({text for part in parts for text in part}) == 11
    assert parts[2][1] == "Problem: 0+1\nAnswer: 1"
    answer = data.test.target[1]
    assert tokenizer.decode(answer[answer != -100]) == "1"
    again = competition_math(tokenizer="a/model", train=6, validation=2, seed=1)
    assert texts(again.test, tokenizer) == parts[2]
    assert texts(again.train, tokenizer) != parts[0]


def test_long_problems_are_left_out(hub: None) -> None:
    with pytest.raises((ValueError, IndexError)):
        competition_math(tokenizer="a/model", max_length=10)
    assert competition_math(tokenizer="a/model", max_length=24, train=1, validation=1).train.target.shape[1] <= 23


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"first \boxed{1}, then \boxed{2}", "2"),
        (r"$\boxed{\sqrt{\frac{1}{2}}}$.", r"\sqrt{\frac{1}{2}}"),
        ("no box", "no box"),
        (r"\boxed{never closed", "never closed"),
    ],
)
def test_boxed_answer(solution: str, answer: str) -> None:
    assert boxed_answer(solution) == answer


def test_bad_size() -> None:
    with pytest.raises(ValueError, match="`train` to be at least 1"):
        competition_math(tokenizer="a/model", train=0)
