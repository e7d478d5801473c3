import json
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tutelage.cli import app
from tutelage.features import AdaptiveMaskDistillation
from tutelage.recipes import acam_kd
from tutelage.reproduction import Results, load_recipe, run_recipe
from tutelage.reproduction.runner import judge

runner = CliRunner()


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    path = tmp_path_factory.mktemp("acam_kd") / "result.json"
    done = runner.invoke(app, ["reproduce", "acam-kd", "--scale", "smoke", "--jobs", "1", "--json", str(path)])
    assert done.exit_code in (0, 3), done.output
    return done, json.loads(path.read_text())


def test_smoke_runs_through_the_command(smoke):
    done, result = smoke
    assert done.exit_code == (0 if all(claim["holds"] for claim in result["claims"]) else 3)
    assert set(result["arms"]) == {arm.name for arm in acam_kd.arms(acam_kd.SCALES["smoke"])}
    assert len(result["claims"]) == 4
    for name, metrics in result["arms"].items():
        metric = "test_average_precision" if name.startswith("detection") else "test_mean_iou"
        assert len(metrics[metric]) == 2
        assert all(0 <= value <= 1 for value in metrics[metric])
        masked = any(kind in name for kind in ("ACAM", "masks", "diversity"))
        assert ("mask_similarity" in metrics) == masked
        if masked:  # the log of mean masks: one a record
            assert all(len(means) == 2 for means in metrics["spatial_masks"])
    assert all(value == pytest.approx(1, abs=1e-6) for value in result["arms"]["fixed masks 0.03"]["mask_similarity"])


def small(names, breakage=None, weight=0.3, epochs=8):
    """Some arms on small scenes, one seed, with a weight at which masks move."""
    settings = {
        **acam_kd.SCALES["smoke"].settings["segmentation"],
        "weights": {"KD": (1.0,), "MSE": (0.03,), "CWD": (1.0,), "masks": (weight,)},
    }
    settings["data"] = {**settings["data"], "train": 160}
    settings["student_training"] = {**settings["student_training"], "epochs": epochs}
    scale = replace(acam_kd.SCALES["smoke"], settings={"segmentation": settings}, seeds=1)
    chosen = [arm for arm in acam_kd.arms(scale) if arm.name in names]
    recipe = replace(acam_kd.recipe, scales={"smoke": scale}, arms=lambda scale: chosen, claims=())
    return run_recipe(recipe, "smoke", jobs=1, breakage=breakage)["arms"]


def test_masks_move_and_part_and_without_units_they_do_neither():
    names = ["ACAM-KD 0.3", "no diversity 0.3", "fixed masks 0.3"]
    whole = small(names)
    ours, other, fixed = (whole[name] for name in names)
    assert ours["mask_similarity"][0] < 0.99
    assert fixed["mask_similarity"][0] == pytest.approx(1, abs=1e-6)
    assert ours["mask_dice"][0] < other["mask_dice"][0]
    broken = small(names[:1], "half-masks")["ACAM-KD 0.3"]
    assert broken["mask_similarity"][0] == pytest.approx(1)
    assert broken["mask_dice"][0] == pytest.approx(1)
    assert broken["spatial_masks"][0] == pytest.approx([0.5] * 8)


def test_similarity_sees_no_size_and_takes_vanished_masks_as_alike():
    masks = torch.rand(2, 3, 5, dtype=torch.float64)
    assert acam_kd._similarity(masks, masks * 1e-40) == pytest.approx(1)
    masks[0, 0] = 0
    assert acam_kd._similarity(masks, masks) == pytest.approx(1)
    others = masks.clone()
    others[0, 0] = 1  # was 0 everywhere, is 1 everywhere
    assert acam_kd._similarity(masks, others) == pytest.approx(5 / 6)


def test_the_breakage_only_touches_arms_whose_masks_student_and_teacher_make():
    before = acam_kd.arms(acam_kd.SCALES["full"])
    changed = {arm.name for arm in before if acam_kd.without_masks(arm) != arm}
    assert "ACAM-KD 0.03" in changed
    assert not changed & {"labels", "KD 1", "MSE 0.03", "CWD 1", "detection: MSE 0.1"}


def test_every_arm_has_the_same_budget_and_every_kind_as_many_candidates():
    for name, scale in acam_kd.SCALES.items():
        found = acam_kd.arms(scale)
        assert len({arm.name for arm in found}) == len(found)
        assert all(set(arm.settings) == {"task", "objectives"} for arm in found)  # budget and data are the task's
        for task, settings in scale.settings.items():
            assert len({len(candidates) for candidates in settings["weights"].values()}) == 1, (name, task)


def test_the_segformer_part_runs():
    full = acam_kd.SCALES["full"].settings["segformer"]
    settings = {**full, **acam_kd.TINY}
    scale = replace(acam_kd.SCALES["smoke"], settings={"segformer": settings}, seeds=1)
    recipe = replace(acam_kd.recipe, scales={"smoke": scale}, claims=())
    result = run_recipe(recipe, "smoke", jobs=1)
    assert set(result["arms"]) == {"segformer: labels", "segformer: MSE 0.03", "segformer: ACAM-KD 0.03"}
    assert len(result["arms"]["segformer: ACAM-KD 0.03"]["spatial_masks"][0]) == 2
    assert "segformer_teacher_mean_iou" in result["facts"]


def results(similarity=0.6, fixed=1.0, dice=0.1, smallest=0.2, **scores):
    groups, arms = {}, {}
    for arm in acam_kd.arms(acam_kd.SCALES["quick"]):
        groups.setdefault(arm.group, []).append(arm.name)
        value = scores.get(arm.name, scores.get(arm.group, 0.3))
        noise = (-0.01, 0.0, 0.01) if "ACAM" in arm.name else (-0.012, 0.001, 0.011)
        arms[arm.name] = {
            "validation_mean_iou": [value] * 3,
            "test_mean_iou": [value + step for step in noise],
            "mask_similarity": [fixed if "fixed" in arm.name else similarity] * 3,
            "mask_dice": [(dice if "ACAM" in arm.name else 0.3) + step for step in noise],
            "smallest_channel_mask": [smallest] * 3,
            "smallest_spatial_mask": [smallest] * 3,
        }
    return Results(arms, groups, {})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"ACAM-KD": 0.35}, [True, True, True, True]),
        ({"labels": 0.35}, [False, True, True, True]),
        ({"ACAM-KD": 0.35, "MSE 0.03": 0.36}, [True, False, True, True]),
        ({"ACAM-KD": 0.35, "teacher's masks 0.03": 0.36}, [True, False, True, True]),
        ({"ACAM-KD": 0.35, "MSE 0.03": 0.3515}, [True, True, True, True]),  # within 0.2 points
        ({"ACAM-KD": 0.35, "similarity": 0.995}, [True, True, False, True]),
        ({"ACAM-KD": 0.35, "fixed": 0.9}, [True, True, False, True]),  # fixed masks that move are a fault
        ({"ACAM-KD": 0.35, "dice": 0.4}, [True, True, True, False]),
        ({"ACAM-KD": 0.35, "smallest": 0.01}, [True, True, True, False]),
    ],
)
def test_claims_follow_their_criteria(options, expected):
    assert [claim["holds"] for claim in judge(acam_kd.recipe, results(**options))] == expected


def test_paper_scale_is_built_and_printed_but_not_run_here(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    done = runner.invoke(app, ["reproduce", "acam-kd", "--scale", "paper"])
    assert done.exit_code == 4
    assert "PretrainedSegmenter" in done.output
    assert "cityscapes" in done.output


def test_paper_scale_taps_networks_of_transformers():
    """Small ones of the same classes, one step of the arm that the paper proposes."""
    settings = dict(acam_kd.SCALES["paper"].settings["segmentation"])
    sizes = {"hidden_sizes": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 1, 1)}
    shape = (3, 64, 64)
    teacher = acam_kd.build_model(
        {"name": "transformers_segmenter", "arguments": {**sizes, "decoder_hidden_size": 8}},
        num_classes=19,
        input_shape=shape,
    )
    student = acam_kd.build_model(settings["student"], num_classes=19, input_shape=shape)
    arm = next(arm for arm in acam_kd.arms(acam_kd.SCALES["paper"]) if arm.group == "ACAM-KD")
    method = acam_kd.Distillation(teacher, student, acam_kd.make_objectives(arm.settings["objectives"]))
    batch = acam_kd.Batch(torch.randn(2, *shape), torch.randint(19, (2, 64, 64)), torch.arange(2))
    method.setup(batch)
    losses = method.step(batch)
    assert losses["adaptive_mask_distillation"].isfinite()
    objective = method.terms["adaptive_mask_distillation"].objective
    assert isinstance(objective, AdaptiveMaskDistillation)
    assert objective.acam.fusion[0].query.in_channels == 19


def test_recipe_is_found_by_its_slug():
    assert load_recipe("acam-kd") is acam_kd.recipe


# ---- The same from a user's config -----------------------------------------------------------------------------------

CONFIG = """
name: masks
data:
  name: digit_scenes
  options: {size: 24, count: [1, 2], scale: [1.2, 1.4], train: 24, validation: 8, test: 8}
teacher: {name: segmenter, arguments: {widths: [8, 12]}, train: {epochs: 1}}
student: {name: segmenter, arguments: {widths: [4, 8], separable: true}}
arms:
  ACAM-KD:
    - cross_entropy
    - {name: acam_kd, weight: 0.1, arguments: {student_taps: score, teacher_taps: score, num_masks: 11}}
    - {name: cwd, weight: 0.1, arguments: {student_taps: fuse, teacher_taps: fuse}}
seeds: [0]
training: {epochs: 2, batch_size: 8}
jobs: 1
"""


@pytest.mark.parametrize("cache", [False, True])
def test_a_config_teaches_a_segmenter_and_reports_mean_iou(tmp_path, cache):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(CONFIG), "cache": cache}))
    done = runner.invoke(app, ["distill", str(path), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "run/arms/ACAM-KD/seed-0"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    assert all(0 < record["adaptive_mask_distillation/spatial_mask"] < 1 for record in records)
    card = json.loads((folder / "card.json").read_text())["card"]
    assert card["task"] == "segmentation"
    assert 0 <= card["metrics"]["mean_iou"] <= 1
    assert "Mean IoU" in (tmp_path / "run" / "report.html").read_text()
