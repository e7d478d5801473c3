"""What the children do: each function begins a job in a folder, or goes on with the one that is there."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import torch


def command(*arguments: str) -> None:
    """The command line."""
    from tutelage.cli import main

    sys.argv = ["tutelage", *arguments]
    main()


def distill(config: str, folder: str) -> None:
    """`tutelage distill`: a new run, or the one in the folder."""
    begun = (Path(folder) / "config.yaml").exists()
    command("distill", *(["--resume", folder] if begun else [config, "--out", folder]))


def search(teacher: str, folder: str) -> None:
    """`tutelage search`, which goes on by itself."""
    options = ["--space", "perceptron", "--space-option", "widths=[4, 8, 16]", "--space-option", "layers=2"]
    options += ["--budget", "200", "--evaluations", "12", "--finalists", "3", "--epochs", "1", "--seeds", "2"]
    command("search", "--teacher", teacher, "--data", "iris", *options, "--jobs", "1", "--out", folder)


def compare(config: str, folder: str) -> None:
    """`tutelage compare`: a new comparison, or the one in the folder."""
    begun = (Path(folder) / "config.yaml").exists()
    command("compare", *(["--resume", folder] if begun else [config, "--out", folder]))


def cache(folder: str) -> None:
    """`build_cache` in small shards, which goes on by itself."""
    from tutelage.data import load_data
    from tutelage.models import mlp
    from tutelage.teachers import FrozenTeacher, build_cache

    torch.manual_seed(0)
    teacher = FrozenTeacher(mlp(64, 10, hidden=(32,)), embedding=True)
    samples = load_data("digits", flat=True).train
    build_cache(teacher, samples, folder, signals=("logits", "embedding"), shard_size=32, batch_size=32)


def checkpoint(folder: str, step: int, value: float) -> None:
    """`save_checkpoint`, with everything in it equal to `value`."""
    from tutelage.training.checkpoints import Checkpoint, save_checkpoint

    tensors = {"student.weight": torch.full((64, 64), value), "student.bias": torch.full((64,), value)}
    state = {"history": [{"loss": value}] * step, "random": torch.full((32,), value)}
    save_checkpoint(folder, Checkpoint(step, tensors, state))


def told(call: str, *arguments: str) -> None:
    """A call of this file as the command line would make it: an error that a person can mend is one line."""
    try:
        globals()[call](*arguments)
    except (ValueError, OSError) as error:
        print(f"tutelage: {error}", file=sys.stderr)
        sys.exit(2)


def distill_and_stay(config: str, folder: str) -> None:
    """`tutelage distill` that stays in its first student for good."""
    from tutelage import teaching

    teaching.Trainer.run = lambda self, *, resume=False: _stay(self.folder)  # type: ignore[method-assign]
    (Path(folder) / "teacher").mkdir(parents=True)
    distill(config, folder)


def _stay(folder: Path) -> list[dict[str, float]]:
    (folder.parent / "arms").mkdir(exist_ok=True)
    time.sleep(600)
    return []


def with_a_jumping_clock(call: str, *arguments: str) -> None:
    """A call of this file while the wall clock jumps back by an hour, and forth again, at every other look."""
    looks = itertools.count()
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() - 3600 * (next(looks) % 2)  # type: ignore[assignment]
    time.time_ns = lambda: real_ns() - 3600 * 10**9 * (next(looks) % 2)  # type: ignore[assignment]
    globals()[call](*arguments)


def train_with_a_hanging_tracker(folder: str, moment: str) -> None:
    """A small run with a tracker that never comes back from one of its methods."""
    from accelerate import tracking
    from torch import nn

    from tutelage.data import load_data
    from tutelage.objectives import CrossEntropy
    from tutelage.training import Distillation, Trainer, TrainingSettings, trackers

    class Hanging(tracking.GeneralTracker):  # type: ignore[misc]
        name = "trackio"
        requires_logging_directory = False

        def __init__(self, run_name: str, **options: object) -> None:
            super().__init__()

        @property
        def tracker(self) -> None:
            return None

        def start(self) -> None:
            pass

        def store_init_configuration(self, values: object) -> None:
            _hang_if(moment == "begin")

        def log(self, values: object, step: int | None = None, **options: object) -> None:
            _hang_if(moment == "log")

        def finish(self) -> None:
            _hang_if(moment == "end")

    tracking.LOGGER_TYPE_TO_CLASS["trackio"] = Hanging
    trackers.PATIENCE = 0.5
    settings = TrainingSettings(epochs=4, trackers=("trackio",))
    method = Distillation(None, nn.Linear(4, 3), CrossEntropy())
    Trainer(method, load_data("iris").train, settings=settings, folder=folder).run()


def _hang_if(wanted: bool) -> None:
    if wanted:
        time.sleep(600)
