"""Students inside a teacher: two policies delete and shrink its layers (N2N); the best within a budget are proposed.

The baselines are among the proposals: all widths scaled alike, the largest within the budget, and a random draw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from tutelage._checks import check_at_least
from tutelage.data.samples import Data
from tutelage.models.specification import specification_of
from tutelage.searching.proposing import Proposal, RememberedScores
from tutelage.students import (
    InvalidArchitecture,
    LayerSpec,
    NetworkCompressor,
    ShortDistillation,
    apply_removal,
    apply_shrinkage,
    architecture_size,
    describe_layers,
    forced_entries,
    forced_keeps,
    uniform_width_architecture,
)
from tutelage.students.compressor import MULTIPLIERS
from tutelage.students.layers import Architecture
from tutelage.training import NonFiniteLoss, TrainingSettings

ROLLOUTS = 5
DRAWS = 200
"""How often a random student is drawn before it is said that the budget leaves no room."""


def propose_compressed(
    teacher: nn.Module,
    data: Data,
    scores: Path,
    *,
    input_shape: Sequence[int],
    budget: float,
    evaluations: int,
    finalists: int,
    lesson_epochs: int = 3,
    seed: int = 0,
) -> tuple[list[Proposal], int]:
    """Compress a teacher by N2N's two policies, and propose the best students within a budget.

    A student that was tried is in the file of scores at once: a search that was stopped draws the same students again,
    trains none of them twice, and ends where it would have ended.

    Args:
        teacher: A classifier that `describe_layers` can describe.
        data: Its training part teaches, its validation part gives the accuracies.
        scores: The file that remembers accuracies.
        input_shape: Of one input.
        budget: Most parameters.
        evaluations: The most students that are tried, half of them in each stage.
        finalists: How many of the best are proposed.
        lesson_epochs: Epochs of a student's lesson on the teacher's logits.
        seed: Every choice follows from it.

    Returns:
        The proposals, and how many networks were tried.

    Raises:
        ValueError: A teacher that cannot be described or has nothing to compress, fewer than two evaluations, or a
            budget without room.
    """
    check_at_least(evaluations, "evaluations", 2)
    check_at_least(lesson_epochs, "lesson_epochs", 1)
    layers = _described(teacher)
    baselines = _baselines(layers, input_shape, budget, seed)
    rollouts = min(ROLLOUTS, evaluations // 2)
    iterations = (evaluations // (2 * rollouts), evaluations // rollouts - evaluations // (2 * rollouts))
    settings = TrainingSettings(
        optimizer="adam", learning_rate=2e-3, weight_decay=0.0, batch_size=64, epochs=lesson_epochs, seed=seed
    )
    lesson = ShortDistillation(teacher, data.train, data.validation, settings=settings)

    def learned(student: nn.Module) -> float:
        try:
            return lesson.accuracy(lesson.train(student))
        except NonFiniteLoss:
            return 0.0

    # A lesson is a part of the evaluation, so that one that is remembered is not given again.
    remembered = RememberedScores(scores, learned, name=_name_of)
    search = NetworkCompressor(
        teacher,
        lambda student: None,
        lambda network: lesson.accuracy(network) if network is teacher else remembered(network),
        input_shape=input_shape,
        rollouts=rollouts,
        iterations=iterations,
        learning_rate=0.01,
        size_limit=int(budget),
        horizon=max(iterations),  # before, rewards still tell students apart that are all too large
        seed=seed,
    )
    search.remove_layers()
    search.shrink_layers()
    within = {
        candidate.architecture: candidate
        for candidate in search.history
        if not candidate.refusal and candidate.size <= budget
    }
    reasons: dict[Architecture, list[str]] = {}
    for rank, candidate in enumerate(sorted(within.values(), key=lambda one: -one.reward)[:finalists], start=1):
        reasons.setdefault(candidate.architecture, []).append(f"rank {rank} by reward")
    if within:
        largest = max(within.values(), key=lambda one: one.size)
        reasons.setdefault(largest.architecture, []).append("the largest within the budget")
    for architecture, reason in baselines.items():
        reasons.setdefault(architecture, []).append(reason)
    tried = len({candidate.architecture for candidate in search.history if not candidate.refusal})
    proposals = []
    for architecture, why in reasons.items():
        specification = specification_of(search.build(architecture))
        assert specification is not None
        student = specification.model_dump(mode="json", exclude_none=True)
        score = within[architecture].reward if architecture in within else None
        proposals.append(Proposal(architecture_name(architecture), tuple(why), score, {"student": student}, student))
    return proposals, tried


def architecture_name(layers: Sequence[LayerSpec]) -> str:
    """The widths of the layers with weights, how many layers there are, and a few letters that tell equal ones apart.

    >>> architecture_name([LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("ReLU"), LayerSpec("Linear", width=10)])[:16]
    '16-10_3-layers_3'
    """
    widths = [str(layer.width) for layer in layers if layer.family in ("Conv", "Linear") and not layer.shortcut]
    shown = "-".join(widths if len(widths) <= 10 else [*widths[:9], "and-so-on"])
    text = json.dumps([asdict(layer) for layer in layers], sort_keys=True)
    return f"{shown}_{len(layers)}-layers_{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _name_of(student: nn.Module) -> str:
    specification = specification_of(student)
    assert specification is not None
    return architecture_name([LayerSpec(**layer) for layer in specification.arguments["layers"]])


def _described(teacher: nn.Module) -> Architecture:
    try:
        _, layers = describe_layers(teacher)
    except ValueError as error:
        raise ValueError(
            f"The method `n2n` cannot compress this teacher; the method `score` proposes students of its own. {error}"
        ) from None
    if all(layer.fixed or layer.family not in ("Conv", "BatchNorm") for layer in layers):
        raise ValueError(
            "Expected a teacher with convolutions that the method `n2n` may shrink, but it has none: linear layers and "
            "strided convolutions stay as they are. The method `score` proposes students of its own."
        )
    return tuple(layers)


def _baselines(layers: Architecture, input_shape: Sequence[int], budget: float, seed: int) -> dict[Architecture, str]:
    """All widths scaled alike, and a random draw, as far as they keep to the budget."""
    found: dict[Architecture, str] = {}
    uniform = uniform_width_architecture(layers, input_shape, int(budget))
    sizes = [architecture_size(uniform, input_shape)]
    if sizes[0] <= budget:
        found[uniform] = "all widths scaled alike"
    generator = torch.Generator().manual_seed(seed)
    for _ in range(DRAWS):
        drawn = _draw(layers, generator)
        try:
            sizes.append(architecture_size(drawn, input_shape))
        except InvalidArchitecture:
            continue
        if sizes[-1] <= budget:
            found.setdefault(drawn, "a random draw")
            return found
    if not found:
        raise ValueError(
            f"Expected argument `budget` to leave room for a student, but among {DRAWS} drawn from the "
            f"teacher's layers the smallest has {min(sizes)} parameters, more than {budget:g}."
        )
    return found


def _draw(layers: Architecture, generator: torch.Generator) -> Architecture:
    """Both stages at random, for any share of layers that stay."""
    share = torch.rand(1, generator=generator)
    keep = (torch.rand(len(layers), generator=generator) < share) | forced_keeps(layers)
    kept = apply_removal(layers, keep)
    forced = forced_entries(kept)
    choices = torch.tensor(MULTIPLIERS)[torch.randint(len(MULTIPLIERS), forced.shape, generator=generator)]
    return tuple(apply_shrinkage(kept, choices.masked_fill(forced, 1.0)))
