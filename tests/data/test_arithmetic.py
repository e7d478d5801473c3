from __future__ import annotations

import random

import pytest
import torch

from tutelage.data import (
    ByteTokenizer,
    CharacterTokenizer,
    answer_of,
    arithmetic_reward,
    completion_samples,
    generate_problems,
    load_data,
    step_is_right,
    targets_of,
)
from tutelage.data.arithmetic import ALPHABET


@pytest.mark.parametrize("options", [{}, {"operations": "+-*", "operands": (2, 5)}, {"modulus": 100, "digits": 3}])
def test_python_agrees_with_every_answer_and_step(options) -> None:
    for problem in generate_problems(200, seed=4, **options):
        assert set(problem.prompt + problem.completion()) <= set(ALPHABET)
        assert eval(problem.prompt.rstrip("=")) == int(problem.answer)
        assert all(step_is_right(step) for step in problem.steps)
        for step in problem.steps:
            left, right = step.split("=")
            assert eval(left) == int(right) >= 0
        assert problem.steps[-1].endswith(f"={problem.answer}")
        assert len(problem.steps) == problem.operands - 1 + ("modulus" in options)


def test_carries() -> None:
    for problem in generate_problems(100, operands=(2,), digits=2, seed=1):
        expression = problem.prompt.rstrip("=")
        sign = "+" if "+" in expression else "-"
        first, second = map(int, expression.split(sign))
        if sign == "+":
            ones = first % 10 + second % 10 >= 10
            tens = first // 10 + second // 10 + ones >= 10
            assert problem.carries == ones + tens
        else:
            assert problem.carries == (first % 10 < second % 10)


def test_problems_are_distinct_and_seeded() -> None:
    first = generate_problems(300, seed=0)
    assert len({problem.prompt for problem in first}) == 300
    assert first == generate_problems(300, seed=0) != generate_problems(300, seed=1)
    more = generate_problems(50, seed=0, exclude=first)
    assert not {problem.prompt for problem in more} & {problem.prompt for problem in first}


def test_reward_reads_the_answer_in_every_style() -> None:
    for problem in generate_problems(20, seed=2):
        for style in ("answer", "explain", "rationalize"):
            completion = problem.completion(style)
            assert answer_of(completion) == problem.answer
            assert arithmetic_reward(completion, problem) == 1.0
        assert arithmetic_reward(f"{problem.explanation}#{int(problem.answer) + 1}", problem) == 0.0
        assert arithmetic_reward("", problem) == 0.0


@pytest.mark.parametrize("step", ["", "=", "1+1", "1+1=3", "1+=1", "a+b=c", "5%0=0", "3-5=-2", "9" * 40 + "+1=2"])
def test_steps_that_are_not_right(step: str) -> None:
    assert not step_is_right(step)


def test_batches_are_aligned_and_masked() -> None:
    data = load_data("arithmetic", train=60, validation=10, test=10, operations="+-*")
    tokenizer = data.extras["tokenizer"]
    problems = data.extras["problems"]["train"]
    batch = data.train.batch(torch.arange(60))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    for row, problem in enumerate(problems):
        learned = batch.target[row][batch.target[row] != -100].tolist()
        assert tokenizer.decode(learned) == problem.completion()
        assert learned[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[row].tolist()) == problem.prompt + problem.completion()
        start = int(batch.extras["prompt_length"][row])
        assert tokenizer.decode(ids[row, :start].tolist()) == problem.prompt
        assert int(batch.target[row, start - 1]) == int(ids[row, start])
        assert int(mask[row].sum()) == int((ids[row] != tokenizer.pad_token_id).sum())
    inside = (batch.target[:, :-1] != -100) & (batch.target[:, :-1] != tokenizer.eos_token_id)
    assert torch.equal(batch.target[:, :-1][inside], ids[:, 1:][inside])
    assert data.num_classes > int(ids.max())


def test_parts_share_no_problem() -> None:
    data = load_data("arithmetic", train=500, validation=50, test=50, digits=1)
    prompts = [{one.prompt for one in data.extras["problems"][part]} for part in ("train", "validation", "test")]
    assert not prompts[0] & prompts[1]
    assert not prompts[0] & prompts[2]
    larger = load_data("arithmetic", train=600, validation=50, test=50, digits=1)
    assert larger.extras["problems"]["test"] == data.extras["problems"]["test"]


def test_too_many_problems() -> None:
    with pytest.raises(ValueError, match="as many problems as there are"):
        generate_problems(1000, operands=(2,), digits=1)
    with pytest.raises(ValueError, match="`operations`"):
        generate_problems(1, operations="/")
    with pytest.raises(ValueError, match="`operands`"):
        generate_problems(1, operands=(1,))


def test_tokenizers_round_trip() -> None:
    text = "47+38=85;85-9=76#76"
    characters = CharacterTokenizer(ALPHABET)
    assert characters.decode(characters.encode(text)) == text
    assert ByteTokenizer().decode(ByteTokenizer().encode("Zürich ✓")) == "Zürich ✓"
    with pytest.raises(ValueError, match="but got 'x'"):
        characters.encode("x")
    with pytest.raises(ValueError, match="distinct"):
        CharacterTokenizer("aa")


def test_transformers_twin_gives_the_same_ids() -> None:
    tokenizer = CharacterTokenizer(ALPHABET + " \n")
    twin = tokenizer.to_transformers()
    random_state = random.Random(0)
    text = "".join(random_state.choices(ALPHABET + " \n", k=50))
    assert twin.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    assert twin.decode(tokenizer.encode(text)) == text
    assert (twin.pad_token_id, twin.bos_token_id, twin.eos_token_id) == (0, 1, 2)
    assert len(twin) == len(tokenizer)


def test_bpe_tokens_are_shorter_and_decode_to_the_same() -> None:
    data = load_data("arithmetic", train=60, validation=5, test=5, tokenizer="bpe", vocab_size=300)
    plain = load_data("arithmetic", train=60, validation=5, test=5)
    assert data.train.inputs["input_ids"].shape[1] < plain.train.inputs["input_ids"].shape[1]
    target = targets_of(data.train)[0]
    text = data.extras["tokenizer"].decode(target[target != -100], skip_special_tokens=True)
    assert text == data.extras["problems"]["train"][0].completion()


def test_long_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4 tokens"):
        completion_samples(["12="], ["12"], CharacterTokenizer(ALPHABET), max_length=4)
    with pytest.raises(ValueError, match="as many"):
        completion_samples(["12="], [], CharacterTokenizer(ALPHABET))
