"""`tutelage calibrate`, as a person calls it, and what other commands make of its calibrator."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from tutelage.assessment import load_calibrated
from tutelage.cli import app
from tutelage.data import load_data
from tutelage.models import convnet, load_model, mlp, save_model
from tutelage.reporting import read_report

runner = CliRunner()
DIGITS = ("--data", "digits", "--data-option", "flat=true")


@pytest.fixture
def run_folder(tmp_path):
    """A run's folder, with a student that knows something and is far too sure of it."""
    student, train = mlp(64, 10), load_data("digits", flat=True).train
    lesson = train.batch(torch.arange(len(train)))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(student(lesson.inputs), lesson.target).backward()
        optimizer.step()
    with torch.no_grad():
        student.head.weight.mul_(8)
        student.head.bias.mul_(8)
    save_model(tmp_path / "run" / "student.safetensors", student)
    return tmp_path / "run"


def call(*arguments: object):
    done = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def test_confidence_before_and_after(run_folder, tmp_path):
    done = call("calibrate", run_folder, *DIGITS, "--out", tmp_path / "out")
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in done.stdout
    assert f"Calibrator: {run_folder / 'calibrator.json'}" in done.stdout
    said = " ".join(done.stdout.split())
    assert "Calibration error falls from" in said
    assert "so few samples" not in said, "that is about a temperature a sample"
    report = read_report(tmp_path / "out" / "report.json")
    after, before = report.arms
    assert (after.name, before.name) == ("run, calibrated", "run")
    for metric in ("expected_calibration_error", "negative_log_likelihood"):
        assert after.values(metric)[0] < before.values(metric)[0]
    assert after.values("accuracy") == before.values("accuracy")
    assert after.cards[0].reliability != before.cards[0].reliability
    assert after.description.startswith("temperature ")
    assert "run, calibrated" in (tmp_path / "out" / "report.html").read_text()


def test_the_calibrator_is_that_of_the_validation_part_and_replaces_another(run_folder, tmp_path):
    arguments = ("calibrate", run_folder, *DIGITS, "--out", tmp_path / "out")
    call(*arguments, "--loss", "brier")
    by_brier = load_calibrated(run_folder).calibrator.temperature
    call(*arguments)
    fitted = json.loads((run_folder / "calibrator.json").read_text())["fitted"]
    assert fitted["samples"] == len(load_data("digits").validation)
    assert load_calibrated(run_folder).calibrator.temperature != by_brier


def test_assess_and_export_use_it_unless_told_not_to(run_folder, tmp_path):
    call("calibrate", run_folder, *DIGITS, "--out", tmp_path / "out")
    after = read_report(tmp_path / "out" / "report.json").arms[0].cards[0].metrics["expected_calibration_error"]
    errors = {}
    for option in ("--calibrated", "--raw"):
        call("assess", run_folder, *DIGITS, "--no-robustness", "--out", tmp_path / "card", option)
        (arm,) = read_report(tmp_path / "card" / "report.json").arms
        errors[option] = arm.cards[0].metrics["expected_calibration_error"]
        assert arm.description.startswith("calibrated: temperature") is (option == "--calibrated")
    assert errors["--calibrated"] == pytest.approx(after)
    assert errors["--raw"] != pytest.approx(after)

    done = call("export", run_folder, "--to", tmp_path / "ship", "--format", "onnx", "--format", "safetensors")
    assert "calibrated: temperature" in done.stdout
    inputs = torch.rand(5, 64)
    expected = load_calibrated(run_folder)(inputs).softmax(1).detach()
    torch.testing.assert_close(load_model(tmp_path / "ship")(inputs).softmax(1), expected)
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "ship" / "model.onnx"))
    torch.testing.assert_close(
        torch.tensor(session.run(["logits"], {"inputs": inputs.numpy()})[0]).softmax(1), expected
    )

    done = call("export", run_folder, "--to", tmp_path / "raw", "--format", "safetensors", "--raw")
    assert "calibrated" not in done.stdout
    assert torch.equal(load_model(tmp_path / "raw")(inputs), load_model(run_folder)(inputs))


def test_a_temperature_a_sample_is_exported_with_its_copies(tmp_path):
    save_model(tmp_path / "run" / "student.safetensors", convnet((1, 8, 8), 10, channels=(4,)))
    options = ("--data", "digits", "--method", "sample_temperature", "--loss", "correctness_aware_balanced")
    done = call("calibrate", tmp_path / "run", *options, "--out", tmp_path / "out")
    assert "With so few samples one temperature for all is usually better." in " ".join(done.stdout.split())
    done = call("export", tmp_path / "run", "--to", tmp_path / "ship", "--format", "safetensors", "--format", "onnx")
    assert "a temperature a sample, from 3 transformed copies; every call runs the network 4 times" in done.stdout
    inputs = load_data("digits").test.batch(torch.arange(7)).inputs
    expected = load_calibrated(tmp_path / "run")(inputs).detach()
    assert torch.equal(load_model(tmp_path / "ship")(inputs), expected)
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "ship" / "model.onnx"))
    shipped = torch.tensor(session.run(["logits"], {"inputs": inputs.numpy()})[0])
    torch.testing.assert_close(shipped, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nowhere", "--data", "iris"], FileNotFoundError, "nowhere"),
        (["run", "--data", "diabetes"], ValueError, "one class a sample to calibrate on, but got regression"),
        (["run", "--data", "iris"], ValueError, "to take the data's samples"),
        (["run", *DIGITS, "--method", "temprature"], ValueError, "did you mean 'temperature'"),
        (["run", *DIGITS, "--method", "sample_temperature"], ValueError, "for other data use"),
        (["run", *DIGITS, "--loss", "mse"], ValueError, "`loss` to be one of"),
    ],
)
def test_what_does_not_fit_is_one_clear_line_and_leaves_no_file(run_folder, monkeypatch, arguments, error, message):
    monkeypatch.chdir(run_folder.parent)
    done = runner.invoke(app, ["calibrate", *arguments])
    assert isinstance(done.exception, error)
    assert message in str(done.exception)
    assert not (run_folder / "calibrator.json").exists()
    assert not (run_folder.parent / "calibration").exists()
