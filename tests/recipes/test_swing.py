import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import swing
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("swing") / "result.json"
    done = runner.invoke(app, ["reproduce", "swing", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


@pytest.fixture(scope="module")
def corpus():
    return swing._corpus(swing.SCALES["smoke"])


def exposure(result, arm):
    return sum(result["arms"][arm]["mean_exposure"]) / len(result["arms"][arm]["mean_exposure"])


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in swing.ARMS}
    assert len(result["claims"]) == 6
    for metrics in result["arms"].values():
        assert all(0 <= bits <= 13.29 for seed in metrics["exposure"] for bits in seed)
        assert all(value > 1 for value in metrics["test_perplexity"])
    assert result["facts"]["teacher_mean_exposure"] > 9
    assert exposure(result, "CE public") < exposure(result, "swing") < exposure(result, "KD") - 3


@pytest.mark.parametrize(("breakage", "bits"), [("labels", 0.5), ("sensitivity", 3.0)])
def test_without_its_key_term_the_protection_is_gone(smoke, breakage, bits):
    compared = [arm for arm in swing.ARMS if arm.name in ("KD", "swing")]
    recipe = replace(swing.recipe, arms=lambda scale: compared, claims=())
    broken = run_recipe(recipe, "smoke", jobs=1, breakage=breakage)
    assert exposure(broken, "swing") > exposure(smoke[1], "swing") + bits
    assert exposure(broken, "KD") == exposure(smoke[1], "KD")  # arms that are not broken stay as they are


def test_masks_cover_the_secrets_and_what_looks_like_them(corpus):
    target, oracle = corpus.train.target, corpus.masks["oracle"]
    secrets = {canary.text: canary.secret for canary in corpus.canaries}
    planted = 0
    for row in range(len(corpus.train)):
        text = corpus.tokenizer.decode(target[row][target[row] != -100])
        private = corpus.tokenizer.decode(target[row][oracle[row] > 0])
        assert private == secrets.get(text, "")
        planted += text in secrets
    assert planted == 8 * len(corpus.canaries)
    assert planted + len(corpus.public) == len(corpus.train)
    assert (corpus.masks["pattern"] >= oracle).all()
    assert corpus.masks["pattern"].sum() > oracle.sum()  # flights
    missed = (oracle > corpus.masks["misses"]).any(dim=1).sum().item()
    assert missed == 8 * round(0.2 * len(corpus.canaries))
    assert not corpus.masks["nothing"].any()


def test_held_out_texts_hold_no_secrets(corpus):
    for part in (corpus.validation, corpus.test):
        texts = [corpus.tokenizer.decode(row[row != -100]) for row in part.target]
        assert not any(text.startswith("the code of") for text in texts)


def test_sums_are_asked_for_their_result_alone(corpus):
    ids, target = corpus.sums.inputs["input_ids"], corpus.sums.target
    for row in range(len(corpus.sums)):
        asked, _, _ = corpus.tokenizer.decode(ids[row]).partition("=")
        first, second = asked.split("+")
        assert corpus.tokenizer.decode(target[row][target[row] >= 0]) == str(int(first) + int(second))


def test_every_arm_takes_the_same_number_of_steps(corpus, monkeypatch):
    seen = []
    monkeypatch.setattr(swing.Trainer, "run", lambda trainer: seen.append(trainer.total_steps))
    context = swing.Context(swing.SCALES["smoke"], Path())
    for texts in (corpus.train, corpus.train.subset(corpus.public)):
        model = swing._model(context["student"], corpus)
        swing._train(context, model, None, texts, swing.CrossEntropy(), context["student_training"], seed=0)
    assert seen[0] == seen[1]
    # Settings of the run are the scale's alone: no arm can change its epochs, rate or data size.
    assert not {"epochs", "learning_rate", "batch_size"} & {key for arm in swing.ARMS for key in arm.settings}


def test_breakages_touch_the_method_only():
    for change in swing.recipe.breakages.values():
        changed = [arm.name for arm in swing.ARMS if change(arm) != arm]
        assert changed == [arm.name for arm in swing.ARMS if arm.settings["loss"] == "swing"]


def results(exposure, perplexity):
    usual = {"CE": 12.0, "CE public": 1.4, "KD": 11.0}
    arms = {
        arm.name: {
            "exposure": [[exposure.get(arm.name, usual.get(arm.name, 2.0))] * 4] * 3,
            "margin": [[1.0] * 4] * 3,
            "test_perplexity": [perplexity.get(arm.name, 6.0 if arm.name == "KD noise on all" else 2.0)] * 3,
        }
        for arm in swing.ARMS
    }
    arms["no swing ε=32"]["exposure"] = [[exposure.get("no swing ε=32", 8.0)] * 4] * 3
    facts = {f"teacher_exposure_of_{number}": 13.0 for number in range(4)}
    return Results(arms, {}, {"teacher_mean_exposure": 13.0, "pattern_recall": 1.0, **facts})


@pytest.mark.parametrize(
    ("exposure", "perplexity", "failing"),
    [
        ({}, {}, []),
        ({"KD": 8.9, "no swing ε=32": 6.0}, {}, ["kd-leaks", "swing-protects", "robust-to-budget"]),
        ({"swing pattern": 2.3}, {}, ["swing-protects"]),
        ({"swing ε=32": 2.3}, {}, ["robust-to-budget"]),
        ({"no swing ε=32": 3.0}, {}, ["robust-to-budget"]),
        ({"swing same": 1.9}, {}, ["both-parts-needed"]),
        ({"swing without noise": 1.9}, {}, ["both-parts-needed"]),
        ({}, {"swing": 2.2}, ["utility-kept"]),
        ({}, {"KD noise on all": 2.1}, ["noise-on-all-costs"]),
    ],
)
def test_claims_follow_their_criteria(exposure, perplexity, failing):
    judged = judge(swing.recipe, results(exposure, perplexity))
    assert [claim["id"] for claim in judged if not claim["holds"]] == failing


def test_a_failing_claim_shows_every_secret():
    judged = judge(swing.recipe, results({"swing": 5.0}, {}))
    detail = next(claim["detail"] for claim in judged if claim["id"] == "swing-protects")
    assert detail.count("13.0→5.0 (+1.00)") == 4
    assert "pattern finds 1.00" in detail


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "swing", "--scale", "paper"])
    assert done.exit_code == 4
    assert "GPT2LMHeadModel" in done.output
    assert "wikitext" in done.output
    assert "CUDA device" in done.output


def test_the_path_of_paper_runs_on_a_few_texts(monkeypatch):
    """Bytes, a live teacher and released targets of the likeliest tokens, without the data set and the sizes."""
    texts = [f"The year {year} was a leap year, so they say." for year in range(1904, 2004, 4)]
    monkeypatch.setattr(swing, "wikitext", lambda name, part, count, length: texts[:count])
    paper = swing.SCALES["paper"]
    small = {"num_layers": 1, "hidden_size": 16, "num_heads": 2}
    training = {"learning_rate": 1e-3, "batch_size": 16, "epochs": 1}
    sizes = {"sentences": 10, "held_out": 5, "names": 3, "copies": (1, 2), "length": 64}
    settings = {**paper.settings, **sizes, "teacher": small, "student": small}
    settings |= {"teacher_training": training, "student_training": training}
    arms = [arm for arm in swing.ARMS if arm.name in ("KD", "swing pattern")]
    scale = replace(paper, settings=settings, seeds=1)
    recipe = replace(swing.recipe, scales={"paper": scale}, arms=lambda scale: arms, claims=())
    result = run_recipe(recipe, "paper", jobs=1)
    assert set(result["arms"]) == {"KD", "swing pattern"}
    assert 0 < result["facts"]["pattern_precision"] < 1


def test_recipe_is_found_by_its_slug():
    assert load_recipe("swing") is swing.recipe
