"""One batch, as it travels from the data to the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

Inputs = Tensor | dict[str, Tensor]
"""What a model is called with: one tensor (`model(inputs)`) or named tensors (`model(**inputs)`)."""


@dataclass(slots=True)
class Batch:
    """A batch of samples.

    Attributes:
        inputs: What the model is called with: a tensor, or a dict of tensors passed by name.
        target: Labels: `[batch]` classes, `[batch]` reals, or `[batch, time]` tokens. Sequence targets are already
            aligned with the logits (`target[:, t]` is what position `t` should predict); -100 marks positions to skip.
        index: `[batch]` int64: the stable index of every sample in its data set; keys of teacher caches and of
            per-sample state. The same sample has the same index in every epoch, order and process.
        extras: More per-sample tensors by name (sensitivities, masks, costs …), each `[batch, …]`. Those whose names
            begin with `teacher.` are what the teacher reads in place of `inputs` (another tokenizer's ids, another
            view); several networks read each their own in this way (`inputs_for`).

    >>> batch = Batch(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.arange(4))
    >>> len(batch), batch.to("cpu").target.tolist()
    (4, [0, 1, 0, 1])
    """

    inputs: Inputs
    target: Tensor | None
    index: Tensor
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index)

    @property
    def teacher_inputs(self) -> Inputs:
        """What a teacher is called with: the extras `teacher.NAME` by their names, or the student's inputs.

        >>> ids = torch.ones(1, 3, dtype=torch.int64)
        >>> batch = Batch({"input_ids": ids}, None, torch.arange(1), {"teacher.input_ids": ids[:, :2]})
        >>> {name: tuple(value.shape) for name, value in batch.teacher_inputs.items()}
        {'input_ids': (1, 2)}
        """
        return self.inputs_for("teacher")

    def inputs_for(self, reader: str) -> Inputs:
        """What a network of that name is called with: the extras `READER.NAME` by their names, or the inputs.

        >>> batch = Batch(torch.zeros(2, 4), None, torch.arange(2), {"auxiliary.input": torch.ones(2, 3)})
        >>> tuple(batch.inputs_for("auxiliary")["input"].shape), tuple(batch.inputs_for("student").shape)
        ((2, 3), (2, 4))
        """
        start = f"{reader}."
        return {
            name[len(start) :]: value for name, value in self.extras.items() if name.startswith(start)
        } or self.inputs

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """The same batch on another device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, **options)

        inputs: Inputs
        if isinstance(self.inputs, Mapping):
            inputs = {name: move(value) for name, value in self.inputs.items()}
        else:
            inputs = move(self.inputs)
        return replace(
            self,
            inputs=inputs,
            target=None if self.target is None else move(self.target),
            index=move(self.index),
            extras={name: move(value) for name, value in self.extras.items()},
        )

    def split(self, size: int) -> list[Batch]:
        """Consecutive parts of at most `size` samples."""
        return [self.take(slice(start, start + size)) for start in range(0, len(self), size)]

    def take(self, rows: slice | Tensor) -> Batch:
        """The given rows as a batch."""
        return Batch(
            inputs={name: value[rows] for name, value in self.inputs.items()}
            if isinstance(self.inputs, Mapping)
            else self.inputs[rows],
            target=None if self.target is None else self.target[rows],
            index=self.index[rows],
            extras={name: value[rows] for name, value in self.extras.items()},
        )
