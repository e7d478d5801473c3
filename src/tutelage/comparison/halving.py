"""Successive halving over methods: a schedule of rounds, fitted to a time budget, and who goes on.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization", AISTATS 2016;
here every round is a whole run from scratch with a schedule of its own, so that a short one is not a long one cut off.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tutelage._checks import check_at_least, check_positive

SEEDS_BETWEEN = 3
"""Seeds of each candidate in the rounds between the first and the final."""


@dataclass(frozen=True)
class Round:
    """One round: the same steps for every candidate.

    Attributes:
        methods: How many methods take part; in the final at most, since a baseline may be there on its merits.
        settings: Settings of each.
        seeds: Students of each setting.
        steps: Optimiser steps of each student.
    """

    methods: int
    settings: int
    seeds: int
    steps: int

    @property
    def students(self) -> int:
        """How many students are taught."""
        return self.methods * self.settings * self.seeds


@dataclass(frozen=True)
class Plan:
    """All rounds, the final last, and how long they should take.

    Attributes:
        rounds: In order.
        seconds: The estimate, in seconds of wall time.
    """

    rounds: tuple[Round, ...]
    seconds: float


def make_rounds(
    methods: int, *, settings: int, finalists: int, baselines: int, seeds: int, steps: int, keep: float
) -> tuple[Round, ...]:
    """The rounds of a comparison without a limit of time.

    The first round looks at all settings of every method. A round keeps one of `keep` methods, and the next one trains
    `keep` times as long, until so many are left as the final has; its students train for `steps`.

    Args:
        methods: How many take part.
        settings: Of each method, in the first round.
        finalists: Methods in the final besides the baselines.
        baselines: Methods that are in the final whatever they reach.
        seeds: Students of each finalist.
        steps: Optimiser steps in the final.
        keep: η, above 1.

    >>> [(one.methods, one.settings, one.seeds, one.steps) for one in make_rounds(
    ...     36, settings=4, finalists=4, baselines=2, seeds=5, steps=900, keep=3)]
    [(36, 4, 1, 100), (12, 1, 3, 300), (6, 1, 5, 900)]
    """
    for value, name in ((methods, "methods"), (settings, "settings"), (finalists, "finalists"), (seeds, "seeds")):
        check_at_least(value, name, 1)
    check_at_least(steps, "steps", 1)
    if not keep > 1:
        raise ValueError(f"Expected argument `keep` to be above 1, but got {keep}.")
    sizes = [methods]
    while sizes[-1] > finalists:
        sizes.append(max(finalists, min(math.ceil(sizes[-1] / keep), sizes[-1] - 1)))
    before = sizes[:-1] or sizes
    rounds = [
        Round(size, settings if number == 0 else 1, 1 if number == 0 else SEEDS_BETWEEN, 0)
        for number, size in enumerate(before)
    ]
    rounds.append(Round(min(methods, sizes[-1] + baselines), 1, seeds, 0))
    return tuple(
        Round(one.methods, one.settings, one.seeds, max(1, round(steps / keep ** (len(rounds) - 1 - number))))
        for number, one in enumerate(rounds)
    )


def fit_plan(
    costs: Mapping[str, tuple[float, float]],
    *,
    budget: float,
    jobs: int,
    settings: int,
    finalists: int,
    baselines: int,
    seeds: int,
    steps: int,
    keep: float,
) -> Plan:
    """The best plan that a budget allows: full length if it can be, then fewer settings and seeds, then shorter runs.

    Args:
        costs: For each method the seconds of a step, and of everything else in a trial.
        budget: Seconds of wall time.
        jobs: Students taught at the same time.
        settings: As in `make_rounds`, as the rest; the most that are used.
        finalists: As in `make_rounds`.
        baselines: As in `make_rounds`.
        seeds: As in `make_rounds`; at least 2 are used.
        steps: As in `make_rounds`; the most that are used.
        keep: As in `make_rounds`.

    Raises:
        ValueError: The budget is too small for any plan; the least one is said.

    >>> plan = fit_plan({"a": (0.001, 0.1), "b": (0.003, 0.1)}, budget=60, jobs=2, settings=4, finalists=1, baselines=1,
    ...     seeds=5, steps=1000, keep=3)
    >>> plan.rounds[-1].steps, round(plan.seconds, 1)
    (1000, 13.6)
    """
    check_positive(budget, "budget")
    check_at_least(jobs, "jobs", 1)
    few, two = min(seeds, 3), min(settings, 2)
    half, least = max(1, steps // 2), min(steps, 10)
    choices = [(settings, seeds, half), (two, seeds, half), (two, few, half), (1, few, half), (1, min(seeds, 2), least)]
    for tried, students, shortest in choices:

        def planned(length: int, tried: int = tried, students: int = students) -> Plan:
            rounds = make_rounds(
                len(costs),
                settings=tried,
                finalists=finalists,
                baselines=baselines,
                seeds=students,
                steps=length,
                keep=keep,
            )
            return Plan(rounds, expected_seconds(rounds, costs, jobs))

        if planned(shortest).seconds > budget:
            continue
        low, high = shortest, steps  # the most steps that fit, by bisection
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if planned(middle).seconds <= budget else (low, middle - 1)
        return planned(low)
    needed = math.ceil(10 * planned(least).seconds) / 10
    raise ValueError(
        f"Expected argument `budget` to leave at least {needed:.1f} seconds for {len(costs)} methods, but it "
        f"leaves {math.floor(10 * budget) / 10:.1f}; give more time, or fewer methods."
    )


def expected_seconds(rounds: tuple[Round, ...], costs: Mapping[str, tuple[float, float]], jobs: int) -> float:
    """The wall time that rounds should take, where a method that goes on costs as much as the mean of all."""
    step = sum(cost for cost, _ in costs.values()) / len(costs)
    overhead = sum(cost for _, cost in costs.values()) / len(costs)
    return sum(math.ceil(one.students / jobs) * (one.steps * step + overhead) for one in rounds)


Score = tuple[float, ...]
"""How good a student is on validation; higher is better, and later entries only part equals."""


def best_settings(scores: Mapping[tuple[str, int], Score]) -> dict[str, int]:
    """The best setting of each method by its score (higher is better); the earlier one of equals.

    >>> best_settings({("a", 0): (0.5,), ("a", 1): (0.7,), ("b", 0): (0.6,), ("b", 1): (0.6,)})
    {'a': 1, 'b': 0}
    """
    best: dict[str, int] = {}
    for method, setting in sorted(scores, key=lambda key: key[1]):
        if method not in best or scores[method, setting] > scores[method, best[method]]:
            best[method] = setting
    return best


def survivors(scores: Mapping[str, Score], count: int, always: Collection[str] = ()) -> list[str]:
    """The `count` best methods, best first, and after them those of `always` that are not among them.

    Args:
        scores: By method; higher is better, and the earlier of equals goes first.
        count: How many go on by their score.
        always: Who goes on whatever the score.

    >>> survivors({"a": (0.1,), "b": (0.9,), "c": (0.5,)}, 1, always=("a", "b"))
    ['b', 'a']
    """
    order = sorted(scores, key=lambda method: scores[method], reverse=True)
    return [*order[:count], *(method for method in order[count:] if method in always)]
