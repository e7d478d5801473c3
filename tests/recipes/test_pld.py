import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.objectives import plackett_luce_distillation
from tutelage.recipes import pld
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("pld") / "result.json"
    done = runner.invoke(app, ["reproduce", "pld", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def claim(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in pld.ARMS}
    assert len(result["claims"]) == 4
    for metrics in result["arms"].values():
        assert all(len(values) == 3 for values in metrics.values())
        assert all(0 <= value <= 1 for value in metrics["test_accuracy"])
    assert result["facts"]["teacher_accuracy"] > 0.4
    assert "Kendall" in done.output


def test_forgetting_to_sort_fails_the_claim_about_ranking(smoke):
    whole = claim(smoke[1], "ranking-transferred")
    compared = [arm for arm in pld.arms(pld.SCALES["smoke"]) if arm.name in ("CE", "PLD 1", "PLD 4")]
    recipe = replace(pld.recipe, arms=lambda scale: compared, claims=pld.CLAIMS[-1:])
    broken = claim(run_recipe(recipe, "smoke", jobs=1, breakage="unsorted"), "ranking-transferred")
    assert whole["holds"]
    assert not broken["holds"]
    assert broken["value"] < whole["value"] - 0.2


def test_breakage_only_touches_the_method():
    before = pld.arms(pld.SCALES["smoke"])
    after = [pld.without_sorting(arm) for arm in before]
    assert [new.name for old, new in zip(before, after, strict=True) if old != new] == ["PLD 1", "PLD 4"]


def test_broken_loss_is_the_whole_one_where_the_classes_are_already_in_order():
    student, target = torch.randn(5, 4), torch.zeros(5, dtype=torch.int64)
    in_order = torch.tensor([4.0, 3.0, 2.0, 1.0]).expand(5, 4)
    whole = plackett_luce_distillation(student, in_order, target)
    assert torch.allclose(pld.unsorted_loss(student, in_order, target, temperature=1.0), whole)
    other = torch.tensor([4.0, 1.0, 2.0, 3.0]).expand(5, 4)
    assert not torch.allclose(
        pld.unsorted_loss(student, other, target, temperature=1.0), plackett_luce_distillation(student, other, target)
    )


@pytest.mark.parametrize("rounded", [False, True])  # rounding makes ties
def test_rank_correlation_agrees_with_scipy(rounded):
    student, teacher = torch.randn(2, 7, 9)
    if rounded:
        student, teacher = student.round(), teacher.round()
    target = torch.arange(7)
    expected = []
    for row in range(7):
        others = [column for column in range(9) if column != row]
        expected.append(kendalltau(student[row, others], teacher[row, others]).statistic)
    assert pld.rank_correlation(student, teacher, target) == pytest.approx(np.mean(expected), abs=1e-6)


def test_rank_correlation_needs_something_to_order():
    with pytest.raises(ValueError, match="at least 3 classes"):
        pld.rank_correlation(torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))


def results(**accuracy):
    tau = {"PLD 1": 0.5, "PLD 4": 0.4}
    arms = {
        arm.name: {
            "validation_accuracy": [accuracy.get(arm.name, 0.5)] * 3,
            "test_accuracy": [accuracy.get(arm.name, 0.5) + noise for noise in (-0.01, 0.0, 0.01)],
            "kendall_tau": [tau.get(arm.name, 0.3) + noise for noise in (-0.01, 0.0, 0.01)],
        }
        for arm in pld.ARMS
    }
    groups = {name: [arm.name for arm in pld.ARMS if arm.group == name] for name in ("KD", "DIST", "PLD")}
    return Results(arms, groups)


@pytest.mark.parametrize(
    ("accuracy", "expected"),
    [
        ({"PLD 4": 0.6}, [True, False, True, True]),
        ({"PLD 1": 0.6}, [True, True, True, True]),
        ({"PLD 1": 0.51, "PLD uniform": 0.505, "KD 0.1/2.0": 0.514}, [True, False, True, True]),
        ({"PLD 1": 0.51, "KD 0.1/2.0": 0.516}, [True, True, False, True]),
        ({"CE": 0.51}, [False, False, True, True]),
    ],
)
def test_claims_follow_their_criteria(accuracy, expected):
    assert [claim["holds"] for claim in judge(pld.recipe, results(**accuracy))] == expected


def test_every_arm_has_the_same_budget_and_data():
    for scale in pld.SCALES.values():
        names = [arm.name for arm in pld.arms(scale)]
        assert len(set(names)) == len(names) == len(pld.ARMS) * len(scale.settings["data"])
        # Settings of the run are the scale's alone: no arm can change its epochs, rate or data size.
        assert not {"epochs", "learning_rate", "batch_size"} & {key for arm in pld.arms(scale) for key in arm.settings}


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "pld", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_trains_with_augmentation_and_a_live_teacher(monkeypatch):
    """The path of `paper`, on four random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.randn(8, 3, 8, 8), torch.arange(8) % 4)
    monkeypatch.setattr(pld, "load_data", lambda name: Data(name, images, images, images, num_classes=4))
    pld._load.cache_clear()
    paper = pld.SCALES["paper"]
    network = {"name": "convnet", "arguments": {"channels": (4,)}}
    settings = {
        **paper.settings,
        "data": {"tutelage.data.cifar:cifar100": {"options": {}, "teacher": network, "student": network}},
        "student_training": {**paper.settings["student_training"], "epochs": 1},
        "teacher_training": {**paper.settings["teacher_training"], "epochs": 1},
    }
    small = replace(paper, settings=settings, seeds=1)
    recipe = replace(pld.recipe, scales={"paper": small}, arms=lambda scale: pld.arms(scale)[-4:], claims=())
    result = run_recipe(recipe, "paper", jobs=1)
    pld._load.cache_clear()
    assert set(result["arms"]) == {"PLD 1", "PLD 4", "PLD uniform", "PLD position"}


def test_recipe_is_found_by_its_slug():
    assert load_recipe("pld") is pld.recipe
    with pytest.raises(ValueError, match="no recipe yet"):
        load_recipe("hssda")
