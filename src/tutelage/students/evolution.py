"""Searching a space of architectures by a score: evolution with tournaments, and random search.

Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023, arXiv
2303.15678; tournaments and ageing as in Real et al., "Regularized Evolution for Image Classifier Architecture Search",
AAAI 2019. The release picks parents from the worst and lets children exceed the budget; this does neither.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from tutelage._checks import check_at_least
from tutelage.students.search_space import SearchSpace

_DRAWS = 1000

History = list[tuple[Any, float]]
"""Architectures and their scores, in the order of evaluation."""


def evolutionary_search(
    space: SearchSpace,
    score: Callable[[Any], float],
    *,
    population: int = 36,
    tournament: int = 8,
    evaluations: int = 1000,
    budget: float | None = None,
    seed: int = 0,
) -> tuple[History, Any]:
    """Let the best of a few breed, and the oldest die.

    A random population first. Then, an evaluation at a time: the best of `tournament` random members is changed in one
    choice, its child joins, and the oldest member leaves. An architecture that was scored before is not scored again,
    but counts as an evaluation; a child is preferred that is new.

    Args:
        space: What to search.
        score: Higher is better; a pure function of the architecture. NaN counts as the worst.
        population: Members at a time.
        tournament: Members among whom the best becomes a parent. 1 picks parents at random.
        evaluations: Architectures looked at in all, the first population included.
        budget: Bound of `space.cost`; nothing above it is scored.
        seed: Every choice follows from it.

    Returns:
        The history, and the architecture of the highest score (the earliest of equals).

    Raises:
        ValueError: A number below 1, a tournament larger than the population, or a budget that none of 1000 draws
            keeps to (the cheapest of them is named).

    >>> from tutelage.students import DepthSpace
    >>> history, best = evolutionary_search(DepthSpace((1, 3), (4, 8)), lambda arch: -sum(arch), evaluations=20,
    ...                                     population=4, tournament=2)
    >>> best, len(history)
    ((1, 1), 20)
    """
    check_at_least(population, "population", 1)
    check_at_least(tournament, "tournament", 1)
    check_at_least(evaluations, "evaluations", 1)
    if tournament > population:
        raise ValueError(
            f"Expected argument `tournament` to be at most {population}, the population, got {tournament}."
        )
    rng = random.Random(seed)
    scored = _Scored(score)
    members: deque[tuple[Any, float]] = deque(maxlen=population)
    for _ in range(min(population, evaluations)):
        members.append(scored(_within(space, budget, rng)))
    while len(scored.history) < evaluations:
        parent, _ = max(rng.sample(list(members), min(tournament, len(members))), key=lambda member: member[1])
        members.append(scored(_child(space, parent, budget, rng, scored.known)))
    return scored.history, scored.best()


def random_search(
    space: SearchSpace,
    score: Callable[[Any], float],
    *,
    evaluations: int = 1000,
    budget: float | None = None,
    seed: int = 0,
) -> tuple[History, Any]:
    """Score random architectures within the budget: the baseline of every search.

    Args:
        space: What to search.
        score: Higher is better.
        evaluations: Architectures drawn; one that comes again counts again, but is scored once.
        budget: Bound of `space.cost`.
        seed: Every choice follows from it.

    Returns:
        The history, and the architecture of the highest score.

    Raises:
        ValueError: As `evolutionary_search`.

    >>> from tutelage.students import DepthSpace
    >>> random_search(DepthSpace((1, 3), (4, 8)), lambda arch: -sum(arch), evaluations=20)[1]
    (1, 1)
    """
    check_at_least(evaluations, "evaluations", 1)
    rng, scored = random.Random(seed), _Scored(score)
    for _ in range(evaluations):
        scored(_within(space, budget, rng))
    return scored.history, scored.best()


class _Scored:
    """Scores each architecture once, and keeps the order in which they came."""

    def __init__(self, score: Callable[[Any], float]) -> None:
        self._score = score
        self.known: dict[Hashable, float] = {}
        self.history: History = []

    def __call__(self, arch: Any) -> tuple[Any, float]:
        if arch not in self.known:
            value = float(self._score(arch))
            self.known[arch] = value if value == value else float("-inf")
        self.history.append((arch, self.known[arch]))
        return self.history[-1]

    def best(self) -> Any:
        return max(self.history, key=lambda entry: entry[1])[0]


def _within(space: SearchSpace, budget: float | None, rng: random.Random) -> Any:
    """A random architecture that keeps to the budget."""
    cheapest = float("inf")
    for _ in range(_DRAWS):
        arch = space.sample(rng)
        cost = 0.0 if budget is None else space.cost(arch)
        if budget is None or cost <= budget:
            return arch
        cheapest = min(cheapest, cost)
    raise ValueError(
        f"Expected argument `budget` to leave room for an architecture, but the cheapest of {_DRAWS} random ones costs "
        f"{cheapest:g} and the budget is {budget:g}."
    )


def _child(
    space: SearchSpace, parent: Any, budget: float | None, rng: random.Random, known: dict[Hashable, float]
) -> Any:
    """A mutation of the parent within the budget, a new one if a few tries find one."""
    fallback = parent
    for _ in range(20):
        child = space.mutate(parent, rng)
        if budget is not None and space.cost(child) > budget:
            continue
        if child not in known:
            return child
        fallback = child
    return fallback
