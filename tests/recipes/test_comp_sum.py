import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.data import ArraySamples, Data
from tutelage.recipes import comp_sum
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()
SMOKE = comp_sum.SCALES["smoke"]


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("comp-sum") / "result.json"
    done = runner.invoke(app, ["reproduce", "comp-sum", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def claim(result, name):
    return next(claim for claim in result["claims"] if claim["id"] == name)


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in comp_sum.arms(SMOKE)}
    assert len(result["claims"]) == 4
    for metrics in result["arms"].values():
        assert all(len(values) == 2 for values in metrics.values())
    for name in ("CE", "PGD", "TRADES 6", "ADV-COMP-SUM 0.3"):
        measured = result["arms"][name]
        assert all(
            robust < clean
            for robust, clean in zip(measured["test_robust_accuracy"], measured["test_accuracy"], strict=True)
        )
    assert claim(result, "bounds-hold")["holds"]
    assert "ADV-COMP-SUM" in done.output


@pytest.mark.parametrize(
    ("breakage", "broken_claim", "arms"),
    [
        ("no-stability", "robust", ("CE", "PGD", "TRADES", "ADV")),
        ("no-tau", "cross-entropy-is-central", ("tau",)),
        ("no-classes", "bounds-hold", ("bound",)),
    ],
)
def test_each_claim_needs_its_key_term(smoke, breakage, broken_claim, arms):
    chosen = [arm for arm in comp_sum.arms(SMOKE) if arm.name.startswith(arms)]
    claims = tuple(one for one in comp_sum.CLAIMS if one.id == broken_claim)
    recipe = replace(comp_sum.recipe, arms=lambda scale: chosen, claims=claims)
    broken = claim(run_recipe(recipe, "smoke", jobs=1, breakage=breakage), broken_claim)
    assert not broken["holds"]
    assert broken["value"] < claim(smoke[1], broken_claim)["value"] - 1e-3


def test_a_breakage_touches_only_its_own_arms():
    before = comp_sum.arms(SMOKE)
    for name, start in (("no-stability", "ADV"), ("no-tau", "tau"), ("no-classes", "bound")):
        after = [comp_sum.recipe.breakages[name](arm) for arm in before]
        changed = [new.name for old, new in zip(before, after, strict=True) if old != new]
        assert changed
        assert all(other.startswith(start) for other in changed)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_hard_pairs_are_the_best_that_ties_the_two_likeliest_classes(tau):
    probs, scores = comp_sum.draw_pairs(200, 4, tau, torch.Generator().manual_seed(0))
    assert torch.allclose(probs.sum(dim=1), torch.ones(200, dtype=torch.float64))
    hard, tied = probs[100:], scores[100:]
    top = tied.topk(2, dim=1)
    assert torch.equal(top.values[:, 0], top.values[:, 1])
    two = hard.topk(2, dim=1).values
    assert torch.allclose(comp_sum.zero_one_regret(hard, tied), two[:, 0] - two[:, 1])
    regret = comp_sum.surrogate_regret(hard, tied, tau)
    assert (regret >= 0).all()
    step = torch.zeros_like(tied).scatter(1, top.indices, 1e-4)  # up or down together, nothing gets better
    for moved in (tied + step, tied - step):
        assert (comp_sum.surrogate_regret(hard, moved, tau) >= regret - 1e-6 * regret - 1e-9).all()


class Threshold(nn.Module):
    """Class 1 where the only entry is above a half."""

    def forward(self, inputs):
        return torch.cat([1 - inputs, inputs], dim=1)


def test_robust_accuracy_is_exact_for_a_threshold():
    samples = ArraySamples(torch.tensor([[0.45], [0.55], [0.75], [0.05], [0.9]]), torch.tensor([1, 1, 1, 0, 0]))
    assert comp_sum.accuracy(Threshold(), samples) == 0.6
    for radius, expected in ((0.04, 0.6), (0.1, 0.4), (0.3, 0.2), (0.5, 0.0)):
        found = comp_sum.robust_accuracy(Threshold(), samples, radius, steps=5, restarts=2, seed=0)
        assert found == expected


def results(*, tau=None, clean=None, robust=None, slack=0.1, tied=0.0):
    """Constant figures: τ 1 at 0.7 and τ 2 at 0.1 unless told otherwise."""
    tau = {0.0: 0.5, 0.5: 0.7, 1.0: 0.7, 1.5: 0.6, 2.0: 0.1, **(tau or {})}
    clean = {"CE": 0.95, "PGD": 0.9, "TRADES": 0.94, "ADV-COMP-SUM": 0.94, **(clean or {})}
    robust = {"CE": 0.1, "PGD": 0.5, "TRADES": 0.5, "ADV-COMP-SUM": 0.5, **(robust or {})}
    measured, groups = {}, {}
    for arm in comp_sum.arms(comp_sum.SCALES["quick"]):
        if arm.group is not None:
            groups.setdefault(arm.group, []).append(arm.name)
        if arm.settings["part"] == "bound":
            metrics = {"slack": slack, "bound_slack": 0.1, "tied_distance": tied}
        elif arm.settings["part"] == "clean":
            value = tau[float(arm.settings["objective"]["arguments"]["tau"])]
            metrics = {"test_accuracy": value, "validation_accuracy": value}
        else:
            kind = arm.name.partition(" ")[0]
            metrics = {
                "test_accuracy": clean[kind],
                "test_robust_accuracy": robust[kind],
                "validation_weighted_accuracy": (clean[kind] + robust[kind]) / 2,
            }
        measured[arm.name] = {name: [value] * 2 for name, value in metrics.items()}
    return Results(measured, groups)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [True, True, True, True]),
        ({"slack": -1e-6}, [False, True, True, True]),
        ({"tied": 1e-5}, [False, True, True, True]),
        ({"tau": {2.0: 0.66}}, [True, False, True, True]),
        ({"tau": {0.0: 0.71}}, [True, False, True, True]),
        ({"robust": {"ADV-COMP-SUM": 0.2, "TRADES": 0.2}}, [True, True, False, True]),
        ({"clean": {"PGD": 0.96}}, [True, True, False, True]),
        ({"robust": {"TRADES": 0.53}}, [True, True, True, False]),
        ({"clean": {"TRADES": 0.96}}, [True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(changes, expected):
    assert [claim["holds"] for claim in judge(comp_sum.recipe, results(**changes))] == expected


def test_every_arm_of_a_part_has_the_same_budget_and_the_methods_as_many_candidates():
    for scale in comp_sum.SCALES.values():
        found = comp_sum.arms(scale)
        assert len({arm.name for arm in found}) == len(found)
        assert not {"epochs", "batch_size", "steps", "options"} & {key for arm in found for key in arm.settings}
        assert len(scale.settings["nus"]) == len(scale.settings["betas"])
        sizes = {arm.group: 0 for arm in found if arm.group is not None and "tau" in arm.group}
        for arm in found:
            if arm.group in sizes:
                sizes[arm.group] += 1
        assert set(sizes.values()) == {len(scale.settings["learning_rates"])}


def test_a_run_that_diverges_is_tested_as_it_stands():
    settings = {**SMOKE.settings, "clean_training": {**SMOKE.settings["clean_training"], "clip_norm": None}}
    scale = replace(SMOKE, settings={**settings, "learning_rates": (100.0,)}, seeds=1)
    chosen = [arm for arm in comp_sum.arms(scale) if arm.name.startswith("tau 0,")]
    recipe = replace(comp_sum.recipe, scales={"smoke": scale}, arms=lambda scale: chosen, claims=())
    (metrics,) = run_recipe(recipe, "smoke", jobs=1)["arms"].values()
    assert metrics["diverged"] == [1.0]
    assert 0 <= metrics["test_accuracy"][0] <= 0.5


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "comp-sum", "--scale", "paper"])
    assert done.exit_code == 4
    assert "ResNetForImageClassification" in done.output
    assert "svhn" in done.output
    assert "CUDA device" in done.output


def test_paper_scale_trains_on_augmented_images_and_attacks_them(monkeypatch):
    """The path of `paper`, on eight random images: it needs neither a GPU nor the data to be right."""
    images = ArraySamples(torch.rand(8, 3, 8, 8), torch.arange(8) % 4)
    monkeypatch.setattr(
        comp_sum, "load_data", lambda name, **options: Data(name, images, images, images, num_classes=4)
    )
    comp_sum._load.cache_clear()
    paper = comp_sum.SCALES["paper"]
    network = {"name": "convnet", "arguments": {"channels": (4,)}}
    shrunk = {
        part: {name: {**problem, "model": network} for name, problem in paper.settings[part].items()}
        for part in ("clean", "attacked")
    }
    for part in ("clean", "attacked"):
        shrunk[f"{part}_training"] = {**paper.settings[f"{part}_training"], "epochs": 1}
    small = replace(paper, settings={**paper.settings, **shrunk}, seeds=1)
    chosen = [arm for arm in comp_sum.arms(small) if arm.name in ("ADV-COMP-SUM 1", "svhn: tau 1, rate 0.1")]
    recipe = replace(comp_sum.recipe, scales={"paper": small}, arms=lambda scale: chosen, claims=())
    found = run_recipe(recipe, "paper", jobs=1)["arms"]
    comp_sum._load.cache_clear()
    assert set(found) == {"ADV-COMP-SUM 1", "svhn: tau 1, rate 0.1"}


def test_recipe_is_found_by_its_slug():
    assert load_recipe("comp-sum") is comp_sum.recipe
