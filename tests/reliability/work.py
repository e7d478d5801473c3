"""What the children do: each function begins a job in a folder, or goes on with the one that is there."""

from __future__ import annotations

import sys
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
