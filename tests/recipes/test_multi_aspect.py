import json
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import Image
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from tests.teachers.tiny_image_text import tiny_image_text_model
from tutelage.cli import app
from tutelage.data.glyph_attributes import QUESTIONS, glyph_attributes
from tutelage.models import load_model
from tutelage.recipes import multi_aspect
from tutelage.reproduction import Arm, Context, Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge
from tutelage.teachers import AspectQuestionSet, AttributeOracle, CachedAnswers
from tutelage.training.checkpoints import load_latest

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("multi_aspect") / "result.json"
    done = runner.invoke(app, ["reproduce", "multi-aspect", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


# ---- The recipe ------------------------------------------------------------------------------------------------------


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in multi_aspect.arms(multi_aspect.SCALES["smoke"])}
    assert len(result["claims"]) == 6
    for name, metrics in result["arms"].items():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(0 <= value <= 1 for value in metrics["test_accuracy"])
        assert ("aspect_auroc" in metrics) == ("MaKD" in name)
    assert result["facts"]["questions"] == 26
    assert result["facts"]["questions_that_code_the_label"] < 26
    assert "class codes" in done.output


def small(arms, breakage=None):
    """Some arms with one student, one seed: enough to learn answers."""
    scale = multi_aspect.SCALES["smoke"]
    students = {"MobileNet": multi_aspect.MOBILE}
    training = {**scale.settings["training"], "epochs": 15}
    settings = {**scale.settings, "students": students, "training": training, "teacher": multi_aspect.MOBILE}
    small_scale = replace(scale, settings=settings, seeds=1)
    chosen = [arm for arm in multi_aspect.arms(small_scale) if arm.name in arms]
    assert len(chosen) == len(arms)
    recipe = replace(multi_aspect.recipe, scales={"smoke": small_scale}, arms=lambda scale: chosen, claims=())
    return run_recipe(recipe, "smoke", jobs=1, breakage=breakage)["arms"]


def test_answers_are_learnt_unless_they_are_about_other_images_or_have_no_weight():
    whole = small(["MaKD, clean"])["MaKD, clean"]["aspect_auroc"][0]
    assert whole > 0.65
    for breakage in multi_aspect.recipe.breakages:
        broken = small(["MaKD, clean"], breakage)["MaKD, clean"]["aspect_auroc"][0]
        assert broken < whole - 0.1


def test_without_weight_makd_is_cross_entropy():
    arms = small(["CE", "MaKD", "random answers"], "no-answers")
    assert arms["MaKD"]["test_accuracy"] == arms["CE"]["test_accuracy"] == arms["random answers"]["test_accuracy"]


def test_distillation_from_a_larger_network_is_added():
    arms = small(["KD", "MaKD + KD"])
    assert all(0 <= metrics["test_accuracy"][0] <= 1 for metrics in arms.values())
    assert "aspect_auroc" in arms["MaKD + KD"]


def answers_of(settings, seed=0, scale="smoke", folder=None):
    """The answers that an arm's training images carry, and the truth."""
    context = Context(multi_aspect.SCALES[scale], folder)
    data = multi_aspect._load(context, "glyphs", seed)
    arm = Arm("arm", {"data": "glyphs", **settings})
    lessons = multi_aspect._answered(context, arm, data, data.train, seed)
    batch = lessons.batch(torch.arange(len(lessons)))
    truth = multi_aspect._truth(context, data, data.train)
    return batch, truth, multi_aspect._chosen(arm, len(QUESTIONS), seed)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    multi_aspect.prepare(Context(multi_aspect.SCALES["smoke"], folder))
    return folder


def test_training_images_carry_the_answers_of_their_arm(prepared):
    clean = {"noise": 0.0, "flip_rate": 0.0}
    batch, truth, chosen = answers_of({"answers": clean}, folder=prepared)
    assert torch.equal(batch.extras["aspects"] > 0.5, truth[:, chosen])
    few, _, some = answers_of({"answers": clean, "questions": 5}, folder=prepared)
    assert some == chosen[:5]
    assert torch.equal(few.extras["aspects"], batch.extras["aspects"][:, :5])
    noisy = answers_of({"answers": multi_aspect.NOISY}, folder=prepared)[0].extras["aspects"]
    wrong = ((noisy > 0.5) != truth[:, chosen]).double().mean().item()
    assert 0.08 < wrong < 0.17  # a tenth flipped, and noise beyond two standard deviations
    other = answers_of({"answers": clean, "shuffled": True}, folder=prepared)[0].extras["aspects"]
    torch.testing.assert_close(other.sum(dim=0), batch.extras["aspects"].sum(dim=0))
    assert not torch.equal(other, batch.extras["aspects"])


def test_controls_know_nothing_of_the_image(prepared):
    batch, truth, chosen = answers_of({"answers": "random"}, folder=prepared)
    aspects = batch.extras["aspects"]
    assert aspects.shape == (len(batch), 26)
    assert abs(torch.corrcoef(torch.stack([aspects.flatten(), truth[:, chosen].float().flatten()]))[0, 1]) < 0.06
    codes = answers_of({"answers": "codes"}, folder=prepared)[0]
    for label in range(10):
        own = codes.extras["aspects"][codes.target == label]
        assert torch.equal(own, own[:1].expand_as(own))
    assert len(torch.unique(codes.extras["aspects"], dim=0)) == 10


def test_mean_auroc_agrees_with_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(60, 4, generator=generator).round(decimals=1)  # with ties
    truth = torch.rand(60, 4, generator=generator) < 0.4
    truth[:, 2] = True  # has one answer only
    expected = sum(roc_auc_score(truth[:, column], scores[:, column]) for column in (0, 1, 3)) / 3
    assert multi_aspect.mean_auroc(scores, truth) == pytest.approx(expected)


# ---- The claims ------------------------------------------------------------------------------------------------------


def results(**accuracy):
    arms = {}
    for arm in multi_aspect.arms(multi_aspect.SCALES["full"]):
        value = accuracy.get(arm.name, 0.55 if "MaKD" in arm.name else 0.5)
        steps = (-0.011, 0.0, 0.01) if "MaKD" in arm.name else (-0.01, 0.001, 0.01)
        arms[arm.name] = {"test_accuracy": [value + step for step in steps]}
        if "MaKD" in arm.name:
            arms[arm.name]["aspect_auroc"] = [accuracy.get("auroc", 0.85)] * 3
    arms["MaKD, 50% flipped"]["test_accuracy"] = [
        accuracy.get("half", 0.5) + step
        for step in ((-0.02, 0.021, 0.0) if "half" not in accuracy else (0, 0.001, 0.0))
    ]
    return Results(arms)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True, True, True, True, True]),
        ({"ResNet: MaKD": 0.5}, [False, True, True, True, True, True]),
        ({"6 a class: MaKD": 0.4}, [True, True, True, True, True, True]),
        ({"random answers": 0.56, "half": 0.56}, [True, False, True, True, True, True]),
        ({"MaKD, 5 questions": 0.56}, [True, True, False, True, True, True]),
        ({"CE": 0.57}, [False, True, False, True, True, True]),
        ({"auroc": 0.79}, [True, True, True, False, True, True]),
        ({"MaKD, clean": 0.54}, [True, True, True, True, False, True]),
        ({"half": 0.55}, [True, True, True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(multi_aspect.recipe, results(**options))] == expected


# ---- Paper scale -----------------------------------------------------------------------------------------------------


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "multi-aspect", "--scale", "paper"])
    assert done.exit_code == 4
    for part in (
        "InternVLForConditionalGeneration, 8,075,",
        "EfficientNetForImageClassification",
        "Write 100 questions",
    ):
        assert part in done.output


def test_paper_pipeline_asks_a_real_model_about_a_folder_of_images(tmp_path):
    for part, count in (("train", 4), ("validation", 2), ("test", 2)):
        for label, name in enumerate(("cat", "dog", "pug")):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 18 + number), (80 * label, 30 * number, 99)).save(folder / f"{number}.png")
    model, processor = tiny_image_text_model("llava")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    AspectQuestionSet([f"Is it {kind}?" for kind in range(16)]).save(tmp_path / "questions.json")
    paper = multi_aspect.SCALES["paper"]
    data = str(tmp_path / "pets")
    settings = {
        **paper.settings,
        "data": {data: {"size": 16}},
        "students": {"ResNet": {"name": "resnet", "arguments": {"widths": (4, 8), "depths": (1, 1)}}},
        "training": {**paper.settings["training"], "epochs": 1, "batch_size": 4},
        "crop": 12,
        "answerer": str(tmp_path / "model"),
        "questions": str(tmp_path / "questions.json"),
    }
    recipe = replace(multi_aspect.recipe, scales={"paper": replace(paper, settings=settings, seeds=1)})
    result = run_recipe(recipe, "paper", jobs=1, folder=tmp_path / "work")
    assert set(result["arms"]) == {
        "CE",
        "CE smoothed",
        "random answers",
        "class codes",
        "MaKD",
        "MaKD, 5 questions",
        "MaKD, 15 questions",
    }
    assert result["facts"]["pets_questions"] == 16
    answers = CachedAnswers.load(tmp_path / "work" / "prepared" / "pets.json")
    assert len(answers) == 12  # of the training images, and of no other
    assert result["claims"][3]["value"] is None
    assert "known attributes" in result["claims"][3]["detail"]


def test_recipe_is_found_by_its_slug():
    assert load_recipe("multi-aspect") is multi_aspect.recipe


# ---- The same loss from a user's config ------------------------------------------------------------------------------

CONFIG = """
name: MaKD
data:
  name: tutelage.teachers:answered_data
  options:
    data: {name: glyphs, options: {alphabet: "01234567", affine: 0.5, train_per_class: 12,
                                   validation_per_class: 4, test_per_class: 10}}
teacher: null
student: {name: convnet, arguments: {channels: [8, 16]}}
arms:
  CE: [cross_entropy]
  MaKD: [{name: aspect_distillation, arguments: {aspect_weight: 4.0}}]
seeds: [0]
training: {epochs: 25, batch_size: 16, learning_rate: 0.01}
assessment: {robustness: false, latency: false}
jobs: 1
"""


def test_a_config_teaches_answers_and_saves_a_classifier_of_the_classes(tmp_path):
    config = yaml.safe_load(CONFIG)
    options = config["data"]["options"]["data"]["options"]
    data = multi_aspect.load_data("glyphs", **options)
    attributes = glyph_attributes(data.extras["fonts"])
    answers = CachedAnswers.collect(
        AttributeOracle(), data.train, QUESTIONS, look=lambda batch: attributes[batch.extras["font"], batch.target]
    )
    answers.save(tmp_path / "answers.npz")
    config["data"]["options"]["answers"] = str(tmp_path / "answers.npz")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    done = runner.invoke(app, ["distill", str(tmp_path / "config.yaml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    place = tmp_path / "run" / "arms" / "MaKD" / "seed-0"
    card = json.loads((place / "card.json").read_text())["card"]
    assert card["metrics"]["accuracy"] > 0.3
    student = load_model(place / "student.safetensors")
    assert student(torch.zeros(1, 1, 12, 12)).shape == (1, 8)
    held = load_latest(place / "checkpoints").modules
    heads = [value.shape for name, value in held.items() if name.endswith("aspect_head.weight")]
    assert heads == [(26, 16)]
    assert (tmp_path / "run" / "report.html").exists()
