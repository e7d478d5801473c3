"""Accuracy under the attacks that papers report, at one radius: none, FGSM, PGD-20, AutoAttack where installed."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import check_non_negative, check_positive
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.assessment.robustness import attackable_batches, fgsm_attack, input_range, pgd_attack
from tutelage.data.samples import Samples
from tutelage.models import call_model

AUTO_ATTACK_PACKAGE = "pyautoattack"
_CHUNK = 64  # samples that AutoAttack gets at once; what it has not finished in time is lost by the chunk


@dataclass(frozen=True, slots=True)
class AttackAccuracies:
    """Accuracy under attacks of one radius; a sample counts that is right when clean and stays right.

    Attributes:
        radius: The ℓ∞ radius, in units of the inputs.
        clean: Accuracy of the same samples without an attack.
        fgsm: After one step of the gradient's sign.
        pgd20: After 20 steps of a quarter of the radius, from a random start.
        auto_attack: After AutoAttack (standard version); None if it was not measured.
        num_samples: How many samples were attacked.
        auto_attack_samples: How many of them AutoAttack finished, drawn at random; fewer when time was up.
        note: Why AutoAttack was not measured, or on fewer samples; else empty.
    """

    radius: float
    clean: float
    fgsm: float
    pgd20: float
    auto_attack: float | None
    num_samples: int
    auto_attack_samples: int
    note: str


def attack_accuracies(
    model: nn.Module,
    samples: Samples,
    *,
    radius: float,
    bounds: tuple[float, float] | None = None,
    num_samples: int | None = 256,
    batch_size: int = 256,
    auto_attack_seconds: float = 60.0,
    seed: int = 0,
) -> AttackAccuracies:
    """Accuracy without an attack and under FGSM, PGD-20 and AutoAttack (ℓ∞), each on its own.

    The model is attacked in evaluation mode. Modes of its parts, parameters, buffers, `.grad` and global random states
    are left as they were.

    AutoAttack comes from the package `pyautoattack` (pip install 'tutelage[robustness]'). It gets inputs scaled from
    `bounds` to [0, 1]; inputs that are not images `[batch, channels, height, width]` become images of one row. As its
    authors say, it aims at no more classes than there are, and below four classes goes without the attack whose loss
    needs four.

    Args:
        model: A classifier of floating-point input tensors, on its own device.
        samples: What is attacked.
        radius: The greatest change of an entry, in units of the inputs.
        bounds: The least and greatest value that an input may have; by default the range of the attacked samples.
        num_samples: How many samples, drawn by `seed`; None takes all.
        batch_size: Samples that FGSM and PGD attack at once.
        auto_attack_seconds: AutoAttack stops after so long, and counts the samples that it has finished; 0: not at all.
        seed: Of the draw and of the attacks.

    Raises:
        ValueError: `radius` is not positive, inputs all have one value, there are no samples or targets, inputs are not
            one floating-point tensor or lie outside `bounds`, or a setting is out of range.

    Source: FGSM: Goodfellow et al., ICLR 2015. PGD: Madry et al., ICLR 2018 (on CIFAR 20 steps of 2/255 at 8/255).
    AutoAttack: Croce and Hein, ICML 2020, arXiv 2003.01690.

    >>> from tutelage.data.arrays import ArraySamples
    >>> samples = ArraySamples(torch.tensor([[0.0, 1.0], [0.4, 0.6]]), torch.tensor([1, 1]))
    >>> model = nn.Linear(2, 2, bias=False)
    >>> _ = model.weight.data.copy_(torch.eye(2))
    >>> found = attack_accuracies(model, samples, radius=0.2, auto_attack_seconds=0)
    >>> found.clean, found.fgsm, found.pgd20, found.auto_attack
    (1.0, 0.5, 0.5, None)
    """
    check_positive(radius, "radius")
    check_non_negative(auto_attack_seconds, "auto_attack_seconds")
    pairs = attackable_batches(model, samples, num_samples=num_samples, batch_size=batch_size, seed=seed)
    low, high = bounds or input_range(pairs)
    if not low < high:
        raise ValueError(f"Expected argument `bounds` to be a range, but got [{low}, {high}].")
    generator = torch.Generator(device=pairs[0][0].device).manual_seed(seed)

    def by_gradient_sign(x: Tensor, y: Tensor) -> Tensor:
        return fgsm_attack(model, x, y, radius=radius, bounds=(low, high))

    def by_projected_ascent(x: Tensor, y: Tensor) -> Tensor:
        return pgd_attack(
            model,
            x,
            y,
            radius=radius,
            step_size=radius / 4,
            steps=20,
            start="uniform",
            bounds=(low, high),
            generator=generator,
        )

    with evaluation_mode(model), torch.no_grad():
        right = [_right(model, x, y) for x, y in pairs]
        total = sum(len(x) for x, _ in pairs)
        clean, fgsm, pgd20 = (
            sum(int(still.sum()) for still in found) / total
            for found in (right, *(_standing(model, pairs, right, a) for a in (by_gradient_sign, by_projected_ascent)))
        )
        accuracy, finished, note = _auto_attack(
            model, pairs, right, radius=radius, bounds=(low, high), seconds=auto_attack_seconds, seed=seed
        )
    return AttackAccuracies(radius, clean, fgsm, pgd20, accuracy, total, finished, note)


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return _logits(model, x).argmax(dim=1) == y


def _standing(
    model: nn.Module,
    pairs: list[tuple[Tensor, Tensor]],
    right: list[Tensor],
    attack: Callable[[Tensor, Tensor], Tensor],
) -> list[Tensor]:
    """Which samples are right, and stay so under an attack."""
    standing = [before.clone() for before in right]
    for (x, y), stands in zip(pairs, standing, strict=True):
        rows = stands.nonzero().squeeze(1)
        if len(rows):
            stands[rows] = _right(model, attack(x[rows], y[rows]), y[rows])
    return standing


class _TimeIsUp(Exception):  # noqa: N818 - it says what has happened, and is no error
    """Raised from inside the attacked model."""


def _auto_attack(
    model: nn.Module,
    pairs: list[tuple[Tensor, Tensor]],
    right: list[Tensor],
    *,
    radius: float,
    bounds: tuple[float, float],
    seconds: float,
    seed: int,
) -> tuple[float | None, int, str]:
    """Accuracy, on how many samples, and what there is to say about it."""
    if not seconds:
        return None, 0, "AutoAttack: not asked for."
    if importlib.util.find_spec(AUTO_ATTACK_PACKAGE) is None:
        return None, 0, "AutoAttack: not measured, install tutelage[robustness]."
    inputs, target, clean = torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs]), torch.cat(right)
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed)).to(inputs.device)
    deadline = time.monotonic() + seconds
    stayed = finished = 0
    with _undisturbed(model, inputs.device):
        for rows in order.split(_CHUNK):  # type: ignore[no-untyped-call]
            x, y, stands = inputs[rows], target[rows].long(), clean[rows].clone()
            try:
                if stands.any():
                    attacked = _attacked(model, x[stands], y[stands], radius, bounds, deadline, seed)
                    stands[stands.clone()] = _right(model, attacked, y[stands])
            except _TimeIsUp:
                break
            stayed, finished = stayed + int(stands.sum()), finished + len(rows)
    if not finished:
        return (
            None,
            0,
            f"AutoAttack: not measured, {seconds:g} s were not enough for {min(_CHUNK, len(inputs))} samples.",
        )
    note = "" if finished == len(inputs) else f"AutoAttack: {finished} of {len(inputs)} samples in {seconds:g} s."
    return stayed / finished, finished, note


def _attacked(
    model: nn.Module, x: Tensor, y: Tensor, radius: float, bounds: tuple[float, float], deadline: float, seed: int
) -> Tensor:
    """What AutoAttack makes of inputs, within the ball."""
    low, high = bounds

    def restored(scaled: Tensor) -> Tensor:
        return (low + (high - low) * scaled.reshape(len(scaled), *x.shape[1:])).to(x.dtype)

    def logits(scaled: Tensor) -> Tensor:
        if time.monotonic() > deadline:
            raise _TimeIsUp
        return _logits(model, restored(scaled)).float()

    scaled = ((x - low) / (high - low)).float().clamp(0.0, 1.0)
    if scaled.ndim != 4:
        scaled = scaled.reshape(len(x), 1, 1, -1)
    classes = logits(scaled[:1]).shape[1]
    attack: Any = importlib.import_module(AUTO_ATTACK_PACKAGE).AutoAttack(
        logits, norm="Linf", eps=radius / (high - low), seed=seed, device=x.device
    )
    attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
    if classes < 4:
        attack.attacks_to_run = ["apgd-ce", "fab-t", "square"]
    found, _ = attack.run_standard_evaluation(scaled, y)
    return torch.minimum(torch.maximum(restored(found), x - radius), x + radius)


@contextlib.contextmanager
def _undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Keep what AutoAttack would change: parameters' gradients, global random states, and the tracing of Python."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tracer = sys.gettrace()
    try:
        for parameter in learning:
            parameter.requires_grad_(False)
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.inference_mode(False):
            yield
    finally:
        sys.settrace(tracer)
        for parameter in learning:
            parameter.requires_grad_(True)


def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    logits = call_model(model, inputs).logits
    if logits is None:
        raise ValueError("Expected argument `model` to give logits, but it gives none.")
    return logits
