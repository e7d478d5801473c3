"""Describing models and building them again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tutelage.files import write_tensors
from tutelage.models import ModelSpecification, build_model, mlp, save_model, specification_of


def test_a_string_a_dict_and_a_specification_say_the_same():
    for specification in (
        {"name": "mlp", "arguments": {"input_shape": 3, "num_classes": 2}},
        ModelSpecification(name="mlp", arguments={"input_shape": 3, "num_classes": 2}),
    ):
        torch.manual_seed(3)
        built = build_model(specification)
        torch.manual_seed(3)
        assert all(
            torch.equal(first, second)
            for first, second in zip(
                built.state_dict().values(),
                build_model("mlp", num_classes=2, input_shape=(3,)).state_dict().values(),
                strict=True,
            )
        )


def test_what_the_data_says_fills_in_only_what_is_left_out():
    model = build_model({"name": "mlp", "arguments": {"num_classes": 7}}, num_classes=2, input_shape=(5,))
    assert model.head.out_features == 7
    assert model.linear1.in_features == 5
    assert build_model("causal_lm", num_classes=2, input_shape=(5,), vocab_size=9).config.vocab_size == 9


def test_the_complete_specification_is_remembered_and_is_json():
    model = build_model("convnet", num_classes=3, input_shape=(1, 8, 8))
    specification = specification_of(model)
    again = json.loads(json.dumps(specification.model_dump(mode="json", exclude_none=True)))
    assert again["arguments"]["num_classes"] == 3
    assert again["arguments"]["input_shape"] == [1, 8, 8]
    assert str(build_model(again)) == str(model)


def test_an_explicit_none_survives_the_json():
    model = build_model({"name": "convnet", "arguments": {"normalization": None}}, num_classes=3, input_shape=(1, 8, 8))
    again = json.loads(json.dumps(specification_of(model).model_dump(mode="json", exclude_none=True)))
    assert str(build_model(again)) == str(model)
    assert "BatchNorm" not in str(model)


def test_a_factory_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_models_for_tests.py").write_text(
        "from torch import nn\n"
        "def tiny(num_classes, width=2):\n    return nn.Linear(width, num_classes)\n"
        "def anything(**settings):\n    return nn.Linear(settings['width'], 1)\n"
        "def number():\n    return 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert build_model("my_models_for_tests:tiny", num_classes=4).out_features == 4
    assert build_model({"name": "my_models_for_tests:anything", "arguments": {"width": 5}}).in_features == 5
    for specification, message in [
        ({"name": "my_models_for_tests:tiny", "arguments": {"widht": 3}}, "got 'widht' .did you mean 'width'"),
        ("my_models_for_tests:tiny", "to be given `num_classes`"),
        ("my_models_for_tests:tinny", "'my_models_for_tests:tinny' to be importable"),
        ("my_models_for_tests:number", "to make an `nn.Module`, but got int"),
    ]:
        with pytest.raises(ValueError, match=message):
            build_model(specification)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("resnt", r"but got 'resnt' \(did you mean 'resnet'\?\)"),
        ({"name": "mlp", "arguments": {"hiden": [3]}}, r"among `.*but got 'hiden' \(did you mean 'hidden'\?\)"),
        ({"name": "mlp"}, "Expected the model 'mlp' to be given `input_shape`"),
        ({"name": "mlp", "wieghts": "x"}, r"`wieghts`.*did you mean 'weights'"),
        ({"arguments": {}}, "`name`: Field required"),
        ({"name": "mlp", "arguments": 3}, "`arguments`: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_specification_is_one_clear_line(specification, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_model(specification, num_classes=2)
    assert "\n" not in str(caught.value)


def test_weights_replace_the_initial_ones_and_keep_the_models_dtype(tmp_path):
    source = mlp(3, 2)
    write_tensors(tmp_path / "w.safetensors", {name: value.half() for name, value in source.state_dict().items()})
    specification = {
        "name": "mlp",
        "arguments": {"input_shape": 3, "num_classes": 2},
        "weights": str(tmp_path / "w.safetensors"),
    }
    model = build_model(specification)
    assert torch.equal(model.head.weight, source.head.weight.half().float())
    assert model.head.weight.dtype == torch.float32


def test_the_name_of_a_saved_model_is_that_model(tmp_path):
    source = mlp(3, 2)
    save_model(tmp_path, source)
    model = build_model(str(tmp_path), num_classes=2, input_shape=(3,))
    assert torch.equal(model.head.weight, source.head.weight)
    assert specification_of(model).name == "mlp"
    with pytest.raises(ValueError, match="Expected no arguments for the saved model"):
        build_model({"name": str(tmp_path), "arguments": {"hidden": [3]}})


def test_a_deep_copy_keeps_the_note_and_another_module_has_none():
    import copy

    assert specification_of(copy.deepcopy(mlp(3, 2))).name == "mlp"
    assert specification_of(nn.Linear(1, 1)) is None
