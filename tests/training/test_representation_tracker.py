import json
import math

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tutelage import distill
from tutelage.assessment import diffusion_spectral_entropy, median_bandwidth
from tutelage.cli import app
from tutelage.data import ArraySamples
from tutelage.objectives import CrossEntropy, KnowledgeDistillation
from tutelage.training import Distillation, RepresentationTracker, Trainer, TrainingSettings


def samples(count=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.arange(count) % 3
    return ArraySamples(3 * torch.eye(3, 6)[target] + torch.randn(count, 6, generator=generator), target)


def network(seed=0, width=16):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Dropout(0.5), nn.Linear(width, 3))


def run(tracker, student=None, teacher=None, **options):
    objective = CrossEntropy() if teacher is None else KnowledgeDistillation(alpha=0.5)
    method = Distillation(teacher, network() if student is None else student, objective)
    settings = TrainingSettings(epochs=4, batch_size=32, learning_rate=0.01)
    trainer = Trainer(method, samples(), settings=settings, monitors=[tracker], folder=options.get("folder"))
    return trainer.run(resume=options.get("resume", False))


def test_logs_a_curve_and_leaves_the_run_alone():
    tracker = RepresentationTracker(samples=samples(90, seed=1), every=2, clusters=3, fixed_bandwidth=True)
    student, plain = network(), network()
    history = run(tracker, student)
    untracked = run(RepresentationTracker(samples=2, every=100), plain)
    names = {f"representation/embedding/{name}" for name in ("entropy", "label_information", "input_information")}
    assert [names <= set(record) for record in history] == [False, True, False, True]
    assert [look["step"] for look in tracker.curve] == [0, 8, 16]
    assert [record["loss"] for record in history] == [record["loss"] for record in untracked]
    first, last = tracker.curve[0], tracker.curve[-1]
    assert last["representation/embedding/entropy"] != first["representation/embedding/entropy"]
    assert last["representation/embedding/bandwidth"] == first["representation/embedding/bandwidth"]


@pytest.mark.parametrize("fixed", [True, False])
def test_values_are_those_of_the_functions(fixed):
    student, held_out = network(), samples(60, seed=2)
    tracker = RepresentationTracker("1", samples=held_out, time=2, fixed_bandwidth=fixed)
    run(tracker, student)
    before, after = (model.eval()[:2](held_out.inputs).detach() for model in (network(), student))
    bandwidth = median_bandwidth(before if fixed else after, factor=0.5)
    known = diffusion_spectral_entropy(after, bandwidth=bandwidth, time=2).item()
    assert tracker.curve[-1]["representation/1/bandwidth"] == pytest.approx(bandwidth)
    assert tracker.curve[-1]["representation/1/entropy"] == pytest.approx(known, rel=1e-5)


def test_teachers_can_be_watched():
    tracker = RepresentationTracker(["embedding", "teacher/embedding"], samples=40)
    teacher = network(seed=7, width=8)
    run(tracker, teacher=teacher)
    entropy = [look["representation/teacher/embedding/entropy"] for look in tracker.curve]
    assert len(set(entropy)) == 1
    assert entropy[0] > 0
    with pytest.raises(ValueError, match="'teacher' is none"):
        run(RepresentationTracker("teacher/embedding", samples=40))


@pytest.mark.parametrize("place", ["0", "1"])
def test_maps_are_taken_as_means_over_positions(place):
    student = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    images = ArraySamples(torch.rand(30, 1, 8, 8), torch.arange(30) % 2)
    tracker = RepresentationTracker(place, samples=images)
    method = Distillation(None, student, CrossEntropy())
    Trainer(method, images, settings=TrainingSettings(epochs=1), monitors=[tracker]).run()
    assert tracker._representations(*tracker._places[0]).shape == (30, 4)


def test_a_resumed_run_keeps_its_bandwidth(tmp_path):
    first = RepresentationTracker(samples=60, fixed_bandwidth=True)
    run(first, folder=tmp_path)
    again = RepresentationTracker(samples=60, fixed_bandwidth=True)
    run(again, folder=tmp_path, resume=True)
    assert again._bandwidths == first._bandwidths
    assert again.curve == first.curve[1:]


def test_collapsed_and_broken_layers_do_not_stop_a_run():
    student = network()
    with torch.no_grad():
        student[0].weight.zero_()
        student[0].bias.fill_(-1.0)
    tracker = RepresentationTracker(samples=30)
    run(tracker, student)
    assert math.isnan(tracker.curve[0]["representation/embedding/entropy"])


def test_what_has_no_labels_or_no_reals_is_left_out():
    held_out = ArraySamples(torch.randn(30, 6))
    tracker = RepresentationTracker(samples=held_out)
    run(tracker)
    assert set(tracker.curve[0]) == {"step"} | {
        f"representation/embedding/{name}" for name in ("entropy", "input_information", "bandwidth")
    }


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"layers": ()}, "at least one layer"),
        ({"every": 0}, "`every` to be at least 1"),
        ({"samples": 1}, "`samples` to be at least 2"),
        ({"bandwidth_factor": 0.0}, "`bandwidth_factor` to be positive"),
        ({"clusters": 1}, "`clusters` to be at least 2"),
        ({"time": -1.0}, "`time` to be positive"),
    ],
)
def test_bad_settings(arguments, text):
    with pytest.raises(ValueError, match=text):
        RepresentationTracker(**arguments)


def test_held_out_samples_are_taken_in_one_call():
    tracker = RepresentationTracker(samples=20)
    distill(None, network(), samples(), samples(50, seed=3), objectives="cross_entropy", epochs=1, monitors=[tracker])
    assert tracker._asked.fingerprint() != samples().fingerprint()
    assert len(tracker._asked) == 20


def test_a_config_names_it_and_the_curve_is_in_the_metrics(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text(
        """
        data: digits
        teacher: null
        objectives: [cross_entropy]
        student: {name: mlp, arguments: {hidden: [8]}}
        training: {epochs: 1}
        seeds: [0]
        assessment: {robustness: false, latency: false}
        monitors: [{name: representation, arguments: {samples: 60}}]
        """
    )
    done = CliRunner().invoke(app, ["distill", str(config), "--out", str(tmp_path / "run"), "--jobs", "1"])
    assert done.exit_code == 0, done.output
    lines = next((tmp_path / "run").rglob("metrics.jsonl")).read_text().splitlines()
    assert json.loads(lines[-1])["representation/embedding/entropy"] > 0
