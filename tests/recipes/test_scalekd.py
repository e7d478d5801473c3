import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.models import swin
from tutelage.recipes import scalekd
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("scalekd") / "result.json"
    done = runner.invoke(app, ["reproduce", "scalekd", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in scalekd.arms(scalekd.SCALES["smoke"])}
    assert len(result["claims"]) == 5
    for metrics in result["arms"].values():
        assert all(0 <= value <= 1 for value in metrics["test_accuracy"])
    viewed = {name: metrics["images_viewed"][0] for name, metrics in result["arms"].items()}
    assert viewed["CNN: labels, 3 × images"] == 3 * viewed["CNN: labels"] == 3 * viewed["CNN: ScaleKD 0.08/0.06"]
    assert result["facts"]["large teacher: teacher_parameters"] > 2 * result["facts"]["teacher_parameters"]


def small(breakage=None, *names):
    """Some arms on eight letters, one seed, long enough to learn something."""
    scale = scalekd.SCALES["smoke"]
    settings = {
        **scale.settings,
        "options": {**scalekd.GLYPHS, "alphabet": "ABCDEFGH", "validation_per_class": 5, "test_per_class": 20},
        "pretraining_per_class": 120,
        "per_class": 8,
        "teachers": {"teacher": scalekd.swin(16)},
        "with_large": (),
        "components": {},
        "weights": ((0.32, 0.24),),
        "teacher_training": {**scale.settings["teacher_training"], "epochs": 6},
        "student_training": {**scale.settings["student_training"], "batch_size": 32, "epochs": 30},
    }
    changed = replace(scale, settings=settings, seeds=1)
    chosen = [arm for arm in scalekd.arms(changed) if arm.name in names]
    recipe = replace(scalekd.recipe, scales={"smoke": changed}, arms=lambda scale: chosen, claims=())
    return run_recipe(recipe, "smoke", jobs=1, breakage=breakage)


@pytest.mark.slow
def test_the_key_claim_falls_with_the_teacher():
    ours, labels = "CNN: ScaleKD 0.32/0.24", "CNN: labels"
    whole = small(None, ours, labels)
    assert whole["facts"]["teacher_accuracy"] > whole["arms"][labels]["test_accuracy"][0] + 0.03
    assert whole["arms"][ours]["test_accuracy"][0] > whole["arms"][labels]["test_accuracy"][0]
    broken = small("no-teacher", ours, labels)
    assert broken["arms"][ours] == broken["arms"][labels] == whole["arms"][labels]


def test_breakages_only_touch_scalekd():
    before = scalekd.arms(scalekd.SCALES["quick"])
    for breakage in scalekd.recipe.breakages.values():
        changed = {old.name for old, new in zip(before, map(breakage, before), strict=True) if old != new}
        assert changed <= {arm.name for arm in before if "ScaleKD" in arm.name or "CAP" in arm.name}
        assert "CNN: ScaleKD 0.08/0.06" in changed


@pytest.mark.parametrize("name", ["smoke", "quick", "full"])
def test_arms_differ_in_what_they_learn_from_alone(name):
    scale = scalekd.SCALES[name]
    arms = scalekd.arms(scale)
    assert len({arm.name for arm in arms}) == len(arms)
    # Epochs, rate, batches and data are the scale's.
    assert all(set(arm.settings) == {"student", "teacher", "images", "objectives"} for arm in arms)
    assert {arm.name for arm in arms if arm.settings["images"] != 1} == {
        f"{student}: labels, 3 × images" for student in scalekd.STUDENTS
    }
    for student in scalekd.STUDENTS:
        counts = [sum(arm.group == f"{student}: {group}" for arm in arms) for group in ("matching", "ScaleKD")]
        assert counts[0] == counts[1] > 0


def results(*, teacher=0.7, large=0.5, **accuracy):
    """All arms at 0.5 and labels at 0.4, or as told by name or group, with a little noise."""
    arms, groups = {}, {}
    for arm in scalekd.arms(scalekd.SCALES["quick"]):
        groups.setdefault(arm.group, []).append(arm.name)
        default = 0.4 if arm.name.endswith(": labels") else large if scalekd.LARGE in arm.name else 0.5
        value = accuracy.get(arm.name, default)
        noise = (0.0, 0.012, -0.011) if "labels" in arm.name else (0.01, 0.0, -0.01)
        arms[arm.name] = {
            "validation_accuracy": [value] * 3,
            "test_accuracy": [value + step for step in noise],
            "images_viewed": [3.0 if "3 ×" in arm.name else 1.0] * 3,
        }
    facts = {"teacher_accuracy": teacher, f"{scalekd.LARGE}: teacher_accuracy": teacher}
    return Results(arms, groups, facts)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"CNN: labels, 3 × images": 0.49, "Mixer: labels, 3 × images": 0.49}, [True, True, True, True, True]),
        ({}, [True, True, True, False, True]),  # as good but for the noise's mean
        ({"teacher": 0.42, "Mixer: labels, 3 × images": 0.6}, [False, True, True, False, True]),  # nothing to teach
        ({"Mixer: labels": 0.498, "Mixer: labels, 3 × images": 0.6}, [False, True, True, False, True]),  # noise
        ({"Mixer: matching 1": 0.51, "Mixer: labels, 3 × images": 0.6}, [True, False, True, False, True]),
        ({"CNN: CAP 0.08/0.06": 0.51, "Mixer: labels, 3 × images": 0.6}, [True, True, False, False, True]),
        ({"large": 0.496, "Mixer: labels, 3 × images": 0.6}, [True, True, True, False, True]),
        ({"large": 0.494, "Mixer: labels, 3 × images": 0.6}, [True, True, True, False, False]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(scalekd.recipe, results(**options))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "scalekd", "--scale", "paper"])
    assert done.exit_code == 4
    for text in ("SwinForImageClassification", "ResNetForImageClassification", "MLPMixer", "ILSVRC/imagenet-1k"):
        assert text in done.output
    described = scalekd.describe(scalekd.SCALES["paper"])
    assert described["teacher"] == "SwinForImageClassification, 196,532,476 parameters"
    assert described["CNN"] == "ResNetForImageClassification, 25,557,032 parameters"


def test_paper_scale_trains_with_a_live_teacher(monkeypatch):
    images = ArraySamples(torch.randn(24, 3, 12, 12), torch.arange(24) % 4)
    monkeypatch.setattr(scalekd, "_loaded", lambda name: Data(name, images, images, images, num_classes=4))
    torch.manual_seed(0)
    pretrained = swin((3, 12, 12), 4, patch_size=3, hidden_size=8, num_heads=(2, 4), window_size=2)
    built = scalekd.build_model
    monkeypatch.setattr(
        scalekd,
        "build_model",
        lambda network, **options: pretrained if "microsoft" in network["name"] else built(network, **options),
    )
    paper, smoke = scalekd.SCALES["paper"], scalekd.SCALES["smoke"]
    settings = {
        **paper.settings,
        "students": smoke.settings["students"],
        "num_heads": (2, 4),
        "student_training": {"epochs": 1, "batch_size": 12},
        "training_of": {"CNN": {"optimizer": "sgd"}},
    }
    recipe = replace(scalekd.recipe, scales={"paper": replace(paper, settings=settings)})
    result = run_recipe(recipe, "paper", jobs=1)
    assert {claim["id"]: claim["value"] for claim in result["claims"]}["stands-in-for-data"] is None
    assert "Mixer: ScaleKD 0.08/0.06" in result["arms"]
    assert "CNN: labels, 3 × images" not in result["arms"]


def test_recipe_is_found_by_its_slug():
    assert load_recipe("scalekd") is scalekd.recipe
