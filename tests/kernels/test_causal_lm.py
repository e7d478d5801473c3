from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from tutelage.kernels import patch_causal_lm, unpatch_causal_lm
from tutelage.models import causal_lm

SMALL = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "gpt2": causal_lm(23, hidden_size=16, num_layers=1),
        "llama": causal_lm(23, architecture="llama", hidden_size=16, num_layers=1, tie_word_embeddings=False),
        "gemma2": transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SMALL, final_logit_softcapping=0.5)),
        "cohere": transformers.CohereForCausalLM(transformers.CohereConfig(**SMALL, logit_scale=0.25)),
        "granite": transformers.GraniteForCausalLM(transformers.GraniteConfig(**SMALL, logits_scaling=4.0)),
        "phi": transformers.PhiForCausalLM(
            transformers.PhiConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"})
        ),
    }


@pytest.mark.parametrize("name", list(models()))
@pytest.mark.parametrize("count", [None, 7])
def test_patched_models_give_their_own_loss(name: str, count: int | None) -> None:
    model = models()[name]
    if name == "phi":  # a head with a bias
        nn.init.normal_(model.lm_head.bias)
    tokens = torch.randint(23, (2, 6))
    labels = tokens.clone()
    labels[0, :3] = -100
    options = {} if count is None else {"num_items_in_batch": torch.tensor(count)}
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels, **options}
    expected = model(**inputs).loss
    expected.backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    output = patch_causal_lm(model)(**inputs)
    assert output.logits is None
    torch.testing.assert_close(output.loss, expected, rtol=1e-5, atol=1e-6)
    output.loss.backward()
    for key, value in model.named_parameters():
        if key in gradients:
            torch.testing.assert_close(value.grad, gradients[key], rtol=1e-4, atol=1e-6)
    assert model(input_ids=tokens).logits.shape == (2, 6, 23)
    assert isinstance(model(**inputs, return_dict=False), tuple)
    assert unpatch_causal_lm(model)(**inputs).logits is not None


def test_patching_twice_changes_settings_only() -> None:
    model = models()["gpt2"]
    tokens = torch.randint(23, (2, 6))
    first = patch_causal_lm(model)(input_ids=tokens, labels=tokens).loss
    smoothed = patch_causal_lm(model, label_smoothing=0.5)(input_ids=tokens, labels=tokens).loss
    assert first != smoothed
    shifted = torch.cat([tokens[:, 1:], torch.full((2, 1), -100)], dim=1)
    given = patch_causal_lm(model)(input_ids=tokens, labels=tokens, shift_labels=shifted).loss
    torch.testing.assert_close(given, first)


def test_patched_models_generate_and_train_with_checkpointing() -> None:
    model = patch_causal_lm(models()["llama"])
    tokens = torch.randint(3, 23, (1, 4))
    assert model.generate(tokens, max_new_tokens=2, do_sample=False).shape[1] <= 6
    model.train()
    model(input_ids=tokens, labels=tokens).loss.backward()
    expected = model.lm_head.weight.grad.clone()
    model.zero_grad()
    model.gradient_checkpointing_enable()
    model(input_ids=tokens, labels=tokens).loss.backward()
    torch.testing.assert_close(model.lm_head.weight.grad, expected)


def test_a_head_that_does_more_is_refused() -> None:
    model = models()["cohere"]
    model.config.logit_scale = 1.0  # the model itself still scales by a quarter
    with pytest.raises(ValueError, match="does more than is known"):
        patch_causal_lm(model)
    with pytest.raises(ValueError, match="linear output layer"):
        patch_causal_lm(nn.Linear(2, 2))
