"""MaKD's questions: yes/no questions about a data set's classes, written and chosen by a language model.

Source: "Multi-aspect Knowledge Distillation with Large Language Model", arXiv 2501.13341, section 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tutelage._checks import check_at_least
from tutelage.files import errors_name, read_json, write_json

_ITEM = re.compile(r"^\s*(?:[-*•–]|\(?\d+\s*[.):])?\s*(.+?\?)[\s*_\"'”]*$")


class AspectQuestionSet(Sequence[str]):
    """Yes/no questions in a fixed order, each once.

    Questions that differ only in case, spaces or punctuation are one question; the first form stays. The order is that
    of the answers' columns.

    Args:
        questions: The questions.

    Raises:
        ValueError: No question, or one without a letter or digit.

    >>> questions = AspectQuestionSet(["Does it have wings?", "does it  have wings", "Is it red?"])
    >>> list(questions)
    ['Does it have wings?', 'Is it red?']
    >>> AspectQuestionSet.from_json(questions.to_json()) == questions
    True
    """

    def __init__(self, questions: Iterable[str]) -> None:
        kept: dict[str, str] = {}
        for question in questions:
            text = " ".join(question.split())
            key = " ".join(re.findall(r"\w+", text.casefold()))
            if not key:
                raise ValueError(f"Expected argument `questions` to hold questions, but got {question!r}.")
            kept.setdefault(key, text)
        if not kept:
            raise ValueError("Expected argument `questions` to hold at least one question, but it is empty.")
        self._questions = tuple(kept.values())

    def __len__(self) -> int:
        return len(self._questions)

    def __getitem__(self, position):  # type: ignore[no-untyped-def]
        return self._questions[position]

    def __iter__(self) -> Iterator[str]:
        return iter(self._questions)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AspectQuestionSet) and self._questions == other._questions

    def __hash__(self) -> int:
        return hash(self._questions)

    def __repr__(self) -> str:
        return f"AspectQuestionSet({list(self._questions)!r})"

    @classmethod
    def from_text(cls, text: str) -> AspectQuestionSet:
        r"""The questions in a language model's text: every line that ends in a question mark, without its number.

        Raises:
            ValueError: There is none.

        >>> list(AspectQuestionSet.from_text("Here they are:\n1. Is it red?\n2) **Can it fly?**\n- Has it fur?"))
        ['Is it red?', 'Can it fly?', 'Has it fur?']
        """
        found = [match[1].lstrip("*_\"'“ ") for line in text.splitlines() if (match := _ITEM.match(line))]
        if not found:
            raise ValueError(f"Expected lines that end in a question mark, but got {text[:80]!r}.")
        return cls(found)

    def to_json(self) -> list[str]:
        """The questions as JSON holds them."""
        return list(self._questions)

    @classmethod
    def from_json(cls, value: object) -> AspectQuestionSet:
        """The questions that a JSON list holds; `ValueError` when it is something else."""
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"Expected questions as a JSON list of texts, but got {str(value)[:80]}.")
        return cls(value)

    def save(self, path: Path | str) -> None:
        """Write a JSON file, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> AspectQuestionSet:
        """Read a JSON file, or a text file with a question a line (the form of the released questions).

        Raises:
            ValueError: The file holds no questions.
        """
        path = Path(path)
        with errors_name(path):
            if path.suffix == ".json":
                return cls.from_json(read_json(path))
            return cls(line for line in path.read_text(encoding="utf-8").splitlines() if line.strip())


def build_question_prompts(class_names: Sequence[str], num_images: int, n: int, q: int) -> tuple[str, str]:
    """What a language model is asked: first to write n questions, then to choose the q best of them.

    In our own words. The paper's prompts say the same: the number of classes and images and the names of the classes;
    feature-specific yes/no questions about clear and distinct aspects; then the most relevant and telling ones.

    Args:
        class_names: A name a class.
        num_images: Images in the data set.
        n: Questions to write.
        q: Questions to keep, at most n.

    Returns:
        The prompt that asks for questions, and the one that follows it in the same conversation.

    Raises:
        ValueError: No class, or numbers below 1, or more to keep than to write.

    >>> write, choose = build_question_prompts(["cat", "dog"], num_images=100, n=20, q=5)
    >>> "cat, dog" in write, "20" in write, "5" in choose
    (True, True, True)
    """
    check_at_least(len(class_names), "class_names", 1)
    check_at_least(num_images, "num_images", 1)
    check_at_least(q, "q", 1)
    check_at_least(n, "n", q)
    write = (
        f"A data set has {num_images} images of {len(class_names)} classes: {', '.join(class_names)}.\n"
        f"Write {n} questions about what an image of it may show, each of which can be answered by yes or no. Every "
        "question is about one clear feature and no two are about the same: shape, colour, parts, texture, pose, "
        "surroundings, kind, use, or what else sets some classes apart from others. Do not name a class.\n"
        "Give one question a line, numbered, and nothing else."
    )
    choose = (
        f"Choose the {q} of these questions that tell most: their answers differ between the classes, can be seen in "
        "the image or known from it, and do not follow from one another.\n"
        "Give one question a line, numbered, in the same words, and nothing else."
    )
    return write, choose


def generate_questions(
    reply: Callable[[list[dict[str, str]]], str], class_names: Sequence[str], num_images: int, n: int, q: int
) -> AspectQuestionSet:
    r"""Let a language model write and choose the questions, in one conversation of two turns.

    Args:
        reply: Gives the model's answer to a conversation, a list of `{"role": …, "content": …}`.
        class_names: A name a class.
        num_images: Images in the data set.
        n: Questions to write.
        q: Questions to keep; the first q when the model gives more.

    Raises:
        ValueError: The model chose fewer than q different questions.

    >>> written = iter(["1. Is it red?\n2. Is it round?\n3. Can it fly?", "1. Can it fly?\n2. Is it red?"])
    >>> list(generate_questions(lambda conversation: next(written), ["plane", "ball"], 10, n=3, q=2))
    ['Can it fly?', 'Is it red?']
    """
    write, choose = build_question_prompts(class_names, num_images, n, q)
    conversation = [{"role": "user", "content": write}]
    conversation += [{"role": "assistant", "content": reply(list(conversation))}, {"role": "user", "content": choose}]
    chosen = AspectQuestionSet.from_text(reply(list(conversation)))
    if len(chosen) < q:
        raise ValueError(f"Expected {q} different questions, but the language model chose {len(chosen)}.")
    return AspectQuestionSet(chosen[:q])
