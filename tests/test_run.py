from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tutelage.config import DistillConfig, parse_config
from tutelage.files import read_tensors
from tutelage.models import load_model
from tutelage.run import free_folder, resume_run, start_run

SMALL = {
    "name": "small",
    "data": {"name": "iris"},
    "teacher": {"name": "mlp", "arguments": {"hidden": [16]}, "train": {"epochs": 20, "learning_rate": 0.01}},
    "student": {"name": "mlp", "arguments": {"hidden": [4]}},
    "arms": {"label": ["cross_entropy"], "teacher": ["pld"]},
    "training": {"epochs": 6, "learning_rate": 0.01},
    "seeds": [0, 1],
    "jobs": 1,
}


def config(**changes: object) -> DistillConfig:
    return parse_config({**SMALL, **changes}, DistillConfig)


def silent(line: str) -> None:
    pass


def weights(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(path.relative_to(folder)): read_tensors(path) for path in sorted(folder.rglob("student.safetensors"))}


def same(ours: dict[str, dict[str, torch.Tensor]], theirs: dict[str, dict[str, torch.Tensor]]) -> bool:
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[path][name]) for path, tensors in ours.items() for name, value in tensors.items()
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "small"
    start_run(config(), folder, announce=silent)
    return folder


def test_a_run_is_a_folder_with_everything(finished: Path) -> None:
    for name in (
        "config.yaml",
        "environment.json",
        "report.html",
        "report.json",
        "student.safetensors",
        "student.json",
        "metrics.jsonl",
    ):
        assert (finished / name).is_file(), name
    for arm in ("label", "teacher"):
        for seed in (0, 1):
            assert (finished / "arms" / arm / f"seed-{seed}" / "student.safetensors").is_file()
    report = json.loads((finished / "report.json").read_text())
    assert [arm["name"] for arm in report["arms"]] == ["label", "teacher"]
    assert report["teacher"]["metrics"]["accuracy"] > 0.8
    assert report["comparisons"][0]["arm"] == "teacher"
    assert report["summary"]
    assert load_model(finished)(torch.zeros(1, 4)).shape == (1, 3)


def test_the_best_student_is_chosen_on_validation(finished: Path) -> None:
    def last(path: Path) -> float:
        return float(json.loads(path.read_text())["history"][-1]["validation_accuracy"])

    means = {
        arm: sum(last(finished / f"arms/{arm}/seed-{seed}/card.json") for seed in (0, 1))
        for arm in ("label", "teacher")
    }
    arm = max(means, key=lambda name: means[name])
    candidates = [read_tensors(finished / f"arms/{arm}/seed-{seed}/student.safetensors") for seed in (0, 1)]
    best = read_tensors(finished / "student.safetensors")
    assert any(all(torch.equal(best[name], tensors[name]) for name in best) for tensors in candidates)


def test_a_second_run_in_the_folder_is_refused_and_a_new_one_gets_another(finished: Path) -> None:
    with pytest.raises(FileExistsError, match="holds a run already"):
        start_run(config(), finished, announce=silent)
    assert free_folder("small", finished.parent).name == "small-2"


def test_resuming_teaches_only_what_is_missing_and_changes_nothing(finished: Path) -> None:
    before = weights(finished)
    (finished / "arms/teacher/seed-1/card.json").unlink()
    lines: list[str] = []
    resume_run(finished, announce=lines.append)
    assert [line[:5] for line in lines] == ["[4/4]"]
    assert same(before, weights(finished))


def test_workers_give_the_bits_of_one_process(finished: Path, tmp_path: Path) -> None:
    start_run(config(jobs=2), tmp_path / "parallel", announce=silent)
    assert same(weights(finished), weights(tmp_path / "parallel"))


def test_a_cached_teacher_gives_the_bits_of_a_live_one(finished: Path, tmp_path: Path) -> None:
    start_run(config(cache=True), tmp_path / "cached", announce=silent)
    assert (tmp_path / "cached" / "teacher-cache" / "manifest.json").is_file()
    live, cached = weights(finished), weights(tmp_path / "cached")
    for path, tensors in live.items():
        for name, value in tensors.items():
            torch.testing.assert_close(value, cached[path][name], rtol=1e-4, atol=1e-5)


def test_monitors_of_the_config_watch_every_student(tmp_path: Path) -> None:
    watching = {"name": "teacher_hacking", "arguments": {"fit_window": [0.1, 0.6], "metric": "loss"}}
    changes = {"monitors": [watching], "arms": {"a": ["cross_entropy"]}, "seeds": [0, 1], "teacher": None}
    start_run(config(**changes, training={"epochs": 10, "learning_rate": 0.01}), tmp_path / "run", announce=silent)
    for seed in (0, 1):
        lines = (tmp_path / f"run/arms/a/seed-{seed}/metrics.jsonl").read_text().splitlines()
        expected = [json.loads(line).get("power_law/expected") for line in lines]
        assert expected[:6] == [None] * 6
        assert all(value > 0 for value in expected[6:])


@pytest.mark.parametrize(
    "teacher",
    [
        None,
        [
            {"name": "mlp", "train": {"epochs": 2}},
            {"name": "mlp", "arguments": {"hidden": [3]}, "train": {"epochs": 2}},
        ],
        {"name": "mlp", "kind": "random"},
        {"name": "mlp", "kind": "moving_average", "decay": 0.9},
    ],
    ids=["none", "ensemble", "random", "moving average"],
)
def test_every_kind_of_teacher(tmp_path: Path, teacher: object) -> None:
    arms = {"a": ["cross_entropy"] if teacher is None else ["cross_entropy", "forward_kl"]}
    report = start_run(config(teacher=teacher, arms=arms, seeds=[0]), tmp_path / "run", announce=silent)
    assert (report.teacher is not None) == isinstance(teacher, list)
    assert report.arms[0].cards[0].metrics["accuracy"] > 0.3


ONLINE = {
    "teacher": {"name": "mlp", "arguments": {"hidden": [16]}, "kind": "online"},
    "method": "mutual",
    "arms": {"balanced": ["cross_entropy", "balanced_divergence"]},
}


def test_a_teacher_that_learns_with_the_student_is_kept_beside_it(tmp_path: Path) -> None:
    start_run(config(**ONLINE), tmp_path, announce=silent)
    trial = tmp_path / "arms" / "balanced" / "seed-1"
    teacher = load_model(trial / "teacher")
    assert teacher(torch.zeros(1, 4)).shape == (1, 3)
    card = json.loads((trial / "card.json").read_text())
    assert "teacher_agreement" in card["card"]["metrics"]
    assert "loss/teacher/forward_kl" in card["history"][-1]
    assert card["history"][-1]["loss/teacher/cross_entropy"] < card["history"][0]["loss/teacher/cross_entropy"]
    assert "kind: online" in (tmp_path / "config.yaml").read_text()


def test_students_that_are_attacked_learn_from_any_objective(tmp_path: Path) -> None:
    attack = {"radius": 0.05, "steps": 2, "bounds": [-float("inf"), float("inf")]}
    arms = {"robust": ["trades"], "taught": [{"name": "trades", "weight": 0.5}, "forward_kl"]}
    method = {"name": "adversarial", "arguments": attack}
    start_run(config(method=method, arms=arms, seeds=[0]), tmp_path, announce=silent)
    card = json.loads((tmp_path / "arms" / "taught" / "seed-0" / "card.json").read_text())
    for name in ("loss/trades_loss", "loss/forward_kl"):
        assert card["history"][-1][name] < card["history"][0][name]
    assert "bounds" in (tmp_path / "config.yaml").read_text()


def test_several_teachers_learn_with_the_student_from_where_their_own_training_ended(tmp_path: Path) -> None:
    trained = {"name": "mlp", "kind": "online", "train": {"epochs": 2}}
    start_run(config(**{**ONLINE, "teacher": [trained, ONLINE["teacher"]], "seeds": [0]}), tmp_path, announce=silent)
    trial = tmp_path / "arms" / "balanced" / "seed-0"
    before, after = (
        read_tensors(tmp_path / "teacher" / "model.safetensors"),
        read_tensors(trial / "teacher" / "model.safetensors"),
    )
    assert before.keys() == after.keys()
    assert not any(torch.equal(value, after[name]) for name, value in before.items())
    assert (trial / "teacher-2").is_dir()


def test_regression(tmp_path: Path) -> None:
    changes = {"data": "diabetes", "arms": {"error": ["mean_squared_error"]}, "seeds": [0]}
    report = start_run(config(**changes), tmp_path / "run", announce=silent)
    assert report.arms[0].cards[0].metrics["mean_absolute_error"] > 0


def test_what_can_not_work_is_found_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Arm `a`: objective `pld` needs a teacher"):
        start_run(config(teacher=None, arms={"a": ["pld"]}), tmp_path / "one", announce=silent)
    assert not (tmp_path / "one").exists()
    with pytest.raises(ValueError, match="did you mean 'mlp'"):
        start_run(config(student="mpl"), tmp_path / "two", announce=silent)
    assert not (tmp_path / "one" / "teacher").exists()
    assert not (tmp_path / "two" / "teacher").exists()


def command(folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "tutelage", "distill", *more, str(folder)]


def test_killed_or_interrupted_a_run_goes_on_with_the_same_bits(tmp_path: Path, finished: Path) -> None:
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "jobs": 2, "training": {**SMALL["training"], "checkpoint_every": 3}}))  # type: ignore[dict-item]
    folder = tmp_path / "run"
    first = subprocess.Popen(
        [*command(folder, str(path), "--out")], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("arms/*/*/checkpoints/step-*")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    second = subprocess.Popen(
        command(folder, "--resume"),
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
    )
    assert second.stdout is not None
    assert second.stdout.readline().startswith("Teaching")
    time.sleep(1.0)
    second.send_signal(signal.SIGINT)
    _, error = second.communicate(timeout=120)
    if second.returncode == 130:
        assert f"Go on with: tutelage distill --resume {folder}" in error
    done = subprocess.run(command(folder, "--resume"), capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "Report:" in done.stdout
    assert same(weights(finished), weights(folder))
