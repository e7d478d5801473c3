from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tutelage.adapting import adapt_stream, write_adaptation
from tutelage.cli import app
from tutelage.data import load_data, read_stream
from tutelage.models import mlp, resnet, save_model
from tutelage.objectives import CrossEntropy
from tutelage.training import Distillation, Trainer, TrainingSettings


@pytest.fixture(scope="module")
def digits_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small residual network that knows the digits."""
    torch.manual_seed(0)
    data = load_data("digits")
    model = resnet((1, 8, 8), 10, widths=(8, 16), depths=(1, 1))
    settings = TrainingSettings(epochs=6, batch_size=64, learning_rate=5e-3)
    Trainer(Distillation(None, model, CrossEntropy()), data.train, settings=settings).run()
    path = tmp_path_factory.mktemp("model") / "digits.safetensors"
    save_model(path, model.eval().cpu())
    return path


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits on a bright ground with little contrast."""
    data = load_data("digits")
    batch = data.test.batch(torch.arange(len(data.test)))
    path = tmp_path_factory.mktemp("stream") / "shifted.npz"
    np.savez(path, x=(0.35 * batch.inputs + 0.6).numpy(), y=batch.target.numpy())
    return path


def test_adaptation_mends_what_a_shift_has_broken(digits_model: Path, shifted: Path, tmp_path: Path) -> None:
    before = digits_model.read_bytes()
    found = adapt_stream(digits_model, shifted, source="digits", warm_up=5, batch_size=64)
    summary = found.summary()
    assert summary["source error"] > 0.3
    assert summary["error"] < 0.6 * summary["source error"]
    assert summary["drift"] > 0.5
    assert found.probabilities.sum(dim=1).allclose(torch.ones(len(found.names)))
    assert digits_model.read_bytes() == before
    page = write_adaptation(tmp_path, found, title="<script>")
    assert "<script>" not in page.read_text()
    assert page.read_text().count("<svg") == 4
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert len(rows) == len(found.names)
    assert rows[0]["class"] == str(int(found.probabilities[0].argmax()))
    assert json.loads((tmp_path / "drift.json").read_text())["summary"]["samples"] == len(rows)


@pytest.mark.parametrize("way", ["batch_statistics", "tent", "none"])
def test_other_ways_need_no_source(digits_model: Path, shifted: Path, way: str) -> None:
    found = adapt_stream(digits_model, shifted, way=way, batch_size=359)  # type: ignore[arg-type]
    assert "drift" not in found.curves
    if way == "none":
        assert found.curves["error"] == found.curves["source error"]
        assert torch.equal(found.probabilities, found.source_probabilities)
    else:
        assert found.summary()["error"] < found.summary()["source error"]


def test_two_models_together_are_no_surer_than_each(digits_model: Path, shifted: Path) -> None:
    ours = adapt_stream(digits_model, shifted, source="digits", warm_up=0, batch_size=64)
    alone = adapt_stream(digits_model, shifted, way="batch_statistics", batch_size=64)
    torch.testing.assert_close(ours.probabilities[:64], alone.probabilities[:64])  # at first they are one


def test_same_seed_same_answers(digits_model: Path, shifted: Path) -> None:
    first, again = (
        adapt_stream(digits_model, shifted, source="digits", warm_up=2, seed=3).probabilities for _ in range(2)
    )
    assert torch.equal(first, again)


def test_the_command_takes_a_folder_of_images(digits_model: Path, tmp_path: Path) -> None:
    stream = tmp_path / "images"
    stream.mkdir()
    inputs = read_stream("digits").inputs[:6]
    for number, image in enumerate(inputs):
        Image.fromarray((image[0].numpy() * 255).astype(np.uint8)).save(stream / f"{number}.png")
    out = tmp_path / "out"
    arguments = ["adapt", str(digits_model), "--stream", str(stream), "--way", "tent", "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--grey"])
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert [row["sample"] for row in rows] == [f"{number}.png" for number in range(6)]
    assert "confidence:" in result.output
    like_the_source = CliRunner().invoke(app, [*arguments, "--source", "digits"])  # grey by itself, and resized
    assert like_the_source.exit_code == 0, like_the_source.output
    assert adapt_stream(digits_model, stream, source="digits", way="none", size=(12, 12)).probabilities.shape == (6, 10)


def test_streams_are_read_from_arrays(tmp_path: Path) -> None:
    bytes_file, numbers = tmp_path / "bytes.npy", tmp_path / "numbers.npz"
    np.save(bytes_file, np.full((2, 1, 4, 4), 255, dtype=np.uint8))
    np.savez(numbers, inputs=np.ones((3, 5)))
    assert read_stream(bytes_file).inputs.eq(1).all()
    stream = read_stream(numbers)
    assert stream.inputs.shape == (3, 5)
    assert stream.target is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: np.save(p / "s.npy", np.array([object()]), allow_pickle=True), "to be a NumPy array"),
        (lambda p: (p / "s.npy").write_bytes(b"\x93NUMPY"), "to be a NumPy array"),
        (lambda p: np.save(p / "s.npy", np.full((2, 2), np.nan)), "finite"),
        (lambda p: np.save(p / "s.npy", np.zeros(3)), "shape"),
    ],
)
def test_damaged_streams_give_one_clear_line(tmp_path: Path, make: object, message: str) -> None:
    make(tmp_path)  # type: ignore[operator]
    with pytest.raises(ValueError, match=message):
        read_stream(tmp_path / "s.npy")


def test_bad_settings(digits_model: Path, shifted: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="source prototypes"):
        adapt_stream(digits_model, shifted)
    with pytest.raises(ValueError, match="batch_size"):
        adapt_stream(digits_model, shifted, way="tent", batch_size=1)
    with pytest.raises(ValueError, match="warm_up"):
        adapt_stream(digits_model, shifted, source="digits", warm_up=-1)
    save_model(tmp_path / "plain.safetensors", mlp((1, 8, 8), 10))
    with pytest.raises(ValueError, match="have batch normalisation"):
        adapt_stream(tmp_path / "plain.safetensors", shifted, way="batch_statistics")
    with pytest.raises(ValueError, match="there is none"):
        read_stream(tmp_path)


def test_what_does_not_fit_is_told_with_its_file(digits_model: Path, tmp_path: Path) -> None:
    images, path = np.zeros((4, 1, 8, 8), dtype=np.float32), tmp_path / "stream.npz"
    for inputs, target, message in [
        (images[:, 0], None, r"stream.npz to hold inputs that the model takes, but it takes none of shape \(8, 8\)"),
        (images, np.zeros(3), r"a class for each of its 4 samples, but got the shape \(3,\)"),
        (images, np.full(4, 10), r"classes in \[0, 10\), but got 10"),
        (images, np.full(4, -1), r"classes in \[0, 10\), but got -1"),
    ]:
        np.savez(path, inputs=inputs, **({} if target is None else {"target": target}))
        with pytest.raises(ValueError, match=message):
            adapt_stream(digits_model, path, way="none")
    np.savez(path, inputs=images)
    with pytest.raises(ValueError, match="iris to hold inputs that the model takes"):
        adapt_stream(digits_model, path, source="iris")
    digits_of_five = {"alphabet": "ABCDE", "size": 8, "train_per_class": 2, "test_per_class": 1}
    with pytest.raises(ValueError, match="the 10 classes of the model, but got 5"):
        adapt_stream(digits_model, path, source="glyphs", source_options=digits_of_five)


def test_every_sample_counts_once_in_the_summary(digits_model: Path, shifted: Path) -> None:
    found = adapt_stream(digits_model, shifted, way="tent", batch_size=100)
    assert found.batch_sizes == [100, 100, 100, 149]  # the last 49 are too few for a batch of their own
    error = (found.probabilities.argmax(dim=1) != found.target).float().mean().item()
    assert found.summary()["error"] == pytest.approx(error)
