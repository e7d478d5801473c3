from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tutelage.assessment import CalibratedModel, calibrate_model, load_calibrated, save_calibrator
from tutelage.data import ArraySamples, Blur, Rotation
from tutelage.files import write_tensors
from tutelage.models import convnet, load_model, mlp, save_model, specification_of
from tutelage.objectives import SampleTemperatureCalibrator, TemperatureScaling, transformation_consistency_features
from tutelage.outputs import Outputs


@pytest.fixture
def tables() -> ArraySamples:
    return ArraySamples(torch.randn(60, 4), torch.arange(60) % 3)


@pytest.fixture
def images() -> ArraySamples:
    return ArraySamples(torch.rand(40, 1, 8, 8), torch.arange(40) % 5)


def test_one_temperature_is_that_of_the_samples(tables: ArraySamples) -> None:
    model = mlp(4, 3)
    calibrated = calibrate_model(model, tables)
    logits = model(tables.inputs).detach()
    expected = TemperatureScaling().fit(logits, tables.target).temperature
    assert calibrated.calibrator.temperature == pytest.approx(expected)
    torch.testing.assert_close(calibrated(tables.inputs), logits / expected)
    assert calibrated.describe() == f"temperature {expected:.3g}"


def test_a_temperature_a_sample_reads_the_copies(images: ArraySamples) -> None:
    model = convnet((1, 8, 8), 5).eval()
    copies = [Rotation(10.0), Blur(0.5)]
    calibrated = calibrate_model(model, images, method="sample_temperature", transforms=copies, steps=5)
    asked = torch.stack([model(copy(images.inputs)) for copy in copies])
    logits = model(images.inputs)
    features = transformation_consistency_features(logits, asked)
    torch.testing.assert_close(calibrated(images.inputs), calibrated.calibrator(logits, features))
    assert torch.equal(calibrated(images.inputs).argmax(1), logits.argmax(1))
    assert calibrated.describe() == "a temperature a sample, from 2 transformed copies"
    again = calibrate_model(model, images, method="sample_temperature", transforms=copies, steps=5)
    assert torch.equal(again(images.inputs), calibrated(images.inputs)), "the seed decides, not the global generator"


@pytest.mark.parametrize("channels", [1, 3])
def test_the_default_copies_suit_the_channels(channels: int) -> None:
    images = ArraySamples(torch.rand(20, channels, 8, 8), torch.arange(20) % 3)
    model = convnet((channels, 8, 8), 3)
    calibrated = calibrate_model(model, images, method="sample_temperature", steps=1)
    kinds = [type(transform).__name__ for transform in calibrated.transforms]
    assert kinds == (["Rotation", "ColorJitter", "Blur"] if channels == 1 else ["Rotation", "Greyscale", "ColorJitter"])
    assert calibrated.top_k == 3, "no more classes than there are"
    assert model.training, "the model gets its own mode back"


def test_inputs_by_name() -> None:
    class Named(nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> Outputs:
            return Outputs(logits=left - right)

    inputs = {"left": torch.randn(30, 3), "right": torch.randn(30, 3)}
    calibrated = calibrate_model(Named(), ArraySamples(inputs, torch.arange(30) % 3))
    expected = (inputs["left"] - inputs["right"]) / calibrated.calibrator.temperature
    torch.testing.assert_close(calibrated(**inputs).detach(), expected)
    assert specification_of(calibrated) is None


# ---- Saving ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["temperature", "sample_temperature"])
def saved(request, images: ArraySamples, tmp_path):
    model = convnet((1, 8, 8), 5).eval()
    save_model(tmp_path / "student.safetensors", model)
    options = {} if request.param == "temperature" else {"steps": 3}
    calibrated = calibrate_model(model, images, method=request.param, **options).eval()
    return tmp_path, calibrated


def test_a_calibrator_lies_beside_its_model(saved, images: ArraySamples) -> None:
    folder, calibrated = saved
    assert torch.equal(load_calibrated(folder)(images.inputs), calibrated.model(images.inputs)), "none yet"
    description = save_calibrator(folder, calibrated, fitted={"data": "noise"})
    assert {file.name for file in folder.iterdir()} == {
        "student.safetensors",
        "student.json",
        "calibrator.safetensors",
        "calibrator.json",
    }
    assert json.loads(description.read_text())["fitted"] == {"data": "noise", "result": calibrated.describe()}
    for path in (folder, folder / "student.safetensors"):
        loaded = load_calibrated(path)
        assert isinstance(loaded, CalibratedModel)
        assert not loaded.training
        assert torch.equal(loaded(images.inputs), calibrated(images.inputs))
    assert not isinstance(load_model(folder), CalibratedModel)


def test_a_calibrated_model_is_saved_like_any_model(saved, images: ArraySamples, tmp_path) -> None:
    _, calibrated = saved
    loaded = load_model(save_model(tmp_path / "whole", calibrated))
    assert isinstance(loaded, CalibratedModel)
    assert torch.equal(loaded(images.inputs), calibrated(images.inputs))


def test_models_in_one_folder_have_calibrators_of_their_own(images: ArraySamples, tmp_path) -> None:
    for name in ("a", "b"):
        model = convnet((1, 8, 8), 5)
        save_model(tmp_path / f"{name}.safetensors", model)
        save_calibrator(tmp_path / f"{name}.safetensors", calibrate_model(model, images))
    temperatures = [load_calibrated(tmp_path / f"{name}.safetensors").calibrator.temperature for name in "ab"]
    assert temperatures[0] != temperatures[1]
    assert (tmp_path / "a.calibrator.json").exists()


def test_a_calibrator_of_other_weights_is_refused(saved) -> None:
    folder, calibrated = saved
    save_calibrator(folder, calibrated)
    save_model(folder / "student.safetensors", convnet((1, 8, 8), 5))
    with pytest.raises(ValueError, match="fitted to the model beside it, but that has changed; fit it again"):
        load_calibrated(folder)


def test_damaged_files_are_one_clear_line(saved) -> None:
    folder, calibrated = saved
    description = save_calibrator(folder, calibrated)
    good = json.loads(description.read_text())
    for change, message in (
        ({"top_k": "many"}, "`top_k`"),
        ({"surprise": 1}, "`surprise`"),
        ({"calibrator": {"name": "temprature"}}, "did you mean 'temperature'"),
        ({"calibrator": {"name": "temperature", "degrees": 3}}, "arguments of the calibrator 'temperature'"),
    ):
        description.write_text(json.dumps({**good, **change}))
        with pytest.raises(ValueError, match=message):
            load_calibrated(folder)
    description.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_calibrated(folder)
    description.write_text(json.dumps(good))
    write_tensors(folder / "calibrator.safetensors", {"log_temperature": torch.tensor(9.0)})
    with pytest.raises(ValueError, match=r"the tensors that calibrator\.json describes"):
        load_calibrated(folder)


def test_a_model_of_unknown_make_can_be_calibrated_but_not_saved_whole(tables: ArraySamples, tmp_path) -> None:
    calibrated = calibrate_model(nn.Linear(4, 3), tables)
    with pytest.raises(ValueError, match="Expected argument `specification`"):
        save_model(tmp_path, calibrated)


# ---- Bad input -------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_one_clear_line(tables: ArraySamples, images: ArraySamples) -> None:
    model = mlp(4, 3)
    cases = [
        ({"method": "sample_temperature"}, "for other data use the method 'temperature'"),
        ({"loss": "correctness_aware_balanced"}, "`loss` to be one of 'nll'"),
        ({"transforms": [Blur(1.0)]}, "`transforms` to be empty"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            calibrate_model(model, tables, **options)
    with pytest.raises(ValueError, match="one class each"):
        calibrate_model(model, ArraySamples(torch.zeros(2, 4), torch.zeros(2)))
    with pytest.raises(ValueError, match=r"logits \[batch, classes\] to calibrate, but got \(40, 1, 8, 3\)"):
        calibrate_model(nn.Linear(8, 3), images)
    with pytest.raises(ValueError, match="`transforms` to hold 0 transforms"):
        CalibratedModel(model, TemperatureScaling(), [Blur(1.0)])
    with pytest.raises(ValueError, match="`transforms` to hold 3 transforms"):
        CalibratedModel(model, SampleTemperatureCalibrator(12))
