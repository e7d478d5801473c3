"""A config whose objective reads inside teacher and student, run from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tutelage.config import DistillConfig, parse_config
from tutelage.files import read_tensors
from tutelage.models import load_model
from tutelage.run import resume_run, start_run

SMALL: dict[str, Any] = {
    "name": "features",
    "data": {"name": "digits"},
    "teacher": {
        "name": "convnet",
        "arguments": {"channels": [8, 16]},
        "train": {"epochs": 1, "batch_size": 256, "learning_rate": 0.01},
    },
    "student": {"name": "convnet", "arguments": {"channels": [4, 6]}},
    "objectives": [
        "cross_entropy",
        {
            "name": "feature_matching",
            "weight": 0.5,
            "arguments": {"student_taps": ["stage:0", "stage:-1"], "teacher_taps": ["stage1", "stage:-1"]},
        },
        {"name": "cwd", "arguments": {"student_taps": "stage2.convolution", "teacher_taps": "stage2.convolution"}},
    ],
    "training": {"epochs": 2, "batch_size": 256, "learning_rate": 0.01, "checkpoint_every": 2, "keep_checkpoints": 9},
    "assessment": {"robustness": False, "latency": False, "examples": 0},
    "seeds": [0],
    "jobs": 1,
}


def silent(line: str) -> None:
    pass


def config(**changes: Any) -> DistillConfig:
    return parse_config({**SMALL, **changes}, DistillConfig)


def trial(folder: Path) -> Path:
    return folder / "arms" / "student" / "seed-0"


def checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in (trial(folder) / "checkpoints").iterdir() if path.is_dir())


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        found.update({f"{path.stem}:{name}": value for name, value in read_tensors(path).items()})
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "features"
    start_run(config(), folder, announce=silent)
    return folder


def test_projectors_learn_and_are_in_the_checkpoint(finished: Path) -> None:
    first, *_, last = (tensors(folder) for folder in checkpoints(finished))
    projectors = [name for name in last if "projectors" in name]
    weights = {tuple(last[name].shape) for name in projectors if name.endswith("weight")}
    assert weights == {(8, 4, 1, 1), (16, 6, 1, 1)}
    assert len(projectors) == 6  # weight and bias of two pairs and of a third
    assert all(not torch.equal(first[name], last[name]) for name in projectors)


def test_the_student_that_is_saved_holds_the_student_only(finished: Path) -> None:
    saved = read_tensors(trial(finished) / "student.safetensors")
    student = load_model(finished)
    assert saved.keys() == student.state_dict().keys()
    assert student(torch.zeros(1, 1, 8, 8)).shape == (1, 10)
    assert sum(len(module._forward_hooks) for module in student.modules()) == 0


def test_a_resumed_run_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(finished, folder)
    middle, *later = checkpoints(folder)
    for path in later:
        shutil.rmtree(path)
    for name in ("card.json", "student.safetensors"):
        (trial(folder) / name).unlink()
    resume_run(folder, announce=silent)
    assert [path.name for path in checkpoints(folder)] == [path.name for path in checkpoints(finished)]
    ours, theirs = tensors(checkpoints(folder)[-1]), tensors(checkpoints(finished)[-1])
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert not all(torch.equal(value, theirs[name]) for name, value in tensors(middle).items())
    assert (trial(folder) / "student.safetensors").read_bytes() == (
        trial(finished) / "student.safetensors"
    ).read_bytes()


def test_a_cache_holds_the_teachers_features_and_teaches_the_same(finished: Path, tmp_path: Path) -> None:
    said: list[str] = []
    start_run(config(cache=True), tmp_path / "cached", announce=said.append)
    assert any("features.stage1, features.stage2.convolution, features.stage:-1" in line for line in said)
    ours, theirs = (
        read_tensors(trial(tmp_path / "cached") / "student.safetensors"),
        read_tensors(trial(finished) / "student.safetensors"),
    )
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4)
    other = config(cache=str(tmp_path / "cached" / "teacher-cache"), teacher=None, objectives=["feature_matching"])
    start_run(other, tmp_path / "held", announce=silent)
    other.arms["student"][0].arguments["teacher_taps"] = "stage1.convolution"
    other.arms["student"][0].arguments["student_taps"] = "stage1.convolution"
    with pytest.raises(
        ValueError, match=r"to hold `features.stage1.convolution` at 'stage1.convolution'.*it holds feat"
    ):
        start_run(other, tmp_path / "missing", announce=silent)


@pytest.mark.parametrize("kind", ["random", "moving_average"])
def test_other_teachers_are_tapped_too(kind: str, tmp_path: Path) -> None:
    teacher = {"kind": kind, "name": "convnet", "arguments": {"channels": [8, 8]}}
    start_run(
        config(teacher=teacher, training={"max_steps": 1, "batch_size": 64}, objectives=["feature_matching"]),
        tmp_path / kind,
        announce=silent,
    )


def test_taps_that_do_not_exist_are_found_before_anything_is_trained(tmp_path: Path) -> None:
    def objective(**arguments: str) -> dict[str, Any]:
        return {"name": "fitnet", "arguments": arguments}

    with pytest.raises(ValueError, match=r"no 'stage2.convolutoin' .*did you mean 'stage2.convolution'"):
        start_run(config(objectives=[objective(student_taps="stage2.convolutoin")]), tmp_path / "1", announce=silent)
    with pytest.raises(ValueError, match=r"which has 2 \(stage:0 to stage:1.*but got 'stage:2'"):
        start_run(config(objectives=[objective(teacher_taps="stage:2")]), tmp_path / "2", announce=silent)
    with pytest.raises(
        ValueError, match="Arm `student`: objective `fitnet` reads inside the teacher, which an ensemble"
    ):
        start_run(config(objectives=[objective()], teacher=[SMALL["teacher"]] * 2), tmp_path / "3", announce=silent)
    with pytest.raises(ValueError, match="`student_taps` and `teacher_taps` to have the same length"):
        start_run(
            config(objectives=[{"name": "fitnet", "arguments": {"student_taps": ["stage:0", "stage:1"]}}]),
            tmp_path / "4",
            announce=silent,
        )
