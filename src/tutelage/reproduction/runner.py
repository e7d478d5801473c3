"""Run a recipe: prepare once, run arms × seeds, judge the claims, and give one JSON-ready result."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tutelage
from tutelage._checks import check_at_least, check_option
from tutelage.files import read_json, write_json
from tutelage.reproduction.engines import Engine, check_engine, run_trials
from tutelage.reproduction.environment import environment
from tutelage.reproduction.recipe import Arm, Context, Recipe, Scale
from tutelage.reproduction.results import Results
from tutelage.reproduction.trial import Outcome, Trial, fixed_threads, peak_rss_mb, seed_everything

Report = Callable[[int, int, Outcome], None]
"""Told of every finished trial: how many are done, of how many, and the outcome."""


def run_recipe(
    recipe: Recipe,
    scale: str = "quick",
    *,
    seeds: int | None = None,
    engine: Engine = "processes",
    jobs: int = 2,
    breakage: str | None = None,
    folder: Path | str | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Run a recipe and judge its claims.

    Args:
        recipe: What to run.
        scale: The scale's name.
        seeds: How many seeds; `None` for as many as the scale says.
        engine: Where the trials run; see `run_trials`.
        jobs: How many trials run at once.
        breakage: Run the method broken on purpose in this way (a key of `recipe.breakages`).
        folder: Keeps what was prepared and every finished trial; a later call with the same folder reuses them and
            runs only the rest. `None` for a temporary folder.
        report: Told of every finished trial.

    Returns:
        `{slug, scale, seeds, settings, environment, facts, arms: {arm: {metric: [one value a seed]}}, groups, claims,
        published, notes, seconds, peak_rss_mb}`, and `breakage` when there is one. Plain data without NaN.

    Raises:
        ValueError: No such scale or breakage, or `folder` belongs to another experiment.
        TrialError: A trial failed.
    """
    chosen = recipe.scale(scale)
    count = chosen.seeds if seeds is None else seeds
    check_at_least(count, "seeds", 1)
    check_engine(engine, jobs)
    arms = _arms(recipe, chosen, breakage)
    started = time.perf_counter()
    with _work_folder(recipe, chosen, arms, breakage, folder) as work:
        facts = _prepare(recipe, Context(chosen, work / "prepared"))
        # Seed by seed, so that an early look at a long run already compares all arms.
        trials = [Trial(arm, seed) for seed in range(count) for arm in arms]
        outcomes = _run(recipe, Context(chosen, work / "prepared"), trials, work / "trials", engine, jobs, report)
    results = _results(arms, count, outcomes, facts)
    result: dict[str, Any] = {
        "slug": recipe.slug,
        "scale": scale,
        "seeds": list(range(count)),
        "settings": dict(chosen.settings),
        "environment": environment(),
        "facts": dict(facts),
        "arms": results.arms,
        "groups": results.groups,
        "claims": judge(recipe, results),
        "published": list(recipe.system.headline),
        "notes": recipe.notes,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_rss_mb": round(max([peak_rss_mb(), *(outcome.peak_rss_mb for outcome in outcomes.values())]), 1),
    }
    if breakage is not None:
        result["breakage"] = breakage
    return result


def judge(recipe: Recipe, results: Results) -> list[dict[str, Any]]:
    """Judge every claim: `{id, text, criterion, published, value, p_value, holds, detail}`.

    `p_value` is absent when the criterion has no test, and null when the test is undefined (one seed).
    """
    judged = []
    for claim in recipe.claims:
        judgement = claim.judge(results)
        entry = {
            "id": claim.id,
            "text": claim.text,
            "criterion": claim.criterion,
            "published": claim.published,
            "value": _finite(judgement.value),
            "holds": bool(judgement.holds),
            "detail": judgement.detail,
        }
        if judgement.p_value is not None:
            entry["p_value"] = _finite(judgement.p_value)
        judged.append(entry)
    return judged


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _arms(recipe: Recipe, scale: Scale, breakage: str | None) -> list[Arm]:
    arms = recipe.arms(scale)
    if breakage is not None:
        check_option(breakage, "breakage", tuple(recipe.breakages))
        arms = [recipe.breakages[breakage](arm) for arm in arms]
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"Expected every arm to have a name of its own, but got {', '.join(names)}.")
    return arms


def _prepare(recipe: Recipe, context: Context) -> dict[str, float]:
    done = context.folder.parent / "prepared.json"
    if done.exists():
        known = read_json(done)
        if not isinstance(known, dict):
            raise ValueError(f"Expected {done} to hold what was prepared, but got a JSON {type(known).__name__}.")
        return known
    context.folder.mkdir(parents=True, exist_ok=True)
    facts: Mapping[str, float] | None = None
    if recipe.prepare is not None:
        with fixed_threads(1):
            seed_everything(0)
            facts = recipe.prepare(context)
    write_json(done, dict(facts or {}))
    return dict(facts or {})


def _run(
    recipe: Recipe, context: Context, trials: list[Trial], store: Path, engine: Engine, jobs: int, report: Report | None
) -> dict[tuple[str, int], Outcome]:
    outcomes = read_outcomes(store)
    missing = [trial for trial in trials if (trial.arm.name, trial.seed) not in outcomes]
    done = len(trials) - len(missing)
    for outcome in run_trials(recipe.run_arm, context, missing, engine=engine, jobs=jobs):
        outcomes[outcome.arm, outcome.seed] = outcome
        name = hashlib.sha256(outcome.arm.encode()).hexdigest()[:16]
        write_json(store / f"{name}.{outcome.seed}.json", asdict(outcome))
        done += 1
        if report is not None:
            report(done, len(trials), outcome)
    return outcomes


def read_outcomes(store: Path) -> dict[tuple[str, int], Outcome]:
    """The trials that an earlier call finished.

    Raises:
        ValueError: A file is damaged; without it, its trial runs again.
    """
    outcomes: dict[tuple[str, int], Outcome] = {}
    for path in sorted(store.glob("*.json")):
        found = read_json(path)
        try:
            outcome = Outcome(**found)
            if not (isinstance(outcome.arm, str) and isinstance(outcome.seed, int)):
                raise TypeError("`arm` is a text and `seed` an integer")
            for value in outcome.metrics.values():
                sum(value if isinstance(value, list) else [value])
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"Expected {path} to hold a finished trial, but {error}; remove it to go on.") from error
        outcomes[outcome.arm, outcome.seed] = outcome
    return outcomes


def _results(
    arms: list[Arm], seeds: int, outcomes: Mapping[tuple[str, int], Outcome], facts: Mapping[str, float]
) -> Results:
    groups: dict[str, list[str]] = {}
    measured: dict[str, dict[str, list[Any]]] = {}
    for arm in arms:
        rows = [outcomes[arm.name, seed].metrics for seed in range(seeds)]
        measured[arm.name] = {metric: [row[metric] for row in rows] for metric in rows[0]}
        if arm.group is not None:
            groups.setdefault(arm.group, []).append(arm.name)
    return Results(measured, groups, facts)


@contextlib.contextmanager
def _work_folder(
    recipe: Recipe, scale: Scale, arms: list[Arm], breakage: str | None, folder: Path | str | None
) -> Iterator[Path]:
    """A folder that belongs to this experiment: the same recipe source, settings, arms and versions."""
    if folder is None:
        with tempfile.TemporaryDirectory(prefix=f"tutelage-{recipe.slug}-") as name:
            yield Path(name)
        return
    source = inspect.getsourcefile(recipe.run_arm)
    belongs = {
        "slug": recipe.slug,
        "scale": scale.name,
        "breakage": breakage,
        "settings": dict(scale.settings),
        "arms": [{"name": arm.name, "settings": dict(arm.settings)} for arm in arms],
        "source": hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else "",
        "version": tutelage.__version__,
        "torch": environment()["torch"],
    }
    belongs = json.loads(json.dumps(belongs))  # as it will be read back: tuples are lists
    path = Path(folder) / "experiment.json"
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"Expected {path} to describe an experiment, but got a JSON {type(found).__name__}.")
        differing = [key for key, value in belongs.items() if found.get(key) != value]
        if differing:
            raise ValueError(
                f"Expected {folder} to belong to this experiment, but its {', '.join(differing)} "
                f"{'is' if len(differing) == 1 else 'are'} other; remove it, or name another folder."
            )
    else:
        write_json(path, belongs)
    yield Path(folder)
