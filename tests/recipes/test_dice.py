from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score
from torch.distributions import MultivariateNormal
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, assemble, load_data
from tutelage.objectives import focal_loss, self_adjusting_dice_loss
from tutelage.recipes import dice
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
pytestmark = pytest.mark.filterwarnings("ignore:`alpha` of 1.0")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    path = tmp_path_factory.mktemp("dice") / "result.json"
    done = runner.invoke(app, ["reproduce", "dice", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke: tuple[Any, dict[str, Any]]) -> None:
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in dice.arms(dice.SCALES["smoke"])}
    for metrics in result["arms"].values():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for values in metrics.values() for value in values)
    assert "span_f1" in result["arms"]["text: DSC"]


def test_the_tuned_control_is_the_same_model(smoke: tuple[Any, dict[str, Any]]) -> None:
    for part in ("table", "text"):
        plain, tuned = (smoke[1]["arms"][f"{part}: {name}"] for name in ("CE", "CE tuned"))
        assert tuned["f1"] == plain["tuned f1"] == tuned["tuned f1"]
        assert tuned["threshold"] == plain["threshold"]


def small(names: tuple[str, ...], claims: slice) -> Any:
    """The recipe with these arms, and a table on which a second of training converges."""
    scale = dice.SCALES["smoke"]
    training = {**dice.TABLE["training"], "batch_size": 4096, "max_steps": 150}
    table = {**dice.TABLE, "training": training, "sweep_training": training}
    return replace(
        dice.recipe,
        scales={"smoke": replace(scale, seeds=1, settings={**scale.settings, "table": table})},
        arms=lambda scale: [arm for arm in dice.arms(scale) if arm.name in names],
        claims=dice.CLAIMS[claims],
    )


def test_only_the_set_follows_f1() -> None:
    recipe = small(tuple(f"table: {arm.name}" for arm in dice.ARMS), slice(0, 1))
    whole, broken = (run_recipe(recipe, "smoke", jobs=1, breakage=name)["claims"][0] for name in (None, "by-example"))
    assert whole["holds"], whole["detail"]
    assert not broken["holds"]
    assert broken["value"] < 0 < 0.05 < whole["value"], "by example it is no better than cross-entropy"


def test_only_muting_caps_confidence() -> None:
    names = tuple(f"far: α = {alpha:g}" for alpha in dice.ALPHAS)
    recipe = small(names, slice(3, 4))
    whole, broken = (
        run_recipe(recipe, "smoke", jobs=1, breakage=name)["claims"][0] for name in (None, "without-muting")
    )
    assert whole["holds"], whole["detail"]
    assert not broken["holds"]
    assert broken["value"] > 0.3, "without it, positives at α = 1 are certain"


def test_breakages_only_touch_dice() -> None:
    before = dice.arms(dice.SCALES["quick"])
    for breakage in dice.recipe.breakages.values():
        changed = {arm.settings["loss"] for arm in before if breakage(arm) != arm}
        assert changed == {"dice"}


def test_true_probabilities_of_the_table() -> None:
    table = dice.TABLE
    points, target, probs = dice.gaussians(table, "near", 40_000, torch.Generator().manual_seed(0))
    positive = MultivariateNormal(torch.tensor([1.5, 1.5]), 0.7**2 * torch.eye(2)).log_prob(points).exp() * 0.02
    negative = MultivariateNormal(torch.zeros(2), torch.eye(2)).log_prob(points).exp() * 0.98
    torch.testing.assert_close(probs, positive / (positive + negative), rtol=1e-4, atol=1e-6)
    assert target.double().mean().item() == pytest.approx(0.02, abs=0.003)
    features = dice.quadratic_features(points[target == 0])
    assert features.mean(dim=0).abs().max() < 0.03
    assert (features.std(dim=0) - 1).abs().max() < 0.05


def test_heads_are_the_public_losses() -> None:
    target = torch.tensor([[0, 1, 2, 3, 4, -100], [0, 0, 3, 0, 1, 0]])
    logits = torch.randn(2, 6, 8)
    heads = {"term": 2, "code": 2, "marked": 2, "tags": 5}
    arm = next(arm for arm in dice.ARMS if arm.name == "DSC")
    losses = {name: dice.objective_of(arm.settings, target, classes) for name, classes in heads.items()}
    labels = {"term": target == 3, "code": target == 1, "marked": target > 0}
    mask = target >= 0
    expected = self_adjusting_dice_loss(logits[..., 3:], target, ignore_index=-100)
    for number, of_head in enumerate(labels.values()):
        expected = expected + self_adjusting_dice_loss(logits[..., number], of_head.long(), mask=mask)
    torch.testing.assert_close(dice._Heads(losses, heads)(logits, target), expected)


def test_balanced_cross_entropy_gives_every_class_the_same_weight() -> None:
    target = torch.tensor([0, 0, 0, 1, -100])
    objective = dice.objective_of({"loss": "ce", "balanced": True}, target, 2)
    logits = torch.randn(5, 2)
    by_item = focal_loss(logits, target, gamma=0.0, reduction="none")
    expected = (by_item[:3].mean() + by_item[3]) / 2
    torch.testing.assert_close(objective(logits, target), expected)


def test_scores_agree_with_a_reference() -> None:
    probs, target = torch.rand(200), torch.randint(2, (200,))
    assert dice.scores(probs, target, 0.3)["f1"] == pytest.approx(f1_score(target, probs >= 0.3))
    nothing = dice.scores(torch.zeros(3), torch.zeros(3), 0.5)
    assert (nothing["f1"], nothing["accuracy"]) == (0, 1)
    measured = dice.measures(probs, target, probs, target, tuned=False)
    assert measured["tuned f1"] >= measured["f1"] == measured["validation_f1"]


def test_spans_of_tags() -> None:
    target = torch.tensor([[1, 2, 0, 3, -100], [0, 1, -100, -100, -100]])
    right = torch.nn.functional.one_hot(target.clamp(min=0), 5).float()
    assert dice.tag_measures(right, target) == {"span_f1": 1.0, "tag_accuracy": 1.0}
    wrong = right.clone()
    wrong[0, 1] = torch.eye(5)[0]  # the first span ends early
    wrong[1, 3] = torch.eye(5)[1]  # nobody looks at separators
    measured = dice.tag_measures(wrong, target)
    assert measured["span_f1"] == pytest.approx(2 / 3)
    assert measured["tag_accuracy"] == pytest.approx(5 / 6)


def results(**given: float) -> Results:
    """Results in which all claims hold, but for what is given."""
    level = {"table_ce": 0.3, "table_tuned": 0.46, "table_dsc": 0.46, "ce": 0.4, "focal": 0.4, "dsc": 0.45}
    level |= {"accuracy": 0.98, "dsc_accuracy": 0.98, "confidence": 0.9, "worst": 0.1} | given
    noise = [-0.01, 0.0, 0.01]
    arms: dict[str, dict[str, list[float]]] = {}
    for arm in dice.arms(dice.SCALES["quick"]):
        part, name = arm.name.split(": ", 1)
        f1 = {"CE": level["ce"], "focal": level["focal"], "DSC": level["dsc"]}.get(name, 0.4)
        if part == "table":
            f1 = {"CE": level["table_ce"], "CE tuned": level["table_tuned"]}.get(name, level["table_dsc"])
        if name.startswith("α"):
            f1 = level["worst"] if name == "α = 1" else 0.2
        accuracy = level["dsc_accuracy"] if name == "DSC" else level["accuracy"]
        metrics = dict.fromkeys(("f1", "precision", "recall", "validation_f1"), f1)
        metrics |= {f"tuned {metric}": 0.5 for metric in ("f1", "precision", "recall")}
        metrics |= {"accuracy": accuracy, "term: accuracy": accuracy, "marked: accuracy": 0.9}
        metrics["mean_positive"] = min(level["confidence"], 0.5) if name == "α = 1" else level["confidence"]
        scale = 1 + (len(name) % 3) / 10  # noise that is not the same for all arms
        arms[arm.name] = {metric: [value + scale * one for one in noise] for metric, value in metrics.items()}
    facts = {"bayes: f1": 0.3, "bayes: tuned f1": 0.45, "bayes: threshold": 0.23}
    return Results(arms, {f"text: {arm.name}": (f"text: {arm.name}",) for arm in dice.ARMS}, facts)


@pytest.mark.parametrize(
    ("given", "failing"),
    [
        ({}, None),
        ({"table_dsc": 0.349, "table_tuned": 0.349}, 0),
        ({"table_tuned": 0.481}, 0),
        ({"dsc": 0.399}, 1),
        ({"focal": 0.461}, 1),
        ({"focal": 0.459}, None),
        ({"dsc_accuracy": 0.9851}, 2),
        ({"dsc_accuracy": 0.9849}, None),
        ({"dsc_accuracy": 0.9}, None),
        ({"confidence": 0.93}, 3),
        ({"worst": 0.202}, 3),
    ],
)
def test_claims_follow_their_criteria(given: dict[str, float], failing: int | None) -> None:
    holds = [claim["holds"] for claim in judge(dice.recipe, results(**given))]
    assert holds == [number != failing for number in range(4)]


def test_every_arm_has_the_same_budget_and_data() -> None:
    for scale in dice.SCALES.values():
        arms = dice.arms(scale)
        assert len({arm.name for arm in arms}) == len(arms)
        rates = scale.settings["text"]["rates"]
        for arm in dice.ARMS:
            assert sorted(one.settings["rate"] for one in arms if one.group == f"text: {arm.name}") == sorted(rates)
        known = {"place", "sweep", "rate", "loss", "tuned", "balanced", "alpha", "aggregation"}
        assert {key for arm in arms for key in arm.settings} <= known


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "dice", "--scale", "paper"])
    assert done.exit_code == 4
    assert "BertForSequenceClassification" in done.output
    assert "mrpc" in done.output


def test_paper_scale_reads_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path of `paper`, on random tokens and a small BERT: it needs neither a GPU nor the data to be right."""
    ids = torch.randint(1, 20, (24, 6))
    part = ArraySamples({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, torch.arange(24) % 2)
    data = assemble("mrpc", dict.fromkeys(("train", "validation", "test"), part), num_classes=2)
    monkeypatch.setattr(dice, "glue_data", lambda text: data)
    paper = dice.SCALES["paper"]
    text = paper.settings["text"]
    assert (text["rates"], text["training"]["batch_size"], text["training"]["epochs"]) == ((3e-5,), 20, 5)
    bert = {"name": "encoder_lm", "arguments": {"vocab_size": 20, "hidden_size": 8, "num_layers": 1, "num_heads": 2}}
    recipe = replace(
        dice.recipe,
        scales={"paper": replace(paper, seeds=1, settings={**paper.settings, "text": {**text, "model": bert}})},
        arms=lambda scale: [arm for arm in dice.arms(scale) if arm.name.startswith("text: ")],
        claims=dice.CLAIMS[1:2],
    )
    result = run_recipe(recipe, "paper", jobs=1)
    assert "paraphrase: f1" in result["arms"]["text: DSC"]
    assert len(result["claims"]) == 1


def test_questions_of_the_text() -> None:
    data = load_data("topics_tags", length=32)
    assert list(dice.heads_of(data)) == ["term", "code", "marked", "tags"]
    target = torch.tensor([0, 1, 2, 3, 4, -100])
    assert dice.labels_of("term", target).tolist() == [0, 0, 0, 1, 0, -100]
    assert dice.labels_of("code", target).tolist() == [0, 1, 0, 0, 0, -100]
    assert dice.labels_of("marked", target).tolist() == [0, 1, 1, 1, 1, -100]
    assert dice.labels_of("tags", target) is not None


def test_recipe_is_found_by_its_slug() -> None:
    assert load_recipe("dice") is dice.recipe
