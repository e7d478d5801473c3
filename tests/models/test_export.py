"""Exported files give the logits of the model, for any batch size; checked here once more, independently."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tutelage.models import (
    causal_lm,
    convnet,
    encoder_lm,
    example_inputs,
    export_model,
    load_model,
    mlp,
    resnet,
    swin,
)

SHAPE = (1, 8, 8)


def run_onnx(path, feed):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: value.numpy() for name, value in feed.items()})[0]


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(SHAPE, 10, normalization="batch", dropout=0.3),
        lambda: convnet(SHAPE, 10),
        lambda: resnet(SHAPE, 10),
    ],
    ids=["mlp", "convnet", "resnet"],
)
def test_onnx_agrees_for_any_batch_size(make, tmp_path):
    model = make()
    (file,) = export_model(model, tmp_path, example_inputs=torch.randn(1, *SHAPE), formats=("onnx",))
    assert file.path == tmp_path / "model.onnx"
    assert file.bytes == file.path.stat().st_size
    assert file.largest_difference <= 1e-4
    model.eval()
    for batch in (1, 5):
        inputs = torch.randn(batch, *SHAPE)
        expected = model(inputs)
        expected = (expected if isinstance(expected, torch.Tensor) else expected.logits).detach().numpy()
        np.testing.assert_allclose(run_onnx(file.path, {"inputs": inputs}), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: swin(SHAPE, 10), SHAPE),
        (lambda: causal_lm(11, num_layers=1), None),
        (lambda: causal_lm(11, num_layers=1, architecture="llama"), None),
        (lambda: encoder_lm(11, 3, num_layers=1), None),
    ],
    ids=["swin", "gpt2", "llama", "encoder_lm"],
)
def test_transformers_export_in_every_format(make, shape, tmp_path):
    model = make()
    inputs = example_inputs(model)
    files = export_model(model, tmp_path, example_inputs=inputs)
    assert [file.format for file in files] == ["safetensors", "torch_export", "onnx"]
    assert all(file.largest_difference <= 1e-4 for file in files)
    model.eval()
    if shape is None:
        np.testing.assert_allclose(
            run_onnx(tmp_path / "model.onnx", inputs), model(**inputs).logits.detach().numpy(), atol=1e-4
        )


def test_torch_export_and_safetensors_agree_and_leave_the_model_alone(tmp_path):
    model = convnet(SHAPE, 10, dropout=0.5)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    files = export_model(
        model, tmp_path, example_inputs=torch.randn(2, *SHAPE), formats=("torch_export", "safetensors")
    )
    assert [file.path.name for file in files] == ["model.pt2", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.pt2", "model.safetensors"]
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    inputs = torch.randn(7, *SHAPE)
    expected = model.eval()(inputs)
    assert torch.equal(load_model(tmp_path)(inputs), expected)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(inputs), expected, atol=1e-5, rtol=0)


class Changing(nn.Module):
    """Gives another answer in every call, so that no export can agree with it."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs):
        return self.linear(inputs) + torch.rand(2)


class Branching(nn.Module):
    def forward(self, inputs):
        return inputs if inputs.sum() > 0 else -inputs


@pytest.mark.parametrize("format", ["torch_export", "onnx"])
def test_a_file_that_does_not_agree_is_not_left_behind(format, tmp_path):
    with pytest.raises(ValueError, match=rf"exported model \({format}\) to be within .*, but they differ by"):
        export_model(Changing(), tmp_path, example_inputs=torch.zeros(2, 3), formats=(format,))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_cannot_be_traced_is_one_clear_line(tmp_path):
    with pytest.raises(ValueError, match=r"Expected Branching to be exportable, but torch.export says: ") as caught:
        export_model(Branching(), tmp_path, example_inputs=torch.ones(2, 3), formats=("torch_export",))
    assert "\n" not in str(caught.value)


def test_misspelt_and_missing(tmp_path, monkeypatch):
    inputs = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"`formats` to be one of .*'onnx', but got 'onxx' \(did you mean 'onnx'\?\)"):
        export_model(mlp(3, 2), tmp_path, example_inputs=inputs, formats=("onxx",))
    with pytest.raises(ValueError, match="`formats` to name at least one"):
        export_model(mlp(3, 2), tmp_path, example_inputs=inputs, formats=())
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    with pytest.raises(ImportError, match=r"ONNX export needs onnxscript: pip install 'tutelage\[export\]'"):
        export_model(mlp(3, 2), tmp_path, example_inputs=inputs)
    assert list(tmp_path.iterdir()) == []


def test_half_precision_keeps_its_dtype_in_safetensors_and_leaves_it_in_programs(tmp_path):
    export_model(
        mlp(3, 2).bfloat16(), tmp_path, example_inputs=torch.randn(2, 3), formats=("safetensors", "torch_export")
    )
    assert load_model(tmp_path).head.weight.dtype == torch.bfloat16
    assert torch.export.load(tmp_path / "model.pt2").module()(torch.zeros(1, 3)).dtype == torch.float32


def test_example_inputs_follow_the_model():
    assert example_inputs(mlp(3, 2), batch_size=4).shape == (4, 3)
    model = resnet(SHAPE, 2)
    assert torch.equal(example_inputs(model, seed=1), example_inputs(model, seed=1))
    assert not torch.equal(example_inputs(model, seed=1), example_inputs(model, seed=2))
    tokens = example_inputs(causal_lm(5, max_length=4))
    assert tokens["input_ids"].shape == tokens["attention_mask"].shape == (2, 4)
    assert tokens["input_ids"].max() < 5
    with pytest.raises(ValueError, match=r"`input_shape` to be given .* since Linear does not say"):
        example_inputs(nn.Linear(3, 2))
    assert example_inputs(nn.Linear(3, 2), input_shape=(3,)).shape == (2, 3)
