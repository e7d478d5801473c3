"""`transformers` models from local folders; nothing is downloaded."""

from __future__ import annotations

import json

import pytest
import torch

from tutelage.models import build_model, causal_lm, encoder_lm, load_model, load_pretrained, save_model, swin, vit


@pytest.fixture
def folder(tmp_path):
    vit((1, 8, 8), 3, num_layers=1).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


@pytest.mark.parametrize(
    "make",
    [
        lambda: vit((1, 8, 8), 3, num_layers=1),
        lambda: swin((1, 8, 8), 3),
        lambda: encoder_lm(11, 3, num_layers=1),
        lambda: causal_lm(11, num_layers=1),
        lambda: causal_lm(11, num_layers=1, architecture="llama"),
    ],
)
def test_the_class_is_the_one_the_configuration_names(make, tmp_path):
    source = make()
    source.save_pretrained(tmp_path)
    for model in (build_model(str(tmp_path)), load_model(tmp_path)):
        assert type(model) is type(source)
        assert not model.training
        assert all(torch.equal(model.state_dict()[name], value) for name, value in source.state_dict().items())


def test_a_saved_copy_needs_the_original_no_more(folder, tmp_path):
    model = build_model(str(folder))
    save_model(tmp_path / "student.safetensors", model)
    for file in folder.iterdir():
        file.unlink()
    again = load_model(tmp_path / "student.safetensors")
    assert type(again) is type(model)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images).logits, model(images).logits)


def test_classes_must_agree_unless_a_new_head_is_asked_for(folder):
    assert build_model(str(folder), num_classes=3).config.num_labels == 3
    with pytest.raises(ValueError, match=r"to have 5 classes, as the data has, but it has 3 .*`num_labels: 5`"):
        build_model(str(folder), num_classes=5)
    model = build_model({"name": str(folder), "arguments": {"num_labels": 5}}, num_classes=5)
    assert model.classifier.out_features == 5
    old = load_pretrained(str(folder))
    assert torch.equal(model.vit.layernorm.weight, old.vit.layernorm.weight)


def test_a_task_puts_a_head_on_a_base_model(folder, tmp_path):
    load_pretrained(str(folder)).vit.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"its architecture is ViTModel .*'image-classification'"):
        build_model(str(tmp_path / "base"))
    model = build_model({"name": str(tmp_path / "base"), "arguments": {"task": "image-classification"}}, num_classes=6)
    assert model.classifier.out_features == 6
    with pytest.raises(ValueError, match="to suit the task 'causal-lm', but a vit does not"):
        build_model({"name": str(tmp_path / "base"), "arguments": {"task": "causal-lm"}})


def test_foreign_code_and_pickles_stay_out(folder):
    for argument in ("trust_remote_code", "use_safetensors"):
        with pytest.raises(ValueError, match=f"to leave out `{argument}`"):
            build_model({"name": str(folder), "arguments": {argument: True}})
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle.*safetensors.torch.save_file"):
        load_model(folder)
    with pytest.raises(ValueError, match="is a pickle"):
        build_model(str(folder))


def test_a_name_that_is_nowhere_is_one_clear_line():
    with pytest.raises(FileNotFoundError, match="Expected 'nobody/nothing-of-this-name' to be a folder or") as caught:
        build_model("nobody/nothing-of-this-name")
    assert "\n" not in str(caught.value)


def test_an_unknown_model_type_in_a_saved_file(folder, tmp_path):
    save_model(tmp_path, build_model(str(folder)))
    description = json.loads((tmp_path / "model.json").read_text())
    description["configuration"]["model_type"] = "vitt"
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="`model_type` to be one that transformers knows, but got 'vitt'"):
        load_model(tmp_path)
