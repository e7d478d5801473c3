from __future__ import annotations

import pytest
import torch

from tutelage.data import load_data


@pytest.mark.parametrize("tokenizer", ["character", "byte"])
def test_windows_cover_the_text_without_overlap(tokenizer: str) -> None:
    data = load_data("topics_text", tokenizer=tokenizer, length=64)
    decoder, text = data.extras["tokenizer"], data.extras["text"]
    ids, target = data.test.inputs["input_ids"], data.test.target
    assert ids.shape[1] == 64
    written = decoder.decode(ids.flatten().tolist())
    assert text["test"].encode().startswith(written.encode()[:1000])
    assert torch.equal(ids[1:, 0], target[:-1, -1])  # the next window starts where this one's last target is
    assert len(text["train"]) == pytest.approx(8 * len(text["test"]), rel=0.01)
    assert int(ids.max()) < data.num_classes


def test_parts_join_to_the_whole_and_indices_are_distinct() -> None:
    data = load_data("topics_text", length=256, stride=128)
    parts = (data.train, data.validation, data.test)
    assert torch.cat([part.index for part in parts]).unique().numel() == sum(map(len, parts))
    assert torch.equal(data.train.inputs["input_ids"][0, 128:], data.train.inputs["input_ids"][1, :128])


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`length` to be below"):
        load_data("topics_text", length=10**7)
    with pytest.raises(ValueError, match="did you mean 'byte'"):
        load_data("topics_text", tokenizer="bytes")
    with pytest.raises(ValueError, match="sum to 1"):
        load_data("topics_text", fractions=(0.5, 0.1, 0.1))
