"""The recipe of DSE: a smoke run by the command, broken twins, and claims that can fail."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import dse
from tutelage.reproduction import Context, Results, load_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
CLAIMS = [claim.id for claim in dse.CLAIMS]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("dse") / "result.json"
    done = runner.invoke(app, ["reproduce", "dse", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in dse.arms(dse.SCALES["smoke"])}
    assert [claim["id"] for claim in result["claims"]] == CLAIMS
    assert result["claims"][0]["holds"]  # DSE follows the dimension, with 100 points too
    training = result["arms"]["digits mlp true"]
    assert len(training["entropy"][0]) == 11
    assert training["entropy"][0][0] == pytest.approx(training["rescaled entropy"][0][0])  # before the first step


def measured(name, **settings):
    scale = dse.SCALES["smoke"]
    arm = next(arm for arm in dse.arms(scale) if arm.name == name)
    return dse.MEASURES[name](Context(scale, Path()), replace(arm, settings={**arm.settings, **settings}), 0)


def test_a_kernel_as_wide_as_the_spheres_reverses_the_entropy():
    broken = dse.with_a_wide_kernel(dse.Arm("spheres", {"part": "spheres"})).settings
    metrics = measured("spheres", **broken)
    assert metrics["dse 256 noise 0"][0] > metrics["dse 256 noise 0"][-1]
    results = Results({"spheres": {name: [values] for name, values in metrics.items()}})
    assert not dse.follows_the_dimension(results).holds


def test_without_equal_sizes_shuffled_labels_have_information():
    broken = dse.without_size_matching(dse.Arm("labels", {"part": "labels"})).settings
    metrics = measured("labels", **broken)
    assert metrics["dsmi noise 0"][-1] > 0.3
    results = Results({"labels": {name: [values] for name, values in metrics.items()}})
    assert not dse.falls_with_corruption(results).holds


def results(**changed):
    """Four arms of figures with which all claims hold."""
    rising = [[2.0 + 0.5 * d for d in range(8)]] * 3
    spheres = {f"{kind} 256 noise {noise:g}": rising for kind in ("dse", "twonn") for noise in dse.NOISES}
    spheres |= {f"cse 256 noise {noise:g}": [[8.97] * 8] * 3 for noise in dse.NOISES}
    labels = {f"dsmi noise {noise:g}": [[1.0, 0.5, 0.2, 0.1, 0.01]] * 3 for noise in dse.PIXEL_NOISES}
    labels |= {f"csmi noise {noise:g}": [[0.01] * 5] * 3 for noise in dse.PIXEL_NOISES}
    arms = {"spheres": spheres, "labels": labels}
    for kind, rise in (("true", 0.5), ("random", 0.1)):
        names = [f"{start}{name}_rise" for start in ("", "rescaled ") for name in ("entropy", "label_information")]
        names += [f"{name} at {factor:g}" for name in names for factor in dse.SENSITIVITY]
        arms[f"digits mlp {kind}"] = {"scale": [9.0] * 3, **dict.fromkeys(names, [rise] * 3)}
    quality = [[0.1, 0.5, 0.6, 0.9]] * 3
    arms["nets"] = dict.fromkeys(
        ("test_accuracy", "validation_accuracy", "dsmi", "csmi", "dse", "silhouette", "parameters"), quality
    )
    for place, values in changed.items():
        arm, _, metric = place.partition("__")
        arms[arm.replace("_", " ")][metric.replace("_at_", " ").replace("rescaled_", "rescaled ")] = values
    return Results(arms)


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        ({}, set()),
        ({"spheres__dse 256 noise 0.3": [[2, 3, 4, 5, 5, 6, 7, 8]] * 3}, {"intrinsic-dimension"}),
        ({"spheres__dse 256 noise 0.1": [[2.2 + 0.5 * d for d in range(8)]] * 3}, {"intrinsic-dimension"}),
        ({"spheres__cse 256 noise 0": [[7.8, *[8.97] * 7]] * 3}, {"histogram-is-blind"}),
        ({"labels__dsmi noise 0": [[1.0, 0.5, 0.2, 0.2, 0.01]] * 3}, {"label-corruption"}),
        ({"labels__dsmi noise 0": [[1.0, 0.5, 0.2, 0.1, 0.06]] * 3}, {"label-corruption"}),
        ({"labels__csmi noise 0.1": [[0.06] * 5] * 3}, {"label-corruption"}),
        ({"digits_mlp_random__entropy_rise": [0.1, -0.1, -0.1]}, {"entropy-rises"}),
        ({"digits_mlp_random__entropy_rise": [0.1, 0.1, -0.1]}, set()),
        ({"digits_mlp_random__label_information_rise": [0.1, 0.6, 0.1]}, {"information-rises"}),
        ({"digits_mlp_true__rescaled_label_information_rise": [0.1] * 3}, {"information-rises-rescaled"}),
        ({"nets__dsmi": [[0.9, 0.6, 0.5, 0.1]] * 3}, {"model-selection"}),
    ],
)
def test_claims_follow_their_criteria(changed, failing):
    judged = judge(dse.recipe, results(**changed))
    assert {claim["id"] for claim in judged if not claim["holds"]} == failing


def test_spheres_have_their_norms_and_dimension():
    points, noise = dse.noisy_sphere(3, 64, 400, torch.Generator().manual_seed(0))
    torch.testing.assert_close(points.norm(dim=1), torch.ones(400, dtype=torch.float64))
    assert torch.linalg.matrix_rank(points) == 4
    assert noise.norm(dim=1).mean().item() == pytest.approx(1, abs=0.02)
    assert dse.two_nearest_neighbour_dimension(points) == pytest.approx(3, abs=0.4)


def test_mine_finds_what_there_is():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (600,), generator=generator)
    x = torch.nn.functional.one_hot(labels, 10).double()
    assert dse.mine(x, labels, steps=150, seed=0) > 0.5
    assert dse.mine(x[torch.randperm(600, generator=generator)], labels, steps=150, seed=0) < 0.1


def test_networks_differ_and_are_the_same_for_every_seed():
    nets = dse.draw_nets(30)
    assert nets == dse.draw_nets(30)
    assert len({json.dumps(net["model"]) for net in nets}) > 10
    assert np.ptp([np.log10(net["learning_rate"]) for net in nets]) > 1


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "dse", "--scale", "paper"])
    assert done.exit_code == 4
    assert "CUDA device" in done.output
    for name in ("ResNetForImageClassification", "ConvNextForImageClassification", "ViTForImageClassification"):
        assert name in done.output


def test_recipe_is_found_by_its_slug():
    assert load_recipe("dse") is dse.recipe
