import json
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.features import class_conditional_mean
from tutelage.one_call import distill
from tutelage.recipes import nd
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge
from tutelage.training.checkpoints import load_latest

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("nd") / "result.json"
    done = runner.invoke(app, ["reproduce", "nd", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def claim(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


# ---- The recipe ------------------------------------------------------------------------------------------------------


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in nd.arms(nd.SCALES["smoke"])}
    assert len(result["claims"]) == 5
    for metrics in result["arms"].values():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for value in metrics["test_accuracy"])
        assert all(-1 <= value <= 1 for value in metrics["cosine"])
    assert result["facts"]["teacher_accuracy"] > 0.5
    assert "KD++" in done.output


def small(arms, breakage=None):
    """Some arms on 26 classes, one seed: enough for features to move."""
    scale = nd.SCALES["smoke"]
    options = {"alphabet": "uppercase", "train_per_class": 20, "test_per_class": 20}
    pair = {"data": "glyphs", "options": options, "teacher": nd.mlp(64, 32), "student": nd.mlp(16, 32)}
    training = {**scale.settings["student_training"], "epochs": 40}
    settings = {**scale.settings, "pairs": {"glyphs": pair}, "student_training": training}
    small_scale = replace(scale, settings=settings, seeds=1)
    chosen = [arm for arm in nd.arms(small_scale) if arm.name in arms]
    recipe = replace(nd.recipe, scales={"smoke": small_scale}, arms=lambda scale: chosen, claims=())
    return run_recipe(recipe, "smoke", jobs=1, breakage=breakage)["arms"]


def test_the_term_turns_and_lengthens_features_and_its_broken_twins_do_not():
    whole = small(["KD 3/4", "KD++ 3/4"])
    plain, ours = whole["KD 3/4"], whole["KD++ 3/4"]
    assert ours["cosine"][0] > plain["cosine"][0] + 0.1
    assert ours["norm"][0] > plain["norm"][0] + 0.6
    assert ours["norm_gap"][0] < plain["norm_gap"][0]
    assert small(["KD++ 3/4"], "no-term")["KD++ 3/4"] == plain
    without_norm = small(["KD++ 3/4"], "no-norm")["KD++ 3/4"]
    assert without_norm["cosine"][0] > plain["cosine"][0] + 0.1
    assert without_norm["norm"][0] < ours["norm"][0] - 0.6


def test_breakages_only_touch_the_arms_with_the_term():
    before = nd.arms(nd.SCALES["quick"])
    for breakage in nd.recipe.breakages.values():
        changed = {old.name for old, new in zip(before, map(breakage, before), strict=True) if old != new}
        assert changed == {arm.name for arm in before if "++" in arm.name}


def test_every_arm_has_the_same_budget_and_every_kind_as_many_candidates():
    for scale in nd.SCALES.values():
        arms = nd.arms(scale)
        assert len({arm.name for arm in arms}) == len(arms)
        assert all(set(arm.settings) == {"pair", "objectives"} for arm in arms)  # epochs, rate and data are the scale's
        first = next(iter(scale.settings["pairs"]))
        counts = {}
        for arm in arms:
            if arm.settings["pair"] == first:
                counts[arm.group] = counts.get(arm.group, 0) + 1
        of_distillation = {counts[group] for group in ("KD", *nd.ADDED)}
        assert len(of_distillation) == 1
        assert counts["DKD"] == counts["DKD++"]


def results(norm_ratio=1.0, kd_norm=8.0, turned_norm=8.0, **accuracy):
    groups, arms = {}, {}
    for arm in nd.arms(nd.SCALES["quick"]):
        groups.setdefault(arm.group, []).append(arm.name)
        value = accuracy.get(arm.name, accuracy.get(arm.group, 0.5))
        ours = "++" in arm.name
        norm = kd_norm + 4 if ours else turned_norm if "direction" in arm.name else kd_norm
        noise = (-0.01, 0.0, 0.01) if ours else (-0.012, 0.001, 0.011)
        arms[arm.name] = {
            "validation_accuracy": [value] * 3,
            "test_accuracy": [value + step for step in noise],
            "cosine": [(0.7 if ours else 0.4) + step for step in noise],
            "norm": [norm + step for step in noise],
            "training_norm_ratio": [norm_ratio if ours else 0.7] * 3,
            "norm_gap": [abs((norm_ratio if ours else 0.7) - 1) + step for step in noise],
        }
    sizes = {"": 256, "teacher 128: ": 128, "teacher 512: ": 512}
    facts = {f"{prefix}teacher_size": size for prefix, size in sizes.items()}
    return Results(arms, groups, {"teacher_norm": 12.0, **facts})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"KD++": 0.55}, [True, True, True, True, True]),
        ({"KD": 0.55}, [True, True, False, True, True]),
        ({"KD++": 0.55, "KD + norm": 0.56}, [True, True, True, False, True]),
        ({"KD++": 0.55, "KD + direction 3/4": 0.552}, [True, True, True, True, True]),
        ({"KD++": 0.55, "norm_ratio": 1.4}, [True, False, True, True, True]),  # overshot
        ({"KD++": 0.55, "kd_norm": 12.5}, [True, False, True, True, True]),  # nothing to lengthen
        ({"KD++": 0.55, "turned_norm": 12.0}, [True, False, True, True, True]),  # the direction alone does that
        ({"KD++": 0.55, "teacher 512: KD": 0.6}, [True, True, True, True, False]),
        ({"KD++": 0.55, "teacher 512: KD": 0.6, "teacher 512: KD++": 0.7}, [True, True, True, True, True]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(nd.recipe, results(**options))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "nd", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output


def test_paper_scale_trains_with_augmentation_and_a_live_teacher(monkeypatch):
    images = ArraySamples(torch.randn(40, 3, 8, 8), torch.arange(40) % 4)
    monkeypatch.setattr(nd, "load_data", lambda name: Data(name, images, images, images, num_classes=4))
    nd._load.cache_clear()
    paper = nd.SCALES["paper"]
    network = {"name": "resnet", "arguments": {"widths": (4, 8), "depths": (1, 1)}}
    pair = {"data": "four classes", "options": {}, "teacher": network, "student": network, "size": 1}
    settings = {
        **paper.settings,
        "pairs": {"cifar100": pair},
        "student_training": {**paper.settings["student_training"], "epochs": 1},
        "teacher_training": {**paper.settings["teacher_training"], "epochs": 1},
    }
    recipe = replace(nd.recipe, scales={"paper": replace(paper, settings=settings, seeds=1)}, claims=())
    result = run_recipe(recipe, "paper", jobs=1)
    nd._load.cache_clear()
    assert "KD++ 1/2" in result["arms"]
    assert "DKD++ 4/3.5" in result["arms"]


def test_recipe_is_found_by_its_slug():
    assert load_recipe("nd") is nd.recipe


# ---- The same losses from a user's config ----------------------------------------------------------------------------

CONFIG = """
name: KD++
data: {name: glyphs, options: {alphabet: "0123", train_per_class: 20, validation_per_class: 5, test_per_class: 5}}
teacher: {name: mlp, arguments: {hidden: [24, 12]}, train: {epochs: 3}}
student: {name: mlp, arguments: {hidden: [8]}}
arms:
  KD++:
    - cross_entropy
    - name: knowledge_distillation
      weight: {schedule: linear, arguments: {epochs: 2, end: 3.0}}
      arguments: {alpha: 1.0, temperature: 4.0}
    - {name: norm_direction_loss, weight: 2.0, arguments: {dropout: 0.1}}
  DKD++:
    - cross_entropy
    - {name: dkd, weight: {schedule: linear, arguments: {epochs: 2}}}
    - {name: nd, weight: 2.0}
seeds: [0]
training: {epochs: 3, batch_size: 16}
assessment: {robustness: false, latency: false}
jobs: 1
"""


@pytest.mark.parametrize("cache", [False, True])
def test_a_config_combines_the_term_with_any_distillation(tmp_path, cache):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG), "cache": cache}))
    done = runner.invoke(app, ["distill", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    for arm in ("KD++", "DKD++"):
        records = [json.loads(line) for line in (tmp_path / f"run/arms/{arm}/seed-0/metrics.jsonl").open()]
        assert records[0]["loss/norm_direction_loss"] > 0
        assert min(value for name, value in records[0].items() if name.endswith("distillation")) == 0  # ramped from 0
        assert records[-1]["loss/norm_direction_loss"] < records[0]["loss/norm_direction_loss"]
        state = load_latest(tmp_path / f"run/arms/{arm}/seed-0/checkpoints").modules
        assert state["objectives.norm_direction_loss.class_means"].shape == (4, 12)
        assert state["objectives.norm_direction_loss.projector.linear.weight"].shape == (12, 8)
    assert (tmp_path / "run" / "report.html").exists()


def test_one_call_takes_the_term_too():
    inputs, target = torch.randn(60, 4), torch.arange(60) % 3
    inputs[:, 0] += 3 * target
    teacher = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    student = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    means = class_conditional_mean(teacher[:2](inputs), target, num_classes=3)

    def cosine():
        return torch.cosine_similarity(student[:2](inputs), means[target]).mean().item()

    before = cosine()
    terms = ["cross_entropy", {"name": "norm_direction_loss", "weight": 4.0}]
    distill(teacher, student, (inputs, target), objectives=terms, epochs=20, learning_rate=0.02, monitors=[])
    assert cosine() > before + 0.1
