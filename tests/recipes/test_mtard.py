from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import mtard
from tutelage.reproduction import Results

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("mtard") / "result.json"
    done = runner.invoke(app, ["reproduce", "mtard", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    assert set(smoke["arms"]) == {arm.name for arm in mtard.ARMS}
    assert len(smoke["claims"]) == 4
    assert smoke["facts"]["radius"] in mtard.LAPTOP["radii"]
    for metrics in smoke["arms"].values():
        assert all(0 <= value <= 1 for name in ("accuracy", "robust_accuracy") for value in metrics[name])
        for clean, robust, both in zip(
            *(metrics[m] for m in ("accuracy", "robust_accuracy", "weighted_accuracy")), strict=True
        ):
            assert both == pytest.approx((clean + robust) / 2)


def test_balances_move_where_they_should_and_only_there(smoke):
    moved = {name: metrics for name, metrics in smoke["arms"].items() if "clean_temperature" in metrics}
    assert set(moved) == {"MTARD", "fixed", "entropy balance", "loss balance"}
    for name, metrics in moved.items():
        temperatures = metrics["clean_temperature"] + metrics["robust_temperature"]
        assert (max(temperatures) > 1) is (name in ("MTARD", "entropy balance"))
        assert all((weight == 0.5) is (name in ("fixed", "entropy balance")) for weight in metrics["clean_weight"])


def test_without_balances_the_arms_with_them_are_the_fixed_one():
    fixed = next(arm for arm in mtard.ARMS if arm.name == "fixed")
    for arm in mtard.ARMS:
        changed = mtard.without_balances(arm)
        assert changed.settings == (fixed.settings if arm.settings["lesson"] == "mtard" else arm.settings)


def results(**changes: float) -> Results:
    figures = {"accuracy": 0.9, "robust_accuracy": 0.6, "weighted_accuracy": 0.75}
    balanced = {"entropy_gap": 0.1, "speed_gap": 0.1, "clean_temperature": 2.0, "robust_temperature": 1.0}
    arms = {arm.name: {name: [value] * 3 for name, value in figures.items()} for arm in mtard.ARMS}
    for name in ("MTARD", "fixed", "entropy balance", "loss balance"):
        arms[name] |= {key: [value] * 3 for key, value in balanced.items()}
    arms["fixed"] |= {"entropy_gap": [changes["fixed_gap"]] * 3, "speed_gap": [changes["fixed_gap"]] * 3}
    for name in ("adversarial training", "clean teacher"):
        arms[name]["weighted_accuracy"] = [changes["rival"]] * 3
    arms["robust teacher"]["accuracy"] = [changes["rival"]] * 3
    arms["clean teacher"]["robust_accuracy"] = [changes["clean_robust"]] * 3
    return Results(arms, {}, {})


def test_claims_can_hold_and_fail():
    good, bad = (
        results(fixed_gap=0.5, rival=0.7, clean_robust=0.1),
        results(fixed_gap=0.05, rival=0.95, clean_robust=0.5),
    )
    assert [claim.judge(good).holds for claim in mtard.CLAIMS] == [True] * 4
    assert [claim.judge(bad).holds for claim in mtard.CLAIMS] == [False] * 4


def test_paper_scale_builds():
    described = mtard.describe(mtard.SCALES["paper"])
    assert described["student"].startswith("11,")
    assert int(described["teacher"].split(" ")[0].replace(",", "")) > 30_000_000
