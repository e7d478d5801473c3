"""GLUE (Wang et al. 2019) from the local Hugging Face cache, as token tensors; nothing is downloaded unasked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def glue_parts(
    task: str, columns: Sequence[str], tokenizer: Any, *, max_length: int = 128, source: str = "nyu-mll/glue"
) -> dict[str, dict[str, Tensor]]:
    """A task of GLUE. Its test labels are not public, so the two halves of its development part validate and test.

    Args:
        task: GLUE's name of it: `cola`, `sst2`, `mrpc`, `rte` … (`mnli`: the matched development part).
        columns: The columns that hold its one or two texts.
        tokenizer: Of `transformers`.
        max_length: Tokens of a text or pair, which is cut or padded to it.
        source: The data set's name.

    Returns:
        For `train`, `validation` and `test`: the tokenizer's tensors by name, `[samples, max_length]`, and `target`.

    Raises:
        ImportError: The package `datasets` is not installed.
    """
    import datasets

    read = datasets.load_dataset(source, task)

    def tensors(rows: Any) -> dict[str, Tensor]:
        texts = [list(rows[column]) for column in columns]
        tokens = tokenizer(*texts, padding="max_length", truncation=True, max_length=max_length, return_tensors="pt")
        return {**tokens, "target": torch.tensor(list(rows["label"]))}

    development = tensors(read["validation_matched" if task == "mnli" else "validation"])
    halves = [{name: value[start::2] for name, value in development.items()} for start in (0, 1)]
    return {"train": tensors(read["train"]), "validation": halves[0], "test": halves[1]}
