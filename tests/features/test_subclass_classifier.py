"""A classifier over subclasses behaves like any classifier over the classes."""

import pytest
import torch
from torch import nn

from tutelage.assessment import assess
from tutelage.data import ArraySamples
from tutelage.features import ObservedModel, SubclassClassifier, SubclassHead, subclass_classifier
from tutelage.models import build_model, convnet, encoder_lm, export_model, load_model, mlp, save_model
from tutelage.training import evaluate_model

MODELS = {
    "perceptron": (lambda: mlp(6, 2), torch.randn(5, 6)),
    "convolutions": (lambda: convnet((1, 8, 8), 2), torch.randn(5, 1, 8, 8)),
    "one layer": (lambda: nn.Linear(6, 2), torch.randn(5, 6)),
    "tokens": (
        lambda: encoder_lm(20, hidden_size=8, num_classes=2),
        {"input_ids": torch.randint(20, (5, 7)), "attention_mask": torch.ones(5, 7, dtype=torch.int64)},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_widening_changes_no_answer(name):
    torch.manual_seed(0)
    build, inputs = MODELS[name]
    plain = build().eval()
    before = ObservedModel(plain)(inputs).logits.softmax(dim=1)
    model = SubclassClassifier(plain, num_subclasses=3)
    outputs = ObservedModel(model, embedding=True)(inputs)
    subclasses = outputs.features["subclasses"]
    assert isinstance(model.head, SubclassHead)
    assert subclasses.shape == (5, 6)
    torch.testing.assert_close(outputs.logits.softmax(dim=1), before)
    torch.testing.assert_close(subclasses, model.head(outputs.embedding))
    with torch.no_grad():
        model.head.weight.normal_()
    changed = ObservedModel(model)(inputs)
    expected = changed.features["subclasses"].softmax(dim=1).view(5, 2, 3).sum(dim=2)
    torch.testing.assert_close(changed.logits.softmax(dim=1), expected)


def samples(count=60):
    inputs = torch.randn(count, 6)
    return ArraySamples(inputs, (inputs[:, 0] > 0).long())


def test_accuracy_and_report_card_count_classes():
    torch.manual_seed(0)
    data, plain = samples(), mlp(6, 2)
    expected = evaluate_model(plain, data)
    model = SubclassClassifier(plain, num_subclasses=4)
    found = evaluate_model(model, data)
    assert found == pytest.approx(expected, abs=1e-5)
    card = assess(model.eval(), data, latency=False, robustness=False)
    assert card.metrics["accuracy"] == pytest.approx(expected["validation_accuracy"])


def test_it_is_saved_loaded_and_exported_with_class_scores(tmp_path):
    torch.manual_seed(0)
    description = {
        "name": "tutelage.features:subclass_classifier",
        "arguments": {"model": {"name": "mlp", "arguments": {"hidden": [5]}}, "num_subclasses": 3},
    }
    model = build_model(description, num_classes=2, input_shape=(6,)).eval()
    with torch.no_grad():
        model.head.weight.normal_()
    inputs = torch.randn(4, 6)
    restored = load_model(save_model(tmp_path / "saved", model))
    assert torch.equal(restored(inputs).logits, model(inputs).logits)
    assert torch.equal(restored(inputs).features["subclasses"], model(inputs).features["subclasses"])
    formats = ("safetensors", "torch_export")
    exported = export_model(model, tmp_path / "exported", example_inputs=inputs, formats=formats)
    assert [one.format for one in exported] == list(formats)
    program = torch.export.load(tmp_path / "exported" / "model.pt2").module()
    torch.testing.assert_close(program(inputs), model(inputs).logits)
    assert program(inputs).shape == (4, 2)


def test_one_made_in_python_can_be_saved_too(tmp_path):
    model = subclass_classifier("mlp", 2, num_subclasses=2, input_shape=(6,)).eval()
    inputs = torch.randn(4, 6)
    assert torch.equal(load_model(save_model(tmp_path, model))(inputs).logits, model(inputs).logits)


def test_a_head_that_is_there_stays():
    body = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), SubclassHead(4, num_classes=3, num_subclasses=2))
    model = SubclassClassifier(body, num_subclasses=2)
    assert model.head is body[2]
    assert model(torch.zeros(1, 6)).logits.shape == (1, 3)
    with pytest.raises(ValueError, match="`num_subclasses` to be 2 as in the model, but got 5"):
        SubclassClassifier(body, num_subclasses=5)


def test_bad_models():
    with pytest.raises(ValueError, match="to have an output layer"):
        SubclassClassifier(nn.ReLU())
    with pytest.raises(ValueError, match="`num_subclasses` to be at least 1, but got 0"):
        SubclassClassifier(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="did you mean 'mlp'"):
        subclass_classifier("mpl", 2, input_shape=(4,))
