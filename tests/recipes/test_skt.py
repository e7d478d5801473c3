from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage.batch import Batch
from tutelage.cli import app
from tutelage.features import StructuredTransfer
from tutelage.models import CSRNet
from tutelage.objectives import MeanSquaredError
from tutelage.recipes import skt
from tutelage.reproduction import Results, load_recipe
from tutelage.training import Distillation


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("skt") / "result.json"
    done = CliRunner().invoke(app, ["reproduce", "skt", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done.exit_code, done.output, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke: tuple[int, str, dict[str, Any]]) -> None:
    code, output, result = smoke
    held = {claim["id"]: claim["holds"] for claim in result["claims"]}
    assert code == (0 if all(held.values()) else 3)
    assert list(held) == ["structure", "speed", "accuracy", "complementarity", "accuracy-means"]
    assert held["structure"]
    assert set(result["arms"]) == {arm.name for arm in skt.arms(skt.SCALES["smoke"])}
    assert {"SKT mean 10", "FitNet"} < set(result["arms"])
    for metrics in result["arms"].values():
        assert all(len(values) == 1 for values in metrics.values())
        assert all(low <= high for low, high in zip(metrics["test_mae"], metrics["test_rmse"], strict=True))
        assert all(0 <= value <= 1 for value in metrics["dead_channels"])
    assert "multiply-adds" in output


def test_arms_of_a_seed_begin_alike_and_learn_apart(smoke: tuple[int, str, dict[str, Any]]) -> None:
    errors = {arm: tuple(metrics["train_hard"]) for arm, metrics in smoke[2]["arms"].items()}
    assert len(set(errors.values())) == len(errors)


def results(**errors: list[float]) -> Results:
    arms = {name.replace("_", " "): {"test_mae": values, "validation_mae": values} for name, values in errors.items()}
    groups = {"SKT mean": tuple(name for name in arms if name.startswith("SKT mean"))}
    facts = {
        **skt.structure(),
        "teacher_milliseconds": 800.0,
        "student_milliseconds": 100.0,
        "teacher_test_mae": 0.8,
        "teacher_test_mean_count": 10.0,
    }
    return Results(arms, groups, facts)


def test_claims_can_hold_and_fail() -> None:
    good = results(hard=[1.5, 1.6, 1.4], soft=[1.2] * 3, intra=[1.1] * 3, inter=[1.0] * 3, SKT=[1.1, 1.2, 1.2])
    assert skt.structure_is_as_published(good).holds
    assert skt.is_faster(good).value == 8
    assert skt.counts_better(good).holds
    assert skt.terms_complement_each_other(good).holds  # 1.167 is within 0.2 of 1.0
    worse = results(hard=[1.5, 1.6, 1.4], soft=[1.2] * 3, intra=[1.1] * 3, inter=[0.9] * 3, SKT=[1.5, 1.4, 1.6])
    assert not skt.counts_better(worse).holds
    assert not skt.terms_complement_each_other(worse).holds
    means = results(hard=[1.5, 1.6, 1.4], soft=[1.2] * 3, SKT_mean_1=[1.5, 1.6, 1.5], SKT_mean_10=[1.1, 1.0, 1.2])
    assert skt.counts_better_with_means(means).holds
    assert "SKT mean 10" in skt.counts_better_with_means(means).detail
    slow = replace(good, facts={**good.facts, "student_milliseconds": 300.0})
    assert not skt.is_faster(slow).holds
    wide = replace(good, facts={**good.facts, "student_parameters": 1_017_682})
    assert not skt.structure_is_as_published(wide).holds


def test_hard_term_is_the_published_sum() -> None:
    method = Distillation(None, nn.Identity(), skt.objectives_of({"terms": ()}, 9))
    density, target = torch.rand(2, 4, 1, 3, 3)
    losses = method.step(Batch(density, target, torch.arange(4)))
    torch.testing.assert_close(losses["hard"], (density - target).square().sum() / 4)


def test_breakage_only_touches_structured_terms_and_takes_another_image() -> None:
    before = skt.arms(skt.SCALES["quick"])
    after = [skt.of_another_image(arm) for arm in before]
    changed = [new.name for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["intra", "inter", "SKT", "SKT mean 3", "SKT mean 10"]
    maps = [torch.rand(3, 2, 16 // size, 16 // size) for size in (1, 2, 4, 8, 8, 8)]
    density = torch.rand(3, 1, 2, 2)
    rolled = [value.roll(1, dims=0) for value in (*maps, density)]
    whole, broken = StructuredTransfer(), skt._OfAnotherImage()
    assert whole(maps, maps, density, density) < 0.01
    assert broken(maps, maps, density, density) > 1
    assert broken(rolled[:-1], maps, rolled[-1], density) < 0.01


def test_dead_channels_are_counted() -> None:
    model = CSRNet(32, in_channels=1)
    nn.init.zeros_(model.get_submodule("conv0_0.0").weight)  # its maps are 0, and so are all that follow

    class Images:
        def __len__(self) -> int:
            return 4

        def batch(self, rows: torch.Tensor) -> Batch:
            return Batch(torch.rand(len(rows), 1, 16, 16), None, rows)

        def fingerprint(self) -> str:
            return "images"

    assert skt.dead_channels(model, Images()) == 1.0


def test_paper_scale_builds() -> None:
    described = skt.describe(load_recipe("skt").scale("paper"))
    assert described["teacher"] == "CSRNet / 1, 16,263,489 parameters"
    assert described["student"] == "CSRNet / 4, 1,017,681 parameters"
    assert isinstance(skt.objectives_of({"terms": ()}, 1)["hard"].objective, MeanSquaredError)
