from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.objectives import ProfitAwarePairwiseLoss
from tutelage.recipes import pa_riskranker
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("pa_riskranker") / "result.json"
    done = runner.invoke(app, ["reproduce", "pa-riskranker", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in pa_riskranker.ARMS}
    assert len(result["claims"]) == 4
    for metrics in result["arms"].values():
        assert all(len(values) == 2 for values in metrics.values())
        assert all(value <= 1 for value in metrics["test_captured"])
        assert all(value >= 0 for value in metrics["test_cost"])
        assert metrics["test_hits"] <= metrics["test_positives"]


def test_the_full_scale_has_data_that_no_claim_reads():
    names = [arm.name for arm in pa_riskranker.arms(pa_riskranker.SCALES["full"])]
    assert len(set(names)) == len(names)
    assert {"PA-BCE tanh", "one_market: PA-BCE tanh", "diabetes: LightGBM regressor 7"} <= set(names)
    assert "diabetes: LambdaLoss free" not in names


def tables(names):
    """`full` in small: only some arms, on the data sets that no claim is about."""
    full = pa_riskranker.SCALES["full"]
    data = {
        "one_market": {"rows": 1500, "list_size": 20, "fraction": 0.05, "positives_per_list": 1},
        "diabetes": full.settings["data"]["diabetes"],
    }
    small = replace(full, seeds=1, settings={**pa_riskranker.SCALES["smoke"].settings, "data": data})
    return replace(
        pa_riskranker.recipe,
        scales={"full": small},
        arms=lambda scale: [arm for arm in pa_riskranker.arms(scale) if arm.name in names],
        claims=(),
    )


def test_tables_are_cut_into_lists_and_tested_on_random_ones_too():
    result = run_recipe(
        tables({"PA-BCE tanh", "diabetes: PA-BCE tanh", "diabetes: LightGBM classifier 7"}), "full", jobs=1
    )
    assert len(result["arms"]) == 3
    assert "formed_cost" in result["arms"]["PA-BCE tanh"]
    assert "formed_cost" not in result["arms"]["diabetes: PA-BCE tanh"]


def test_shuffled_amounts_take_the_lesson_out_of_the_pairwise_loss():
    """The order within lists must fall apart when the amounts of training lists change places."""
    scale = pa_riskranker.SCALES["quick"]
    settings = {**scale.settings, "data": {"traders": {"lists": (120, 40, 80), "list_size": 30, "fraction": 0.02}}}
    chosen = [arm for arm in pa_riskranker.ARMS if arm.name == "all pairs free"]
    recipe = replace(
        pa_riskranker.recipe,
        scales={"quick": replace(scale, seeds=1, settings=settings)},
        arms=lambda scale: pa_riskranker.arms_on(scale.settings["data"], chosen),
        claims=(),
    )
    whole = run_recipe(recipe, "quick", jobs=1)["arms"]["all pairs free"]
    broken = run_recipe(recipe, "quick", jobs=1, breakage="shuffled")["arms"]["all pairs free"]
    assert whole["test_ndcg_10"][0] > broken["test_ndcg_10"][0] + 0.2


def test_breakage_keeps_everything_but_the_amounts():
    for arm in pa_riskranker.ARMS:
        after = pa_riskranker.shuffled(arm)
        assert {**after.settings, "shuffle_amounts": None} == {**arm.settings, "shuffle_amounts": None}
        assert after.name == arm.name


def test_unweighted_pairs_have_the_gradient_of_equal_weights():
    scores = torch.randn(3, 8, dtype=torch.float64, requires_grad=True)
    amounts = torch.stack([torch.randperm(8) for _ in range(3)]).double()
    (mine,) = torch.autograd.grad(pa_riskranker.UnweightedPairs()(scores, amounts), scores)
    far = ProfitAwarePairwiseLoss(amount_scale=1e300)(scores, amounts)  # log weights of far amounts are nearly alike
    (theirs,) = torch.autograd.grad(far, scores)
    torch.testing.assert_close(mine / mine.norm(), theirs / theirs.norm(), atol=5e-3, rtol=0)


GROUPS = sorted({arm.group for arm in pa_riskranker.ARMS})


def results(cost=None, captured=None, ndcg=None, macro_f1=None):
    """Three seeds; what is not given is the same for all groups. The second candidate of each group is the worse."""
    arms, groups = {}, {}
    for arm in pa_riskranker.ARMS:
        worse = 0.0 if arm.group not in groups else 1.0
        groups.setdefault(arm.group, []).append(arm.name)
        arms[arm.name] = {
            "validation_cost": [100.0 + worse] * 3,
            "test_cost": [(cost or {}).get(arm.group, 100.0) * (1 - 0.9 * worse)] * 3,  # choosing on test would show
            "test_captured": (captured or {}).get(arm.group, [0.5] * 3),
            "test_ndcg_10": [(ndcg or {}).get(arm.group, 0.5)] * 3,
            "test_macro_f1": [(macro_f1 or {}).get(arm.group, 0.8)] * 3,
        }
    return Results(arms, groups)


@pytest.mark.parametrize(
    ("measured", "expected"),
    [
        (results(), [True, False, False, True]),
        (results(cost={"PA-BCE": 94.0}, ndcg={"no list": 0.48}), [True, True, True, True]),
        (results(cost={"PA-BCE": 96.0}, ndcg={"no list": 0.495}), [True, False, False, True]),
        (results(cost={"PA-BCE": 94.0, "LambdaLoss": 90.0}), [True, False, False, True]),
        (results(cost={"PA-BCE": 94.0, "BCE": 90.0}), [True, False, False, True]),
        (results(cost={"PA-BCE": 94.0, "LightGBM classifier": 10.0}), [True, True, False, True]),
        (results(cost={"w = 1": 99.0}), [True, False, False, False]),
        (results(captured={"PA-BCE": [0.6, 0.6, 0.45]}), [True, False, False, True]),
        (results(captured={"PA-BCE": [0.9, 0.45, 0.45]}), [False, False, False, True]),
        (results(captured={"PA-BCE": [0.51, 0.51, 0.2]}), [False, False, False, True]),
    ],
)
def test_claims_follow_their_criteria(measured, expected):
    assert [claim["holds"] for claim in judge(pa_riskranker.recipe, measured)] == expected


def test_the_first_claim_shows_the_direction_of_f1():
    claim = judge(pa_riskranker.recipe, results(macro_f1={"PA-BCE": 0.84}))[0]
    assert "macro-F1 +5.0 %" in claim["detail"]
    assert "LightGBM classifier 7" in claim["detail"]


def test_every_arm_has_the_same_budget_and_every_family_as_many_candidates():
    assert not {"epochs", "learning_rate", "batch_size"} & {key for arm in pa_riskranker.ARMS for key in arm.settings}
    assert all(sum(arm.group == group for arm in pa_riskranker.ARMS) == 2 for group in GROUPS)


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "pa-riskranker", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ListTransformerRanker on FeatureTokenizerTransformer" in done.output
    assert "creditcard.csv" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_pretrains_its_feature_tokenizer(tmp_path):
    """The path of `paper`, on a small file of its form: it needs neither a GPU nor the data to be right."""
    file = tmp_path / "creditcard.csv"
    values = torch.randn(600, 2, generator=torch.Generator().manual_seed(0))
    rows = [f"{row},{a:.4f},{b:.4f},{100 + 50 * a:.2f},0" for row, (a, b) in enumerate(values.tolist())]
    file.write_text("Time,V1,V2,Amount,Class\n" + "\n".join(rows))
    paper = pa_riskranker.SCALES["paper"]
    options = {**paper.settings["data"]["creditcard.csv"], "list_size": 10, "fraction": 0.1}
    settings = {
        **paper.settings,
        "data": {str(file): options},
        "training": {**paper.settings["training"], "epochs": 1},
        "pretraining": {**paper.settings["pretraining"], "epochs": 1},
    }
    recipe = replace(
        pa_riskranker.recipe,
        scales={"paper": replace(paper, seeds=1, settings=settings)},
        arms=lambda scale: [arm for arm in pa_riskranker.arms(scale) if arm.name == "PA-BCE tanh"],
        claims=(),
    )
    result = run_recipe(recipe, "paper", jobs=1)
    assert 0 <= result["arms"]["PA-BCE tanh"]["formed_auc"][0] <= 1


def test_recipe_is_found_by_its_slug():
    assert load_recipe("pa-riskranker") is pa_riskranker.recipe
