"""The exponential moving average of a model, and the teacher that it makes (mean teacher)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_in_range, check_option
from tutelage.teachers.frozen import FrozenTeacher

BufferPolicy = Literal["copy", "average", "ignore"]
"""What happens to buffers (running statistics, counters): see `ExponentialMovingAverage`."""


class ExponentialMovingAverage(nn.Module):
    """A copy of a model that follows it slowly: θ' ← m·θ' + (1 − m)·θ (Tarvainen and Valpola 2017, section 2).

    The copy starts as the model itself, keeps the model's mode, and takes no gradient. Parameters in half precision
    are averaged, and kept, in float32: at m = 0.999 an update is below the rounding error of float16 and bfloat16, and
    the average would never move.

    Args:
        model: What is averaged; it is copied, never changed.
        momentum: m, in [0, 1]: 1 never moves, 0 copies.
        buffers: `"copy"`: all buffers are the model's newest; `"average"`: floating-point buffers are averaged like
            parameters, others copied; `"ignore"`: they stay as they were in the beginning (models that always
            normalise with the batch's own statistics).

    Attributes:
        module: The average, of the model's own class.

    Raises:
        ValueError: A momentum outside [0, 1], an unknown policy, or an update from a model of another shape.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> average = ExponentialMovingAverage(model, momentum=0.75)
    >>> with torch.no_grad():
    ...     _ = average.module.weight.fill_(0.0), model.weight.fill_(1.0)
    >>> average.update(model)
    >>> average.module.weight.item()
    0.25
    """

    def __init__(self, model: nn.Module, *, momentum: float = 0.999, buffers: BufferPolicy = "copy") -> None:
        super().__init__()
        check_in_range(momentum, "momentum", 0.0, 1.0)
        check_option(buffers, "buffers", ("copy", "average", "ignore"))
        self.momentum = momentum
        self.buffer_policy = buffers
        self.module = copy.deepcopy(model).requires_grad_(False)
        for parameter in self.module.parameters():
            if parameter.dtype in (torch.float16, torch.bfloat16):
                parameter.data = parameter.data.float()

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Call the average as the model is called."""
        return self.module(*arguments, **named)

    @torch.no_grad()
    def update(self, model: nn.Module, *, momentum: float | None = None) -> None:
        """Move the average towards the model; call it after the optimiser's step.

        Args:
            model: The model now, with the parameters of the one that was copied, in the same order (a wrapper such as
                `DistributedDataParallel` will do).
            momentum: Replaces the stored momentum for this update only.
        """
        if momentum is None:
            momentum = self.momentum
        check_in_range(momentum, "momentum", 0.0, 1.0)
        averaged = list(_pairs(self.module.parameters(), model.parameters(), "parameter"))
        copied: list[tuple[Tensor, Tensor]] = []
        if self.buffer_policy != "ignore":
            buffers = list(_pairs(self.module.buffers(), model.buffers(), "buffer"))
            (copied if self.buffer_policy == "copy" else averaged).extend(buffers)
        copied += [pair for pair in averaged if not pair[0].is_floating_point()]
        averaged = [pair for pair in averaged if pair[0].is_floating_point()]
        if averaged:
            slow = [mine for mine, _ in averaged]
            torch._foreach_lerp_(slow, [new.to(mine.device, mine.dtype) for mine, new in averaged], 1.0 - momentum)
        for mine, new in copied:
            mine.copy_(new)


class MovingAverageTeacher(FrozenTeacher):
    """The moving average of a student as its teacher (mean teacher, Tarvainen and Valpola 2017).

    Evaluation mode always; call `update()` after every step of the student's optimiser.

    Args:
        student: The model that is followed. It is referred to, not held: it is no sub-module of the teacher.
        decay: The momentum m of `ExponentialMovingAverage`.
        buffers: The buffer policy of `ExponentialMovingAverage`.
        embedding: Also give `Outputs.embedding`.
        taps: Also give `Outputs.features`: module paths by feature name.

    >>> student = nn.Linear(2, 3)
    >>> teacher = MovingAverageTeacher(student, decay=0.0)
    >>> _ = nn.init.ones_(student.weight)
    >>> teacher.update()
    >>> torch.equal(teacher.model.weight, student.weight), len(list(teacher.parameters()))
    (True, 2)
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float = 0.999,
        *,
        buffers: BufferPolicy = "copy",
        embedding: bool = False,
        taps: Mapping[str, str] | None = None,
    ) -> None:
        average = ExponentialMovingAverage(student, momentum=decay, buffers=buffers)
        super().__init__(average.module, embedding=embedding, taps=taps)
        self._average = (average,)  # tuples hide from module registration: the model is held once, the student never
        self._student = (student,)

    def update(self, student: nn.Module | None = None, *, decay: float | None = None) -> None:
        """Move towards the student.

        Args:
            student: The student now, where it is no longer the object that was given first.
            decay: Replaces the stored decay for this update only.
        """
        self._average[0].update(self._student[0] if student is None else student, momentum=decay)


def _pairs(mine: Iterable[Tensor], new: Iterable[Tensor], kind: str) -> Iterable[tuple[Tensor, Tensor]]:
    mine, new = list(mine), list(new)
    if [value.shape for value in mine] != [value.shape for value in new]:
        raise ValueError(
            f"Expected argument `model` to have the shapes of the averaged model, but a {kind} is missing or differs."
        )
    return zip(mine, new, strict=True)
