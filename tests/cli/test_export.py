"""`tutelage export`, as a person calls it."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.models import load_model, mlp, save_model

runner = CliRunner()


@pytest.fixture
def run_folder(tmp_path):
    save_model(tmp_path / "run" / "student.safetensors", mlp(4, 3))
    return tmp_path / "run"


def test_a_run_becomes_the_files_asked_for(run_folder, tmp_path):
    arguments = [
        "export",
        str(run_folder),
        "--to",
        str(tmp_path / "ship"),
        "--format",
        "onnx",
        "--format",
        "safetensors",
    ]
    result = runner.invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == ["onnx", "safetensors"]
    assert "largest difference of a logit" in result.stdout
    assert {file.name for file in (tmp_path / "ship").iterdir()} == {"model.onnx", "model.safetensors", "model.json"}
    inputs = torch.randn(3, 4)
    assert torch.equal(load_model(tmp_path / "ship")(inputs), load_model(run_folder)(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--format", "onxx"], "did you mean 'onnx'"),
        (["--input-shape", "1x8"], "Expected --input-shape to be whole numbers with commas between, but got '1x8'"),
    ],
)
def test_a_wrong_option_is_one_clear_line(run_folder, tmp_path, options, message):
    result = runner.invoke(app, ["export", str(run_folder), "--to", str(tmp_path / "ship"), *options])
    assert isinstance(result.exception, ValueError)
    assert message in str(result.exception)


def test_a_path_without_a_model(tmp_path):
    result = runner.invoke(app, ["export", str(tmp_path / "nowhere"), "--to", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError)
