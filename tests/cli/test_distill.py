from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from typer.testing import CliRunner

from tutelage.cli import app

RUNNER = CliRunner()


def test_show_config_prints_yaml_that_can_be_used_as_a_config(tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["distill", "--student", "mlp", "--epochs", "3", "--show-config"])
    assert shown.exit_code == 0, shown.output
    config = yaml.safe_load(shown.stdout)
    assert config["training"]["epochs"] == 3
    (tmp_path / "config.yaml").write_text(shown.stdout)
    again = RUNNER.invoke(app, ["distill", str(tmp_path / "config.yaml"), "--show-config"])
    assert again.stdout == shown.stdout


def test_an_error_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "tutelage", "distill", "--set", "trainin.epochs=3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "tutelage: Config key `trainin` is not known (did you mean 'training'?).\n"


def test_a_resumed_run_takes_no_other_options(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["distill", "--resume", str(tmp_path), "--epochs", "3", "--set", "seeds=[1]"])
    assert isinstance(done.exception, ValueError)
    assert str(done.exception) == (
        "Expected --resume alone, since a run keeps its config, but got training.epochs, set too."
    )


def test_modules_in_the_current_folder_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nfrom tutelage.objectives import CrossEntropy\n\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self) -> None:\n"
        "        super().__init__(nn.Linear(4, 3))\n\n"
        "class Loss(CrossEntropy):\n"
        "    pass\n"
    )
    command = [str(Path(sys.executable).parent / "tutelage"), "distill", "--data", "iris", "--student", "mine:Net"]
    command += ["--objective", "mine:Loss", "--epochs", "1", "--seed", "0", "--seed", "1", "--jobs", "2"]
    command += ["--set", "teacher=null", "--set", "assessment.robustness=false"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "iris" / "student.safetensors").is_file()
