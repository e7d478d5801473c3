from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch

from tutelage.data.glue import glue_parts

ROWS = {"question": ["aa", "b", "cc", "d"], "sentence": ["x", "yy", "z", "w"], "label": [0, 1, 1, 0]}


class Tokenizer:
    """One token a character, as `transformers` would give it."""

    def __call__(self, *texts: list[str], padding: str, truncation: bool, max_length: int, return_tensors: str) -> Any:
        assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
        rows = ["|".join(row) for row in zip(*texts, strict=True)]
        return {"input_ids": torch.tensor([[ord(c) for c in row.ljust(max_length, "\0")[:max_length]] for row in rows])}


@pytest.mark.parametrize(("task", "development"), [("qnli", "validation"), ("mnli", "validation_matched")])
def test_development_part_is_halved(monkeypatch: pytest.MonkeyPatch, task: str, development: str) -> None:
    asked = []
    datasets = types.ModuleType("datasets")
    datasets.load_dataset = lambda *names: asked.append(names) or {"train": ROWS, development: ROWS}  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    parts = glue_parts(task, ["question", "sentence"], Tokenizer(), max_length=4)
    assert asked == [("nyu-mll/glue", task)]
    assert {part: len(read["target"]) for part, read in parts.items()} == {"train": 4, "validation": 2, "test": 2}
    assert parts["validation"]["target"].tolist() == [0, 1]
    assert parts["test"]["target"].tolist() == [1, 0]
    assert bytes(parts["train"]["input_ids"][1].tolist()) == b"b|yy"
    assert bytes(parts["test"]["input_ids"][0].tolist()) == b"b|yy"
