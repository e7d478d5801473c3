from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.recipes import diswot
from tutelage.reproduction import Context, Results, load_recipe
from tutelage.reproduction.depths_table import published_depths
from tutelage.students import SearchSpace


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("diswot") / "result.json"
    done = CliRunner().invoke(app, ["reproduce", "diswot", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done.exit_code, done.output, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke: tuple[int, str, dict[str, Any]]) -> None:
    code, output, result = smoke
    held = {claim["id"]: claim["holds"] for claim in result["claims"]}
    assert code == (0 if all(held.values()) else 3)
    assert list(held) == ["another-best", "ranks-students", "cheap", "search", "distiller"]
    assert held["another-best"]  # it needs the published table alone
    assert set(result["arms"]) == {arm.name for arm in diswot.arms(diswot.SCALES["smoke"])}
    facts = result["facts"]
    assert facts["best_distilled"] == 557
    assert facts["best_plain"] == 777
    assert facts["plain_kendall"] == pytest.approx(0.836, abs=5e-4)
    for pick in diswot.PICKS:
        assert all(value <= facts["budget"] for value in result["arms"][f"{pick} pick"]["parameters"])
    assert "Without a teacher" in output


def test_table_is_the_published_one() -> None:
    table = published_depths()
    assert len(set(table.depths)) == 64
    assert max(table.distilled) == 74.86
    assert max(table.plain) == 72.56
    assert published_depths(2).depths == [(1, 1, 1), (5, 1, 1)]


def test_space_builds_what_it_prices_and_mutates_one_choice() -> None:
    space = diswot.make_space(diswot.SCALES["quick"])
    assert isinstance(space, SearchSpace)
    assert isinstance(space, diswot.StageSpace)
    rng = random.Random(0)
    for _ in range(10):
        arch = space.sample(rng)
        assert sum(a != b for a, b in zip(arch, space.mutate(arch, rng), strict=True)) == 1
    model = space.build((1, 2, 8, 5))
    assert model(torch.zeros(2, 1, 12, 12)).shape == (2, 26)
    assert model.get_submodule("head").in_features == 64
    assert space.cost((1, 2, 8, 5)) == sum(value.numel() for value in model.parameters())
    assert len(set(diswot.sampled(space, 8))) == 8


def scored(tmp_path: Any, name: str, breakage: Any = None) -> list[float]:
    settings = {**diswot.SCALES["smoke"].settings, "depths": 16, "draws": 2, "teachers": {"T": (9, 9, 9)}}
    scale = replace(diswot.SCALES["smoke"], settings={**settings, "score_images": 8})
    arm = next(arm for arm in diswot.arms(scale) if arm.name == "S0, T")
    arm = breakage(arm) if breakage else arm
    found = diswot.run_arm(Context(scale, tmp_path), arm, 0)[name]
    assert isinstance(found, list)
    return found


def test_a_score_by_chance_does_not_rank_and_one_seed_gives_one_score(tmp_path: Any) -> None:
    true = scored(tmp_path, "relation_spearman")
    assert true == scored(tmp_path, "relation_spearman")
    chance = scored(tmp_path, "relation_spearman", diswot.by_chance)
    assert min(true) > 0.4 > sum(chance) / 2 + 0.1
    noise = scored(tmp_path, "relation_spearman", diswot.against_noise)
    assert sum(noise) < 0  # relations of noise are those of samples that have nothing in common


def test_breakages_only_touch_arms_that_score() -> None:
    before = diswot.arms(diswot.SCALES["quick"])
    for breakage in diswot.recipe.breakages.values():
        changed = {arm.name for arm in before if breakage(arm) != arm}
        assert changed == {
            arm.name for arm in before if arm.name.startswith(("S0", "net")) or arm.name == "DisWOT pick"
        }


def test_every_distance_has_as_many_candidates() -> None:
    counts: dict[str, int] = {}
    for arm in diswot.arms(diswot.SCALES["full"]):
        if arm.group and arm.group.startswith("KD"):
            counts[arm.group] = counts.get(arm.group, 0) + 1
    assert counts == {"KD + relation": 2, "KD + channel": 2}


def results(
    total: float = 0.7, semantic: float = 0.7, seconds: float = 1.0, ours: float = 0.8, taught: float = 0.75
) -> Results:
    noise = (-0.01, 0.0, 0.012)
    published = {
        f"{part}_{kind}": [[value]] * 3
        for part, value in (("total", total), ("semantic", semantic), ("relation", 0.7))
        for kind in ("spearman", "beyond_size")
    }
    arms: dict[str, dict[str, Any]] = {"S0, ResNet-56": published}
    for place, name in enumerate(("net a", "net b", "net c")):
        arms[name] = {
            metric: [0.5 + 0.1 * place] * 3
            for metric in ("test_accuracy", "plain_validation_accuracy", "score", "parameters")
        } | {"distil_seconds": [seconds] * 3, "score_seconds": [0.01] * 3, "epochs": [15.0] * 3}
    for name, value in {"DisWOT pick": ours, "random pick": 0.7, "largest pick": 0.9, "CE": 0.6, "KD": 0.7}.items():
        arms[name] = {"test_accuracy": [value] * 3}
    groups: dict[str, tuple[str, ...]] = {"sample": ("net a", "net b", "net c")}
    for lesson in ("relation", "channel"):
        name = f"KD + {lesson} 1"
        arms[name] = {"test_accuracy": [taught + step for step in noise], "validation_accuracy": [taught] * 3}
        groups[f"KD + {lesson}"] = (name,)
    facts = {"best_distilled": 557.0, "best_plain": 777.0, "plain_kendall": 0.836, "budget": 0.65}
    names = ("parameters", "multiply_adds", "naswot", "synflow", "gradient_norm")
    return Results(arms, groups, facts | {f"{name}_spearman": 0.9 for name in names})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [True, True, True, True, True]),
        ({"total": 0.59}, [True, False, True, True, True]),
        ({"semantic": 0.64}, [True, False, True, True, True]),
        ({"seconds": 0.4}, [True, True, False, True, True]),
        ({"ours": 0.69}, [True, True, True, False, True]),
        ({"taught": 0.7}, [True, True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(options: dict[str, float], expected: list[bool]) -> None:
    assert [claim.judge(results(**options)).holds for claim in diswot.CLAIMS] == expected


def test_paper_scale_builds() -> None:
    scale = load_recipe("diswot").scale("paper")
    described = diswot.describe(scale)
    assert described["ResNet-56"].startswith("ResNetForImageClassification, 8")
    assert described["ResNet-110"].startswith("ResNetForImageClassification, 1,7")
    assert described["student of the lessons"].startswith("(5, 5, 7)")
    assert len(diswot.arms(scale)) == 2 + 1 + 64 + 3 + 2 + 2
