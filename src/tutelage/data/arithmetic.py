"""Arithmetic with worked steps: problems that are made, explained and checked here, for small language models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from tutelage._checks import check_at_least, check_option
from tutelage.data.characters import CharacterTokenizer, completion_samples, train_bpe
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

ANSWER_MARK = "#"
ALPHABET = "0123456789+-*%()=;" + ANSWER_MARK
"""Every character that problems, explanations and answers are written in."""

_LARGEST_FACTOR_OF = 1000  # products stay below ten thousand
_MOST_MISSES = 5000  # draws in a row that give nothing new: hardly any problem is left


@dataclass(frozen=True, slots=True)
class ArithmeticProblem:
    """One problem, its worked steps and its answer.

    Attributes:
        prompt: `"(47+38)*3-19="`.
        steps: `("47+38=85", "85*3=255", "255-19=236")`, inside out.
        answer: `"236"`.
        operands: How many numbers the expression holds.
        carries: Carries and borrows over all additions and subtractions.
    """

    prompt: str
    steps: tuple[str, ...]
    answer: str
    operands: int
    carries: int

    @property
    def explanation(self) -> str:
        """The steps, joined by semicolons."""
        return ";".join(self.steps)

    def completion(self, style: Literal["answer", "explain", "rationalize"] = "explain") -> str:
        """What is to be learned: the answer alone, steps then answer, or answer then steps.

        >>> problem = ArithmeticProblem("4+8=", ("4+8=12",), "12", 2, 1)
        >>> [problem.completion(style) for style in ("answer", "explain", "rationalize")]
        ['12', '4+8=12#12', '#12;4+8=12']
        """
        if style == "answer":
            return self.answer
        if style == "explain":
            return f"{self.explanation}{ANSWER_MARK}{self.answer}"
        return f"{ANSWER_MARK}{self.answer};{self.explanation}"


def answer_of(completion: str) -> str:
    """The answer in a completion: what follows the last `#` up to a `;`, or all of it when there is no `#`.

    >>> answer_of("4+8=12#12"), answer_of("12")
    ('12', '12')
    """
    return completion.rsplit(ANSWER_MARK, 1)[-1].split(";", 1)[0].strip()


def arithmetic_reward(completion: str, problem: ArithmeticProblem) -> float:
    """1 when the answer of a completion is right, else 0; how it was reached does not count."""
    return float(answer_of(completion) == problem.answer)


def step_is_right(step: str) -> bool:
    """Whether one worked step (`"85*3=255"`) is true; anything that is no step is not.

    >>> step_is_right("85*3=255"), step_is_right("85*3=254"), step_is_right("85")
    (True, False, False)
    """
    left, equals, right = step.partition("=")
    for sign in "+-*%":
        first, found, second = left.partition(sign)
        if found and first.isdecimal() and second.isdecimal() and right.isdecimal() and len(left) < 32:
            if sign == "%" and int(second) == 0:
                return False
            return bool(equals) and _apply(int(first), sign, int(second)) == int(right)
    return False


def generate_problems(
    count: int,
    *,
    operands: Sequence[int] = (2, 3),
    operations: str = "+-",
    digits: int = 2,
    modulus: int | None = None,
    seed: int = 0,
    exclude: Sequence[ArithmeticProblem] = (),
) -> list[ArithmeticProblem]:
    """Distinct problems, drawn at random; no intermediate result is negative.

    Args:
        count: How many.
        operands: How many numbers an expression may hold; each is as likely.
        operations: Signs among `+`, `-` and `*` (a factor is one digit).
        digits: Digits of the largest number.
        modulus: Take the result modulo this number, as a last step.
        seed: Fixes the draws.
        exclude: Problems that must not come again (those of another part).

    Raises:
        ValueError: An unknown sign, fewer than two operands, or more problems than there are.

    >>> generate_problems(1, operands=(3,), seed=1)[0].prompt.count("=")
    1
    """
    check_at_least(count, "count", 1)
    check_at_least(digits, "digits", 1)
    if not operands or min(operands) < 2:
        raise ValueError(f"Expected argument `operands` to hold numbers of at least 2, but got {tuple(operands)}.")
    if not operations:
        raise ValueError("Expected argument `operations` to hold at least one of '+', '-', '*', but it is empty.")
    for sign in operations:
        check_option(sign, "operations", ("+", "-", "*"))
    if modulus is not None:
        check_at_least(modulus, "modulus", 2)
    random_state = random.Random(seed)
    seen = {problem.prompt for problem in exclude}
    problems: list[ArithmeticProblem] = []
    misses = 0
    while len(problems) < count:
        problem = _draw(random_state, random_state.choice(list(operands)), operations, 10**digits - 1, modulus)
        if problem.prompt in seen:
            misses += 1
            if misses > _MOST_MISSES:
                raise ValueError(
                    f"Expected at most as many problems as there are, but only {len(problems)} of {count} distinct "
                    "ones were found; allow more digits, operands or operations."
                )
            continue
        misses = 0
        seen.add(problem.prompt)
        problems.append(problem)
    return problems


def arithmetic(
    *,
    train: int = 2000,
    validation: int = 200,
    test: int = 500,
    operands: Sequence[int] = (2, 3),
    operations: str = "+-",
    digits: int = 2,
    modulus: int | None = None,
    style: Literal["answer", "explain", "rationalize"] = "explain",
    tokenizer: Any = "character",
    vocab_size: int = 320,
    seed: int = 0,
) -> Data:
    """Distinct arithmetic problems for causal language models; no problem is in two parts.

    Batches hold `input_ids` and `attention_mask`; targets are aligned with the logits and -100 on prompts and padding.
    Extras of a batch: `operands`, `carries`, `prompt_length`. Extras of the data: `tokenizer`, `problems` (a list a
    part, in row order) and `reward`, which is `arithmetic_reward`.

    Args:
        train: Training problems.
        validation: Validation problems.
        test: Test problems.
        operands: How many numbers an expression may hold.
        operations: Signs among `+`, `-` and `*`.
        digits: Digits of the largest number.
        modulus: Take results modulo this number.
        style: What is learned: `"answer"`, `"explain"` (steps, then the answer) or `"rationalize"` (the other way).
        tokenizer: `"character"`, `"bpe"` (trained on the training texts) or a tokenizer.
        vocab_size: Tokens of `"bpe"`.
        seed: Fixes the draws.

    >>> data = arithmetic(train=20, validation=5, test=5)
    >>> problem = data.extras["problems"]["train"][0]
    >>> data.extras["reward"](problem.completion(), problem), data.num_classes
    (1.0, 22)
    """
    check_option(style, "style", ("answer", "explain", "rationalize"))
    sizes = {"train": train, "validation": validation, "test": test}
    for part, size in sizes.items():
        check_at_least(size, part, 1)
    drawn = generate_problems(
        sum(sizes.values()), operands=operands, operations=operations, digits=digits, modulus=modulus, seed=seed
    )
    problems: dict[str, list[ArithmeticProblem]] = {}
    offsets: dict[str, int] = {}
    start = 0
    for part in ("validation", "test", "train"):  # so that a larger training part leaves the others as they were
        problems[part], offsets[part] = drawn[start : start + sizes[part]], start
        start += sizes[part]
    if isinstance(tokenizer, str):
        check_option(tokenizer, "tokenizer", ("character", "bpe"))
        if tokenizer == "bpe":
            tokenizer = train_bpe([one.prompt + one.completion(style) for one in problems["train"]], vocab_size)
        else:
            tokenizer = CharacterTokenizer(ALPHABET)
    parts = {
        part: completion_samples(
            [one.prompt for one in problems[part]],
            [one.completion(style) for one in problems[part]],
            tokenizer,
            index=torch.arange(offsets[part], offsets[part] + size),
            extras={
                "operands": torch.tensor([one.operands for one in problems[part]]),
                "carries": torch.tensor([one.carries for one in problems[part]]),
            },
        )
        for part, size in sizes.items()
    }
    return assemble(
        "arithmetic",
        parts,
        task="causal_lm",
        num_classes=len(tokenizer),
        description=f"{start} generated problems with {operations} over {min(operands)} to {max(operands)} numbers",
        extras={"tokenizer": tokenizer, "problems": problems, "reward": arithmetic_reward},
    )


def _apply(first: int, sign: str, second: int) -> int:
    if sign == "+":
        return first + second
    if sign == "-":
        return first - second
    return first * second if sign == "*" else first % second


def _draw(
    random_state: random.Random, operands: int, operations: str, largest: int, modulus: int | None
) -> ArithmeticProblem:
    value = random_state.randint(min(1, largest), largest)
    text, sum_outside = str(value), False
    steps: list[str] = []
    carries = 0
    for _ in range(operands - 1):
        possible = [sign for sign in operations if sign != "*" or value < _LARGEST_FACTOR_OF] or ["-"]
        sign = random_state.choice(possible)
        if sign == "*":
            number = random_state.randint(2, 9)
            text = f"({text})" if sum_outside else text
        else:
            number = random_state.randint(1, largest) if sign == "+" else random_state.randint(0, min(value, largest))
            carries += _carries(value, sign, number)
        sum_outside = sign != "*"
        result = _apply(value, sign, number)
        text = f"{text}{sign}{number}"
        steps.append(f"{value}{sign}{number}={result}")
        value = result
    if modulus is not None:
        text = f"({text})%{modulus}"
        steps.append(f"{value}%{modulus}={value % modulus}")
        value %= modulus
    return ArithmeticProblem(f"{text}=", tuple(steps), str(value), operands, carries)


def _carries(first: int, sign: str, second: int) -> int:
    """Carries of a sum, or borrows of a difference of at least 0, written digit by digit."""
    count = carry = 0
    while first or second:
        here = first % 10 + second % 10 + carry if sign == "+" else first % 10 - second % 10 - carry
        carry = int(here > 9 or here < 0)
        count += carry
        first, second = first // 10, second // 10
    return count
