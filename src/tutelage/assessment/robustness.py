"""Accuracy under attack: projected gradient ascent, the attacks built on it, and accuracy by attack radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_non_negative, check_option, check_positive
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.data.samples import Samples
from tutelage.models import call_model

Norm = Literal["linf", "l2"]
Start = Literal["gaussian", "uniform", "zero"]
AttackObjective = Callable[[Tensor, Tensor], Tensor]
"""`(logits [batch, classes], target [batch])` → what the attacker raises: a scalar, or one value a sample."""


def projected_gradient_ascent(
    objective: Callable[[Tensor], Tensor],
    x: Float[Tensor, "batch *shape"],
    *,
    norm: Norm = "linf",
    radius: float,
    step_size: float,
    steps: int,
    random_start: bool = True,
    clamp: tuple[float, float] | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *shape"]:
    """Raise an objective of each sample within a ball around it.

    A step adds `step_size` times the sign of the gradient (`"linf"`) or the gradient scaled to length 1 (`"l2"`), then
    projects onto the ball around `x` and clamps. Only the gradient with respect to the input is computed; parameters'
    `.grad` is not touched. Modules keep their mode: put them into evaluation mode first if batch statistics must not
    change.

    Args:
        objective: From `[batch, …]` to one value a sample, `[batch]`, whose sum is raised.
        x: Where the balls are centred.
        norm: The norm of the ball, over all dimensions but the first.
        radius: The ball's radius, in units of `x`; 0 leaves `x` as it is.
        step_size: The length of a step in the same norm.
        steps: How many steps.
        random_start: Start in a random point: uniform in the ball (`"linf"`), or a random direction of random length
            (`"l2"`); else in `x`, where objectives that measure a distance from `x` have no gradient.
        clamp: The least and greatest value that an input may have.
        generator: Of the random start, on the device of `x`.

    Returns:
        The last iterate, detached.

    Raises:
        ValueError: `radius` is negative, `step_size` not positive, `steps` below 1, or the batch is empty.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018.

    >>> x = torch.tensor([[0.5, 0.5]])
    >>> projected_gradient_ascent(lambda x: x @ torch.tensor([1.0, -1.0]), x, radius=0.25, step_size=0.25, steps=3)
    tensor([[0.7500, 0.2500]])
    """
    check_option(norm, "norm", ("linf", "l2"))
    _check_ascent(x, radius, step_size, steps)
    start = x.detach()
    if random_start:
        start = start + _offset(start, norm, radius, generator)
        if clamp is not None:
            start = start.clamp(*clamp)
    return _ascend(objective, x.detach(), start, norm, radius, step_size, steps, clamp)


def pgd_attack(
    model: nn.Module | Callable[[Tensor], Any],
    x: Float[Tensor, "batch *shape"],
    y: Int[Tensor, "batch"],
    *,
    radius: float,
    step_size: float,
    steps: int,
    start: Start = "gaussian",
    start_scale: float = 0.001,
    bounds: tuple[float, float] = (0.0, 1.0),
    objective: AttackObjective | None = None,
    generator: torch.Generator | None = None,
    norm: Norm = "linf",
) -> Float[Tensor, "batch *shape"]:
    """Adversarial examples within a ball: gradient ascent on the model's loss, projected and clamped.

    The model is attacked in evaluation mode, and every sub-module gets its own mode back. Parameters, buffers and
    `.grad` are not touched.

    Args:
        model: From inputs to logits `[batch, classes]` (see `call_model`). A function that is no module is attacked in
            whatever mode its networks are.
        x: Clean inputs, within `bounds`.
        y: Their classes.
        radius: The greatest change of any entry (`"linf"`), or of the whole input (`"l2"`).
        step_size: The change of every entry in one step, or the length of the step.
        steps: How many steps.
        start: `"gaussian"`: x plus normal noise of deviation `start_scale`; `"uniform"`: anywhere in the ball (see
            `projected_gradient_ascent`), clamped to the bounds; `"zero"`: x itself.
        start_scale: The deviation of the Gaussian start.
        bounds: The least and greatest value that an input may have; put normalisation inside the model.
        objective: What is raised, from logits and classes; cross-entropy by default.
        generator: Of the random start, on the device of `x`.
        norm: The norm of the ball: `"linf"`, with steps along the gradient's signs, or `"l2"`, along the gradient.

    Returns:
        The attacked inputs, detached.

    Raises:
        ValueError: `radius` is negative, `step_size` not positive, `steps` below 1, `x` outside the bounds, or the
            batch empty.

    Source: Madry et al. 2018; the Gaussian start as in MTARD, arXiv 2306.16170, section 3.

    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> x = torch.tensor([[0.5, 0.5]])
    >>> pgd_attack(model, x, torch.tensor([0]), radius=0.125, step_size=0.125, steps=2)
    tensor([[0.3750, 0.6250]])
    """
    check_option(start, "start", ("gaussian", "uniform", "zero"))
    check_option(norm, "norm", ("linf", "l2"))
    check_non_negative(start_scale, "start_scale")
    _check_ascent(x, radius, step_size, steps)
    low, high = bounds
    if not ((x >= low) & (x <= high)).all():
        raise ValueError(f"Expected argument `x` to lie within the bounds [{low}, {high}], but it does not.")
    clean = x.detach()
    first = clean
    if start == "gaussian":
        first = clean + start_scale * _random("randn", clean, generator)
    elif start == "uniform":
        first = (clean + _offset(clean, norm, radius, generator)).clamp(low, high)
    raised = objective or _cross_entropy
    with torch.inference_mode(False):
        y = y.clone()  # an inference tensor could not be saved for the backward pass

    def of_inputs(inputs: Tensor) -> Tensor:
        return raised(_logits(model, inputs), y)

    with evaluation_mode(model):
        return _ascend(of_inputs, clean, first, norm, radius, step_size, steps, bounds)


def fgsm_attack(
    model: nn.Module | Callable[[Tensor], Any],
    x: Float[Tensor, "batch *shape"],
    y: Int[Tensor, "batch"],
    *,
    radius: float,
    bounds: tuple[float, float] = (0.0, 1.0),
    objective: AttackObjective | None = None,
) -> Float[Tensor, "batch *shape"]:
    """The fast gradient sign method: one step of length `radius` from the clean input.

    Args:
        model: From inputs to logits `[batch, classes]`.
        x: Clean inputs, within `bounds`.
        y: Their classes.
        radius: The change of every entry; 0 gives `x` back.
        bounds: The least and greatest value that an input may have.
        objective: What is raised, from logits and classes; cross-entropy by default.

    Returns:
        The attacked inputs, detached.

    Raises:
        ValueError: `radius` is negative, `x` is outside the bounds, or the batch is empty.

    Source: Goodfellow et al., "Explaining and Harnessing Adversarial Examples", ICLR 2015.

    >>> fgsm_attack(nn.Linear(2, 2), torch.full((1, 2), 0.5), torch.tensor([1]), radius=0.0)
    tensor([[0.5000, 0.5000]])
    """
    return pgd_attack(
        model, x, y, radius=radius, step_size=radius or 1.0, steps=1, start="zero", bounds=bounds, objective=objective
    )


@dataclass(frozen=True, slots=True)
class RobustAccuracyCurve:
    """Accuracy under attack by attack radius.

    Attributes:
        epsilon: The radii, as asked.
        accuracy: The share of samples that no attack of at most this radius has turned wrong.
        num_samples: How many samples were attacked.
    """

    epsilon: tuple[float, ...]
    accuracy: tuple[float, ...]
    num_samples: int


def robust_accuracy_curve(
    model: nn.Module,
    samples: Samples,
    epsilons: Sequence[float],
    *,
    steps: int = 10,
    step_size: float | None = None,
    restarts: int = 1,
    bounds: tuple[float, float] | None = None,
    num_samples: int | None = 256,
    batch_size: int = 256,
    objective: AttackObjective | None = None,
    seed: int = 0,
) -> RobustAccuracyCurve:
    """Accuracy under projected gradient descent attacks (ℓ∞, uniform start) of growing radius.

    A sample that an attack of one radius turns wrong stays wrong for every larger radius, since the larger ball holds
    the same adversarial example. So only samples that still stand are attacked, and accuracy never rises with the
    radius.

    Args:
        model: A classifier of floating-point input tensors.
        samples: What is attacked.
        epsilons: The radii, in units of the inputs; 0 gives the clean accuracy of the same samples.
        steps: Attack steps.
        step_size: The length of a step; 2.5·radius/steps by default, which can reach the border from anywhere.
        restarts: Attacks a sample, each from its own start; the worst counts.
        bounds: The least and greatest value that an input may have; by default the range of the attacked samples.
        num_samples: How many samples, drawn by `seed`; None takes all.
        batch_size: Samples attacked at once.
        objective: What the attacks raise; cross-entropy by default.
        seed: Of the draw and of the random starts.

    Raises:
        ValueError: There are no radii, samples or targets, inputs are not one floating-point tensor, or a setting is
            out of range.

    >>> from tutelage.data.arrays import ArraySamples
    >>> samples = ArraySamples(torch.tensor([[0.0, 1.0], [0.4, 0.6]]), torch.tensor([1, 1]))
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> robust_accuracy_curve(model, samples, [0.0, 0.2]).accuracy
    (1.0, 0.5)
    """
    if not epsilons:
        raise ValueError("Expected argument `epsilons` to hold at least one radius, but it is empty.")
    for epsilon in epsilons:
        check_non_negative(epsilon, "epsilons")
    check_at_least(steps, "steps", 1)
    check_at_least(restarts, "restarts", 1)
    pairs = attackable_batches(model, samples, num_samples=num_samples, batch_size=batch_size, seed=seed)
    total = sum(len(x) for x, _ in pairs)
    low, high = bounds or input_range(pairs)
    generator = torch.Generator(device=pairs[0][0].device).manual_seed(seed)
    with evaluation_mode(model), torch.no_grad():
        standing = [_logits(model, x).argmax(dim=1) == y for x, y in pairs]
        accuracy: dict[float, float] = {}
        for epsilon in sorted(set(map(float, epsilons))):
            for (x, y), stands in zip(pairs, standing, strict=True):
                for _ in range(restarts if epsilon > 0 else 0):
                    rest = stands.nonzero().squeeze(1)
                    if not len(rest):
                        break
                    attacked = pgd_attack(
                        model,
                        x[rest],
                        y[rest],
                        radius=epsilon,
                        step_size=step_size or 2.5 * epsilon / steps,
                        steps=steps,
                        start="uniform",
                        bounds=(low, high),
                        objective=objective,
                        generator=generator,
                    )
                    stands[rest] = _logits(model, attacked).argmax(dim=1) == y[rest]
            accuracy[epsilon] = sum(int(stands.sum()) for stands in standing) / total
    radii = tuple(float(epsilon) for epsilon in epsilons)
    return RobustAccuracyCurve(radii, tuple(accuracy[epsilon] for epsilon in radii), total)


def attackable_batches(
    model: nn.Module, samples: Samples, *, num_samples: int | None, batch_size: int, seed: int
) -> list[tuple[Tensor, Tensor]]:
    """Samples drawn by a seed, in their own order, on the model's device: batches of inputs and classes.

    Args:
        model: Says on which device.
        samples: What is drawn from.
        num_samples: How many; None takes all.
        batch_size: Samples a batch.
        seed: Of the draw.

    Raises:
        ValueError: There are no samples or targets, or inputs are not one floating-point tensor.
    """
    check_at_least(batch_size, "batch_size", 1)
    total = len(samples) if num_samples is None else min(num_samples, len(samples))
    check_at_least(total, "num_samples", 1)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(samples), generator=generator)[:total].sort().values
    batches = [samples.batch(part).to(device_of(model)) for part in rows.split(batch_size)]  # type: ignore[no-untyped-call]
    return [_attackable(batch.inputs, batch.target) for batch in batches]


def input_range(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """The least and greatest value of the inputs of all batches."""
    return min(float(x.min()) for x, _ in pairs), max(float(x.max()) for x, _ in pairs)


def weighted_robust_accuracy(clean: float, robust: float, *, weight: float = 0.5) -> float:
    """Weight · clean accuracy + (1 − weight) · accuracy under attack.

    Args:
        clean: Accuracy on clean inputs.
        robust: Accuracy on attacked inputs.
        weight: The share of the clean accuracy, in [0, 1].

    Raises:
        ValueError: `weight` is outside [0, 1].

    Source: MTARD, arXiv 2306.16170 (W-Robust, at weight ½).

    >>> weighted_robust_accuracy(0.9, 0.5)
    0.7
    """
    check_in_range(weight, "weight", 0.0, 1.0)
    return weight * clean + (1 - weight) * robust


def _ascend(
    objective: Callable[[Tensor], Tensor],
    centre: Tensor,
    start: Tensor,
    norm: str,
    radius: float,
    step_size: float,
    steps: int,
    clamp: tuple[float, float] | None,
) -> Tensor:
    """The ascent itself, from `start`; works under `no_grad` and `inference_mode` too."""
    with torch.inference_mode(False), torch.enable_grad():
        centre, point = centre.clone(), start.clone()
        for _ in range(steps):
            point.requires_grad_(True)
            (gradient,) = torch.autograd.grad(objective(point).sum(), point)
            point = point.detach()
            if norm == "linf":
                offset = (point + step_size * gradient.sign() - centre).clamp(-radius, radius)
            else:
                offset = point + step_size * _unit(gradient) - centre
                length = _per_sample(offset.flatten(1).norm(dim=1), offset)
                offset = offset * (radius / length.clamp(min=torch.finfo(offset.dtype).tiny)).clamp(max=1.0)
            point = centre + offset
            if clamp is not None:
                point = point.clamp(*clamp)
    return point


def _offset(like: Tensor, norm: str, radius: float, generator: torch.Generator | None) -> Tensor:
    """A random change within the ball: uniform, or in a random direction of random length."""
    if norm == "linf":
        return radius * (2 * _random("rand", like, generator) - 1)
    length = torch.rand(len(like), generator=generator, device=like.device, dtype=like.dtype)
    return radius * _per_sample(length, like) * _unit(_random("randn", like, generator))


def _unit(value: Tensor) -> Tensor:
    """Each sample scaled to length 1; zero stays zero. First by the largest entry, so that no square underflows."""
    flat = value.flatten(1)
    flat = flat / flat.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(value.dtype).tiny)
    return F.normalize(flat, dim=1).view_as(value)


def _per_sample(value: Tensor, like: Tensor) -> Tensor:
    return value.view(-1, *[1] * (like.ndim - 1))


def _random(kind: str, like: Tensor, generator: torch.Generator | None) -> Tensor:
    draw = torch.rand if kind == "rand" else torch.randn
    return draw(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), target.long(), reduction="sum")


def _logits(model: Any, inputs: Tensor) -> Tensor:
    logits = call_model(model, inputs).logits
    if logits is None:
        raise ValueError("Expected argument `model` to give logits, but it gives none.")
    return logits


def _attackable(inputs: Any, target: Tensor | None) -> tuple[Tensor, Tensor]:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise ValueError(
            "Expected argument `samples` to have one floating-point input tensor, but it has other inputs."
        )
    if target is None:
        raise ValueError("Expected argument `samples` to have targets, but it has none.")
    return inputs, target


def _check_ascent(x: Tensor, radius: float, step_size: float, steps: int) -> None:
    check_non_negative(radius, "radius")
    check_positive(step_size, "step_size")
    check_at_least(steps, "steps", 1)
    if not len(x):
        raise ValueError("Expected argument `x` to hold at least one sample, but it is empty.")
