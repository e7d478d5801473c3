from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.objectives import AdaptiveLDRLoss, CrossEntropy
from tutelage.recipes import ldr
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
KINDS = list(ldr.NOISE)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("ldr") / "result.json"
    done = runner.invoke(app, ["reproduce", "ldr", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in ldr.arms(ldr.SCALES["smoke"])}
    assert len(result["claims"]) == 6
    for name, metrics in result["arms"].items():
        for kind in KINDS:
            assert all(0 <= value <= 1 for value in metrics[f"test_accuracy/{kind}"])
            assert all(value >= 0 for value in metrics[f"behind_best/{kind}"])
        assert ("temperature_auroc/uniform_0.3" in metrics) is name.startswith("ALDR")
        assert "temperature_auroc/clean" not in metrics, "no label is wrong there"
    learned = result["arms"]["CE 0.02"]
    assert min(learned["test_accuracy/clean"]) > 0.7
    assert max(learned["validation_accuracy/uniform_0.6"]) < 0.6, "validation labels are noisy too"
    assert result["claims"][-1]["holds"], "consistency needs no training"


def test_without_its_key_term_it_is_cross_entropy_and_temperatures_tell_nothing():
    compared = [arm for arm in ldr.arms(ldr.SCALES["smoke"]) if arm.name in ("CE 0.02", "LDR 1/0.02", "ALDR 1/0.02")]
    recipe = replace(ldr.recipe, arms=lambda scale: compared, claims=ldr.CLAIMS[4:5])
    broken = run_recipe(recipe, "smoke", seeds=1, jobs=1, breakage="cross_entropy")
    arms = broken["arms"]
    for kind in KINDS:
        plain = arms["CE 0.02"][f"test_accuracy/{kind}"]
        assert arms["LDR 1/0.02"][f"test_accuracy/{kind}"] == pytest.approx(plain, abs=0.004)
        assert arms["ALDR 1/0.02"][f"test_accuracy/{kind}"] == pytest.approx(plain, abs=0.004)
    assert arms["ALDR 1/0.02"]["temperature_auroc/uniform_0.3"][0] == pytest.approx([0.5, 0.5], abs=1e-6)
    assert not broken["claims"][0]["holds"]


def test_breakage_only_touches_the_method():
    before = ldr.arms(ldr.SCALES["quick"])
    after = [ldr.as_cross_entropy(arm) for arm in before]
    changed = {old.group for old, new in zip(before, after, strict=True) if old != new}
    assert changed == {"LDR", "ALDR"}


@pytest.mark.parametrize("adaptive", [False, True])
def test_models_side_by_side_learn_as_if_alone(adaptive):
    models = [nn.Linear(4, 3) for _ in range(2)]
    inputs, target, index = torch.randn(6, 4), torch.randint(3, (6, 2)), torch.tensor([5, 0, 3, 1, 7, 2])
    objective = AdaptiveLDRLoss(16, score_transform=None) if adaptive else CrossEntropy()
    student = ldr.SideBySide(models)
    ldr._SideBySideLoss(objective, 2)(student(inputs), target, index).backward()
    for column, model in enumerate(models):
        found = model.weight.grad.clone()
        model.zero_grad()
        alone = AdaptiveLDRLoss(8, score_transform=None) if adaptive else CrossEntropy()
        wanted = [index] if adaptive else []
        alone(model(inputs), target[:, column], *wanted).backward()
        torch.testing.assert_close(found, model.weight.grad)
        if adaptive:
            torch.testing.assert_close(objective.temperature.view(8, 2)[:, column], alone.temperature)


def test_partners_are_the_papers_letters():
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    pairs = {letters[first] + letters[second] for first, second in ldr.PAIRS}
    assert pairs == {"BD", "CG", "EF", "HN", "IL", "KX", "MW", "OQ", "PR", "UV"}
    assert all(ldr.LETTER_PARTNERS[ldr.LETTER_PARTNERS[letter]] == letter for letter in ldr.LETTER_PARTNERS)


def test_consistency_finds_the_known_minimisers():
    found = ldr.consistency(temperatures=(0.7,), draws=5)
    assert found["consistency_error"] < 1e-3
    assert found["consistency_order"] == 1
    assert found["mae_certainty"] > 0.99


def test_every_loss_has_as_many_candidates_and_nothing_but_them():
    for name in ("quick", "full"):
        scale = ldr.SCALES[name]
        arms = ldr.arms(scale)
        assert len({arm.name for arm in arms}) == len(arms)
        counts = {}
        for arm in arms:
            counts[arm.group] = counts.get(arm.group, 0) + 1
            assert set(arm.settings) == {"data", "loss", "arguments", "learning_rate"}
        assert set(counts.values()) == {6}
        assert len(counts) == 5 * len(scale.settings["data"])


def test_every_rival_of_the_paper_is_an_arm_at_paper_scale():
    arms = ldr.arms(ldr.SCALES["paper"])
    assert {arm.group for arm in arms} >= {*ldr.COMPARED, *ldr.RIVALS}
    assert len(ldr.SIMPLE) + len(ldr.RIVALS) == 13
    for arm in arms:
        objective = ldr._objective(arm.settings, rows=8)
        tensors = {
            "student.logits": torch.randn(4, 5, requires_grad=True),
            "batch.target": torch.tensor([0, 1, 4, 2]),
            "batch.index": torch.arange(4),
        }
        loss = objective(*(tensors[path] for path in objective.reads))
        assert torch.isfinite(loss)


def results(accuracy, *, wrong=0.9, seeds=(0, 0, 0, 0, 0), facts=None, prefixes=("",)):
    """Measured figures: `accuracy` by (loss, kind), 0.8 elsewhere; the first candidate of a loss is its best."""
    scale = replace(ldr.SCALES["quick"], settings={**ldr.SMALL, "data": {"digits": ldr.DIGITS}})
    arms, groups = {}, {}
    for prefix in prefixes:
        for number, arm in enumerate(ldr.arms(scale)):
            metrics = {}
            for kind in KINDS:
                level = accuracy.get((arm.group, kind), 0.8)
                metrics[f"test_accuracy/{kind}"] = [level + noise for noise in (-0.01, 0.0, 0.0, 0.0, 0.01)]
                metrics[f"validation_accuracy/{kind}"] = [0.5 - number / 1000] * 5
            if arm.group == "ALDR":
                metrics["temperature_wrong/uniform_0.3"] = [[0.9, wrong + shift, 0.9, 0.9] for shift in seeds]
                metrics["temperature_right/uniform_0.3"] = [[0.9, 0.8, 0.7, 0.7]] * 5
                metrics["temperature_auroc/uniform_0.3"] = [[0.5, 0.6, 0.7, 0.7]] * 5
            arms[prefix + arm.name] = metrics
            groups.setdefault(prefix + arm.group, []).append(prefix + arm.name)
    known = {"consistency_error": 1e-6, "consistency_order": 1.0, "mae_certainty": 1.0, "mae_second": 0.5}
    return Results(arms, groups, known | (facts or {}))


ALL = {("ALDR", kind): 0.9 for kind in KINDS} | {("LDR", kind): 0.85 for kind in KINDS}


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (results(ALL), [True, True, True, True, True, True]),
        (results(ALL | {("CE", "uniform_0.6"): 0.81}), [True, True, True, True, True, True]),
        (results(ALL | {("CE", "uniform_0.6"): 0.83}), [True, False, True, True, True, True]),
        (results(ALL | {("CE", "uniform_0.6"): 0.87}), [False, False, True, True, True, True]),
        (results(ALL | {("CE", "clean"): 0.95}), [True, True, True, False, True, True]),
        (results({}), [False, False, False, True, True, True]),
        (results(ALL, seeds=(0, 0, 0, 0, -0.2)), [True, True, True, True, True, True]),
        (results(ALL, seeds=(0, 0, 0, -0.2, -0.2)), [True, True, True, True, False, True]),
        (results(ALL, facts={"consistency_error": 0.01}), [True, True, True, True, True, False]),
        (results(ALL, facts={"consistency_order": 0.9}), [True, True, True, True, True, False]),
        (results(ALL, facts={"mae_certainty": 0.8}), [True, True, True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(measured, expected):
    assert [claim["holds"] for claim in judge(ldr.recipe, measured)] == expected


def test_claims_of_every_data_set_need_all_of_them():
    two = results(ALL, prefixes=("", "glyphs: "))
    assert all(claim["holds"] for claim in judge(ldr.recipe, two))
    for name, metrics in two.arms.items():
        if name.startswith("glyphs: ALDR"):
            metrics["test_accuracy/clean"] = [0.7] * 5
            metrics["temperature_wrong/uniform_0.3"] = [[0.1] * 4] * 5
    held = {claim["id"]: claim["holds"] for claim in judge(ldr.recipe, two)}
    assert not held["clean-on-par"]
    assert not held["temperature-tells-wrong-labels"]
    assert held["adaptive-bears-noise"]


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "ldr", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_trains_one_kind_after_the_other_with_augmentation(monkeypatch):
    """The path of `paper`, on a few random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.randn(20, 3, 8, 8), torch.arange(20) % 4)
    monkeypatch.setattr(ldr, "load_data", lambda name: Data(name, images, images, images, num_classes=4))
    ldr._load_once.cache_clear()
    paper = ldr.SCALES["paper"]
    settings = {
        **paper.settings,
        "model": {"name": "convnet", "arguments": {"channels": (4,)}},
        "training": {**paper.settings["training"], "epochs": 2},
        "looks": 2,
    }
    small = replace(paper, settings=settings, seeds=1)
    chosen = ("CE 0.01", "ALDR 1/0.01")
    recipe = replace(
        ldr.recipe,
        scales={"paper": small},
        arms=lambda scale: [arm for arm in ldr.arms(scale) if arm.name in chosen],
        claims=(),
    )
    result = run_recipe(recipe, "paper", jobs=1)
    ldr._load_once.cache_clear()
    assert set(result["arms"]) == set(chosen)
    assert len(result["arms"]["CE 0.01"]["test_curve/partner_0.5"][0]) == 2


def test_wrong_labels_do_not_depend_on_what_trains_beside():
    scale = ldr.SCALES["smoke"]
    arm = next(arm for arm in ldr.arms(scale) if arm.name == "CE 0.02")
    short = {**scale.settings, "training": {**scale.settings["training"], "epochs": 1}, "looks": 1}
    measured = []
    for together in (True, False):
        settings = {**short, "side_by_side": together}
        recipe = replace(
            ldr.recipe,
            scales={"smoke": replace(scale, settings=settings, seeds=1)},
            arms=lambda scale: [arm],
            claims=(),
            prepare=None,
        )
        measured.append(run_recipe(recipe, "smoke", jobs=1)["arms"]["CE 0.02"])
    for kind in KINDS:
        name = f"validation_accuracy/{kind}"
        assert measured[0][name] == pytest.approx(measured[1][name], abs=0.01)


def test_recipe_is_found_by_its_slug():
    assert load_recipe("ldr") is ldr.recipe
