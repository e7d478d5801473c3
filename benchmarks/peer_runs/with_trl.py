"""The task by TRL's `GKDTrainer` with no responses of the student's own (`lmbda=0`), over tokens that are ready."""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from trl.experimental.gkd import GKDConfig, GKDTrainer

from benchmarks.peer_runs.tasks import BETA, LEARNING_RATE, Losses, Prepared, Texts, serve, taught
from tutelage.data import train_bpe


def prepare(task: Texts | Losses) -> Prepared:
    """A trainer that does not shuffle, clip, log or save; or its loss alone."""
    if isinstance(task, Losses):
        return task.prepared(partial(GKDTrainer.generalized_jsd_loss, beta=BETA))
    teacher, student = task.networks()
    tokens, labels = task.data()
    rows = Dataset.from_dict({"input_ids": tokens.numpy(), "labels": labels.numpy()}).with_format("torch")
    arguments = GKDConfig(
        tempfile.gettempdir(),
        lmbda=0.0,
        beta=BETA,
        num_train_epochs=task.epochs,
        per_device_train_batch_size=task.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        weight_decay=0.0,
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GKDTrainer(
        student,
        teacher,
        args=arguments,
        data_collator=stacked,
        train_dataset=rows,
        processing_class=train_bpe(["text"], task.vocabulary),
    )
    return taught(task, trainer.train, student)


def stacked(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of rows of one length."""
    batch = {name: torch.stack([row[name] for row in rows]) for name in ("input_ids", "labels")}
    return {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}


if __name__ == "__main__":
    serve(prepare)
