import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.batch import Batch
from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.objectives import ClassCentroids, MCMILoss, mcmi_loss
from tutelage.recipes import mcmi
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("mcmi") / "result.json"
    done = runner.invoke(app, ["reproduce", "mcmi", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def claim(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in mcmi.ARMS}
    assert len(result["claims"]) == len(mcmi.CLAIMS)
    for name, metrics in result["arms"].items():
        assert all(len(values) == 1 for values in metrics.values())
        assert ("accuracy_5" in metrics) == (name != "MCMI wrong sign")
        assert ("cmi_train" in metrics) == (name != "CE")
    assert min(result["arms"]["MLL 4"]["teacher_accuracy"]) > 0.8
    assert result["arms"]["CE"]["recall_without_1"] == [0]


def teachers_alone(breakage=None):
    """The smoke scale without students, and the claim about teachers."""
    compared = [
        replace(arm, settings={**arm.settings, "students": False}) for arm in mcmi.ARMS if arm.settings["teacher"]
    ]
    recipe = replace(mcmi.recipe, arms=lambda scale: compared, claims=mcmi.CLAIMS[:1])
    return claim(run_recipe(recipe, "smoke", jobs=1, breakage=breakage), "information-rises")


def test_the_claim_about_information_fails_without_its_term_and_with_the_wrong_sign(smoke):
    whole = claim(smoke[1], "information-rises")
    assert whole["holds"], whole["detail"]
    without = teachers_alone("without-information")
    assert not without["holds"]
    assert without["value"] == 0
    wrong = teachers_alone("wrong-sign")
    assert not wrong["holds"]
    assert wrong["value"] < 0 < whole["value"]


def test_breakages_only_touch_the_method():
    for breakage in mcmi.recipe.breakages.values():
        changed = [new.name for old in mcmi.ARMS if (new := breakage(old)) != old]
        assert changed == [f"MCMI {weight}" for weight in mcmi.WEIGHTS]


def test_wrong_sign_adds_what_the_loss_takes_off():
    logits, target = torch.randn(9, 3), torch.arange(9) % 3
    centroids = ClassCentroids().estimate([(torch.randn(9, 3), target)])
    right, wrong = (kind(centroids, cmi_weight=0.3).parts(logits, target) for kind in (MCMILoss, mcmi.WrongSign))
    whole = mcmi_loss(logits, target, centroids.probabilities, cmi_weight=0.3, return_parts=True)
    torch.testing.assert_close(right.loss, whole.loss)
    torch.testing.assert_close(wrong.loss, whole.cross_entropy + 0.3 * whole.cmi)
    torch.testing.assert_close(wrong.cross_entropy - 0.3 * wrong.cmi, wrong.loss)


def test_known_answers_are_found_by_stable_index():
    index, logits = torch.tensor([7, 2, 5]), torch.randn(3, 4)
    said = mcmi.KnownAnswers(index, logits)(Batch(torch.zeros(2, 1), None, torch.tensor([5, 7]))).logits
    assert torch.equal(said, logits[[2, 0]])


def test_omitted_classes_differ_from_seed_to_seed():
    chosen = [mcmi.omitted_classes(10, 3, seed) for seed in range(5)]
    assert all(len(set(classes)) == 3 for classes in chosen)
    assert len({tuple(classes) for classes in chosen}) > 1


def test_every_arm_has_the_same_budget_and_data():
    names = [arm.name for arm in mcmi.ARMS]
    assert len(set(names)) == len(names)
    free = {"teacher", "temperature", "cmi_weight", "wrong_sign", "students"}
    assert all(set(arm.settings) <= free for arm in mcmi.ARMS)
    assert all(set(mcmi.OMITTED) <= set(scale.settings["omitted"]) for scale in mcmi.SCALES.values())


BASE = {"accuracy_5": 0.5, "accuracy_10": 0.6, "accuracy_100": 0.7, "recall_without_1": 0.1, "recall_without_3": 0.1}


def results(*, curve=(0.01, 0.1, 0.2, 0.1, 0.01), wrong=0.01, accuracy=0.95, **changes):
    """Three seeds; `changes` names an arm and gives what is added to its metrics."""
    information = dict(zip([mcmi.CONTROL, *(f"MCMI {weight}" for weight in mcmi.WEIGHTS)], range(2, 7), strict=True))
    arms = {}
    for arm in mcmi.ARMS:
        metrics = {}
        for metric, value in BASE.items():
            changed = value + changes.get(arm.name.replace(" ", "_").replace(".", ""), {}).get(metric, 0.0)
            if arm.name == "CE" and metric.startswith("recall"):
                changed = 0.0
            name = metric.replace("recall", "accuracy")
            metrics[f"validation_{name}"] = [changed] * 3
            noise = (0.0, 0.0, 0.0) if metric.startswith("recall") else (-0.001, 0.0, 0.001)
            metrics[metric] = [changed + one * (1 + len(arm.name) % 3) for one in noise]
        level = wrong if arm.name == "MCMI wrong sign" else 0.01 * information.get(arm.name, 1)
        metrics |= {"cmi_train": [level] * 3, "cmi_test": [level] * 3, "teacher_accuracy": [accuracy] * 3}
        metrics |= {"teacher_train_accuracy": [1.0] * 3, "cmi_train_by_temperature": [list(curve)] * 3}
        arms[arm.name] = metrics
    for weight in (0.1, 0.2):
        arms[f"MCMI {weight}"]["teacher_accuracy"] = [0.94] * 3
    groups = {name: [arm.name for arm in mcmi.ARMS if arm.group == name] for name in ("MLL", "MCMI")}
    return Results(arms, groups)


FEW_SHOT = {"accuracy_5": 0.05, "accuracy_10": 0.03, "accuracy_100": 0.01}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"MCMI_02": FEW_SHOT}, [True, True, True, False, True]),
        ({"MCMI_02": FEW_SHOT, "MLL_8": FEW_SHOT}, [True, True, True, False, False]),
        ({"MCMI_02": {**FEW_SHOT, "accuracy_100": 0.06}}, [True, True, False, False, True]),
        ({"MCMI_04": {"recall_without_1": 0.2, "recall_without_3": 0.11}}, [True, True, False, True, False]),
        ({"MCMI_04": {"recall_without_1": 0.2, "recall_without_3": 0.09}}, [True, True, False, False, False]),
        ({"wrong": 0.03}, [False, True, False, False, False]),
        ({"accuracy": 0.97}, [False, True, False, False, False]),
        ({"curve": (0.01, 0.1, 0.2, 0.1, 0.06)}, [True, False, False, False, False]),
    ],
)
def test_claims_follow_their_criteria(changes, expected):
    assert [claim["holds"] for claim in judge(mcmi.recipe, results(**changes))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "mcmi", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "cifar100" in done.output


def test_paper_scale_trains_with_augmentation_and_a_live_teacher(monkeypatch):
    """The path of `paper`, on a few random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.randn(40, 3, 8, 8), torch.arange(40) % 5)
    monkeypatch.setattr(mcmi, "load_data", lambda name: Data(name, images, images, images, num_classes=5))
    mcmi._load.cache_clear()
    paper = mcmi.SCALES["paper"]
    network = {"name": "convnet", "arguments": {"channels": (4,)}}
    short = {
        name: {**paper.settings[name], "epochs": 1} for name in ("teacher_training", "fine_tuning", "student_training")
    }
    settings = {**paper.settings, **short, "teacher": network, "student": network, "fractions": (0.5,)}
    small = replace(paper, settings=settings, seeds=1)
    compared = [arm for arm in mcmi.ARMS if arm.name in ("CE", "MLL smoothed", "MCMI 0.2", "MCMI wrong sign")]
    recipe = replace(mcmi.recipe, scales={"paper": small}, arms=lambda scale: compared, claims=())
    result = run_recipe(recipe, "paper", jobs=1)
    mcmi._load.cache_clear()
    assert set(result["arms"]["MCMI 0.2"]) >= {"accuracy_50", "recall_without_3", "cmi_train"}


def test_recipe_is_found_by_its_slug():
    assert load_recipe("mcmi") is mcmi.recipe
