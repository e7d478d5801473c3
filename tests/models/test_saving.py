"""Saved models come back bit for bit, and what does not fit is refused by name."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from tutelage.files import read_tensors, write_tensors
from tutelage.models import (
    build_model,
    causal_lm,
    convnet,
    convnext,
    encoder_lm,
    load_model,
    load_weights,
    mlp,
    resnet,
    save_model,
    swin,
    vit,
)

EVERY_BUILDER = {
    "mlp": lambda: mlp((1, 8, 8), 3, normalization="batch"),
    "convnet": lambda: convnet((1, 8, 8), 3),
    "resnet": lambda: resnet((1, 8, 8), 3),
    "vit": lambda: vit((1, 8, 8), 3, num_layers=1),
    "swin": lambda: swin((1, 8, 8), 3),
    "convnext": lambda: convnext((1, 8, 8), 3),
    "gpt2": lambda: causal_lm(11, num_layers=1),
    "llama": lambda: causal_lm(11, num_layers=1, architecture="llama"),
    "encoder_lm": lambda: encoder_lm(11, 3, num_layers=1),
}


@pytest.mark.parametrize("name", EVERY_BUILDER)
def test_round_trip_bit_for_bit(name, tmp_path):
    model = EVERY_BUILDER[name]()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data.uniform_()
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert not again.training
    state = model.state_dict()
    assert set(again.state_dict()) == set(state)
    for key, value in again.state_dict().items():
        assert value.dtype == state[key].dtype
        assert torch.equal(value, state[key]), key


def test_the_dtype_of_the_file_comes_back(tmp_path):
    model = causal_lm(11, num_layers=1).bfloat16()
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert {value.dtype for value in again.parameters()} == {torch.bfloat16}
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path):
    model = causal_lm(11, num_layers=1)
    file = save_model(tmp_path / "student.safetensors", model)
    assert len({"lm_head.weight", "transformer.wte.weight"} & set(read_tensors(file))) == 1
    again = load_model(file)
    assert again.lm_head.weight is again.transformer.wte.weight
    with torch.no_grad():
        again.transformer.wte.weight.add_(1)
    assert torch.equal(again.lm_head.weight, model.lm_head.weight + 1)


def test_a_file_with_both_names_of_a_tied_weight_loads_too(tmp_path):
    model = causal_lm(11, num_layers=1)
    write_tensors(tmp_path / "w.safetensors", model.state_dict())
    other = causal_lm(11, num_layers=1)
    load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.lm_head.weight, model.lm_head.weight)


def test_equal_but_separate_weights_are_both_written(tmp_path):
    model = mlp(2, 2, hidden=(2,))
    with torch.no_grad():
        model.head.weight.copy_(model.linear1.weight)
    assert len(read_tensors(save_model(tmp_path, model))) == 4


def test_files_and_names(tmp_path):
    save_model(tmp_path / "run" / "student.safetensors", mlp(3, 2))
    assert {file.name for file in (tmp_path / "run").iterdir()} == {"student.json", "student.safetensors"}
    assert json.loads((tmp_path / "run" / "student.json").read_text())["name"] == "mlp"
    assert load_model(tmp_path / "run").head.out_features == 2
    with safe_open(tmp_path / "run" / "student.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_saving_over_a_saved_model_replaces_it(tmp_path):
    save_model(tmp_path, mlp(3, 2))
    save_model(tmp_path, mlp(5, 4))
    assert load_model(tmp_path).linear1.in_features == 5


def test_a_module_of_unknown_making_needs_a_specification(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Expected argument `specification` to say how Sequential is built"):
        save_model(tmp_path, model)
    save_model(
        tmp_path, nn.Linear(2, 3), {"name": "torch.nn:Linear", "arguments": {"in_features": 2, "out_features": 3}}
    )
    assert load_model(tmp_path).out_features == 3


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "model.ckpt", "model.pkl"])
def test_pickles_are_refused_and_never_opened(name, tmp_path):
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(
            ValueError, match=r"is a pickle, .*`state = torch.load\(path, weights_only=True\)`"
        ) as caught:
            load_model(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="is a pickle"):
        build_model({"name": "mlp", "weights": str(tmp_path / name)}, num_classes=2, input_shape=(2,))


def test_a_pickle_under_another_name_is_damaged(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="to be a safetensors file, but it is damaged"):
        load_weights(mlp(2, 2), tmp_path / "w.safetensors")


def test_what_does_not_fit_is_named(tmp_path):
    model = mlp(3, 2)
    state = model.state_dict()
    before = {name: value.clone() for name, value in state.items()}
    for change, message in [
        (lambda s: s.update({"haed.bias": s.pop("head.bias")}), r"'haed.bias' \(did you mean 'head.bias'\?\)"),
        (lambda s: s.pop("head.bias"), r"to hold 'head.bias', but it does not"),
        (lambda s: s.update({"head.weight": torch.zeros(5, 64)}), r"shape \(2, 64\), but got \(5, 64\)"),
    ]:
        changed = {name: value + 1 for name, value in state.items()}
        change(changed)
        write_tensors(tmp_path / "w.safetensors", changed)
        with pytest.raises(ValueError, match=message):
            load_weights(model, tmp_path / "w.safetensors")
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="but there is nothing"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"to hold a saved model .*, but it holds none"):
        load_model(tmp_path)
    write_tensors(tmp_path / "lone.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(FileNotFoundError, match=r"Expected lone.json, .* beside"):
        load_model(tmp_path / "lone.safetensors")
    (tmp_path / "text.txt").write_text("no")
    with pytest.raises(ValueError, match="Expected a folder or a safetensors file"):
        load_model(tmp_path / "text.txt")
