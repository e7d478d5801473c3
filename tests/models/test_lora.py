"""Adapters: they start with the model's outputs, learn alone, and merge into a plain model that can be saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tutelage.models import add_lora, causal_lm, load_model, merge_lora, mlp, save_model

pytest.importorskip("peft")


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_adapters_learn_alone_and_merge(architecture: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = causal_lm(11, architecture=architecture, hidden_size=16, num_layers=1, num_heads=2)
    ids = torch.randint(11, (2, 5))
    before = model(ids).logits.detach()
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = add_lora(model, rank=2)
    torch.testing.assert_close(adapted(input_ids=ids).logits, before)
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    assert 0 < sum(map(torch.Tensor.numel, learning)) < 0.3 * sum(map(torch.Tensor.numel, model.parameters()))
    optimizer = torch.optim.SGD(learning, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(adapted(input_ids=ids).logits.flatten(0, 1), ids.flatten()).backward()
        optimizer.step()
    after = adapted(input_ids=ids).logits.detach()
    assert not torch.allclose(after, before)
    merged = merge_lora(adapted)
    torch.testing.assert_close(merged(ids).logits, after, atol=1e-5, rtol=1e-5)
    assert set(merged.state_dict()) == set(frozen)
    save_model(tmp_path, merged)
    torch.testing.assert_close(load_model(tmp_path)(ids).logits, after, atol=1e-5, rtol=1e-5)


def test_a_model_without_adapters_is_left_as_it_is() -> None:
    model = mlp(3, 2)
    assert merge_lora(model) is model


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="`rank`"):
        add_lora(causal_lm(9), rank=0)
    with pytest.raises(ValueError, match="`alpha`"):
        add_lora(causal_lm(9), alpha=0.0)
