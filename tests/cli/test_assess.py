import pytest
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.models import mlp, save_model
from tutelage.reporting import read_report

runner = CliRunner()


@pytest.fixture
def folder(tmp_path):
    for name in ("kd", "ce", "big"):
        save_model(tmp_path / name, mlp(4, 3))
    return tmp_path


def test_one_model(folder):
    out = folder / "out"
    done = runner.invoke(app, ["assess", str(folder / "kd"), "--data", "iris", "--out", str(out), "--name", "Irises"])
    assert done.exit_code == 0, done.output
    assert f"Report: {out / 'report.html'}" in done.stdout
    assert "Accuracy, %" in done.stdout
    report = read_report(out / "report.json")
    assert report.title == "Irises"
    assert [arm.name for arm in report.arms] == ["kd"]
    assert report.teacher is None
    assert "torch" in report.environment


def test_the_radius_of_attacks_is_in_the_inputs_range(tmp_path):
    save_model(tmp_path / "digits", mlp(64, 10))
    arguments = ["assess", str(tmp_path / "digits"), "--data", "digits", "--data-option", "flat=true"]
    done = runner.invoke(app, [*arguments, "--attack-radius", "0.25", "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    attacks = read_report(tmp_path / "out" / "report.json").arms[0].cards[0].robustness["attacks"]
    assert attacks["radius"] == pytest.approx(0.25)
    assert attacks["pgd20"] <= attacks["fgsm"] <= attacks["clean"]


def test_two_models_and_their_teacher(folder):
    arguments = ["assess", str(folder / "kd"), str(folder / "ce"), "--data", "iris", "--teacher", str(folder / "big")]
    done = runner.invoke(app, [*arguments, "--no-robustness", "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    report = read_report(folder / "out" / "report.json")
    assert [arm.name for arm in report.arms] == ["kd", "ce"]
    assert {compared["metric"] for compared in report.comparisons} == {"accuracy", "negative_log_likelihood"}
    assert "big (teacher)" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere", "--data", "iris"], FileNotFoundError),
        (["kd", "--data", "irises"], ValueError),
        (["kd", "--data", "iris", "--data-option", "flat"], ValueError),
    ],
)
def test_what_cannot_be_read_is_an_error(folder, arguments, error, monkeypatch):
    monkeypatch.chdir(folder)
    done = runner.invoke(app, ["assess", *arguments])
    assert isinstance(done.exception, error)
    assert not (folder / "assessment").exists()


def test_data_are_needed(folder):
    assert runner.invoke(app, ["assess", str(folder / "kd")]).exit_code == 2
