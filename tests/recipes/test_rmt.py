from __future__ import annotations

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import rmt
from tutelage.reproduction import Results, run_recipe

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("rmt") / "result.json"
    done = runner.invoke(app, ["reproduce", "rmt", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    assert set(smoke["arms"]) == {arm.name for arm in rmt.ARMS}
    assert len(smoke["claims"]) == 4
    for metrics in smoke["arms"].values():
        assert all(0 <= value <= 1 for values in metrics.values() for value in values)
    assert {name for name, metrics in smoke["arms"].items() if "second_error" in metrics} == {"TENT", "RMT"}
    assert set(smoke["facts"]) == {"clean_error", *(f"validation_error_at_severity_{level}" for level in range(1, 6))}
    assert all(0 <= value <= 1 for value in smoke["facts"].values())


def test_without_a_lesson_the_two_consistency_losses_are_one():
    scale = rmt.SCALES["smoke"]
    scale = replace(scale, seeds=1, settings={**scale.settings, "settings": ("gradual",), "warm_up": 1})
    chosen = [arm for arm in rmt.arms(scale) if arm.name.startswith("mean teacher")]
    recipe = replace(rmt.recipe, scales={"smoke": scale}, arms=lambda scale: chosen, claims=())
    found = run_recipe(recipe, "smoke", jobs=1, breakage="no-lesson")["arms"]
    errors = [found[arm.name]["error"][0] for arm in chosen]
    assert errors[0] == pytest.approx(errors[1], abs=0.03)  # their warm-ups differ, and nothing else


def results(**errors: float) -> Results:
    names = {"statistics": "BN-1", "tent": "TENT", "ce": "mean teacher, CE", "sce": "mean teacher, SCE", "ours": "RMT"}
    names |= {"replay": "RMT, replay", "source": "source"}
    return Results(
        {
            names[key]: {"error": [value, value + 0.01, value], "second_error": [value + errors["rise"]] * 3}
            for key, value in errors.items()
            if key != "rise"
        },
        {},
        {},
    )


def test_claims_can_hold_and_fail():
    good = results(source=0.5, statistics=0.3, tent=0.3, ce=0.28, sce=0.27, ours=0.25, replay=0.24, rise=0.0)
    bad = results(source=0.2, statistics=0.3, tent=0.3, ce=0.28, sce=0.29, ours=0.35, replay=0.37, rise=0.05)
    assert [claim.judge(good).holds for claim in rmt.CLAIMS] == [True] * 4
    assert [claim.judge(bad).holds for claim in rmt.CLAIMS] == [False] * 4


def test_paper_scale_builds():
    assert rmt.describe(rmt.SCALES["paper"])["network"].startswith("11,")
