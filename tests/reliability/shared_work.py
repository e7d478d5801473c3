"""Distillations that several processes do together, and one alone; `torchrun -m` runs any number of them in a row."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

from tutelage.data import ArraySamples
from tutelage.features import FeatureMatching
from tutelage.files import read_tensors, write_json, write_tensors
from tutelage.objectives import CrossEntropy, KnowledgeDistillation, LinearRamp, Objective, Progress
from tutelage.teachers import MovingAverageTeacher
from tutelage.training import (
    Distillation,
    Interrupted,
    Monitor,
    MutualDistillation,
    Trainer,
    TrainingSettings,
    Weighted,
    evaluate_model,
)

ROOT = Path(__file__).parents[2]
WIDTH = 12


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.second = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.dropout(self.second(torch.relu(self.first(self.norm(inputs)))))


class Network(nn.Module):
    """Blocks between a stem and a head: PyTorch gathers shards block by block."""

    def __init__(self, width: int, seed: int, *, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Linear(6, width)
        self.blocks = nn.ModuleList([Block(width, dropout) for _ in range(3)])
        self.norm: nn.Module = nn.BatchNorm1d(width) if batch_norm else nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.stem(inputs)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def samples(count: int = 70) -> ArraySamples:
    """Three classes in six dimensions; 70 samples in batches of 23 leave a last batch of one."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 6, generator=generator)
    return ArraySamples(inputs, inputs[:, :3].argmax(dim=1))


class Reader(Monitor):
    """Looks at the student's weights and asks it, which only works while it is whole; sees that all are ordinary."""

    def __init__(self, student: nn.Module) -> None:
        self.student = student

    def on_record(self, record: dict[str, Any]) -> None:
        assert all(type(value) is nn.Parameter for value in self.student.parameters())
        assert not any("FSDP" in type(module).__name__ for module in self.student.modules())
        loss = self.student(torch.ones(2, 6)).square().sum()  # with a gradient, and on the main process alone
        loss.backward()
        self.student.zero_grad()
        record["weight_norm"] = sum(value.detach().square().sum().item() for value in self.student.parameters()) ** 0.5


def trainer(folder: Path | str | None, kind: str = "plain", dropout: float = 0.0, **settings: Any) -> Trainer:
    """The distillation `kind`, in a folder.

    `plain` has labels and logits; `features` adds taps in blocks with a projector that learns; `moving` has a moving
    average as its teacher; `tied` two blocks that share a weight; `mutual` two networks that teach each other; `norm` a
    batch normalisation.
    """
    data = samples()
    student = Network(WIDTH, 1, dropout=dropout, batch_norm=kind == "norm")
    teacher: Any = Network(16, 2).requires_grad_(False)
    if kind == "tied":
        student.blocks[1].first.weight = student.blocks[0].first.weight
    objectives: dict[str, Objective | Weighted] = {
        "label": CrossEntropy(),
        "teacher": Weighted(KnowledgeDistillation(alpha=1.0, temperature=2.0), LinearRamp(epochs=3)),
    }
    if kind == "features":
        taps = ["blocks.1.first", "blocks.2", "head:input"]
        objectives["features"] = Weighted(FeatureMatching(taps, taps), 0.5)
    if kind == "moving":
        teacher = MovingAverageTeacher(student, 0.9)
    method: Any = Distillation(teacher, student, objectives)
    if kind == "mutual":
        method = MutualDistillation([student, teacher.requires_grad_(True)], KnowledgeDistillation(alpha=1.0))
    chosen = {"epochs": 3, "batch_size": 23, "checkpoint_every": 3, "log_every": 2, "learning_rate": 0.01} | settings
    return Trainer(
        method,
        data,
        settings=TrainingSettings.model_validate(chosen),
        evaluate=lambda: evaluate_model(student, data),
        folder=folder,
        monitors=[Reader(student)],
    )


def carry_out(
    folder: Path,
    *,
    resume: bool = False,
    ends: int | None = None,
    rank: int = 0,
    number: int = signal.SIGKILL,
    **options: Any,
) -> None:
    """Run a distillation and write `final.safetensors`; or send the process `rank` a signal after step `ends`."""
    job: Any = trainer(folder, **options)
    method: Any = job.method
    parameters = list(method.student.parameters()) if "kind" not in options else []
    advance = method.after_step

    def after_step(progress: Progress) -> None:
        advance(progress)
        if progress.step == 2 and job.accelerator.process_index == 1:
            held = [value for owner, _ in job._optimizers.values() for value in states(owner)]
            write_json(folder / "held.json", {"values": sum(map(held_here, held)), "of": sum(map(Tensor.numel, held))})
        if progress.step == ends and job.accelerator.process_index == rank:
            os.kill(os.getpid(), number)

    method.after_step = after_step
    job.run(resume=resume)
    assert all(mine is now for mine, now in zip(parameters, method.student.parameters(), strict=False))
    assert all(type(value) is nn.Parameter and value.grad is None for value in method.student.parameters())
    if job.accelerator.is_main_process:
        write_tensors(folder / "final.safetensors", {**method.student.state_dict(), **method.objectives.state_dict()})


def states(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Parameters and the averages that an optimiser keeps of their gradients."""
    averages = [value for entry in optimizer.state.values() for value in entry.values() if value.ndim]
    return [*averages, *(value for group in optimizer.param_groups for value in group["params"])]


def held_here(value: Tensor) -> int:
    """How many of a tensor's values this process holds."""
    return (value.to_local() if hasattr(value, "to_local") else value).numel()


def launch(folder: Path, jobs: list[dict[str, Any]], *, processes: int) -> subprocess.CompletedProcess[str]:
    """Carry the jobs out in a row, by processes that torchrun starts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += ["--master-addr=127.0.0.1", f"--master-port={port}", "-m", __name__, str(folder), json.dumps(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=280)


def result(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """The records of a run, without its seconds, and what it learned."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        del record["seconds"]
    return records, read_tensors(folder / "final.safetensors")


def check_alike(one: Path, other: Path) -> None:
    """Two runs ended alike, but for the order in which float32 numbers were added up."""
    (ours, mine), (others, theirs) = result(one), result(other)
    assert [record["step"] for record in ours] == [record["step"] for record in others]
    for record, same in zip(ours, others, strict=True):
        assert record.keys() == same.keys()
        for name, value in record.items():
            assert abs(value - same[name]) <= 1e-4 * abs(value) + 1e-6, (other, record["step"], name, value, same[name])
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def main() -> None:
    """Carry out a list of distillations: a JSON list of options, each with a `name` for its folder."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for options in json.loads(sys.argv[2]):
        name, refused = options.pop("name"), options.pop("refused", False)
        environment = options.pop("environment", {})
        os.environ |= environment
        (folder / name).mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        try:
            carry_out(folder / name, **options)
        except Interrupted as stop:
            (folder / name / "stopped.txt").write_text(str(stop))
        except ValueError as error:
            if not refused:
                raise
            (folder / name / "refused.txt").write_text(str(error))
        for variable in environment:
            del os.environ[variable]
        if os.environ["RANK"] == "0":
            print(f"{name}: {time.monotonic() - started:.1f} s at {time.time():.1f}", flush=True)


if __name__ == "__main__":
    main()
