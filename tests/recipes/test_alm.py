from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ByteTokenizer, train_bpe
from tutelage.models import ByteInputExpansion, causal_lm
from tutelage.objectives import ApproximateLikelihoodMatching
from tutelage.recipes import alm
from tutelage.reproduction import Context, Results, load_recipe
from tutelage.reproduction.runner import judge
from tutelage.teachers import FrozenTeacher
from tutelage.training import Distillation, GradientBalancedDistillation

runner = CliRunner()
SMOKE = alm.SCALES["smoke"]
FRUITS = ("apple", "cherry", "grape", "lemon", "mango", "olive")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], Context]:
    folder = tmp_path_factory.mktemp("alm")
    path = folder / "result.json"
    options = ["--jobs", "1", "--json", str(path), "--folder", str(folder / "run")]
    done = runner.invoke(app, ["reproduce", "alm", "--scale", "smoke", *options])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text()), Context(SMOKE, folder / "run" / "prepared")


def test_smoke_runs_through_the_command(smoke: tuple[Any, dict[str, Any], Context]) -> None:
    done, result, _ = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in alm.arms(SMOKE)}
    for name, metrics in result["arms"].items():
        assert all(len(values) == 2 for values in metrics.values())
        if name != "same tokenizer":
            assert all(1 < value < 8 for value in metrics["bits"])
            assert all(0 <= value <= 1 for value in metrics["cloze"])
    assert 0 < result["facts"]["student: chunks a teacher token"] <= 1
    assert result["facts"]["byte: chunks a teacher token"] == 1  # every subword ends where a byte ends


def test_from_itself_there_is_nothing_to_learn(smoke: tuple[Any, dict[str, Any], Context]) -> None:
    figures = smoke[1]["arms"]["same tokenizer"]
    assert max(figures["gradient"]) < 1e-5
    assert all(after < before for before, after in zip(figures["before"], figures["after"], strict=True))


def test_a_blind_teacher_breaks_the_claim_about_itself(smoke: tuple[Any, dict[str, Any], Context]) -> None:
    figures = alm.run_arm(smoke[2], alm.blind_teacher(alm.SANITY), 0)
    assert figures["gradient"] > 1e-5  # type: ignore[operator]


def test_kept_states_are_what_the_teacher_says(smoke: tuple[Any, dict[str, Any], Context]) -> None:
    world = alm.load(smoke[2])
    tokenizers = world.tokenizers["teacher"], world.tokenizers["student"]
    batch = ApproximateLikelihoodMatching(*tokenizers).samples(world.texts["transfer"]).batch(torch.tensor([5, 2]))
    kept, asked = world.teacher()(batch), FrozenTeacher(world.network(), embedding=True)(batch)
    seen = batch.extras["teacher_chunk"] >= 0
    for one, other in ((kept.logits, asked.logits), (kept.embedding, asked.embedding)):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one[seen], other[seen], atol=1e-5, rtol=1e-4)
    blind = world.teacher(blind=True)(batch).logits
    assert blind is not None
    assert not bool(blind.any())


def test_every_arm_makes_its_student_and_lesson(smoke: tuple[Any, dict[str, Any], Context]) -> None:
    world = alm.load(smoke[2])
    for arm in alm.arms(alm.SCALES["full"]):
        if arm.settings.get("sanity"):
            continue
        kind = arm.settings.get("to", "student")
        tokenizers = world.tokenizers["teacher"], world.tokenizers[kind]
        student = world.student(kind, arm.settings.get("layers"))
        assert isinstance(student.get_input_embeddings(), ByteInputExpansion) == (kind == "byte")
        objectives = alm.objectives_of(arm.settings, *tokenizers)
        batch = ApproximateLikelihoodMatching(*tokenizers).samples(world.texts["transfer"]).batch(torch.tensor([1, 3]))
        way = Distillation if len(objectives) == 1 else GradientBalancedDistillation
        losses = way(world.teacher(), student, objectives).step(batch)
        assert all(math.isfinite(loss.item()) for loss in losses.values()), arm.name


def test_bits_are_those_of_the_whole_text() -> None:
    tokenizer, texts = ByteTokenizer(), ["né a", "b"]
    model = causal_lm(259, hidden_size=8, num_layers=1)
    told = 0.0
    for text in texts:
        ids = [1, *tokenizer.encode(text)]
        log_probs = model.eval()(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        told += sum(log_probs[place, token].item() for place, token in enumerate(ids[1:]))
    assert alm.bits_per_byte(model, tokenizer, texts) == pytest.approx(-told / math.log(2) / 6, rel=1e-5)


def test_a_model_that_knows_the_text_fills_the_gap() -> None:
    items = [("the cat", [" sat", " hat", " bat", " mat"])] * 3
    tokenizer = train_bpe([" sat hat bat mat the cat"] * 2, 270)

    class Knows(torch.nn.Module):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))
            self.ids = tokenizer.encode(text, add_special_tokens=False)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*input_ids.shape, len(tokenizer))
            for place, token in enumerate(self.ids[: input_ids.shape[1]]):
                logits[:, place, token] = 20.0
            return logits

    assert alm.cloze_accuracy(Knows("the cat sat"), tokenizer, items) == 1
    assert alm.cloze_accuracy(Knows("the cat bat"), tokenizer, items) == 0


def test_texts_are_cut_into_windows_and_documents_into_parts() -> None:
    text = "one  two\nthree é four fifteen"
    assert "".join(alm.windows(text, 10)) == text
    assert all(len(piece.encode()) <= 10 for piece in alm.windows(text, 10))
    parts = alm.divided(["a" * 10, "b" * 30, "c" * 20, "d" * 40], {"first": 0.6, "second": 0.4})
    assert sorted(text[0] for part in parts.values() for text in part) == list("abcd")
    assert abs(sum(map(len, parts["first"])) - 60) <= 20
    documents = alm.documents()
    paragraphs = [" ".join(paragraph.split()) for text in documents for paragraph in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs) > 1000


def test_questions_have_one_true_answer() -> None:
    texts = [" some words follow other words", "a small number of plain words here", "every place with answers inside"]
    for beginning, words in alm.cloze_items(texts, 3):
        assert len(set(words)) == 4
        whole = next(text for text in texts if text.startswith(beginning + words[0]))
        assert not any(whole.startswith(beginning + word) for word in words[1:])


def results(**bits: float) -> Results:
    noise = np.array([-0.01, 0.0, 0.01])
    arms: dict[str, dict[str, Any]] = {}
    groups: dict[str, list[str]] = {}
    for arm in alm.arms(alm.SCALES["quick"]):
        level = bits.get((arm.group or arm.name).replace(" ", "_"), 2.4)
        values = (level + noise * (0.5 if "ALM" in arm.name else 1)).tolist()
        arms[arm.name] = {"bits": values, "validation_bits": values, "cloze": [0.5] * 3}
        if arm.group:
            groups.setdefault(arm.group, []).append(arm.name)
    arms["same tokenizer"] = {"gradient": [1e-7] * 3, "before": [1.0] * 3, "after": [bits.get("after", 0.01)] * 3}
    arms["bytes: ALM, no merging"]["bits"] = (bits.get("bytes", 2.7) + noise).tolist()
    return Results(arms, groups, {"teacher: bits": 2.0})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"ALM": 2.2, "bytes": 2.3, "SFT": 2.4, "MinED_+_SFT": 2.3}, [True, True, True, True]),
        ({"ALM": 2.2, "bytes": 2.3, "SFT": 2.4, "MinED_+_SFT": 2.1}, [False, True, True, True]),
        ({"ALM": 2.35, "bytes": 2.3, "SFT": 2.4}, [True, False, True, True]),
        ({"ALM": 2.6, "ALM_+_SFT": 2.3, "bytes": 2.3, "SFT": 2.4}, [True, False, True, True]),
        ({"ALM": 2.6, "bytes": 2.5, "after": 0.06}, [False, False, False, False]),
        ({"ALM": 2.5, "SFT": 1.9, "bytes": 2.4}, [False, False, False, True]),
    ],
)
def test_claims_follow_their_criteria(given: dict[str, float], expected: list[bool]) -> None:
    assert [claim["holds"] for claim in judge(alm.recipe, results(**given))] == expected


def test_every_arm_has_the_same_budget_and_candidates() -> None:
    for scale in alm.SCALES.values():
        arms = alm.arms(scale)
        assert len({arm.name for arm in arms}) == len(arms)
        tuned = [arm for arm in arms if arm.group]
        rates = {group: {arm.settings["rate"] for arm in tuned if arm.group == group} for group in alm.COMPARED}
        assert all(found == set(scale.settings["rates"]) for found in rates.values())
        allowed = {"terms", "rate", "options", "layers", "to", "sanity"}
        assert {key for arm in arms for key in arm.settings} <= allowed  # no arm can change its steps or texts


def test_breakages_touch_what_they_name() -> None:
    before = alm.BYTES[0]
    assert alm.without_debiasing(before).settings["options"] == alm.BYTES[2].settings["options"]
    assert alm.blind_teacher(before).settings == {**before.settings, "blind": True}


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "alm", "--scale", "paper"])
    assert done.exit_code == 4
    for name in ("Gemma2ForCausalLM", "LlamaForCausalLM", "tulu-3", "Qwen2.5"):
        assert name in done.output


def test_paper_scale_takes_its_teacher_and_texts_from_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The path of `paper` on a small tied model: it needs neither a GPU nor the data to be right."""
    texts = [f"basket {number} holds one {word} there" for number in range(9) for word in FRUITS]
    tokenizers = {"teacher": train_bpe(texts, 300), "student": train_bpe(texts[::3], 280)}
    tokenizers["byte"] = ByteTokenizer()
    monkeypatch.setattr(alm, "dialogues", lambda name: texts)
    monkeypatch.setattr(alm, "tokenizers_of", lambda settings, folder: tokenizers)
    monkeypatch.setattr(
        alm, "load_pretrained", lambda name: causal_lm(300, architecture="llama", hidden_size=8, num_layers=1)
    )
    paper = alm.SCALES["paper"]
    training = {**paper.settings["training"], "batch_size": 4, "max_steps": 2, "precision": "no"}
    settings = {**paper.settings, "parts": {"transfer": 0.6, "validation": 0.2, "test": 0.2}, "training": training}
    context = Context(replace(paper, settings={**settings, "cloze": 4}), tmp_path)
    assert alm.prepare(context) == {}
    for name in ("ALM + SFT, 1e-05", "bytes: ALM + states"):
        arm = next(arm for arm in alm.arms(paper) if arm.name == name)
        assert alm.run_arm(context, arm, 0)["bits"] > 0  # type: ignore[operator]


def test_recipe_is_found_by_its_slug() -> None:
    assert load_recipe("alm") is alm.recipe
