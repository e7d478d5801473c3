from __future__ import annotations

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.comparison import ComparisonConfig, resume_comparison, start_comparison, tournament
from tutelage.comparison.engine import TrialRunner
from tutelage.comparison.lessons import Setting
from tutelage.comparison.planning import checked_data
from tutelage.comparison.trial import teach
from tutelage.config import DistillConfig, parse_config
from tutelage.files import read_json
from tutelage.models import load_model
from tutelage.run import start_run
from tutelage.teachers.folder_lock import folder_lock
from tutelage.training import evaluate_model

Make = Callable[..., ComparisonConfig]
Ran = list[tuple[str, int]]
Read = Callable[[Path], dict[str, Any]]


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, small: Make, inline_runner: type[TrialRunner]) -> Path:
    folder = tmp_path_factory.mktemp("comparison") / "original"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tournament, "TrialRunner", inline_runner)
        start_comparison(small(), folder, announce=silent)
    return folder


@pytest.fixture
def finished(original: Path, inline: Ran, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "finished"))


def test_a_comparison_is_a_folder_with_everything(finished: Path, small: Make) -> None:
    result = read_json(finished / "comparison.json")
    # four settings of four methods with a seed that the final does not use; then the finalist and the baselines
    assert len(list((finished / "trials" / "1").iterdir())) == 16
    assert all(
        place.name.endswith(".2.json") for place in (finished / "trials" / "1").iterdir() if ".2.2." in place.name
    )
    names = {row["method"] for row in result["rows"]}
    assert {"cross_entropy", "knowledge_distillation"} <= names
    assert len(names) <= 3
    for row in result["rows"]:
        assert {"accuracy", "expected_calibration_error", "teacher_agreement", "negative_log_likelihood"} <= set(
            row["test"]
        )
        assert row["step_seconds"] > 0
        assert row["memory_mb"] > 0
        spread = row["test"]["accuracy"]
        assert spread["mean"] == pytest.approx(statistics.fmean(spread["values"]))
        assert len(spread["values"]) == 2
    assert result["teacher"]["accuracy"] > 0.8
    assert result["summary"].startswith(f"{result['winner']} ")
    assert result["winner"] in (finished / "comparison.html").read_text()
    assert result["inapplicable"] == {}  # only what was asked for is spoken of


def test_the_choice_is_made_on_validation(finished: Path) -> None:
    result = read_json(finished / "comparison.json")
    means: dict[str, list[tuple[float, float]]] = {}
    for place in (finished / "trials" / "3").iterdir():
        metrics = read_json(place)["metrics"]
        means.setdefault(place.name.split(".")[0], []).append(
            (metrics["validation_accuracy"], -metrics["validation_loss"])
        )
    best = max(means, key=lambda name: tuple(statistics.fmean(column) for column in zip(*means[name], strict=True)))
    assert result["winner"] == best == result["rows"][0]["method"]
    order = [row["validation"] for row in result["rows"]]
    assert order == sorted(order, reverse=True)


def test_the_test_part_is_never_read_before_the_final(finished: Path) -> None:
    early = [read_json(place)["metrics"] for number in "12" for place in (finished / "trials" / number).iterdir()]
    assert len(early) == 16 + 2 * 3
    assert not any(name.startswith("test/") or name == "samples" for metrics in early for name in metrics)


def test_what_is_missing_is_run_again_and_nothing_else(finished: Path, inline: Ran, unmeasured: Read) -> None:
    whole = unmeasured(finished)
    lost = sorted((finished / "trials" / "1").iterdir())[3]
    late = sorted((finished / "trials" / "3").iterdir())[0]
    for place in (lost, late, *(finished / name for name in ("comparison.json", "comparison.html", "winner.yaml"))):
        place.unlink()
    inline.clear()
    resume_comparison(finished, announce=silent)
    assert len(inline) == 2
    assert unmeasured(finished) == whole
    assert (finished / "winner.yaml").exists()


def test_the_same_plan_gives_the_same_result_elsewhere(finished: Path, tmp_path: Path, unmeasured: Read) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.yaml", "plan.json"):
        shutil.copy(finished / name, other / name)
    resume_comparison(other, announce=silent)
    assert unmeasured(other) == unmeasured(finished)


def test_the_winner_can_be_taught_with_at_once(finished: Path, tmp_path: Path) -> None:
    plain = yaml.safe_load((finished / "winner.yaml").read_text())
    config = parse_config({**plain, "seeds": [0, 1], "jobs": 1}, DistillConfig)
    report = start_run(config, tmp_path / "run", announce=silent)
    assert load_model(tmp_path / "run") is not None
    row = read_json(finished / "comparison.json")["rows"][0]
    # the final trained as `training` says, so the students are the same
    assert report.arms[0].values("accuracy") == row["test"]["accuracy"]["values"]
    assert not (tmp_path / "run" / "teacher").exists()  # it is read, not trained again


def test_a_second_one_is_refused(finished: Path, small: Make) -> None:
    with pytest.raises(FileExistsError, match="resume"):
        start_comparison(small(), finished, announce=silent)
    with folder_lock(finished), pytest.raises(ValueError, match="no other writer"):
        resume_comparison(finished, announce=silent)
    with pytest.raises(FileNotFoundError, match=r"config\.yaml"):
        resume_comparison(finished / "shared", announce=silent)


def test_other_data_under_an_old_plan_are_refused(finished: Path) -> None:
    text = (finished / "config.yaml").read_text().replace("name: iris", "name: wine")
    (finished / "config.yaml").write_text(text)
    plan = read_json(finished / "plan.json")
    assert plan["rounds"][-1]["steps"] == plan["whole_steps"]
    with pytest.raises(ValueError):
        resume_comparison(finished, announce=silent)


BAD = """
import torch
from tutelage.objectives import CrossEntropy

class Bad(CrossEntropy):
    steps = 0
    def loss(self, student_logits, target):
        self.steps += 1
        value = super().loss(student_logits, target)
        return value * float("nan") if self.steps > {limit} else value
"""


@pytest.mark.parametrize("limit", [6, 20])
def test_a_method_that_fails_drops_out_and_stops_nobody(
    small: Make,
    inline: Ran,
    own_module: Callable[[str, str], str],
    tmp_path: Path,
    limit: int,
) -> None:
    """Round 1 has 14 steps and the final 42, so that it fails in the one or in the other."""
    name = own_module(f"bad_{limit}", BAD.format(limit=limit))
    config = small(methods={"include": ["focal_loss"], "own": [f"{name}:Bad"]}, finalists=4)
    result = start_comparison(config, tmp_path / "a", announce=silent)
    found = [one for one in result["candidates"] if one["method"] == f"{name}:Bad"]
    assert len(found) == 4
    finished = {row["method"]: row["failure"] for row in result["rows"]}
    if limit == 6:
        assert all("NonFiniteLoss" in one["failure"] or "loss" in one["failure"] for one in found)
        assert f"{name}:Bad" not in finished
    else:
        assert not any(one["failure"] for one in found)
        assert finished[f"{name}:Bad"].startswith("2 of 2 seeds: ")
        assert "failed: 2 of 2 seeds" in (tmp_path / "a" / "comparison.html").read_text()
    assert {"cross_entropy", "focal_loss"} <= {name for name, failure in finished.items() if not failure}


def test_without_a_teacher_only_label_losses_compete(small: Make, inline: Ran, tmp_path: Path) -> None:
    config = small(teacher=None, methods={"include": ["pld", "focal_loss"]})
    result = start_comparison(config, tmp_path / "a", announce=silent)
    assert result["inapplicable"] == {
        "knowledge_distillation": "needs a teacher",
        "plackett_luce_distillation": "needs a teacher",
    }
    assert result["teacher"] == {}
    assert parse_config(yaml.safe_load((tmp_path / "a" / "winner.yaml").read_text()), DistillConfig).teacher is None
    resume_comparison(tmp_path / "a", announce=silent)


def test_a_regression(small: Make, inline: Ran, tmp_path: Path) -> None:
    config = small(data="diabetes", methods={"include": ["feature_matching", "pld"]})
    result = start_comparison(config, tmp_path / "a", announce=silent)
    assert result["metric"] == "mean_squared_error"
    assert {"mean_squared_error", "logit_mse"} <= {row["method"] for row in result["rows"]}
    assert result["inapplicable"]["plackett_luce_distillation"] == "is for classification"
    assert "mean squared error" in result["summary"]
    order = [row["validation"] for row in result["rows"]]
    assert order == sorted(order, reverse=True)
    for row in result["rows"]:
        place = sorted((tmp_path / "a" / "trials" / "2").glob(f"{row['method']}.*"))[0]
        metrics = read_json(place)["metrics"]
        assert statistics.fmean(metrics["samples"]) == pytest.approx(metrics["test/mean_squared_error"])


def test_an_ensemble_and_a_lesson_of_ones_own(small: Make, inline: Ran, tmp_path: Path) -> None:
    teacher = {"name": "mlp", "arguments": {"hidden": [8]}, "train": {"epochs": 3}}
    config = small(teacher=[teacher, teacher], arms={"my own": ["cross_entropy", "pld"]})
    config = config.model_copy(update={"methods": config.methods.model_copy(update={"include": ["fitnet", "mutual"]})})
    result = start_comparison(config, tmp_path / "a", announce=silent)
    assert "ensemble" in result["inapplicable"]["feature_matching"]
    assert "one teacher" in result["inapplicable"]["mutual"]
    assert any(one["method"] == "my own" for one in result["candidates"])
    winner = yaml.safe_load((tmp_path / "a" / "winner.yaml").read_text())
    assert len(winner["teacher"]) == 2


def test_tasks_that_can_not_be_compared_say_so(small: Make, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="causal_lm"):
        start_comparison(small(data="arithmetic", teacher=None), tmp_path / "a", announce=silent)


def test_a_budget_that_is_too_small_says_what_is_needed(small: Make, inline: Ran, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="budget"):
        start_comparison(small(budget=0.01), tmp_path / "a", announce=silent)
    # what is prepared is kept, and a larger budget goes on with it
    assert resume_comparison(tmp_path / "a", budget="10m", announce=silent)["winner"]
    json.loads((tmp_path / "a" / "plan.json").read_text())
    with pytest.raises(ValueError, match="has its plan already"):
        resume_comparison(tmp_path / "a", budget="20m", announce=silent)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"include": ["focal_los"]}, "focal_loss"),
        ({"include": ["mine:Mine"]}, "--own"),
        ({"exclude": ["pldd"]}, "'pldd'"),
        ({"exclude": ["cross_entropy"]}, "baseline"),
        ({"own": ["not_there:Mine"]}, "importable"),
    ],
)
def test_a_wrong_name_of_a_method_is_said_before_anything_is_done(
    small: Make, tmp_path: Path, choice: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        start_comparison(small(methods=choice), tmp_path / "a", announce=silent)
    assert not (tmp_path / "a").exists()  # so that the command can be given again


@pytest.mark.parametrize("who", ["teacher", "student"])
def test_a_model_that_does_not_fit_is_named_before_anything_is_done(small: Make, tmp_path: Path, who: str) -> None:
    model = {"name": "convnet", **({"train": {"epochs": 1}} if who == "teacher" else {})}
    with pytest.raises(ValueError, match=f"The {who}, `convnet`, does not fit iris: .*input_shape"):
        start_comparison(small(**{who: model}), tmp_path / "a", announce=silent)
    assert not (tmp_path / "a").exists()


def test_what_was_asked_for_and_does_not_apply_is_announced(
    small: Make, inline: Ran, own_module: Callable[[str, str], str], tmp_path: Path
) -> None:
    own = own_module("no_objective", "three = lambda: 3")
    said: list[str] = []
    config = small(teacher=None, methods={"include": ["pld", "focal_loss"], "own": [f"{own}:three"]})
    start_comparison(config, tmp_path / "a", announce=said.append)
    assert "plackett_luce_distillation does not apply: needs a teacher." in said
    assert any(line.startswith("no_objective:three does not apply: ") for line in said)
    assert not any(line.startswith("focal_loss") for line in said)
    assert any(line.startswith("Round 1 of 2: ") and line.endswith("is ahead of 1 others.") for line in said)


def test_a_lesson_of_ones_own_takes_no_methods_place(small: Make, inline: Ran, tmp_path: Path) -> None:
    config = small(arms={"cross_entropy": [{"name": "cross_entropy", "weight": 2.0}]}, methods={"include": ["pld"]})
    result = start_comparison(config, tmp_path / "a", announce=silent)
    plan = read_json(tmp_path / "a" / "plan.json")["methods"]
    assert plan["cross_entropy"]["settings"][0]["terms"] == [{"name": "cross_entropy", "weight": 1.0, "arguments": {}}]
    assert plan["own cross_entropy"]["settings"][0]["terms"][0]["weight"] == 2.0
    assert "cross_entropy" in {row["method"] for row in result["rows"]}


def test_validation_judges_the_weights_that_are_kept(small: Make, tmp_path: Path) -> None:
    training = {"epochs": 6, "learning_rate": 0.3, "batch_size": 16, "scheduler": "constant", "evaluate_every": 1}
    setting = Setting("", ({"name": "cross_entropy"},))
    found = []
    for keep in (None, "validation_loss"):
        config = small(teacher=None, training={**training, "keep_best": keep})
        data = checked_data(config)
        taught = teach(config, data, tmp_path, setting, seed=1, steps=30)
        assert taught.validation == evaluate_model(taught.student, data.validation, task=data.task)
        found.append(taught.validation["validation_loss"])
    assert found[1] < found[0]
