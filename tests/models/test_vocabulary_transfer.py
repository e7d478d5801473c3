"""A model under another tokenizer: its tables, and everything that must stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tutelage.data import ByteTokenizer, train_bpe
from tutelage.models import causal_lm, fast_vocabulary_transfer, transfer_vocabulary


def _old() -> Any:
    return train_bpe(["the cat sat on the mat"] * 3, 275)


@pytest.mark.parametrize("tied", [True, False])
def test_only_the_tables_change(tied: bool) -> None:
    old = _old()
    model = causal_lm(len(old), hidden_size=8, num_layers=1, tie_word_embeddings=tied)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tables = [getattr(model, f"get_{side}_embeddings")().weight.detach().clone() for side in ("input", "output")]
    changed = transfer_vocabulary(model, old, ByteTokenizer())
    assert changed is model
    for name, value in changed.state_dict().items():
        if value.shape == before[name].shape:
            assert torch.equal(value, before[name]), name
    for side, table in zip(("input", "output"), tables, strict=True):
        made = getattr(changed, f"get_{side}_embeddings")().weight
        assert torch.equal(made, fast_vocabulary_transfer(old, ByteTokenizer(), table))
    assert (changed.get_input_embeddings().weight is changed.get_output_embeddings().weight) == tied


def test_the_same_tokenizer_changes_nothing() -> None:
    old = _old()
    model = causal_lm(len(old), architecture="llama", hidden_size=8, num_layers=1, tie_word_embeddings=False).eval()
    ids = torch.randint(len(old), (2, 5))
    before = model(ids).logits
    torch.testing.assert_close(transfer_vocabulary(model, old, old)(ids).logits, before)


def test_a_table_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 259 embeddings"):
        transfer_vocabulary(causal_lm(9, hidden_size=8), ByteTokenizer(), ByteTokenizer())
