from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.comparison import best_settings, fit_plan, make_rounds, survivors
from tutelage.comparison.halving import expected_seconds

PLAN = {"settings": 4, "finalists": 4, "baselines": 2, "seeds": 5, "steps": 900, "keep": 3.0}


def test_rounds_by_hand() -> None:
    rounds = make_rounds(30, **PLAN)  # type: ignore[arg-type]
    # 30 → ⌈30/3⌉ = 10 → max(4, ⌈10/3⌉) = 4; each round trains three times as long as the one before
    assert [(one.methods, one.settings, one.seeds, one.steps) for one in rounds] == [
        (30, 4, 1, 100),
        (10, 1, 3, 300),
        (6, 1, 5, 900),
    ]
    assert [one.students for one in rounds] == [120, 30, 30]


def test_few_methods_still_have_their_settings_chosen_before_the_final() -> None:
    rounds = make_rounds(2, **PLAN)  # type: ignore[arg-type]
    assert [(one.methods, one.settings, one.steps) for one in rounds] == [(2, 4, 300), (2, 1, 900)]


@settings(max_examples=25, deadline=None)
@given(
    methods=st.integers(1, 80),
    finalists=st.integers(1, 9),
    baselines=st.integers(0, 2),
    steps=st.integers(1, 5000),
    keep=st.floats(1.5, 5),
)
def test_rounds_narrow_and_lengthen(methods: int, finalists: int, baselines: int, steps: int, keep: float) -> None:
    rounds = make_rounds(methods, settings=3, finalists=finalists, baselines=baselines, seeds=4, steps=steps, keep=keep)
    assert rounds[0].methods == methods
    assert rounds[0].settings == 3
    assert all(one.settings == 1 for one in rounds[1:])
    assert rounds[-1].steps == steps
    assert rounds[-1].methods <= min(methods, finalists + baselines)
    before = rounds[:-1]
    assert all(later.methods < earlier.methods for earlier, later in itertools.pairwise(before))
    assert all(later.steps >= earlier.steps >= 1 for earlier, later in itertools.pairwise(rounds))
    assert before[-1].methods >= rounds[-1].methods - baselines  # somebody is there to go on


def test_time_by_hand() -> None:
    rounds = make_rounds(2, settings=2, finalists=1, baselines=0, seeds=3, steps=90, keep=3)
    # 4 students of 30 steps, two at a time: 2 · (30 · 0.2 + 1); 3 of 90: 2 · (90 · 0.2 + 1), a mean step being 0.2 s
    assert expected_seconds(rounds, {"a": (0.1, 1.0), "b": (0.3, 1.0)}, 2) == pytest.approx(2 * 7 + 2 * 19)


@settings(max_examples=25, deadline=None)
@given(budget=st.floats(20, 5000), step=st.floats(0.001, 0.05), jobs=st.integers(1, 8))
def test_a_plan_keeps_to_its_budget_or_says_what_it_needs(budget: float, step: float, jobs: int) -> None:
    costs = {f"method {number}": (step, 0.2) for number in range(20)}
    try:
        plan = fit_plan(costs, budget=budget, jobs=jobs, **PLAN)  # type: ignore[arg-type]
    except ValueError as error:
        needed = int(str(error).split("at least ")[1].split()[0])
        assert needed > budget
        fit_plan(costs, budget=needed, jobs=jobs, **PLAN)  # type: ignore[arg-type]
        return
    assert plan.seconds <= budget
    assert plan.seconds == pytest.approx(expected_seconds(plan.rounds, costs, jobs))
    more = fit_plan(costs, budget=2 * budget, jobs=jobs, **PLAN)  # type: ignore[arg-type]
    assert more.seconds >= plan.seconds


def test_a_rich_budget_changes_nothing_that_was_asked_for() -> None:
    costs = {"a": (0.001, 0.0), "b": (0.001, 0.0)}
    plan = fit_plan(costs, budget=1e6, jobs=1, **PLAN)  # type: ignore[arg-type]
    assert plan.rounds == make_rounds(2, **PLAN)  # type: ignore[arg-type]


def test_settings_are_given_up_before_half_of_the_steps() -> None:
    costs = {f"{number}": (0.01, 0.0) for number in range(30)}
    whole = fit_plan(costs, budget=1e6, jobs=1, **PLAN)  # type: ignore[arg-type]
    less = fit_plan(costs, budget=0.4 * whole.seconds, jobs=1, **PLAN)  # type: ignore[arg-type]
    assert less.rounds[0].settings == 2
    assert less.rounds[-1].steps >= 450


def test_who_goes_on() -> None:
    scores = {("a", 0): (0.5, -1.0), ("a", 1): (0.5, -0.5), ("b", 1): (0.4, 0.0), ("b", 0): (0.4, 0.0)}
    assert best_settings(scores) == {"a": 1, "b": 0}  # the smaller loss parts equals; of equals the published one
    ranked = {"a": (0.9,), "b": (0.9,), "c": (0.1,), "d": (0.5,)}
    assert survivors(ranked, 2) == ["a", "b"]
    assert survivors(ranked, 1, always=("c",)) == ["a", "c"]
    assert survivors(ranked, 9) == ["a", "b", "d", "c"]


@pytest.mark.parametrize(
    ("changes", "message"), [({"keep": 1.0}, "keep"), ({"steps": 0}, "steps"), ({"seeds": 0}, "seeds")]
)
def test_bad_input(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_rounds(3, **{**PLAN, **changes})  # type: ignore[arg-type]
