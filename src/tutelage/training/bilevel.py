"""Bilevel teaching: a small network weighs the losses of a student, and learns from the student's held-out loss.

Sources: "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation" (TGeo-KD), ICLR 2024,
arXiv 2312.15112; Franceschi et al., "Bilevel Programming for Hyperparameter Optimization and Meta-Learning", ICML 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from tutelage._checks import check_at_least, check_non_negative, check_positive
from tutelage.batch import Batch, Inputs
from tutelage.data.loader import epoch_order
from tutelage.data.samples import Samples
from tutelage.features.class_means import ClassConditionalMean
from tutelage.models.call import call_model
from tutelage.objectives.fusion_ratio import fused_distillation_loss
from tutelage.objectives.schedules import Progress, Schedule
from tutelage.objectives.trilateral import TrilateralFeature, trilateral_features
from tutelage.teachers.frozen import FrozenTeacher
from tutelage.teachers.teacher import Teacher, TeacherModule
from tutelage.training.method import BaseMethod, Stateful

Forward = Callable[[Inputs], Tensor]
"""Runs a student: from inputs to logits."""


def lookahead_hypergradient(
    student: nn.Module,
    inner_loss_fn: Callable[[Forward], Tensor],
    outer_loss_fn: Callable[[Forward], Tensor],
    controller: nn.Module,
    *,
    step_size: float,
) -> dict[str, Tensor]:
    """How the outer loss, one inner step ahead, depends on the weights of a controller of the inner loss.

    With student weights θ and controller weights ω, one plain gradient step gives θ'(ω) = θ − η ∇θ L_inner(θ, ω), and
    the result is the exact derivative of L_outer(θ'(ω)) with respect to ω:

        −η · ∂/∂ω ⟨∇θ L_inner(θ, ω), v⟩ with v = ∇θ' L_outer(θ') held constant,

    plus the direct derivative where the outer loss calls the controller itself. It costs two forward and three backward
    passes, and the memory of the inner graph and one copy of the weights. The student's operations must be
    differentiable twice.

    Nothing is changed: no parameter, no `.grad`, no training mode. Buffers (running statistics of batch normalisation)
    are read and, in training mode, updated on copies that are thrown away; batches are normalised as in any forward
    pass in the student's mode. Dropout draws from the global generator.

    Args:
        student: The module that the inner loss trains; parameters that require no gradient stay as they are.
        inner_loss_fn: Called with `forward`, which runs the student at its own weights (`forward(inputs)` gives
            logits), and gives the scalar inner loss. It calls the controller itself. It may also use logits that the
            student gave before, with their graph, in place of `forward`; that graph survives.
        outer_loss_fn: Called with `forward`, which runs the student at θ', and gives the scalar outer loss.
        controller: The module whose parameters the result is about.
        step_size: η.

    Returns:
        The gradient of every parameter, detached, in the order of `controller.named_parameters()`; zeros where a
        parameter has no effect.

    Raises:
        ValueError: A step size that is not positive, a student without parameters that require a gradient, or an inner
            loss that does not depend on the controller at all.

    Source: TGeo-KD, the bilevel objective (the paper does not say how it is solved; the one-step look-ahead is the
    usual choice of weighting networks and architecture search).

    >>> student, controller = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> weight, one = next(student.parameters()).data.fill_(2.0), torch.ones(1, 1)
    >>> gradient = lookahead_hypergradient(
    ...     student,
    ...     lambda forward: (controller(one) * forward(one)).sum(),  # ∇ = ω, so θ' = 2 − ω / 2
    ...     lambda forward: forward(one).square().sum() / 2,  # d/dω = −θ' / 2
    ...     controller.requires_grad_(),
    ...     step_size=0.5,
    ... )
    >>> expected = -(2 - controller.weight / 2) / 2
    >>> torch.allclose(gradient["weight"], expected)
    True
    """
    check_positive(step_size, "step_size")
    called = _Logits(student)
    weights = {name: value for name, value in called.named_parameters() if value.requires_grad}
    controls = dict(controller.named_parameters())
    learned = {name: value for name, value in controls.items() if value.requires_grad}
    if not weights:
        raise ValueError("Expected argument `student` to have parameters that require a gradient, but it has none.")
    with torch.enable_grad():
        inner = inner_loss_fn(_forward_at(called, {}))
        slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=True, materialize_grads=True)
        ahead = {
            name: (value - step_size * slope).detach().requires_grad_()
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
        outer = outer_loss_fn(_forward_at(called, ahead))
        found = torch.autograd.grad(outer, [*ahead.values(), *learned.values()], allow_unused=True)
        along = [
            (slope * direction).sum()
            for slope, direction in zip(slopes, found[: len(ahead)], strict=True)
            if direction is not None and slope.requires_grad
        ]
        through: Sequence[Tensor | None] = [None] * len(learned)
        if along and learned:
            agreement = torch.stack(along).sum()
            through = torch.autograd.grad(agreement, list(learned.values()), allow_unused=True)
    if all(value is None for value in through):
        raise ValueError(
            "Expected the inner loss to depend on the parameters of `controller`, but no gradient reaches them: "
            "call it with gradients enabled inside `inner_loss_fn`, and do not detach what it gives."
        )
    result = {name: torch.zeros_like(value) for name, value in controls.items()}
    for name, indirect, direct in zip(learned, through, found[len(ahead) :], strict=True):
        if indirect is not None:
            result[name] -= step_size * indirect
        if direct is not None:
            result[name] += direct
    return result


class _Logits(nn.Module):
    """A model as a module that gives logits, so that it can be called with other weights than its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Inputs) -> Tensor:
        logits = call_model(self.model, inputs).logits
        if logits is None:
            raise ValueError(f"Expected {type(self.model).__name__} to give logits, but it gives none.")
        return logits


def _forward_at(called: _Logits, weights: Mapping[str, Tensor]) -> Forward:
    """Run a model with some of its weights replaced, on copies of its buffers."""

    def forward(inputs: Inputs) -> Tensor:
        buffers = {name: buffer.clone() for name, buffer in called.named_buffers()}
        logits: Tensor = functional_call(called, {**weights, **buffers}, (inputs,))
        return logits

    return forward


class BilevelDistiller(BaseMethod):
    """TGeo-KD: a student learns from teacher and labels, and a controller learns how to weigh the two for each sample.

    A step minimises the mean of α τ² KL(teacher ‖ student) + (1 − α) CE, where the controller reads α from the
    `trilateral_features` of each sample. Before the student's weights move, the controller gets the gradient of the
    held-out cross-entropy that the student would have after one plain gradient step (`lookahead_hypergradient`); its
    own optimiser follows it after the student's. α rises where a sample's distillation gradient agrees better with the
    held-out gradient than its cross-entropy gradient does.

    The look-ahead uses the step's own forward pass, so running statistics move once a step and dropout is drawn once
    for both; held-out batches are normalised by their own statistics and leave no trace. A checkpoint holds the
    controller, its optimiser, the class means and the place in the held-out data. With several processes, each looks
    ahead on its own share and the controller's gradients are averaged; with accumulated gradients, those of the batches
    are summed.

    The controller's optimiser is AdamW: the hypergradient carries the factor η, and a decay inside Adam (as in the
    authors' code) would drown it.

    Args:
        student: The module that learns.
        teacher: A `Teacher`, or a module (it is frozen).
        controller: Maps features `[batch, width]` to ratios `[batch]` in (0, 1): a `FusionRatioController`.
        held_out: Labelled samples for the outer loss, which no inner step sees. None leaves the controller as it is, a
            fixed random function (what the authors' code in fact does).
        step_size: η of the look-ahead, as a number or a schedule; best the student's own learning rate.
        class_means: `[classes, classes]`, the teacher's mean prediction for each class; None takes it over all
            training samples before the first step, uniform for a class that has none.
        features: Kinds of features; see `trilateral_features`.
        inter_sample: Whether the class mean takes part in them.
        student_teacher_edge: Whether the edge between student and teacher does.
        temperature: τ.
        outer_every: Steps of the student for one of the controller.
        outer_batch_size: Held-out samples a step.
        controller_learning_rate: Of AdamW.
        controller_weight_decay: Of AdamW.
        seed: The order of the held-out samples.

    Raises:
        ValueError: No held-out samples, or a setting out of range.

    Source: TGeo-KD, section 3. The authors' code computes α without a gradient, so its controller never learns; this
    is the objective that the paper states.

    >>> from tutelage.data import ArraySamples
    >>> from tutelage.objectives import FusionRatioController
    >>> held_out = ArraySamples(torch.randn(8, 4), torch.arange(8) % 3)
    >>> student, teacher, controller = nn.Linear(4, 3), nn.Linear(4, 3), FusionRatioController(27)
    >>> method = BilevelDistiller(student, teacher, controller, held_out, step_size=0.1, class_means=torch.eye(3))
    >>> batch = Batch(torch.randn(2, 4), torch.tensor([0, 1]), torch.arange(2))
    >>> list(method.step(batch)), method.ratios(batch).shape
    (['fused_distillation'], torch.Size([2]))
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | nn.Module,
        controller: nn.Module,
        held_out: Samples | None,
        *,
        step_size: float | Schedule,
        class_means: Tensor | None = None,
        features: Sequence[TrilateralFeature] = ("vertices", "edges"),
        inter_sample: bool = True,
        student_teacher_edge: bool = True,
        temperature: float = 1.5,
        outer_every: int = 1,
        outer_batch_size: int = 128,
        controller_learning_rate: float = 1e-3,
        controller_weight_decay: float = 0.05,
        seed: int = 0,
    ) -> None:
        if not callable(step_size):
            check_positive(step_size, "step_size")
        check_positive(temperature, "temperature")
        check_positive(controller_learning_rate, "controller_learning_rate")
        check_non_negative(controller_weight_decay, "controller_weight_decay")
        check_at_least(outer_every, "outer_every", 1)
        self.student = student
        plain = isinstance(teacher, nn.Module) and not isinstance(teacher, TeacherModule)
        self.teacher: Teacher = FrozenTeacher(teacher) if plain else teacher  # type: ignore[arg-type, assignment]
        self.controller = controller
        self.held_out = None if held_out is None else _HeldOutBatches(held_out, outer_batch_size, seed=seed)
        self.class_means = class_means
        self.step_size = step_size
        self.features = tuple(features)
        self.inter_sample = inter_sample
        self.student_teacher_edge = student_teacher_edge
        self.temperature = temperature
        self.outer_every = outer_every
        self.optimizer = torch.optim.AdamW(
            controller.parameters(), lr=controller_learning_rate, weight_decay=controller_weight_decay
        )
        self._progress = Progress(step=0, total_steps=1, steps_per_epoch=1)

    def trainable(self) -> dict[str, nn.Module]:
        """The student; the controller has an optimiser and a loss of its own."""
        return {"student": self.student}

    def modules(self) -> dict[str, nn.Module]:
        """The controller, and the teacher when it is a module."""
        found = {"controller": self.controller}
        if isinstance(self.teacher, nn.Module):
            found["teacher"] = self.teacher
        return found

    def prepare(self, batches: Iterable[Batch]) -> None:
        """Take the teacher's mean prediction for each class over all training samples, unless it was given."""
        if self.class_means is not None:
            return
        means: ClassConditionalMean | None = None
        for batch in batches:
            probs = _logits_of(self.teacher, batch).float().softmax(dim=1)
            means = (means or ClassConditionalMean(probs.shape[1])).update(probs, _target_of(batch))
        assert means is not None
        self.class_means = means.compute(missing="uniform")

    def stateful(self) -> dict[str, Stateful]:
        """What is learned and counted besides the student."""
        return {"bilevel": self}

    def state_dict(self) -> dict[str, Any]:
        """The controller with its optimiser, the class means, and the place in the held-out data."""
        return {
            "controller": self.controller.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "class_means": self.class_means,
            "drawn": None if self.held_out is None else self.held_out.drawn,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put the state back."""
        self.controller.load_state_dict(state_dict["controller"])
        self.optimizer.load_state_dict(state_dict["optimizer"])
        self.class_means = state_dict["class_means"]
        if self.held_out is not None:
            self.held_out.drawn = int(state_dict["drawn"])

    def advance(self, progress: Progress) -> None:
        """Note the place in the run."""
        self._progress = progress

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The fused loss of a batch, at ratios that are constants to the student; the controller's gradient besides."""
        target = _target_of(batch)
        teacher_logits = _logits_of(self.teacher, batch)
        student_logits = _Logits(self.student)(batch.inputs)
        learns = self.held_out is not None and self._progress.step % self.outer_every == 0
        with torch.set_grad_enabled(learns):
            ratio = self._ratio(student_logits, teacher_logits, target)

        def loss(ratio: Tensor) -> Tensor:
            return fused_distillation_loss(student_logits, teacher_logits, target, ratio, temperature=self.temperature)

        if learns:
            self._look_ahead(loss(ratio), batch.index.device)
        return {"fused_distillation": loss(ratio.detach())}

    def after_step(self, progress: Progress) -> None:
        """Move the controller by what it was told in this step, if anything."""
        gradients = [value.grad for value in self.controller.parameters() if value.grad is not None]
        if gradients and torch.distributed.is_available() and torch.distributed.is_initialized():
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient /= torch.distributed.get_world_size()
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def ratios(self, batch: Batch) -> Tensor:
        """The ratio of each sample now, `[batch]`, with the student in evaluation mode; nothing changes."""
        modes = [(module, module.training) for module in self.student.modules()]
        self.student.eval()
        try:
            student_logits = _Logits(self.student)(batch.inputs)
        finally:
            for module, mode in modes:
                module.training = mode
        return self._ratio(student_logits, _logits_of(self.teacher, batch), _target_of(batch))

    def _ratio(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> Tensor:
        if self.class_means is None:
            raise ValueError("Expected class means: give `class_means`, or call `prepare` first, as a trainer does.")
        if self.class_means.device != student_logits.device:
            self.class_means = self.class_means.to(student_logits.device)
        state = trilateral_features(
            student_logits.float().softmax(dim=1),
            teacher_logits.float().softmax(dim=1),
            target,
            self.class_means,
            features=self.features,
            inter_sample=self.inter_sample,
            student_teacher_edge=self.student_teacher_edge,
        )
        ratio: Tensor = self.controller(state)
        return ratio

    def _look_ahead(self, inner: Tensor, device: torch.device) -> None:
        """Add the hypergradient of the next held-out batch to the controller's `.grad`."""
        assert self.held_out is not None
        held_out = self.held_out.draw().to(device)
        gradient = lookahead_hypergradient(
            self.student,
            lambda forward: inner,  # from the step's own forward pass
            lambda forward: F.cross_entropy(forward(held_out.inputs).float(), _target_of(held_out).long()),
            self.controller,
            step_size=self.step_size(self._progress) if callable(self.step_size) else self.step_size,
        )
        for name, value in self.controller.named_parameters():
            if value.requires_grad:
                value.grad = gradient[name] if value.grad is None else value.grad + gradient[name]


class _HeldOutBatches:
    """Endless batches in a new order each pass; the place is one number, so a stopped run goes on where it was."""

    def __init__(self, samples: Samples, batch_size: int, *, seed: int) -> None:
        if len(samples) == 0:
            raise ValueError("Expected argument `held_out` to hold at least one sample, but it is empty.")
        check_at_least(batch_size, "outer_batch_size", 1)
        self.samples = samples
        self.batch_size = batch_size
        self.seed = seed
        self.drawn = 0

    def draw(self) -> Batch:
        """The next batch; with several processes, this one's share of it."""
        passes, number = divmod(self.drawn, math.ceil(len(self.samples) / self.batch_size))
        self.drawn += 1
        order = epoch_order(len(self.samples), seed=self.seed, epoch=passes)
        rows = torch.split(order, self.batch_size)[number]
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
            rows = rows[rank::world] if len(rows) >= world else rows[:1]
        return self.samples.batch(rows)


def _logits_of(teacher: Teacher, batch: Batch) -> Tensor:
    logits = teacher(batch).logits
    if logits is None:
        raise ValueError("Expected the teacher to give logits, but it gives none.")
    return logits


def _target_of(batch: Batch) -> Tensor:
    if batch.target is None:
        raise ValueError("Expected the samples to have a target, but they have none.")
    return batch.target
