"""Our objectives in the trainers of TRL and `transformers`, whose loop, data and generation stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.objectives.positions import IGNORE_INDEX
from tutelage.teachers.teacher import Teacher
from tutelage.training.distillation import Distillation, Objectives

_INPUTS = ("input_ids", "attention_mask", "position_ids", "token_type_ids")


def use_objectives(trainer: Any, teacher: Teacher | nn.Module | None, objectives: Objectives) -> Any:
    """Make a trainer of TRL or `transformers` minimise our objectives.

    Replaces the trainer's `compute_loss`. It understands batches with `labels` (`SFTTrainer`, `Trainer` on language
    models) and batches of prompts with completions that the trainer has generated (`DistillationTrainer`). The mean
    over tokens is weighted by their number, so that gradient accumulation gives the loss of the whole batch.

        trainer = trl.SFTTrainer(student, args=arguments, train_dataset=texts, processing_class=tokenizer)
        use_objectives(trainer, teacher, KnowledgeDistillation(alpha=0.9, temperature=2.0)).train()

    Args:
        trainer: An instance; it is changed.
        teacher: A module (it is frozen and moved to the trainer's device), a `Teacher`, or None when no objective
            reads one.
        objectives: What is minimised, as for `Distillation`.

    Returns:
        The trainer.

    Raises:
        ValueError: An objective has parameters of its own, which the trainer's optimiser would not know, or reads the
            index of a sample, which the trainer's batches do not carry.
    """
    student = trainer.accelerator.unwrap_model(trainer.model)
    method = Distillation(teacher, student, objectives)
    for name, objective in method.objectives.items():
        if any(True for _ in objective.parameters()):
            raise ValueError(f"Expected objectives without parameters of their own, but `{name}` has some.")
        if "batch.index" in objective.reads:  # type: ignore[operator]
            raise ValueError(f"Expected objectives that do not read `batch.index`, but `{name}` does.")
    for module in method.modules().values():
        module.to(trainer.accelerator.device)

    def compute_loss(
        model: nn.Module, inputs: Mapping[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch = aligned_batch(inputs)
        method._student.model = model  # the wrapped one, so that gradients of several processes are joined
        loss: Tensor = sum(method.step(batch).values())  # type: ignore[assignment]
        own = inputs.get("num_items_in_batch")
        assert batch.target is not None
        if own is not None:
            processes = trainer.accelerator.num_processes
            loss = loss * (batch.target != IGNORE_INDEX).sum() * processes / torch.as_tensor(own).clamp(min=1)
        elif num_items_in_batch is not None:
            processes = trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else 1
            loss = loss * (batch.target != IGNORE_INDEX).sum() * processes / num_items_in_batch
        return (loss, {}) if return_outputs else loss

    trainer.compute_loss = compute_loss
    return trainer


def aligned_batch(inputs: Mapping[str, Any]) -> Batch:
    """A `Batch` from what a trainer of `transformers` or TRL hands to its loss.

    Args:
        inputs: `input_ids` with `labels` (not shifted), or `prompt_ids`, `prompt_mask`, `completion_ids` and
            `completion_mask` (and `tool_mask`, whose zeros are not learned).

    Returns:
        A batch whose targets are aligned with the logits; its index numbers the rows.

    Raises:
        ValueError: Neither form.

    >>> batch = aligned_batch({"input_ids": torch.tensor([[5, 6, 7]]), "labels": torch.tensor([[-100, 6, 7]])})
    >>> batch.target.tolist()
    [[6, 7, -100]]
    """
    if "completion_ids" in inputs:
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        learned = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        completion = inputs["completion_ids"].masked_fill(learned == 0, IGNORE_INDEX)
        labels = torch.cat([torch.full_like(inputs["prompt_ids"], IGNORE_INDEX), completion], dim=1)
        named: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask}
    elif "labels" in inputs and "input_ids" in inputs:
        labels = inputs["labels"]
        named = {name: inputs[name] for name in _INPUTS if inputs.get(name) is not None}
    else:
        listed = ", ".join(inputs)
        raise ValueError(f"Expected a batch with `labels` or with `completion_ids`, but got {listed}.")
    target = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)
    return Batch(named, target, torch.arange(len(target), device=target.device))
