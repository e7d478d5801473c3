"""The task as a plain PyTorch loop over tensors in memory, with losses as one writes them by hand."""

from __future__ import annotations

import torch

from benchmarks.peer_runs.tasks import (
    LEARNING_RATE,
    Losses,
    Prepared,
    Task,
    classic,
    dist,
    jensen_shannon,
    serve,
    taught,
)


def prepare(task: Task) -> Prepared:
    """Networks, data and optimiser, and the loop."""
    if isinstance(task, Losses):
        return task.prepared({"classic": classic, "dist": dist, "jensen_shannon": jensen_shannon}[task.kind])
    teacher, student = task.networks()
    inputs, target = task.data()
    optimizer = torch.optim.AdamW(student.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def run() -> None:
        student.train()
        for _ in range(task.epochs):
            for rows in torch.arange(task.samples).split(task.batch_size):
                task.loss(student, teacher, inputs[rows], target[rows]).backward()
                optimizer.step()
                optimizer.zero_grad()

    return taught(task, run, student)


if __name__ == "__main__":
    serve(prepare)
