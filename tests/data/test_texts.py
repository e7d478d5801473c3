"""Texts from a user's table: columns, tokenizers, parts, packing, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest
import torch

from tutelage.data import load_data, text_data, train_bpe


def _rows(count: int = 30) -> list[dict[str, str]]:
    return [{"question": f"{number}+1=", "answer": str(number + 1)} for number in range(count)]


def _file(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows))
    elif path.suffix == ".csv":
        pandas.DataFrame(rows).to_csv(path, index=False)
    else:
        pandas.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_file_becomes_prompts_and_completions(tmp_path: Path, suffix: str) -> None:
    path = _file(tmp_path / f"sums{suffix}", _rows())
    data = load_data(path, prompt_column="question", completion_column="answer", tokenizer="character")
    assert data.task == "causal_lm"
    tokenizer = data.extras["tokenizer"]
    batch = data.train.batch(torch.arange(len(data.train)))
    assert batch.target is not None
    assert isinstance(batch.inputs, dict)
    for ids, target in zip(batch.inputs["input_ids"], batch.target, strict=True):
        learned = target[target != -100]
        assert learned[-1] == tokenizer.eos_token_id
        prompt = tokenizer.decode(ids).partition("=")[0]
        assert tokenizer.decode(learned) == str(int(prompt.partition("+")[0]) + 1)


def test_indices_are_distinct_over_all_parts(tmp_path: Path) -> None:
    for part in ("train", "validation", "test"):
        _file(tmp_path / f"{part}.csv", [{"text": f"{part} {number}"} for number in range(4)])
    data = load_data(tmp_path, completion_column="text")
    every = torch.cat([part.batch(torch.arange(4)).index for part in (data.train, data.validation, data.test)])
    assert every.unique().numel() == 12


def test_whole_texts_are_learned_without_a_prompt_column() -> None:
    data = text_data("texts", {"train": pandas.DataFrame({"text": ["abc", "de"] * 6})}, completion_column="text")
    target = data.train.batch(torch.arange(1)).target
    assert target is not None
    assert int((target != -100).sum()) == len("abc") + 1


def test_packing_changes_the_training_part_alone() -> None:
    frames = {"train": pandas.DataFrame(_rows(60))}
    plain = text_data("sums", frames, prompt_column="question", completion_column="answer", length=32)
    packed = text_data("sums", frames, prompt_column="question", completion_column="answer", length=32, packed=True)
    assert len(packed.train) < len(plain.train) / 2
    assert packed.validation.fingerprint() == plain.validation.fingerprint()
    assert packed.test.fingerprint() == plain.test.fingerprint()


def test_a_tokenizer_of_transformers_is_read_from_a_folder(tmp_path: Path) -> None:
    tokenizer = train_bpe(["one two three"], 270)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    frames = {"train": pandas.DataFrame({"text": ["one two", "three"] * 6})}
    by_path = text_data("t", frames, completion_column="text", tokenizer=str(tmp_path / "tokenizer"))
    by_object = text_data("t", frames, completion_column="text", tokenizer=tokenizer)
    assert by_path.num_classes == len(tokenizer)
    assert by_path.train.fingerprint() == by_object.train.fingerprint()


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    frames = {"train": pandas.DataFrame({"text": ["abc"] * 4 + [None]})}
    with pytest.raises(ValueError, match="column 'text' to hold texts, but got nan"):
        text_data("t", frames, completion_column="text")
    with pytest.raises(ValueError, match=r"'txt' \(did you mean 'text'\?\)"):
        text_data("t", frames, completion_column="txt")
    whole = {"train": pandas.DataFrame({"text": ["abcdefgh"] * 9})}
    with pytest.raises(ValueError, match="at most 6 tokens"):
        text_data("t", whole, completion_column="text", length=6)
    with pytest.raises(ValueError, match="Expected the tokenizer to be"):
        text_data("t", whole, completion_column="text", tokenizer=str(tmp_path / "none"))
    (tmp_path / "broken.jsonl").write_text('{"text": "a"')
    with pytest.raises(ValueError, match=r"broken\.jsonl to be a jsonl table, but it cannot be read"):
        load_data(tmp_path / "broken.jsonl", completion_column="text")
