from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data.imagenet import EvaluationImages
from tutelage.models import convnet
from tutelage.recipes import correctness_calibration as recipe_module
from tutelage.recipes.correctness_calibration import ARMS, CLAIMS, SCALES, SWEEP, Part, fit, recipe, turned
from tutelage.reproduction import Context, Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
SETS = ("ind", "rotation", "noise", "blur", "fonts")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "result.json"
    arguments = ["reproduce", "correctness-calibration", "--scale", "smoke", "--jobs", "1", "--json", str(path)]
    done = runner.invoke(app, arguments)
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in ARMS}
    assert len(result["claims"]) == 4
    for name, metrics in result["arms"].items():
        assert all(len(values) == 2 for values in metrics.values())
        for part in SETS:
            assert all(0 <= value <= 1 for value in metrics[f"ece_{part}"])
            assert metrics[f"accuracy_{part}"] == result["arms"]["uncalibrated"][f"accuracy_{part}"]
        by_sample = "loss" in {arm.name: arm for arm in ARMS}[name].settings
        assert ("temperature_right" in metrics) is by_sample
        if by_sample:
            assert all(sum(bins) == pytest.approx(1) for bins in metrics["temperature_histogram_wrong"])
    assert result["facts"]["chosen_copies"] in (0, 1, 2)


def test_a_temperature_for_all_does_not_change_who_is_narrow(smoke):
    arms = smoke[1]["arms"]
    assert arms["uncalibrated"]["narrow_samples"] == arms["TS"]["narrow_samples"] == arms["CA"]["narrow_samples"]


def test_without_its_loss_it_is_the_network_of_cross_entropy():
    compared = [arm for arm in ARMS if arm.name in ("uncalibrated", "TS", "CE", "MSE", "CA", "CA balanced")]
    small = replace(recipe, arms=lambda scale: compared, claims=CLAIMS[2:3])
    broken = run_recipe(small, "smoke", seeds=1, jobs=1, breakage="cross-entropy")
    assert not broken["claims"][0]["holds"]
    assert broken["claims"][0]["value"] == 0
    assert broken["arms"]["CA"] == broken["arms"]["CE"]


def test_breakages_only_touch_the_method():
    changed = {name: [arm.name for arm in ARMS if change(arm) != arm] for name, change in recipe.breakages.items()}
    assert changed == {
        "cross-entropy": ["CA", "CA balanced", "CA shuffled"],
        "shuffled": ["CE", "MSE", "CA", "CA balanced"],
    }


def a_part(samples: int, informative: bool) -> Part:
    """A classifier that is always just as sure; copies say whether it is right, or nothing."""
    generator = torch.Generator().manual_seed(samples)
    logits = torch.zeros(samples, 5)
    logits[:, 0] = 3 + 0.5 * torch.randn(samples, generator=generator)
    target = (torch.rand(samples, generator=generator) < 0.4).long()
    copies = torch.zeros(3, samples, 5)
    copies[:, :, 0] = torch.where(target == 0, 4.0, -4.0) if informative else 4.0
    return Part(logits, target, {"weak": copies})


@pytest.mark.parametrize("informative", [True, False])
def test_copies_that_know_help_and_shuffled_ones_do_not(informative, tmp_path):
    context = Context(SCALES["quick"], tmp_path)
    (tmp_path / "copies.json").write_text('"weak"')
    auroc = {}
    for arm in ARMS:
        confidence, *_ = fit(context, arm, a_part(1500, informative), 0)(part := a_part(1000, informative))
        auroc[arm.name] = recipe_module.confidence_auroc(confidence.detach(), part.target == 0)
    assert (auroc["CA"] > 0.99) is informative
    assert abs(auroc["CA shuffled"] - 0.5) < 0.1
    assert auroc["isotonic"] == pytest.approx(auroc["uncalibrated"], abs=0.05)


def test_every_image_is_turned_by_its_own_angle():
    image = torch.zeros(1, 1, 25, 25)
    image[..., 12, 14:23] = 1  # a hand to the right
    images = turned(image.expand(60, -1, -1, -1), 20, 35, torch.Generator().manual_seed(0))
    row, column = torch.meshgrid(torch.arange(25.0) - 12, torch.arange(25.0) - 12, indexing="ij")
    mass = images.sum(dim=(1, 2, 3))
    angle = torch.rad2deg(
        torch.atan2((images[:, 0] * row).sum((1, 2)) / mass, (images[:, 0] * column).sum((1, 2)) / mass)
    )
    assert ((angle.abs() > 18) & (angle.abs() < 37)).all()
    assert (angle > 0).any()
    assert (angle < 0).any()


def results(**changed):
    """Results in which every claim holds, but for what is changed: `arm__metric=value`."""
    values = {arm.name: {"ece_ood": 0.2, "auroc": 0.8, "narrow_confidence": 0.5, "ece_ind": 0.05} for arm in ARMS}
    values["TS"] |= {"ece_ood": 0.12, "auroc": 0.8}
    values["CA"] |= {"ece_ood": 0.1, "auroc": 0.82, "narrow_confidence": 0.45, "ece_ind": 0.03}
    for key, value in changed.items():
        arm, metric = key.replace("_shuffled", " shuffled").split("__")
        values[arm][metric] = value
    arms = {}
    for name, metrics in values.items():
        noise = {"CA": 0.001, "TS": -0.001}.get(name, 0.0)
        arms[name] = {metric: [value - noise, value, value + noise] for metric, value in metrics.items()}
        arms[name] |= {"narrow_samples": [9.0] * 3}
        arms[name]["accuracy_ind"] = [values[name].get("accuracy", 0.9)] * 3
    return Results(arms)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"CA__ece_ood": 0.13}, [False, True, True, True]),
        ({"uncalibrated__ece_ood": 0.14}, [False, True, True, True]),
        ({"CA__auroc": 0.804}, [True, False, True, True]),
        ({"CA_shuffled__auroc": 0.81}, [True, False, True, True]),
        ({"CA__narrow_confidence": 0.5}, [True, True, False, True]),
        ({"CA__ece_ind": 0.06}, [True, True, True, False]),
        ({"CA__accuracy": 0.9001}, [True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(changed, expected):
    assert [claim["holds"] for claim in judge(recipe, results(**changed))] == expected


def test_no_narrow_errors_prove_nothing():
    measured = results()
    del measured.arms["CE"]["narrow_confidence"]
    assert not judge(recipe, measured)[2]["holds"]


def test_every_arm_has_the_same_budget_and_full_adds_the_sweep():
    for scale in SCALES.values():
        names = [arm.name for arm in recipe.arms(scale)]
        assert len(set(names)) == len(names)
        assert not {"steps", "lr", "batch_size"} & {key for arm in recipe.arms(scale) for key in arm.settings}
    assert recipe.arms(SCALES["full"]) == ARMS + SWEEP


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "correctness-calibration", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification, 60,192,808 parameters" in done.output
    assert "imagenet" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_asks_about_every_copy(monkeypatch):
    """The path of `paper`, on a few random images: it needs neither a GPU nor the data to be right."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        {
            "image": Image.fromarray(torch.randint(256, (30, 40, 3), generator=generator, dtype=torch.uint8).numpy()),
            "label": index % 5,
        }
        for index in range(20)
    ]
    monkeypatch.setattr(recipe_module, "imagenet_images", lambda name: EvaluationImages(rows))
    monkeypatch.setattr(recipe_module, "classifier", lambda context, seed: convnet((3, 224, 224), 5, channels=(2, 2)))
    small = replace(
        SCALES["paper"], seeds=1, settings={**SCALES["paper"].settings, "fit": SCALES["smoke"].settings["fit"]}
    )
    chosen = [arm for arm in ARMS if arm.name in ("TS", "CA")]
    result = run_recipe(replace(recipe, scales={"paper": small}, arms=lambda scale: chosen, claims=()), "paper", jobs=1)
    assert {"ece_ind", "ece_sketch", "ece_ood"} <= set(result["arms"]["CA"])


def test_recipe_is_found_by_its_slug():
    assert load_recipe("correctness-calibration") is recipe
