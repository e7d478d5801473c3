import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage.batch import Batch
from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.objectives import divergence_weights, forward_kl, reverse_kl
from tutelage.outputs import Outputs
from tutelage.recipes import bd_kd
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("bd_kd") / "result.json"
    done = runner.invoke(app, ["reproduce", "bd-kd", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in bd_kd.ARMS}
    assert len(result["claims"]) == 5
    for metrics in result["arms"].values():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for name in ("accuracy", "ece", "mce") for value in metrics[name])
    assert "entropy gap" in done.output


def test_arms_share_what_they_should(smoke):
    arms = smoke[1]["arms"]
    # A temperature changes no prediction, and every arm's student of a seed starts and reads alike.
    assert arms["CE"]["accuracy"] == arms["CE scaled"]["accuracy"]
    assert arms["CE"]["nll"] != arms["CE scaled"]["nll"]
    online = ("DML", "one-way", "both", "reverse", "BD-KD", "BD-KD swapped")
    assert all("entropy_gap" in arms[name] and "teacher_accuracy" in arms[name] for name in online)
    assert len({tuple(arms[name]["nll"]) for name in online}) == len(online)


def test_without_its_term_the_student_is_that_of_cross_entropy_and_the_key_claims_fail(smoke):
    compared = [
        arm for arm in bd_kd.arms(bd_kd.SCALES["smoke"]) if arm.name in ("CE", "CE scaled", "BD-KD", "DML", "both")
    ]
    recipe = replace(bd_kd.recipe, arms=lambda scale: compared, claims=(bd_kd.CLAIMS[0], bd_kd.CLAIMS[2]))
    broken = run_recipe(recipe, "smoke", jobs=1, breakage="unread")
    for metric in ("accuracy", "ece", "nll"):
        assert broken["arms"]["BD-KD"][metric] == broken["arms"]["CE"][metric]
    assert not any(claim["holds"] for claim in broken["claims"])
    assert broken["arms"]["CE"] == smoke[1]["arms"]["CE"]
    assert smoke[1]["arms"]["BD-KD"]["nll"] != smoke[1]["arms"]["CE"]["nll"]


def test_breakages_touch_the_method_alone():
    before = bd_kd.arms(bd_kd.SCALES["full"])
    for breakage in bd_kd.recipe.breakages.values():
        after = [breakage(arm) for arm in before]
        assert [new.name for old, new in zip(before, after, strict=True) if old != new] == ["BD-KD"]


def linear(seed):
    torch.manual_seed(seed)
    return nn.Linear(4, 3)


@pytest.mark.parametrize("arm", [arm for arm in bd_kd.ARMS + bd_kd.SWEEP if arm.settings["method"] not in ("ce", "kd")])
def test_online_arms_minimise_what_they_say(arm):
    teacher, student = linear(1), linear(2)
    batch = Batch(torch.randn(8, 4), torch.randint(3, (8,)), torch.arange(8))
    losses = bd_kd.online(arm.settings, teacher, student).step(batch)
    s, t = student(batch.inputs), teacher(batch.inputs)
    temperature = arm.settings.get("temperature", 1.0)
    forward = forward_kl(s, t, temperature=temperature)
    reverse = reverse_kl(s, t, temperature=temperature)
    weights = divergence_weights(s, t, nu=arm.settings.get("nu", 1.0), temperature=temperature)
    of_forward, of_reverse = {
        "dml": (1, 0),
        "one_way": (1, 0),
        "reverse": (0, 1),
        "bd_kd": weights,
        "swapped": weights[::-1],
    }[arm.settings["method"]]
    label = nn.functional.cross_entropy
    own = sum(loss for name, loss in losses.items() if name.startswith("student/"))
    expected = label(s, batch.target) + temperature**2 * (of_forward * forward + of_reverse * reverse).mean()
    torch.testing.assert_close(own, expected)
    of_teacher = sum(loss for name, loss in losses.items() if name.startswith("teacher/"))
    reads = 0 if arm.settings["method"] == "one_way" else 1
    torch.testing.assert_close(of_teacher, label(t, batch.target) + reads * temperature**2 * reverse.mean())


def test_entropy_gap_is_the_mean_over_the_last_epoch():
    gap = bd_kd.EntropyGap(temperature=1.0)
    batch = Batch(torch.zeros(2, 1), None, torch.arange(2))
    sure, even = torch.tensor([[99.0, 0.0]] * 2), torch.zeros(2, 2)
    gap({"student": Outputs(logits=even), "teacher": Outputs(logits=even)}, batch)
    gap({"student": Outputs(logits=sure), "teacher": Outputs(logits=even)}, batch)
    assert gap.mean(last=2) == pytest.approx(math.log(2))
    assert gap.mean(last=4) == pytest.approx(math.log(2) / 2)


def test_fitted_temperature_undoes_a_scale():
    logits = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0))
    target = torch.distributions.Categorical(logits=logits).sample()
    one = bd_kd.fitted_temperature(logits, target)
    assert one == pytest.approx(1.0, abs=0.1)
    assert bd_kd.fitted_temperature(3 * logits, target) == pytest.approx(3 * one, rel=1e-3)


NOISE = (-0.001, 0.0, 0.001)


def results(**changes):
    """Three seeds in which all claims hold; `changes` are means by arm and metric (`BD_KD__ece=0.2`)."""
    means = {
        "CE": {"ece": 0.10, "accuracy": 0.50},
        "CE scaled": {"ece": 0.04, "accuracy": 0.50},
        "DML": {"ece": 0.08, "accuracy": 0.55, "entropy_gap": 0.30, "teacher_accuracy": 0.9},
        "one-way": {"ece": 0.09, "accuracy": 0.55, "entropy_gap": 0.40, "teacher_accuracy": 0.9},
        "both": {"ece": 0.06, "accuracy": 0.55, "entropy_gap": 0.30, "teacher_accuracy": 0.9},
        "BD-KD": {"ece": 0.05, "accuracy": 0.56, "entropy_gap": 0.20, "teacher_accuracy": 0.9},
        "BD-KD swapped": {"ece": 0.05, "accuracy": 0.56, "entropy_gap": 0.25, "teacher_accuracy": 0.9},
    }
    for name, value in changes.items():
        arm, metric = name.split("__")
        means[arm.replace("_", "-", 1) if arm == "BD_KD" else arm][metric] = value
    # The noise has another order in CE and DML, so that paired differences have a spread.
    return Results(
        {
            arm: {
                metric: [mean + noise for noise in (NOISE[::-1] if arm in ("CE", "DML") else NOISE)]
                for metric, mean in metrics.items()
            }
            for arm, metrics in means.items()
        }
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True, True, True]),
        ({"BD_KD__ece": 0.11}, [False, False, True, True, True]),
        ({"BD_KD__ece": 0.085}, [True, False, True, True, True]),
        ({"BD_KD__accuracy": 0.544}, [True, True, False, True, True]),
        ({"CE__accuracy": 0.56}, [True, True, False, True, True]),
        ({"BD_KD__entropy_gap": 0.30}, [True, True, True, False, True]),
        ({"BD_KD__teacher_accuracy": 0.894}, [True, True, True, True, False]),
        ({"BD_KD__teacher_accuracy": 0.896}, [True, True, True, True, True]),
    ],
)
def test_claims_follow_their_criteria(changes, expected):
    assert [claim["holds"] for claim in judge(bd_kd.recipe, results(**changes))] == expected


def test_a_control_with_the_smaller_gap_is_reported():
    def detail(gap):
        given = results()
        given.arms["BD-KD swapped"]["entropy_gap"] = [gap] * 3
        return judge(bd_kd.recipe, given)[3]["detail"]

    assert "in doubt" in detail(0.1)
    assert "in doubt" not in detail(0.25)


def test_every_arm_has_the_same_budget_and_data():
    for scale in bd_kd.SCALES.values():
        names = [arm.name for arm in bd_kd.arms(scale)]
        assert len(set(names)) == len(names)
        # Settings of the run are the scale's alone: no arm can change its epochs, rate or data size.
        assert not {key for arm in bd_kd.arms(scale) for key in arm.settings} - {
            "method",
            "nu",
            "temperature",
            "scaled",
        }


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "bd-kd", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_trains_with_augmentation_and_a_live_teacher(monkeypatch):
    """The path of `paper`, on a few random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.randn(16, 3, 8, 8), torch.arange(16) % 4)
    monkeypatch.setattr(bd_kd, "load_data", lambda name: Data(name, images, images, images, num_classes=4))
    bd_kd._read.cache_clear()
    paper = bd_kd.SCALES["paper"]
    network = {"name": "convnet", "arguments": {"channels": (4,)}}
    settings = {
        **paper.settings,
        "samples": 16,
        "teacher": network,
        "student": network,
        "training": {**paper.settings["training"], "epochs": 1},
    }
    small = replace(paper, settings=settings, seeds=1)
    chosen = [arm for arm in bd_kd.arms(paper) if arm.name in ("KD offline", "BD-KD", "DML t=2")]
    recipe = replace(bd_kd.recipe, scales={"paper": small}, arms=lambda scale: chosen, claims=())
    result = run_recipe(recipe, "paper", jobs=1)
    bd_kd._read.cache_clear()
    assert set(result["arms"]) == {"KD offline", "BD-KD", "DML t=2"}


def test_recipe_is_found_by_its_slug():
    assert load_recipe("bd-kd") is bd_kd.recipe
