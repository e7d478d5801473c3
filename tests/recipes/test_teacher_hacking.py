import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tutelage.assessment import ProxyGoldenCurve
from tutelage.cli import app
from tutelage.recipes import teacher_hacking
from tutelage.reproduction import Context, Results, load_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
SMOKE = teacher_hacking.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher-hacking") / "result.json"
    done = runner.invoke(app, ["reproduce", "teacher-hacking", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in teacher_hacking.ARMS}
    assert len(result["claims"]) == 5
    assert result["facts"]["oracle_entropy"] == pytest.approx(1.25, abs=0.1)
    starts = {tuple(metrics["golden_start"]) for metrics in result["arms"].values()}
    assert len({tuple(round(value, 4) for value in start) for start in starts}) == 1  # all arms start alike
    for metrics in result["arms"].values():
        assert all(steps[0] == 0 and steps[-1] == 40 for steps in metrics["steps"])
        assert all(proxy[-1] < proxy[0] for proxy in metrics["proxy"])


def test_data_sets_have_the_sizes_they_should(smoke):
    arms = smoke[1]["arms"]
    tokens = {name: set(metrics["generated_tokens"]) for name, metrics in arms.items()}
    assert tokens["offline"] == tokens["offline, prompts ÷ 5"] == {40 * 6.0}
    assert tokens["offline, 8 generations"] == {8 * 40 * 6.0}
    assert min(tokens["online student"]) >= 40 * 32 / 2 * 6  # every visited prompt, up to the last, short batches
    assert set(arms["offline"]["distinct_prompts"]) == {40.0}
    assert set(arms["offline, prompts ÷ 5"]["distinct_prompts"]) == {8.0}


def test_prompts_of_the_three_stages_are_disjoint():
    context = Context(teacher_hacking.SCALES["quick"], Path())
    sets = teacher_hacking._prompt_sets(context, 0)
    everything = torch.cat(sets)
    assert len(torch.unique(everything, dim=0)) == len(everything) == 2000 + 250 + 256
    other = teacher_hacking._prompt_sets(context, 1)
    assert not torch.equal(sets[1], other[1])


def test_arms_differ_in_their_responses_alone():
    for arm in teacher_hacking.arms(teacher_hacking.SCALES["full"]):
        assert set(arm.settings) <= {"source", "prompt_fraction", "generations_per_prompt", "fraction_online"}


def test_breakages():
    fresh = [teacher_hacking.recipe.breakages["fresh"](arm) for arm in teacher_hacking.ARMS]
    assert all(arm.settings["source"] != "offline" for arm in fresh)
    assert [arm.name for arm in fresh] == [arm.name for arm in teacher_hacking.ARMS]
    perfect = teacher_hacking.recipe.breakages["perfect-teacher"](teacher_hacking.ARMS[0])
    assert perfect.settings == {"source": "offline", "perfect": True}


def test_an_oracle_that_teaches_cannot_be_hacked(tmp_path):
    """With no difference between teacher and oracle, proxy and golden are one distance but for their samples."""
    context = Context(SMOKE, tmp_path)
    teacher_hacking.prepare(context)
    arm = teacher_hacking.perfect_teacher(teacher_hacking.ARMS[0])
    metrics = teacher_hacking.run_arm(context, arm, 0)
    differences = np.abs(np.subtract(metrics["proxy"], metrics["golden"]))
    assert (differences < 4 * np.hypot(metrics["se_proxy"], metrics["se_golden"])).all()
    assert metrics["hacked"] == 0


def results(**changed):
    """Made-up figures for which every claim holds, but for what is changed: `arm__metric=value`."""
    usual = {
        "golden_rise": {"offline": 0.1, "offline, prompts ÷ 5": 0.2, "offline, 8 generations": 0.03},
        "golden_rise_in_errors": {"offline": 4.0},
        "hacking_index": {"offline": 0.2},
        "proxy_rise": {"offline": -0.1},
        "power_law_r2": {"online teacher": 0.98},
        "fired": dict.fromkeys(teacher_hacking.OFFLINE, 1.0),
    }
    arms = {}
    for arm in teacher_hacking.ARMS:
        arms[arm.name] = {}
        for metric, values in usual.items():
            value = changed.get(f"{arm.name}__{metric}", values.get(arm.name, 0.0))
            arms[arm.name][metric] = value if isinstance(value, list) else [value] * 3
        arms[arm.name]["golden_rise"] = [value + 1e-4 * k for k, value in enumerate(arms[arm.name]["golden_rise"])]
    arms["offline"]["golden_rise"][0] += 1e-3  # differences between seeds
    return Results(arms)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, []),
        ({"offline__golden_rise": [0.1, 0.1, 0.045]}, ["offline-hacks"]),
        ({"offline__golden_rise_in_errors": [4.0, 1.9, 4.0]}, ["offline-hacks"]),
        ({"online teacher__golden_rise": [0.0, 0.021, 0.0]}, ["offline-hacks"]),
        ({"offline__hacking_index": [0.2, -0.01, 0.2]}, ["golden-more-than-proxy"]),
        ({"offline, 8 generations__golden_rise": 0.11}, ["diversity"]),
        ({"offline, prompts ÷ 5__golden_rise": 0.09}, ["diversity"]),
        ({"online teacher__power_law_r2": [0.98, 0.94, 0.98]}, ["power-law"]),
        ({"offline__power_law_r2": 0.985}, ["power-law"]),
        ({"offline, 8 generations__fired": [1.0, 0.0, 1.0]}, ["monitor"]),
        ({"online student__fired": [0.0, 0.0, 1.0]}, ["monitor"]),
    ],
)
def test_claims_follow_their_criteria(changed, failing):
    judged = judge(teacher_hacking.recipe, results(**changed))
    assert [claim["id"] for claim in judged if not claim["holds"]] == failing


def test_plain_overfitting_is_called_so():
    judged = judge(teacher_hacking.recipe, results(offline__hacking_index=-0.1))
    assert "plain overfitting" in next(claim for claim in judged if claim["id"] == "golden-more-than-proxy")["detail"]


def test_r2_of_a_proxy_by_hand():
    steps = [0, 10, 100, 200, 400]
    ones = [1.0] * 5
    exact = ProxyGoldenCurve(steps, [9.0, 9.0, *(step**-0.3 for step in steps[2:])], ones, ones, ones)
    assert teacher_hacking.power_law_r2(exact, after=100) == pytest.approx(1.0)
    rising = ProxyGoldenCurve(steps, [9.0, 9.0, 1.0, 2.0, 3.0], ones, ones, ones)
    assert teacher_hacking.power_law_r2(rising, after=100) == 0


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "teacher-hacking", "--scale", "paper"])
    assert done.exit_code == 4
    assert "T5ForConditionalGeneration" in done.output
    assert "CUDA device" in done.output
    described = teacher_hacking.describe(teacher_hacking.SCALES["paper"])
    sizes = {role: int(text.split(", ", 1)[1].split()[0].replace(",", "")) for role, text in described.items()}
    assert 2.7e9 < sizes["oracle"] < 2.9e9  # nominally 3 B, 0.8 B and 0.25 B, with output layers of their own
    assert 0.7e9 < sizes["teacher"] < 0.8e9
    assert 0.2e9 < sizes["student"] < 0.25e9


def test_recipe_is_found_by_its_slug():
    assert load_recipe("teacher-hacking") is teacher_hacking.recipe
