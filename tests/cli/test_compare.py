from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml
from typer.testing import CliRunner

from tutelage.cli import app

RUNNER = CliRunner()
IRIS = ["--data", "iris", "--teacher", "mlp", "--student", "mlp", "--set", "teacher.train.epochs=1"]


def test_list_says_which_methods_apply_and_why_others_do_not() -> None:
    chosen = ["--method", "pld", "--method", "cwd", "--method", "trades"]
    shown = RUNNER.invoke(app, ["compare", "--list", *IRIS, *chosen])
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "3 methods apply" in text
    assert "plackett_luce_distillation temperature 1; temperature 4" in text
    assert "2 do not" in text
    assert "trades_loss reads `adversarial_logits` of the student, which it does not give" in text


def test_show_config_prints_yaml_that_can_be_used_as_a_config(tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["compare", *IRIS, "--budget", "3m", "--exclude", "mutual", "--show-config"])
    assert shown.exit_code == 0, shown.output
    config = yaml.safe_load(shown.stdout)
    assert (config["budget"], config["methods"]["exclude"]) == (180.0, ["mutual"])
    (tmp_path / "config.yaml").write_text(shown.stdout)
    again = RUNNER.invoke(app, ["compare", str(tmp_path / "config.yaml"), "--show-config"])
    assert again.stdout == shown.stdout


def test_a_mistake_is_one_line_and_exit_code_2() -> None:
    command = [sys.executable, "-m", "tutelage", "compare", "--budget", "soon"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr == "tutelage: Config key `budget`: expected a time such as `90s`, `5m` or `2h`, but got 'soon'.\n"
    )


def test_going_on_takes_no_options_that_it_would_not_heed(tmp_path: Path) -> None:
    shown = RUNNER.invoke(app, ["compare", "--resume", str(tmp_path), "--seeds", "3", "--jobs", "1"])
    assert "seeds" in str(shown.exception)
    assert "but got seeds too" in str(shown.exception)
