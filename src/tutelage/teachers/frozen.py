"""A model that teaches and never changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.features import ObservedModel
from tutelage.outputs import Outputs
from tutelage.teachers.fingerprint import model_fingerprint
from tutelage.teachers.teacher import TeacherModule


class FrozenTeacher(TeacherModule):
    """A teacher whose weights, buffers and evaluation mode never change, and whose outputs carry no gradient.

    The model itself is frozen, not a copy of it: its parameters stop requiring gradients. It goes back to evaluation
    mode before every call, so a `.train()` on this module, on a module that holds it or on the model itself does no
    harm. Outputs come from `torch.no_grad`, not from inference mode, so that a trainable projector may follow them.

    Args:
        model: Anything that `tutelage.models.call_model` can call.
        embedding: Also give `Outputs.embedding`, what the head reads.
        taps: Also give `Outputs.features`: module paths by feature name (see `tutelage.features.FeatureTaps`).
        hidden: Give `Outputs.hidden` and `Outputs.head` of a causal language model.
        logits: With `hidden`, give the logits as well; otherwise they are never built.

    Raises:
        ValueError: A tap's path does not exist.

    >>> teacher = FrozenTeacher(nn.Sequential(nn.Linear(2, 4), nn.Dropout(), nn.Linear(4, 3)), embedding=True).train()
    >>> outputs = teacher(Batch(torch.ones(5, 2), None, torch.arange(5)))
    >>> outputs.logits.shape, outputs.embedding.shape, outputs.logits.requires_grad, teacher.model.training
    (torch.Size([5, 3]), torch.Size([5, 4]), False, False)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        embedding: bool = False,
        taps: Mapping[str, str] | None = None,
        hidden: bool = False,
        logits: bool = True,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.taps: dict[str, str] = {}
        self._embedding, self._hidden, self._logits = embedding, hidden, logits
        self.observe(taps=taps)

    def observe(self, *, embedding: bool = False, taps: Mapping[str, str] | None = None, hidden: bool = False) -> None:
        """Give these parts too, besides what is given already: a method asks for what its objectives read.

        Args:
            embedding: `Outputs.embedding`.
            taps: `Outputs.features`: places by feature name (see `tutelage.features.FeatureTaps`).
            hidden: `Outputs.hidden` and `Outputs.head` of a causal language model.

        Raises:
            ValueError: The name of a feature stands for another place already, or a place does not exist.
        """
        for name, place in (taps or {}).items():
            if self.taps.get(name, place) != place:
                raise ValueError(
                    f"Expected the teacher's feature {name!r} to have one place, "
                    f"but it is read at {self.taps[name]!r} and wanted at {place!r}."
                )
        self.taps = {**self.taps, **(taps or {})}
        self._embedding, self._hidden = self._embedding or embedding, self._hidden or hidden
        self._observed = ObservedModel(
            self.model, embedding=self._embedding, taps=self.taps, hidden=self._hidden, logits=self._logits
        )

    def forward(self, batch: Batch) -> Outputs:
        """The model's outputs for a batch on the model's device: logits `[batch, classes]` and what was asked for.

        It reads the batch's `teacher_inputs`: the student's inputs, unless the batch holds others for the teacher.
        """
        if any(module.training for module in self.model.modules()):
            self.model.eval()
        with torch.no_grad():
            return self._observed(batch.teacher_inputs)

    def fingerprint(self) -> str:
        """The hash of the model's weights and architecture; what is observed of it does not count."""
        return model_fingerprint(self.model)
