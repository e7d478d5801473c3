"""Calling models, and finding their heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.models import call_model, causal_lm, encoder_lm, head_path, mlp, resnet
from tutelage.outputs import Outputs


class Returns(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, inputs):
        return self.make(inputs)


class WithLogits:
    def __init__(self, logits):
        self.logits = logits


@pytest.mark.parametrize(
    "make", [lambda x: x, lambda x: Outputs(logits=x), lambda x: {"logits": x}, WithLogits], ids=range(4)
)
def test_every_form_of_result_gives_its_logits(make):
    inputs = torch.randn(2, 3)
    assert call_model(Returns(make), inputs).logits is inputs


def test_own_outputs_pass_through_untouched():
    outputs = Outputs(hidden=torch.zeros(1, 2, 3), head=torch.zeros(5, 3))
    assert call_model(Returns(lambda _: outputs), torch.zeros(1)) is outputs


@pytest.mark.parametrize("make", [lambda x: (x, x), lambda x: {"scores": x}, lambda x: None, lambda x: {"logits": 3}])
def test_another_result_is_one_clear_line(make):
    with pytest.raises(
        ValueError, match=r"Expected Returns to return a tensor, `Outputs`, or .* `logits`, but got \w+"
    ):
        call_model(Returns(make), torch.zeros(1))


def test_gradients_and_mode_are_the_callers():
    model = mlp(3, 2, dropout=0.5)
    assert call_model(model, torch.zeros(1, 3)).logits.requires_grad
    assert model.training


def test_transformers_models_take_tensors_and_names():
    images = torch.randn(2, 1, 8, 8)
    model = resnet((1, 8, 8), 4).eval()
    assert torch.equal(call_model(model, images).logits, model(pixel_values=images).logits)
    tokens = torch.tensor([[1, 2, 3]])
    model = causal_lm(7).eval()
    assert torch.equal(call_model(model, {"input_ids": tokens}).logits, call_model(model, tokens).logits)


def test_a_tensor_goes_to_the_main_input_even_where_it_is_not_the_first_argument():
    class Odd(nn.Module):
        main_input_name = "pixel_values"

        def forward(self, labels=None, pixel_values=None):
            assert labels is None
            return pixel_values

    inputs = torch.zeros(1)
    assert call_model(Odd(), inputs).logits is inputs


def test_the_input_of_the_head_is_the_embedding():
    for model, inputs, width in [
        (mlp(3, 2, hidden=(5, 7)), torch.zeros(2, 3), 7),
        (resnet((1, 8, 8), 4, widths=(4, 6), depths=(1, 1)), torch.zeros(2, 1, 8, 8), 6),
        (encoder_lm(9, 3, hidden_size=16), torch.ones(2, 5, dtype=torch.int64), 16),
        (causal_lm(9, hidden_size=16), torch.ones(2, 5, dtype=torch.int64), 16),
        (causal_lm(9, hidden_size=16, architecture="llama"), torch.ones(2, 5, dtype=torch.int64), 16),
    ]:
        head = model.get_submodule(head_path(model))
        seen = []
        head.register_forward_hook(lambda module, args, output, seen=seen: seen.append((args[0], output)))
        logits = call_model(model, inputs).logits
        assert seen[0][0].shape[-1] == width
        assert torch.equal(seen[0][1], logits)


def test_a_causal_model_with_a_later_linear_layer_still_finds_its_output_embedding():
    model = causal_lm(9)
    model.value_head = nn.Linear(64, 1)
    assert head_path(model) == "lm_head"


def test_head_path_of_a_lone_layer_and_of_none():
    assert head_path(nn.Linear(2, 2)) == ""
    with pytest.raises(ValueError, match="Expected Sequential to have an output layer"):
        head_path(nn.Sequential(nn.Conv2d(1, 1, 1)))
