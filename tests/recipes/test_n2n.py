import json

import pytest
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import n2n
from tutelage.reproduction import Results
from tutelage.reproduction.runner import judge

runner = CliRunner()


def test_smoke_runs_through_the_command(tmp_path):
    path = tmp_path / "result.json"
    done = runner.invoke(app, ["reproduce", "n2n", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    result = json.loads(path.read_text())
    assert set(result["arms"]) == {arm.name for arm in n2n.arms(n2n.SCALES["smoke"])}
    assert {"mnist1d: N2N", "mnist1d: random search", "unlearned", "size limit"} <= set(result["arms"])
    assert len(result["claims"]) == 5
    for arm in ("N2N", "mnist1d: N2N", "size limit"):
        assert all(0 <= value <= 1 for value in result["arms"][arm]["student_accuracy"])
    assert "shrinkage_rewards" not in result["arms"]["removal only"]
    assert "removal_rewards" not in result["arms"]["shrinkage only"]


def test_quick_has_the_arms_of_its_claims_alone_and_full_both_data_sets():
    quick, full = ([arm.name for arm in n2n.arms(n2n.SCALES[name])] for name in ("quick", "full"))
    assert quick == ["N2N", "random search", "transfer", "patterns"]
    assert set(quick) < set(full)
    assert {"removal only", "shrinkage only", "mean credit", "unlearned", "size limit"} < set(full)


def test_a_claim_must_hold_on_both_data_sets_and_names_the_further_arms():
    both = results()
    worse = {**both.arms["N2N"], "best_reward": [0.85] * 3}
    limited = {**both.arms["N2N"], "compression": [20.0] * 3}
    further = {"mnist1d: N2N": worse, "mnist1d: random search": both.arms["random search"], "size limit": limited}
    judged = judge(n2n.recipe, Results({**both.arms, **further, "unlearned": {"best_reward": [0.77] * 3}}))
    assert [claim["holds"] for claim in judged] == [True, True, True, False, True]
    assert "with a size limit 20.00 times smaller" in judged[1]["detail"]
    assert "unlearned 0.770" in judged[3]["detail"]


def test_policies_without_learning_do_not_find_the_pattern():
    assert n2n.learn_pattern("removal", 40, 0, 0.0) < 0.75
    assert {arm.settings["learning_rate"] for arm in map(n2n.without_learning, n2n.CORE)} == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["removal", "shrinkage"])
def test_policies_find_a_hidden_pattern(stage):
    assert sum(n2n.learn_pattern(stage, 300, seed, 0.003) for seed in range(2)) / 2 >= 0.9


def results(*, compression=12.0, accuracy=0.96, reward=0.9, rise=0.1, pattern=0.95, transferred=0.6):
    curve = [[0.4, 0.4, 0.4, 0.4 + rise]] * 3
    curves = {"removal_rewards": curve, "shrinkage_rewards": curve}
    accuracies = {"labels_alone_accuracy": [0.9] * 3, "uniform_width_accuracy": [0.9] * 3}
    of_n2n = {
        "compression": [compression] * 3,
        "student_accuracy": [accuracy] * 3,
        "teacher_accuracy": [0.97] * 3,
        "best_reward": [reward] * 3,
    }
    return Results(
        {
            "N2N": {**of_n2n, **curves, **accuracies},
            "random search": {**curves, "best_reward": [0.9] * 3},
            "transfer": {"from_scratch": [0.5] * 3, "transferred": [transferred] * 3},
            "patterns": {"removal": [0.97] * 3, "shrinkage": [pattern] * 3},
        }
    )


@pytest.mark.parametrize(
    ("change", "failing"),
    [
        ({}, None),
        ({"pattern": 0.89}, 0),
        ({"compression": 9.0}, 1),
        ({"accuracy": 0.94}, 1),
        ({"rise": 0.0}, 2),
        ({"reward": 0.88}, 3),
        ({"transferred": 0.5}, 4),
    ],
)
def test_claims_follow_their_criteria(change, failing):
    held = [claim["holds"] for claim in judge(n2n.recipe, results(**change))]
    assert held == [number != failing for number in range(5)]


def test_paper_scale_is_built():
    assert "ResNetForImageClassification" in n2n.describe(n2n.SCALES["paper"])["teacher"]
