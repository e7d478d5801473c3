"""Iterative magnitude pruning: which sparse part of a network can be trained from a checkpoint as well as the whole.

Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, arXiv 1912.05671, as
used by Sarnthein et al., ICML 2023, arXiv 2302.12091, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from tutelage._checks import check_at_least


@dataclass
class PruningRound:
    """One round.

    Attributes:
        remaining: Share of the prunable weights that the round trained.
        result: What `train_fn` returned.
        masks: Which weights were trained, by parameter name; 1 or 0.
    """

    remaining: float
    result: float
    masks: dict[str, Tensor]


def iterative_magnitude_pruning(
    model: nn.Module,
    train_fn: Callable[[nn.Module], float],
    *,
    fraction: float = 0.2,
    rounds: int,
    rewind_state: Mapping[str, Tensor],
) -> list[PruningRound]:
    """Train to the end, prune the smallest of the weights that are left, rewind to a checkpoint; again and again.

    Weights of linear layers and convolutions are pruned, by magnitude over all of them together; biases and norms stay.
    The first round trains the dense network, so after r prunings (1 − fraction)^r of the weights are left. A pruned
    weight is 0 and stays 0: its mask multiplies it in every call (`torch.nn.utils.prune`).

    Args:
        model: Trained in place, and without masks in the end, its pruned weights being 0.
        train_fn: Trains the network it is given to the end and returns a figure, such as its accuracy.
        fraction: Share of the remaining weights that a pruning takes, in (0, 1).
        rounds: Trainings; one more than there are prunings.
        rewind_state: A `state_dict` of the dense network, to which each round goes back.

    Returns:
        The rounds, the dense one first.

    Raises:
        ValueError: A fraction outside (0, 1), fewer than one round, nothing to prune, or a state of another network.

    >>> model = nn.Linear(10, 10)
    >>> found = iterative_magnitude_pruning(model, lambda net: 0.0, rounds=3, rewind_state=model.state_dict())
    >>> [round(one.remaining, 2) for one in found]
    [1.0, 0.8, 0.64]
    """
    check_at_least(rounds, "rounds", 1)
    if not 0 < fraction < 1:
        raise ValueError(f"Expected argument `fraction` to be in (0, 1), but got {fraction}.")
    places = [
        (module, "weight")
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and module.weight is not None
    ]
    if not places:
        raise ValueError("Expected argument `model` to have linear layers or convolutions, but it has none.")
    names = {module: name for name, module in model.named_modules()}
    state = {name: value.detach().clone() for name, value in rewind_state.items()}
    expected = set(model.state_dict())
    if set(state) != expected:
        odd = sorted(expected ^ set(state))[0]
        raise ValueError(f"Expected argument `rewind_state` to hold the model's own names, but {odd!r} differs.")
    total = sum(module.weight.numel() for module, _ in places)
    found: list[PruningRound] = []
    masks: dict[str, Tensor] = {}
    kept = total
    for number in range(rounds):
        if number:
            goal = round(total * (1 - fraction) ** number)
            prune.global_unstructured(places, pruning_method=prune.L1Unstructured, amount=kept - goal)
            kept = goal
            masks = {
                f"{names[module]}.weight".lstrip("."): module.get_buffer("weight_mask").clone() for module, _ in places
            }
            for module, name in places:
                prune.remove(module, name)  # type: ignore[no-untyped-call]
        model.load_state_dict(state)
        for module, name in places:
            mask = masks.get(f"{names[module]}.weight".lstrip("."), torch.ones_like(module.weight))
            prune.custom_from_mask(module, name, mask)  # type: ignore[no-untyped-call]
        result = float(train_fn(model))
        found.append(PruningRound(kept / total, result, {name: mask.clone() for name, mask in masks.items()}))
    for module, name in places:
        prune.remove(module, name)  # type: ignore[no-untyped-call]
    return found
