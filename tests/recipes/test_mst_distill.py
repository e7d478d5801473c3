from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.features import SpatialFeatureMask
from tutelage.models import parameter_count
from tutelage.recipes import mst_distill
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("mst_distill") / "result.json"
    done = runner.invoke(app, ["reproduce", "mst-distill", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in mst_distill.arms(mst_distill.SCALES["smoke"])}
    assert len(result["claims"]) == 4
    for name, metrics in result["arms"].items():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for metric in mst_distill.RULES for value in metrics[metric])
        routed = not any(word in name for word in ("labels", "KD"))
        assert ("routing_entropy" in metrics) is routed
        if routed:
            assert all(sum(shares) == pytest.approx(1) for shares in metrics["routing_shares"])
            assert all(len(shares) == (2 if name == "no masks" else 4) for shares in metrics["routing_shares"])
    assert 0 < result["facts"]["teacher_accuracy"] <= 1


# ---- The key terms, and what becomes of the claims without them ------------------------------------------------------


def small(arms, claims=(), breakage=None):
    """Some arms on views of one scene, one seed, long enough for masks and router to move."""
    scale = mst_distill.SCALES["smoke"]
    rates = {"initialization": (4e-3, 6), "specialization": (2e-3, 6), "distillation": (4e-3, 6)}
    training = {
        stage: {**scale.settings[stage], "learning_rate": rate, "epochs": epochs, "batch_size": 128}
        for stage, (rate, epochs) in rates.items()
    }
    scale = replace(
        scale,
        seeds=1,
        settings={**scale.settings, **training, "widths": (24, 12), "data": {"scene": mst_distill.TWO_VIEWS["scene"]}},
    )
    chosen = [arm for arm in mst_distill.arms(scale) if arm.name in arms]
    recipe = replace(mst_distill.recipe, scales={"smoke": scale}, arms=lambda scale: chosen, claims=claims)
    return run_recipe(recipe, "smoke", jobs=1, breakage=breakage)


def test_masks_lower_the_drift_and_routing_is_alive_unless_they_are_broken():
    claims = mst_distill.CLAIMS[2:]
    whole = small(["MST-Distill"], claims)
    assert [claim["holds"] for claim in whole["claims"]] == [True, True]
    assert [claim["holds"] for claim in small(["MST-Distill"], claims, "no-masks")["claims"]] == [False, True]
    collapsed = small(["MST-Distill"], claims, "one-teacher")
    assert [claim["holds"] for claim in collapsed["claims"]] == [True, False]
    assert collapsed["arms"]["MST-Distill"]["routing_shares"] == [[1.0, 0.0, 0.0, 0.0]]


def test_breakages_only_touch_the_arms_with_the_method():
    before = mst_distill.arms(mst_distill.SCALES["full"])
    for breakage in mst_distill.recipe.breakages.values():
        changed = {old.name for old, new in zip(before, map(breakage, before), strict=True) if old != new}
        assert changed <= {arm.name for arm in before if arm.settings["lesson"] == "mst"}
        assert "MST-Distill" in changed


# ---- Scales and claims -----------------------------------------------------------------------------------------------


def test_core_arms_are_on_every_data_set_and_variants_where_they_are_wanted():
    names = [arm.name for arm in mst_distill.arms(mst_distill.SCALES["quick"])]
    assert len(set(names)) == len(names) == 15
    full = [arm.name for arm in mst_distill.arms(mst_distill.SCALES["full"])]
    assert len(set(full)) == len(full) == 11 + 11 + 5
    assert {"top 2", "class: as released", "image: MST-Distill"} <= set(full)
    assert "image: as released" not in full


def test_baselines_pass_over_the_data_as_often_as_all_stages_of_a_student(monkeypatch, tmp_path):
    """Epochs of the student's own training: stage 1 and stage 3 for MST-Distill, both together for the others."""
    quick = mst_distill.SCALES["quick"]
    context = mst_distill.Context(quick, tmp_path)
    data = mst_distill._load(context, "scene", 0)
    stored = {
        f"labels.{role}.{key}": value
        for role, network in mst_distill._method(context, "scene", data, 0).networks.items()
        for key, value in network.state_dict().items()
    }
    seen = []

    def note(self, *, resume=False):
        seen.append(self.settings.epochs)
        raise InterruptedError

    monkeypatch.setattr(mst_distill, "_lessons", lambda *arguments: (data, stored))
    monkeypatch.setattr(mst_distill.Trainer, "run", note)
    for arm in mst_distill.CORE[:4]:
        with pytest.raises(InterruptedError):
            mst_distill.run_arm(context, replace(arm, settings={**arm.settings, "data": "scene"}), 0)
    assert seen == [quick.settings["initialization"]["epochs"] + quick.settings["distillation"]["epochs"]] * 4


def results(*, mst=0.84, labels=0.82, teacher=0.83, auxiliary=0.8, last=0.0, fall=0.1, shares=(0.4, 0.3, 0.2, 0.1)):
    """What trials might have measured, with `last` added to the single teachers' last epoch."""
    values = {"MST-Distill": mst, "labels": labels, "KD teacher": teacher, "KD auxiliary": auxiliary, "KD both": 0.8}
    entropy = -sum(share * math.log(share) for share in shares if share) / math.log(len(shares))
    arms = {}
    for arm in mst_distill.arms(mst_distill.SCALES["quick"]):
        value = values.get(arm.name.rpartition(": ")[2], 0.8)
        noise = np.array((-0.01, 0.0, 0.012)) * (1.1 if arm.name == "labels" else 1)
        arms[arm.name] = {
            "test_accuracy": list(value + noise),
            "last_test_accuracy": list(value + noise + (last if "KD" in arm.name else 0)),
            "drift_before": [[0.2] * 4] * 3,
            "drift_after": [[0.2 * (1 - fall), 0.1, 0.1, 0.1]] + [[0.1] * 4] * 2,
            "routing_entropy": [entropy, 0.9, 0.9],
        }
    return Results(arms)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"mst": 0.81}, [False, False, True, True]),
        ({"mst": 0.827}, [True, True, True, True]),  # within half a point of the better teacher
        ({"mst": 0.824}, [True, False, True, True]),
        ({"auxiliary": 0.85}, [True, False, True, True]),
        ({"last": 0.02}, [True, False, True, True]),  # ahead by the rule that stops the others too early
        ({"fall": 0.0}, [True, True, False, True]),  # one mask of one seed
        ({"shares": (0.97, 0.01, 0.01, 0.01)}, [True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(mst_distill.recipe, results(**options))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "mst-distill", "--scale", "paper"])
    assert done.exit_code == 4
    assert "teacher/concatenated, teacher/body.fc1, auxiliary/conv2, auxiliary/conv3" in done.output.replace("\n", " ")


@pytest.mark.parametrize("student", ["image", "sound"])
def test_networks_of_the_paper_have_the_authors_sizes(student):
    shapes = mst_distill.SHAPES["av_mnist"]
    method = mst_distill._build(mst_distill.SCALES["paper"].settings, student, shapes)
    sizes = {"image": 61_706, "sound": 92_672 + (128 * 14 * 14 * 10 + 10)}
    assert parameter_count(method.student) == sizes[student]
    assert parameter_count(method.networks["auxiliary"]) == sizes["sound" if student == "image" else "image"]
    views = {name: torch.rand(2, *shape) for name, shape in shapes.items()}
    assert method.networks["teacher"](**views).shape == (2, 10)
    assert method.student(views[student]).shape == (2, 10)
    samples = mst_distill.load_data("two_views").train.subset(torch.arange(2))
    other = "sound" if student == "image" else "image"
    extras = {"auxiliary.input": views[other], **{f"teacher.{name}": view for name, view in views.items()}}
    method.layers["teacher"] = ("body.fc1",)  # the mask of the 596 wide layer has 106 million parameters
    method.mask_options = {"num_heads": 3, "hidden_divisor": 2 if student == "sound" else 8}
    method.make_masks(type(samples)(views[student], samples.target[:2], extras=extras))
    kinds = [type(teacher.mask) for name, teacher in method.specialized.items() if name.startswith("auxiliary")]
    assert kinds == [SpatialFeatureMask, SpatialFeatureMask]


def test_recipe_is_found_by_its_slug():
    assert load_recipe("mst-distill") is mst_distill.recipe
