from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.models import build_model, load_model, mlp, parameter_count, resnet, save_model
from tutelage.searching import Candidate, search_students
from tutelage.searching import search as searching
from tutelage.students import pareto_front

SMALL = {"evaluations": 12, "finalists": 2, "epochs": 1, "seeds": 1, "jobs": 1, "announce": lambda line: None}


@pytest.fixture(scope="module")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    save_model(path, mlp(4, 3, hidden=(64, 64)))
    return path


def search(teacher: Path, folder: Path, **changes: object) -> list[Candidate]:
    options = {"space": "perceptron", "space_options": {"widths": [4, 8, 16], "layers": 2}, "budget": 200, **SMALL}
    return search_students(teacher, "iris", folder, **{**options, **changes})  # type: ignore[arg-type]


def test_finalists_keep_to_the_budget_and_say_why(perceptron: Path, tmp_path: Path) -> None:
    found = search(perceptron, tmp_path)
    assert all(one.parameters <= 200 for one in found)
    reasons = " ".join(reason for one in found for reason in one.reasons)
    assert all(text in reasons for text in ("rank 1 by score", "the largest within the budget", "a random pick"))
    assert [one.accuracy for one in found] == sorted((one.accuracy for one in found), reverse=True)
    assert any(one.on_front for one in found)
    best = found[0]
    assert parameter_count(build_model(dict(best.student))) == best.parameters  # type: ignore[arg-type]
    page = (tmp_path / "search.html").read_text()
    assert all(one.arch in page for one in found)
    kept = json.loads((tmp_path / "search.json").read_text())["candidates"]
    assert kept[0]["arch"] == best.arch
    assert parameter_count(load_model(tmp_path / "students" / f"{best.arch}-0.safetensors")) == best.parameters


def test_a_search_that_was_killed_goes_on_and_gives_the_same(
    perceptron: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(perceptron, tmp_path / "whole")
    part = tmp_path / "part"
    search(perceptron, part)
    scores = (part / "scores.jsonl").read_text().splitlines(keepends=True)
    (part / "scores.jsonl").write_text("".join(scores[:3]) + '["(4, 8', encoding="utf-8")
    next((part / "trials").glob("*.json")).unlink()
    trained: list[str] = []
    real = searching.distil_candidate

    def counted(context: Any, arm: Any, seed: int) -> Any:
        trained.append(arm.name)
        return real(context, arm, seed)

    monkeypatch.setattr(searching, "distil_candidate", counted)
    again = search(perceptron, part)
    assert len(trained) == 1
    assert [(one.arch, one.score, one.accuracy) for one in again] == [
        (one.arch, one.score, one.accuracy) for one in whole
    ]


def test_another_search_is_not_mixed_in(perceptron: Path, tmp_path: Path) -> None:
    search(perceptron, tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        search(perceptron, tmp_path, budget=100)


@pytest.mark.parametrize("score", ["parameters", "random"])
def test_other_scores(perceptron: Path, tmp_path: Path, score: str) -> None:
    found = search(perceptron, tmp_path, score=score)
    if score == "parameters":
        first = next(one for one in found if "rank 1 by score" in one.reasons)
        assert "the largest within the budget" in first.reasons


def test_the_command_finds_residual_students_for_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_model(tmp_path / "teacher.safetensors", resnet((1, 8, 8), 10, widths=(8, 16), depths=(1, 1)))
    arguments = ["search", "--teacher", str(tmp_path / "teacher.safetensors"), "--data", "digits", "--budget", "6000"]
    arguments += ["--space-option", "depths=[1,2]", "--space-option", "widths=[4,8]", "--evaluations", "4"]
    arguments += ["--finalists", "1", "--epochs", "1", "--seeds", "1", "--jobs", "1", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "parameters, " in result.output
    page = (tmp_path / "out" / "search.html").read_text()
    settings = yaml.safe_load(page.split("<pre ")[1].split(">", 1)[1].split("</pre>")[0])
    assert settings["student"]["name"] == "resnet"


@pytest.mark.slow
def test_candidates_are_distilled_on_a_ray_cluster(perceptron: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    found = search(perceptron, tmp_path, engine="ray", jobs=2)
    here = search(perceptron, tmp_path / "here")
    assert [(one.arch, one.accuracy) for one in found] == [(one.arch, one.accuracy) for one in here]


def test_fronts() -> None:
    assert pareto_front([0.9, 0.8, 0.7, 0.9], [5, 1, 2, 5]) == [0, 1, 3]
    assert pareto_front([1.0, 1.0], [2, 1], [1, 2]) == [0, 1]
    with pytest.raises(ValueError, match="same length"):
        pareto_front([1.0], [1, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluations": 0}, "evaluations"),
        ({"budget": 3}, "budget"),
        ({"space": "percepton"}, "did you mean"),
    ],
)
def test_bad_settings(perceptron: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        search(perceptron, tmp_path, **changes)
