from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import random_teachers
from tutelage.reproduction import Context, Results, run_recipe

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("random_teachers") / "result.json"
    done = runner.invoke(app, ["reproduce", "random-teachers", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    assert set(smoke["arms"]) == {arm.name for arm in random_teachers.QUICK}
    assert len(smoke["claims"]) == 5
    teachers = {tuple(metrics["teacher_accuracy"]) for metrics in smoke["arms"].values()}
    assert len(teachers) == 1, "every arm of a seed has the same teacher"


def test_nothing_is_gained_where_nothing_is_learned():
    scale = replace(random_teachers.SCALES["smoke"], seeds=1)
    recipe = replace(
        random_teachers.recipe,
        scales={"smoke": scale},
        arms=lambda scale: [arm for arm in random_teachers.QUICK if arm.name in ("student", "no steps")],
    )
    recipe = replace(recipe, claims=())
    broken = run_recipe(recipe, "smoke", jobs=1, breakage="no-learning")
    assert broken["arms"]["student"]["gain"] == broken["arms"]["no steps"]["gain"]


def test_arms_of_the_larger_scales_run_too(tmp_path):
    scale = random_teachers.SCALES["smoke"]
    scale = replace(scale, settings={**scale.settings, "arms": "full", "supervised_steps": 3})
    for arm in random_teachers.FULL[1:]:
        metrics = random_teachers.run_arm(Context(scale, tmp_path), arm, 0)
        assert 0 <= metrics["accuracy"] <= 1
        assert ("barrier_student" in metrics) == (arm.name == "connected")


def results(**gains: list[float]) -> Results:
    arms = {}
    for name, values in gains.items():
        arms[name.replace("_", " ")] = {
            "gain": values,
            "first_gain": [0.04] * len(values),
            **{metric: [0.5] * len(values) for metric in ("teacher_accuracy", "accuracy", "raw_accuracy")},
        }
    return Results(arms, {}, {})


def test_claims_can_hold_and_fail():
    good = results(
        student=[0.05, 0.04, 0.06],
        alpha_0=[0.04] * 3,
        alpha_1=[0.02] * 3,
        noise=[0.01] * 3,
        second_round=[0.05] * 3,
        no_steps=[0.01, 0.02, 0.01],
    )
    bad = results(
        student=[0.01, -0.02, 0.0],
        alpha_0=[0.0] * 3,
        alpha_1=[0.02] * 3,
        noise=[0.01] * 3,
        second_round=[0.08] * 3,
        no_steps=[0.01, -0.02, 0.0],
    )
    assert [claim.judge(good).holds for claim in random_teachers.CLAIMS] == [True] * 5
    assert [claim.judge(bad).holds for claim in random_teachers.CLAIMS] == [False] * 5


def test_paper_scale_builds():
    described = random_teachers.describe(random_teachers.SCALES["paper"])
    assert described["encoder"] == "9,220,480 parameters"
    assert described["data"] == "tutelage.data.cifar:cifar100"
    with torch.device("meta"):
        encoder, head = random_teachers._networks(random_teachers.SCALES["paper"].settings, norm=True)
        assert head(encoder(torch.zeros(2, 3, 32, 32))).shape == (2, 65_536)
