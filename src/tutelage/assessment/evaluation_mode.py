"""Evaluation mode for the length of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def evaluation_mode(*models: object) -> Iterator[None]:
    """Put modules into evaluation mode, then give every sub-module the mode it had; what is no module is passed over.

    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluation_mode(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    before = [(part, part.training) for model in models if isinstance(model, nn.Module) for part in model.modules()]
    try:
        for part, _ in before:
            part.training = False
        yield
    finally:
        for part, training in before:
            part.training = training


def device_of(model: object) -> torch.device:
    """Where a model's parameters (or buffers) are; the CPU for one that has none.

    >>> device_of(nn.Linear(2, 2))
    device(type='cpu')
    """
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")
