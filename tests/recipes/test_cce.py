import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import cce
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("cce") / "result.json"
    done = runner.invoke(app, ["reproduce", "cce", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    assert set(smoke["arms"]) == {"dense", "fused", "filtered"}
    holds = {claim["id"]: claim["holds"] for claim in smoke["claims"]}
    assert len(holds) == 5
    assert holds["exactness"]
    assert holds["convergence"]
    assert smoke["facts"]["memory_mib_fused"] < 0.2 * smoke["facts"]["memory_mib_dense"]


def test_a_coarse_filter_breaks_exactness_and_convergence(smoke):
    recipe = replace(cce.recipe, prepare=None, claims=cce.recipe.claims[2:3] + cce.recipe.claims[4:])
    broken = run_recipe(recipe, "smoke", jobs=1, breakage="coarse-filter")
    assert [claim["holds"] for claim in broken["claims"]] == [False, False]
    assert broken["arms"]["dense"]["final_loss"] == smoke["arms"]["dense"]["final_loss"]  # the reference is not broken


def test_filter_facts_by_hand():
    # Four entries in tiles of two, of which the last two are out of the question.
    hidden = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-40.0, -40.0], [-40.0, -40.0]])
    facts = cce.filter_facts(hidden, weight, torch.tensor([0, 1]), tile=(2, 2))
    assert facts["kept_natural"] == facts["kept_sorted"] == 0.5
    assert facts["classifier_rows_of_zeros"] == 0.5
    assert facts["hidden_gradient_error"] < 1e-6


def results(**changes):
    facts = {
        "memory_mib_fused": 90.0,
        "memory_mib_fused_twice_the_vocabulary": 120.0,
        "memory_mib_recompute": 40.0,
        "memory_mib_dense": 2000.0,
        "head_gradient_mib": 32.0,
        **{
            f"milliseconds_{name}": value
            for name, value in {"dense": 100.0, "pytorch": 200.0, "recompute": 110.0}.items()
        },
        "milliseconds_fused": 90.0,
    }
    dense = {
        "final_loss": [2.0, 3.0],
        "kept_sorted": [0.2, 0.2],
        "kept_natural": [0.4, 0.4],
        "kept_random": [0.9, 0.9],
        "hidden_gradient_error": [1e-3, 1e-3],
        "classifier_rows_of_zeros": [0.3, 0.3],
        "full_classifier_gradient_error": [1e-7, 1e-7],
    }
    fused = {"final_loss": [2.0, 3.0], "error_float32": [1e-6, 1e-6], "error_float64": [1e-15, 1e-15]}
    for name, value in changes.items():
        for part in (facts, dense, fused):
            if name in part:
                part[name] = value
                break
    if "fused_final_loss" in changes:
        fused["final_loss"] = changes["fused_final_loss"]
    return Results({"dense": dense, "fused": fused}, {}, facts)


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({}, None),
        ({"memory_mib_fused": 201.0}, 0),
        ({"memory_mib_fused_twice_the_vocabulary": 141.0}, 0),
        ({"milliseconds_fused": 116.0}, 1),
        ({"milliseconds_pytorch": 90.0}, 1),
        ({"error_float32": [1e-6, 2e-5]}, 2),
        ({"error_float64": [1e-15, 1e-9]}, 2),
        ({"kept_sorted": [0.5, 0.5]}, 3),
        ({"kept_natural": [0.6, 0.6], "kept_sorted": [0.55, 0.55]}, 3),
        ({"hidden_gradient_error": [0.0, 0.02]}, 3),
        ({"classifier_rows_of_zeros": [0.0, 0.1]}, 3),
        ({"full_classifier_gradient_error": [1e-4, 0.0]}, 3),
        ({"fused_final_loss": [2.0, 3.01]}, 4),
    ],
)
def test_claims_follow_their_criteria(changes, missed):
    holds = [claim["holds"] for claim in judge(cce.recipe, results(**changes))]
    assert holds == [number != missed for number in range(5)]


def test_arms_differ_in_the_loss_alone():
    for scale in cce.SCALES.values():
        names = [arm.name for arm in cce.arms(scale)]
        assert tuple(names) == scale.settings["arms"]
        allowed = {
            "backend",
            "pytorch",
            "mode",
            "filter_eps",
            "sort_vocabulary",
            "filter_classifier_grad",
            "block_size",
        }
        assert not {key for arm in cce.arms(scale) for key in arm.settings} - allowed


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "cce", "--scale", "paper"])
    assert done.exit_code == 4
    assert "Gemma2ForCausalLM" in done.output
    assert "alpaca-cleaned" in done.output


def test_recipe_is_found_by_its_slug():
    assert load_recipe("cce") is cce.recipe
