"""Quick metrics on held-out samples, for learning curves and early stopping; the report card has the full set."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data.samples import Samples, Task
from tutelage.models.call import call_model


@torch.no_grad()
def evaluate_model(
    model: nn.Module,
    samples: Samples,
    *,
    task: Task = "classification",
    batch_size: int = 512,
    prefix: str = "validation_",
) -> dict[str, float]:
    """Loss and accuracy (or error) of a model in evaluation mode; its mode is given back afterwards.

    Args:
        model: The model to ask, on its own device.
        samples: What it is asked about.
        task: `classification`, `causal_lm` and `segmentation` give mean cross-entropy in nats and accuracy (over
            positions whose target is not -100); `regression` gives mean squared and mean absolute error.
        batch_size: Samples a call.
        prefix: Put in front of every metric's name.

    Returns:
        `{prefix}loss` and `{prefix}accuracy` or `{prefix}mean_absolute_error`.
    """
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    loss = hits = count = 0.0
    try:
        for rows in torch.split(torch.arange(len(samples)), batch_size):
            batch = samples.batch(rows).to(device)
            logits, target = call_model(model, batch.inputs).logits, batch.target
            if logits is None or target is None:
                raise ValueError("Expected the model to give logits and the samples to have targets.")
            batch_loss, batch_hits, batch_count = _sums(logits.float(), target, task)
            loss, hits, count = loss + batch_loss, hits + batch_hits, count + batch_count
    finally:
        model.train(mode)
    second = "mean_absolute_error" if task == "regression" else "accuracy"
    return {f"{prefix}loss": loss / max(1.0, count), f"{prefix}{second}": hits / max(1.0, count)}


def _sums(logits: Tensor, target: Tensor, task: Task) -> tuple[float, float, float]:
    if task == "regression":
        difference = logits.reshape(target.shape) - target
        return difference.square().sum().item(), difference.abs().sum().item(), float(target.numel())
    logits, target = logits.reshape(-1, logits.shape[-1]), target.reshape(-1)
    loss = F.cross_entropy(logits, target, ignore_index=-100, reduction="sum").item()
    counted = target != -100
    return loss, (logits.argmax(dim=-1) == target)[counted].sum().item(), float(counted.sum().item())
