"""Packed texts teach what they teach in rows of their own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import ArraySamples, CharacterTokenizer, completion_samples, pack_samples
from tutelage.data.packing import best_fit
from tutelage.models import causal_lm

TOKENIZER = CharacterTokenizer("0123456789+=")


def _samples() -> ArraySamples:
    prompts = ["1+2=", "10+20=", "3+3=", "9+9+9=", "4+4="]
    return completion_samples(prompts, ["3", "30", "6", "27", "8"], TOKENIZER)


@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(20, 40))
@settings(max_examples=25, deadline=None)
def test_bins_hold_every_item_once_and_never_too_much(sizes: list[int], capacity: int) -> None:
    bins = best_fit(sizes, capacity)
    assert sorted(item for members in bins for item in members) == list(range(len(sizes)))
    assert all(sum(sizes[item] for item in members) <= capacity for members in bins)
    fewest = -(-sum(sizes) // capacity)
    assert len(bins) <= 11 / 9 * max(fewest, 1) + 1 or len(bins) <= 2 * fewest


def test_every_token_and_target_is_there_once() -> None:
    samples = _samples()
    packed = pack_samples(samples, 16)
    assert isinstance(packed.inputs, dict)
    assert isinstance(samples.inputs, dict)
    assert packed.target is not None
    assert samples.target is not None
    assert len(packed) < len(samples)
    learned, before = packed.target[packed.target != -100], samples.target[samples.target != -100]
    assert torch.equal(learned.sort().values, before.sort().values)
    counted = samples.inputs["attention_mask"].bool()
    assert torch.equal(
        packed.inputs["input_ids"][packed.inputs["input_ids"] != 0].sort().values,
        samples.inputs["input_ids"][counted].sort().values,
    )


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_no_text_sees_another(architecture: str) -> None:
    """The loss of every target is the one it has in its own row, by the attention of `transformers` itself."""
    torch.manual_seed(0)
    model = causal_lm(len(TOKENIZER), architecture=architecture, hidden_size=16, num_heads=2, max_length=32).eval()
    samples = _samples()
    packed = pack_samples(samples, 24)

    def losses(part: ArraySamples) -> torch.Tensor:
        assert isinstance(part.inputs, dict)
        assert part.target is not None
        with torch.no_grad():
            logits = model(**part.inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part.target.flatten(), reduction="none")
        return loss[part.target.flatten() != -100].sort().values

    torch.testing.assert_close(losses(packed), losses(samples), atol=1e-5, rtol=1e-5)


def test_bad_input_is_named() -> None:
    samples = _samples()
    with pytest.raises(ValueError, match=r"at most 5 tokens, but sample [13] has"):
        pack_samples(samples, 5)
    with pytest.raises(ValueError, match="`input_ids` and `attention_mask`"):
        pack_samples(ArraySamples(torch.zeros(2, 3), torch.zeros(2)), 5)
    with pytest.raises(ValueError, match="target for every token"):
        pack_samples(ArraySamples(samples.inputs), 5)
