"""MATH: competition problems with their final answers (Hendrycks et al. 2021), from the local Hugging Face cache."""

from __future__ import annotations

from typing import Any

import torch

from tutelage._checks import check_at_least
from tutelage.data.characters import completion_samples, encode_text
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

SOURCE = "EleutherAI/hendrycks_math"
TEST = "HuggingFaceH4/MATH-500"


def competition_math(
    *, tokenizer: str, train: int = 11_500, validation: int = 500, test: int = 500, max_length: int = 512, seed: int = 0
) -> Data:
    """MATH for causal language models that give the final answer at once, without reasoning.

    The test part is the usual 500 problems of Lightman et al. 2023; training and validation are drawn from the other
    12 000. Problems that are too long are left out of all three. Extras of the data: `tokenizer`.

    Args:
        tokenizer: A `transformers` tokenizer by name; it must have an end token, which also pads.
        train: Training problems, at most.
        validation: Validation problems, at most.
        test: Test problems, at most.
        max_length: Longest text in tokens.
        seed: Fixes the draw.

    Raises:
        ValueError: A size is below 1.

    Source: "Measuring Mathematical Problem Solving With the MATH Dataset", arXiv 2103.03874.
    """
    from datasets import get_dataset_config_names, load_dataset
    from transformers import AutoTokenizer

    sizes = {"validation": validation, "test": test, "train": train}
    for part, size in sizes.items():
        check_at_least(size, part, 1)
    words: Any = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False)
    words.pad_token_id = words.eos_token_id
    held_out = {row["problem"]: row["answer"] for row in load_dataset(TEST, split="test")}
    others: dict[str, str] = {}
    for subject in get_dataset_config_names(SOURCE):
        for part in ("train", "test"):
            for row in load_dataset(SOURCE, subject, split=part):
                if row["problem"] not in held_out:
                    others[row["problem"]] = boxed_answer(row["solution"])
    pairs = list(others.items())
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    drawn = [pairs[row] for row in order]
    chosen = {"validation": drawn[:validation], "test": list(held_out.items()), "train": drawn[validation:]}
    parts = {}
    start = 0
    for part, rows in chosen.items():
        texts = [(f"Problem: {problem}\nAnswer: ", answer) for problem, answer in rows]
        lengths = [sum(len(encode_text(words, piece)) for piece in text) + 2 for text in texts]
        short = [text for text, length in zip(texts, lengths, strict=True) if length <= max_length][: sizes[part]]
        index = torch.arange(start, start + len(short))
        start += len(short)
        problems, answers = [text[0] for text in short], [text[1] for text in short]
        parts[part] = completion_samples(problems, answers, words, max_length=max_length, index=index)
    return assemble(
        "competition_math",
        parts,
        task="causal_lm",
        num_classes=len(words),
        description=f"{start} problems of MATH, final answers alone",
        extras={"tokenizer": words},
    )


def boxed_answer(solution: str) -> str:
    r"""The final answer of a solution: what its last `\boxed{…}` holds, or the whole text where there is none.

    >>> print(boxed_answer(r"so it is $\boxed{\frac{1}{2}}$."))
    \frac{1}{2}
    """
    rest = solution.rpartition("\\boxed{")[2]
    depth = 1
    for position, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[:position]
    return rest
