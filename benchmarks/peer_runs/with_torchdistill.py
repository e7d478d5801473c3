"""The task by torchdistill's `DistillationBox`, configured and driven as in its own examples."""

from __future__ import annotations

import logging
import sys

import torch
from torch import Tensor
from torch.utils.data import SequentialSampler, TensorDataset

from benchmarks.peer_runs.tasks import ALPHA, LEARNING_RATE, TEMPERATURE, Classes, Losses, Prepared, serve, taught

try:
    import torchvision  # type: ignore[import-not-found]  # noqa: F401 - torchdistill imports it
except RuntimeError:
    # A torchvision for GPUs beside a PyTorch for CPUs: its compiled operators do not load, and nothing here calls one.
    # All that its import asks of them is that these two have been declared.
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from torchdistill.core.distillation import get_distillation_box  # type: ignore[import-not-found]
from torchdistill.losses.registry import get_mid_level_loss  # type: ignore[import-not-found]

PLACES = {
    "student_module_path": ".",
    "student_module_io": "output",
    "teacher_module_path": ".",
    "teacher_module_io": "output",
}
KD = {"key": "KDLoss", "kwargs": {**PLACES, "temperature": TEMPERATURE, "alpha": 1 - ALPHA, "reduction": "batchmean"}}
DIST = {"key": "DISTLoss", "kwargs": {**PLACES, "beta": 1.0, "gamma": 1.0, "tau": 1.0}}
"""Losses as its configurations name them; the α of its classic loss weighs the labels."""


def prepare(task: Classes | Losses) -> Prepared:
    """A box with the classic loss, AdamW, and batches in order."""
    logging.disable(logging.INFO)
    if isinstance(task, Losses):
        criterion = get_mid_level_loss(KD if task.kind == "classic" else DIST)

        def loss(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
            value: Tensor = criterion({".": {"output": student}}, {".": {"output": teacher}}, target)
            return value

        return task.prepared(loss)
    teacher, student = task.networks()
    model = {"forward_proc": "forward_batch_only", "sequential": [], "frozen_modules": []}
    config = {
        "num_epochs": task.epochs,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": SequentialSampler, "kwargs": {}},
            "kwargs": {"batch_size": task.batch_size, "num_workers": 0, "drop_last": False},
        },
        "teacher": {**model, "requires_grad": False},
        "student": {**model, "requires_grad": True},
        "optimizer": {"key": "AdamW", "kwargs": {"lr": LEARNING_RATE, "weight_decay": 0.0, "fused": True}},
        "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": KD, "weight": 1.0}}}},
    }
    data = {"train": TensorDataset(*task.data())}
    box = get_distillation_box(teacher, student, data, config, torch.device("cpu"), None, False, 1)

    def run() -> None:
        for epoch in range(box.num_epochs):
            box.pre_epoch_process(epoch=epoch)
            for batch, target, extra in box.train_data_loader:
                box.pre_forward_process()
                value = box.forward_process(batch, target, extra)
                box.post_forward_process(loss=value)
            box.post_epoch_process()
        box.clean_modules()

    return taught(task, run, student)


if __name__ == "__main__":
    serve(prepare)
