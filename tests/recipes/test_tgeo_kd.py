from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.recipes import tgeo_kd
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge
from tutelage.training.bilevel_check import check_hypergradient

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("tgeo_kd") / "result.json"
    done = runner.invoke(app, ["reproduce", "tgeo-kd", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in tgeo_kd.ARMS}
    assert len(result["claims"]) == 6
    for name, metrics in result["arms"].items():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for value in metrics["test_accuracy"])
        learns = "controller" in {arm.name: arm for arm in tgeo_kd.ARMS}[name].settings
        assert ("ratio_wrong" in metrics) is learns
        if learns:
            assert all(sum(bins) == pytest.approx(1) for bins in metrics["ratio_histogram_outlier"])
    assert 0 < result["facts"]["teacher_wrong"] < 0.3
    assert result["claims"][0]["holds"], "the hypergradient is exact at any scale"


def test_a_detached_controller_fails_the_claim_about_the_hypergradient_and_never_learns():
    compared = [arm for arm in tgeo_kd.ARMS if arm.name == "TGeo-KD"]
    claims = tgeo_kd.CLAIMS[:1]
    recipe = replace(
        tgeo_kd.recipe, arms=lambda scale: tgeo_kd.arms_on(scale.settings["data"], compared), claims=claims
    )
    broken = run_recipe(recipe, "smoke", seeds=1, jobs=1, breakage="detached")
    assert not broken["claims"][0]["holds"]
    assert broken["arms"]["TGeo-KD"]["hypergradient_norm"] == [0.0]


def test_breakage_only_touches_arms_that_learn():
    before = tgeo_kd.arms(tgeo_kd.SCALES["quick"])
    after = [tgeo_kd.detached(arm) for arm in before]
    changed = [old.name for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["TGeo-KD", "no ST edge", "no inter-sample", "TGeo-KD retrained"]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_check_tells_a_right_hypergradient_from_none(seed):
    right, wrong = check_hypergradient(seed), check_hypergradient(seed, detached=True)
    assert right["hypergradient_error"] < 1e-6
    assert right["closed_form_error"] < 1e-12
    assert right["hypergradient_norm"] > 1e-4
    assert wrong["hypergradient_error"] == 1.0
    assert wrong["hypergradient_norm"] == 0.0


def results(accuracy, *, wrong=0.2, outlier=0.2, error=1e-8, norm=0.1, prefixes=("",)):
    arms, groups = {}, {}
    for prefix in prefixes:
        for arm in tgeo_kd.ARMS:
            arms[prefix + arm.name] = {
                "validation_accuracy": [accuracy.get(arm.name, 0.5)] * 3,
                "test_accuracy": [accuracy.get(arm.name, 0.5) + noise for noise in (-0.01, 0.0, 0.01)],
            }
        arms[f"{prefix}TGeo-KD"] |= {
            "ratio_right": [0.40, 0.41, 0.42],
            "ratio_normal": [0.39, 0.40, 0.41],
            "ratio_wrong": [wrong, wrong + 0.01, wrong + 0.03],
            "ratio_outlier": [outlier, outlier + 0.01, outlier + 0.03],
            "hypergradient_error": [error] * 3,
            "closed_form_error": [1e-12] * 3,
            "hypergradient_norm": [norm] * 3,
        }
        groups[f"{prefix}KD"] = [f"{prefix}KD {ratio}" for ratio in tgeo_kd.FIXED]
    return Results(arms, groups)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (results({"TGeo-KD": 0.6}), [True, True, True, True, True, True]),
        (results({"TGeo-KD": 0.6}, error=1e-3), [False, True, True, True, True, True]),
        (results({"TGeo-KD": 0.6}, norm=0.0), [False, True, True, True, True, True]),
        (results({"TGeo-KD": 0.6}, wrong=0.5), [True, False, True, True, True, True]),
        (results({"TGeo-KD": 0.6}, outlier=0.5), [True, True, False, True, True, True]),
        (results({"TGeo-KD": 0.6, "KD 0.3": 0.604}), [True, True, True, True, True, True]),
        (results({"TGeo-KD": 0.6, "KD 0.3": 0.61}), [True, True, True, True, False, True]),
        (results({"TGeo-KD": 0.6, "frozen": 0.61}), [True, True, True, True, True, False]),
        (results({"TGeo-KD": 0.49}), [True, True, True, False, False, False]),
    ],
)
def test_claims_follow_their_criteria(measured, expected):
    assert [claim["holds"] for claim in judge(tgeo_kd.recipe, measured)] == expected


def test_claims_must_hold_on_every_data_set():
    two = results({"TGeo-KD": 0.6}, prefixes=("", "imbalanced_table: "))
    assert all(claim["holds"] for claim in judge(tgeo_kd.recipe, two))
    two.arms["imbalanced_table: TGeo-KD"]["ratio_wrong"] = [0.5, 0.6, 0.7]
    judged = judge(tgeo_kd.recipe, two)
    assert [claim["id"] for claim in judged if not claim["holds"]] == ["ratio-lower-where-teacher-wrong"]
    assert "imbalanced_table: wrong 0.600, right 0.410" in judged[1]["detail"]


def test_a_group_without_samples_proves_nothing():
    measured = results({"TGeo-KD": 0.6})
    del measured.arms["TGeo-KD"]["ratio_wrong"]
    claim = judge(tgeo_kd.recipe, measured)[1]
    assert not claim["holds"]
    assert "no samples" in claim["detail"]


def test_every_arm_has_the_same_budget_and_data():
    for scale in tgeo_kd.SCALES.values():
        arms = tgeo_kd.arms(scale)
        names = [arm.name for arm in arms]
        assert len(set(names)) == len(names) == len(tgeo_kd.ARMS) * len(scale.settings["data"])
        assert not {"epochs", "learning_rate", "batch_size", "temperature"} & {
            key for arm in arms for key in arm.settings
        }


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "tgeo-kd", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_trains_with_augmentation_and_a_live_teacher(monkeypatch):
    """The path of `paper`, on a few random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.randn(20, 3, 8, 8), torch.arange(20) % 4)
    monkeypatch.setattr(tgeo_kd, "load_data", lambda name: Data(name, images, images, images, num_classes=4))
    tgeo_kd._load.cache_clear()
    paper = tgeo_kd.SCALES["paper"]
    network = {"name": "convnet", "arguments": {"channels": (4,)}}
    settings = {
        **paper.settings,
        "teacher": network,
        "student": network,
        "student_training": {**paper.settings["student_training"], "epochs": 1},
        "teacher_training": {**paper.settings["teacher_training"], "epochs": 1},
        "averaged_epochs": 1,
    }
    small = replace(paper, settings=settings, seeds=1)
    chosen = ("KD 0.5", "TGeo-KD retrained")
    recipe = replace(
        tgeo_kd.recipe,
        scales={"paper": small},
        arms=lambda scale: [arm for arm in tgeo_kd.arms(scale) if arm.name in chosen],
        claims=(),
    )
    result = run_recipe(recipe, "paper", jobs=1)
    tgeo_kd._load.cache_clear()
    assert set(result["arms"]) == set(chosen)


def test_recipe_is_found_by_its_slug():
    assert load_recipe("tgeo-kd") is tgeo_kd.recipe
