"""The end of a comparison: who is chosen on validation, and what the test part says about everybody."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.assessment.statistics import holm_correction, paired_t_test
from tutelage.comparison.crossed import crossed_comparison
from tutelage.comparison.halving import Score
from tutelage.reporting.metrics import metric

MAIN = {"classification": "accuracy", "regression": "mean_squared_error"}
"""What methods are compared by, by task."""

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Finalist:
    """A method in the final.

    Attributes:
        name: The method.
        label: Its setting.
        scores: On validation, one a seed.
        test: Metrics on test, one value a seed, by name.
        samples: For each seed the value of every test sample whose mean is the main metric.
        step_seconds: One a seed.
        memory_mb: One a seed.
        failure: Why it has no result; empty where it has one.
    """

    name: str
    label: str
    scores: Sequence[Score] = ()
    test: Mapping[str, Sequence[float]] = field(default_factory=dict)
    samples: Sequence[Sequence[float]] = ()
    step_seconds: Sequence[float] = ()
    memory_mb: Sequence[float] = ()
    failure: str = ""


@dataclass(frozen=True)
class Ranking:
    """The final's result, as plain data.

    Attributes:
        winner: The method with the best mean on validation.
        rows: Finalists in the order of their means on validation, the failed ones last.
        tests: Paired tests on test data: of the winner against each other one, and of the baseline against each.
    """

    winner: str
    rows: list[dict[str, Any]]
    tests: list[dict[str, Any]]


def rank(finalists: Sequence[Finalist], *, task: str, baseline: str) -> Ranking:
    """Choose on validation, and report on test.

    The order and the winner come from the means over seeds on validation. The main metric's intervals and tests are
    those of `crossed_comparison`: of other seeds and of other test samples; p-values are corrected together by Holm's
    method. Intervals of the other metrics are Student's over seeds, on the test samples that there are.

    Args:
        finalists: The final's methods; all with the same seeds.
        task: `classification` or `regression`.
        baseline: Whom everybody is compared with besides the winner, and whose step is the unit of cost.

    Raises:
        ValueError: Every finalist failed.
    """
    whole = [one for one in finalists if not one.failure]
    if not whole:
        reasons = "; ".join(f"{one.name}: {one.failure}" for one in finalists)
        raise ValueError(f"Expected a finalist to finish, but all failed ({reasons}).")
    order = sorted(whole, key=lambda one: mean_score(one.scores), reverse=True)
    unit = next((statistics.median(one.step_seconds) for one in whole if one.name == baseline), math.nan)
    rows = [_row(one, unit, MAIN[task]) for one in order]
    rows += [{"method": one.name, "setting": one.label, "failure": one.failure} for one in finalists if one.failure]
    return Ranking(order[0].name, rows, _tests(order, MAIN[task], baseline))


def mean_score(scores: Sequence[Score]) -> Score:
    """The mean of scores, entry by entry.

    >>> mean_score([(0.5, -1.0), (1.0, -2.0)])
    (0.75, -1.5)
    """
    return tuple(statistics.fmean(entry) for entry in zip(*scores, strict=True))


def _row(one: Finalist, unit: float, main: str) -> dict[str, Any]:
    step = statistics.median(one.step_seconds)
    return {
        "method": one.name,
        "setting": one.label,
        "failure": "",
        "validation": mean_score(one.scores)[0],
        "test": {name: _spread(name, values, one.samples if name == main else ()) for name, values in one.test.items()},
        "step_seconds": step,
        "cost": step / unit if unit > 0 else None,
        "memory_mb": max(one.memory_mb),
    }


def _spread(name: str, values: Sequence[float], samples: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Mean and 95 % interval, that of a share within 0 and 1; without samples, one seed says nothing of a spread."""
    found = crossed_comparison(samples) if samples else paired_t_test(values)
    known = math.isfinite(found.ci_low)
    low, high = (found.ci_low, found.ci_high) if known else (None, None)
    if low is not None and high is not None and metric(name).unit == "fraction":
        low, high = max(low, 0.0), min(high, 1.0)
    return {"mean": statistics.fmean(values), "low": low, "high": high, "values": list(values)}


def _tests(order: Sequence[Finalist], name: str, baseline: str) -> list[dict[str, Any]]:
    winner = order[0]
    pairs = [(winner, other) for other in order[1:]]
    reference = next((one for one in order if one.name == baseline), None)
    if reference is not None and reference is not winner:
        pairs += [(other, reference) for other in order[1:] if other is not reference]
    found: list[dict[str, Any]] = []
    for first, second in pairs:
        test = crossed_comparison(first.samples, second.samples)
        found.append(
            {
                "arm": first.name,
                "baseline": second.name,
                "metric": name,
                "difference": test.difference,
                "ci_low": test.ci_low,
                "ci_high": test.ci_high,
                "p_value": test.p_value,
                "method": "t-test over seeds and samples (two-way clustered), Holm-corrected",
            }
        )
    for entry, corrected in zip(found, holm_correction([entry["p_value"] for entry in found]), strict=True):
        entry["p_value"] = corrected
    return found


def closing_sentence(ranking: Ranking, *, task: str, baseline: str, teacher: float | None) -> str:
    """What came out, in a few sentences; a lead that may be chance is called so.

    Args:
        ranking: The final's result.
        task: `classification` or `regression`.
        baseline: The method that learns from labels alone.
        teacher: What the teacher reaches on test, if there is one.
    """
    shown = metric(MAIN[task])
    rows = {row["method"]: row for row in ranking.rows if not row["failure"]}
    best = rows[ranking.winner]
    spread = best["test"][shown.name]
    label = f" ({best['setting']})" if best["setting"] else ""
    text = f"{ranking.winner}{label} is chosen on validation. On test it has {_article(shown.sentence_label)} "
    text += f"of {shown.format_unit(spread['mean'])}"
    if spread["low"] is not None:
        text += f" [{shown.format(spread['low'])}, {shown.format(spread['high'])}]"
    text += f"; its teacher has {shown.format_unit(teacher)}." if teacher is not None else "."
    if len(rows) == 1:
        return text
    if ranking.winner == baseline:
        text += " No method did better on validation than learning from the labels alone."
    elif baseline in rows:
        text += " " + _against_baseline(ranking, baseline, shown.name)
    level = [
        test["baseline"]
        for test in ranking.tests
        if test["arm"] == ranking.winner and test["baseline"] != baseline and test["p_value"] >= SIGNIFICANCE
    ]
    if level:
        text += f" It is not told apart from {_listed(level)} by a test."
    sign = 1 if shown.better == "higher" else -1
    ahead = max(rows.values(), key=lambda row: sign * row["test"][shown.name]["mean"])
    if sign * (ahead["test"][shown.name]["mean"] - spread["mean"]) > 0:
        text += f" The best mean on test is that of {ahead['method']}, which validation did not choose."
    return text


def _against_baseline(ranking: Ranking, baseline: str, name: str) -> str:
    shown = metric(name)
    found = next((one for one in ranking.tests if one["arm"] == ranking.winner and one["baseline"] == baseline), None)
    assert found is not None  # every pair has a test
    better = found["difference"] if shown.better == "higher" else -found["difference"]
    if better == 0:
        return f"It does as well as {baseline}."
    size = shown.format_difference(abs(found["difference"])).lstrip("+")
    word = "lead over" if better > 0 else "gap to"
    verdict = "significant" if found["p_value"] < SIGNIFICANCE else "not significant"
    return f"Its {word} {baseline}, {size}, is {verdict} (p = {found['p_value']:.2g})."


def _article(label: str) -> str:
    return ("an " if label[0] in "aeiouR" else "a ") + label


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
