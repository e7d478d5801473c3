import json
import math
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.assessment import coverage_from_log_prob, greedy_confidence
from tutelage.batch import Batch
from tutelage.cli import app
from tutelage.models import causal_lm
from tutelage.objectives.schedules import Progress
from tutelage.recipes import dco
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("dco") / "result.json"
    done = runner.invoke(app, ["reproduce", "dco", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


@pytest.fixture(scope="module")
def problems():
    return dco.load_problems(seed=0, **dco.SCALES["smoke"].settings["problems"])


@pytest.fixture
def model(problems):
    torch.manual_seed(0)
    return dco._model(dco.SCALES["smoke"].settings["model"], problems)


def claim(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in dco.arms(dco.SCALES["smoke"])}
    assert len(result["claims"]) == 5
    for arm in dco.ARMS:
        (along,) = result["arms"][arm.name]["coverage_256_along"]
        assert len(along) == 4
        assert along[-1] == result["arms"][arm.name]["coverage_256"][0]
        ordered = [result["arms"][arm.name][f"coverage_{number}"][0] for number in dco.ATTEMPTS]
        assert ordered == sorted(ordered)
        assert abs(result["arms"][arm.name]["sampled_minus_exact_64"][0]) < 0.3
    assert all(0 <= result["arms"][arm.name]["found_2"][0] <= 1 for arm in dco.STEPS)


def test_without_its_factor_nothing_limits_confidence(smoke):
    compared = [arm for arm in dco.ARMS if arm.name in ("CE", "DCO 16", "DCO 256")]
    recipe = replace(dco.recipe, arms=lambda scale: compared, claims=dco.CLAIMS[2:3])
    broken = run_recipe(recipe, "smoke", jobs=1, breakage="limit")
    assert claim(smoke[1], "limited-confidence")["holds"]
    assert not claim(broken, "limited-confidence")["holds"]
    assert broken["arms"]["CE"] == broken["arms"]["DCO 256"]
    for metric, values in smoke[1]["arms"]["CE"].items():
        assert broken["arms"]["CE"][metric] == values  # cross-entropy stays as it is


def test_breakage_only_touches_the_method():
    before = dco.arms(dco.SCALES["full"])
    after = [dco.without_limit(arm) for arm in before]
    untouched = [new.name for old, new in zip(before, after, strict=True) if old == new]
    assert untouched == ["CE", "CE smoothed", "steps 1"]


def test_prompts_stand_on_the_right_and_hold_no_answer(problems):
    tokenizer = problems.tokenizer
    ids, mask = problems.prompts["input_ids"], problems.prompts["attention_mask"]
    for row in range(len(ids)):
        prompt = tokenizer.decode(ids[row])
        target = problems.test.target[row]
        left, right = prompt.rstrip("=").split("*")
        assert int(tokenizer.decode(target[target != -100])) == int(left) * int(right)
        assert ids[row][mask[row] == 1].tolist() == [tokenizer.bos_token_id, *tokenizer.encode(prompt)]


def test_log_prob_of_a_greedy_answer_is_its_confidence(problems, model):
    """Left-padded generation and right-padded teacher forcing agree on what an answer's probability is."""
    prompts = problems.prompts
    with torch.no_grad():
        model.get_output_embeddings().weight *= 20
    confidence = greedy_confidence(model, prompts, max_new_tokens=2)
    made = model.eval().generate(**prompts, max_new_tokens=2, do_sample=False, pad_token_id=0)
    for row in range(5):
        given = prompts["input_ids"][row][prompts["attention_mask"][row] == 1]
        answer = made[row, prompts["input_ids"].shape[1] :]
        answer = answer[: (answer == 2).nonzero()[0, 0] + 1] if (answer == 2).any() else answer
        whole = torch.cat([given, answer])
        target = torch.full((len(whole) - 1,), -100)
        target[len(given) - 1 :] = answer
        samples = dco.ArraySamples(whole[None, :-1], target[None])
        assert dco.answer_log_probs(model, samples)[0].exp().item() == pytest.approx(confidence[row].item(), rel=1e-3)


def test_sampled_coverage_agrees_with_exact_coverage(problems, model):
    with torch.no_grad():  # the last token's logits alone decide, so that answers come up often enough to count
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.zero_()
        model.get_output_embeddings().weight.zero_()
    log_prob = dco.answer_log_probs(model, problems.test)[0]
    lengths = (problems.test.target != -100).sum(dim=1)
    torch.testing.assert_close(log_prob, -lengths * math.log(22))
    exact = coverage_from_log_prob(log_prob, num_samples=64)[:20].mean().item()
    sampled = dco.sampled_coverage(model, problems, 20, seed=0, num_samples=512)
    assert sampled == pytest.approx(exact, abs=0.06)


def test_filtered_batches_hold_what_is_not_learned_yet(problems):
    class Knows(torch.nn.Module):
        """Sure of the right answer to all but the last 10 problems."""

        main_input_name = "input_ids"
        config = causal_lm(22).config

        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(50.0))
            self.asked = []

        def forward(self, input_ids):
            rows = [(problems.train.inputs == ids).all(dim=1).nonzero()[0, 0].item() for ids in input_ids]
            self.asked.append(rows)
            sure = torch.nn.functional.one_hot(problems.train.target[rows].clamp(min=0), 22).float()
            known = torch.tensor([row < 50 for row in rows]).float()
            return type("Said", (), {"logits": self.scale * sure * known[:, None, None]})()

    model = Knows()
    method = dco.FilteredCoverage(model, problems.train, num_samples=256, batch_size=4, seed=0)
    method.advance(Progress(0, 10, 5))
    model.asked.clear()
    for _ in range(20):
        loss = method.step(Batch(torch.zeros(4), None, torch.arange(4)))
        assert torch.isfinite(loss["coverage"])
    assert all(len(set(rows)) == len(rows) == 4 for rows in model.asked)
    assert {row for rows in model.asked for row in rows} == set(range(50, 60))
    method.sampler.update(torch.arange(60), torch.zeros(60))  # all is learned: it goes on with any of them
    method.step(Batch(torch.zeros(4), None, torch.arange(4)))
    assert len(model.asked[-1]) == 4


def test_proofs_are_drawn_by_the_law_they_come_with():
    made = dco.make_proofs(60, 3000, 0)
    states, tactics, known = made["test"]
    assert states.shape == (3000, 8, 16)
    assert tactics.max() == 15
    # The mean log-probability of draws is minus the entropy, which a second draw from the same law shares.
    again = dco.make_proofs(60, 3000, 1)["test"][2]
    assert known.mean().item() == pytest.approx(again.mean().item(), abs=0.03)
    assert known.exp().mean() > 0.5


def results(**changed):
    arms = {}
    for number, arm in enumerate(dco.ARMS):
        arms[arm.name] = {
            "coverage_1": [0.05 - 0.01 * number + noise for noise in (-0.001, 0.0, 0.001, 0.0, 0.0)],
            "coverage_256": [0.2 + 0.03 * number + noise for noise in (-0.01, 0.0, 0.01, 0.0, 0.0)],
            "greedy_confidence": [0.9 - 0.1 * number] * 5,
            "coverage_1_along": [[0.01, 0.03, 0.04]] * 5,
            "coverage_256_along": [[0.2, 0.3, 0.2]] * 5,
            "validation_coverage_256": [[0.2 + 0.03 * number]] * 5,
        }
        for other in (16, 64):
            arms[arm.name][f"coverage_{other}"] = [0.1] * 5
        for metric in ("early", "tuned", "chosen"):
            arms[arm.name][metric] = [[0.1, 0.1, 0.1, 0.2 + 0.001 * seed] for seed in range(5)]
    for number, arm in enumerate(dco.STEPS):
        found = {2: number, 4: -abs(number - 3), 8: -abs(number - 1)}
        arms[arm.name] = {f"found_{length}": [0.5 + 0.01 * value] * 5 for length, value in found.items()}
        arms[arm.name] |= {f"law_finds_{length}": [0.9] * 5 for length in dco.LENGTHS}
    for place, values in changed.items():
        arm, _, metric = place.partition("__")
        arms[arm.replace("_", " ")][metric] = values
    return Results(arms)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, [True, True, True, True, True]),
        ({"CE__coverage_256_along": [[0.2, 0.22, 0.2]] * 5}, [False, True, True, True, True]),
        ({"CE__coverage_1_along": [[0.1, 0.05, 0.04]] * 2 + [[0.01] * 3] * 3}, [False, True, True, True, True]),
        ({"CE__coverage_1_along": [[0.1, 0.05, 0.04]] + [[0.01] * 3] * 4}, [True, True, True, True, True]),
        ({"CE__coverage_256_along": [[0.2, 0.4, 0.2]] * 5}, [True, False, True, True, True]),
        ({"CE__coverage_256": [0.31] * 5}, [True, False, True, True, True]),
        ({"DCO_16__greedy_confidence": [0.95] * 5}, [True, True, False, True, True]),
        ({"DCO_16__coverage_1": [0.9] * 5}, [True, True, True, False, True]),
        ({"DCO_4__coverage_256": [0.9] * 5}, [True, True, True, False, True]),
        ({"steps_16__found_8": [0.9] * 5}, [True, True, True, True, False]),
        ({"steps_1__found_2": [0.9] * 5}, [True, True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(changed, expected):
    assert [claim["holds"] for claim in judge(dco.recipe, results(**changed))] == expected


def test_epoch_and_temperature_are_chosen_on_validation_alone():
    plain = dco.TEMPERATURES.index(1.0)
    log_prob = {part: torch.full((3, len(dco.TEMPERATURES), 4), math.log(0.01)) for part in ("validation", "test")}
    log_prob["validation"][1, plain] = math.log(0.5)
    log_prob["validation"][2, 3] = math.log(0.3)
    log_prob["test"][1, plain] = math.log(0.1)
    log_prob["test"][2, 3] = math.log(0.2)
    log_prob["test"][0, 0] = math.log(0.9)
    measured = dco._coverage_metrics(log_prob)
    assert measured["coverage_1"] == pytest.approx(0.01)
    assert measured["coverage_1_along"] == pytest.approx([0.01, 0.1, 0.01])
    assert measured["early"][0] == pytest.approx(0.1)
    assert measured["tuned"][0] == pytest.approx(0.2)
    assert measured["tuned_temperature"][0] == dco.TEMPERATURES[3]
    assert measured["chosen"][0] == pytest.approx(0.1)
    assert measured["early"][1] == pytest.approx(1 - 0.9**16)


def test_every_arm_has_the_same_budget_and_data():
    for scale in dco.SCALES.values():
        names = [arm.name for arm in dco.arms(scale)]
        assert len(set(names)) == len(names)
        # Settings of the run are the scale's alone: no arm can change its epochs, rate or data size.
        assert not {"epochs", "learning_rate", "batch_size"} & {key for arm in dco.arms(scale) for key in arm.settings}


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "dco", "--scale", "paper"])
    assert done.exit_code == 4
    assert "LlamaForCausalLM, 8,030,261,248 parameters" in done.output
    assert "MATH-500" in done.output
    assert "CUDA device" in done.output


def test_recipe_is_found_by_its_slug():
    assert load_recipe("dco") is dco.recipe
