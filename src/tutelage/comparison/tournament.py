"""A comparison from its config to its folder: the teacher, a plan, rounds of students, the final, the page.

The folder holds `config.yaml`, `plan.json` (methods, settings and rounds, fitted to the budget once), `shared/` (the
teacher and its answers), `trials/ROUND/METHOD.SETTING.SEED.json`, and in the end `comparison.json`, `comparison.html`
and `winner.yaml`, the config of a distillation. Every file is whole or not there, and a finished trial is never run
again, so a comparison that was killed goes on to the result that it would have had.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tutelage.comparison.engine import TrialRunner
from tutelage.comparison.halving import Round, Score, best_settings, survivors
from tutelage.comparison.lessons import BASELINES, Setting
from tutelage.comparison.planning import (
    Announce,
    check_problem,
    checked_data,
    lesson_config,
    make_plan,
    prepare_teacher,
)
from tutelage.comparison.ranking import MAIN, Finalist, closing_sentence, mean_score, rank
from tutelage.comparison.settings import ComparisonConfig
from tutelage.comparison.trial import Failure
from tutelage.comparison.winner import winner_config
from tutelage.config import parse_config, read_config
from tutelage.data.samples import Data
from tutelage.files import read_json, remove_half_written, write_json, write_text
from tutelage.reporting.comparison_page import write_comparison_page
from tutelage.reproduction.environment import environment
from tutelage.reproduction.recipe import Arm, Context, Scale
from tutelage.reproduction.trial import Outcome, Trial, fixed_threads
from tutelage.teachers.folder_lock import folder_lock
from tutelage.teaching import assess_teacher, live_teacher
from tutelage.workers import core_count


def start_comparison(
    config: ComparisonConfig, folder: Path | str, *, resume: bool = False, announce: Announce = print
) -> dict[str, Any]:
    """Carry a comparison out in a folder.

    Args:
        config: The problem, the methods and the budget.
        folder: Where everything goes; a new one, unless `resume`.
        resume: Keep what is finished, and go on with the rest.
        announce: Told of the steps.

    Returns:
        What `comparison.json` holds.

    Raises:
        FileExistsError: The folder holds a comparison already.
        ValueError: Something does not fit, or another process writes to the folder.
    """
    started = time.monotonic()
    folder = Path(folder)
    if not resume and (folder / "config.yaml").exists():
        raise FileExistsError(f"{folder} holds a comparison already: resume it, or choose another folder.")
    data = checked_data(config)  # what is wrong with these two leaves no folder behind
    check_problem(config, data)
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder), TrialRunner(config.engine, config.jobs or core_count()) as runner:
        remove_half_written(folder)
        write_text(folder / "config.yaml", config.to_yaml())
        shared = folder / "shared"
        prepare_teacher(config, data, shared, announce)
        if not (folder / "plan.json").exists():
            write_json(folder / "plan.json", make_plan(config, data, shared, runner.jobs, started, announce))
        return _Tournament(config, data, folder, read_json(folder / "plan.json"), runner, announce).play()


def resume_comparison(
    folder: Path | str,
    *,
    jobs: int | None = None,
    engine: str | None = None,
    budget: str | float | None = None,
    announce: Announce = print,
) -> dict[str, Any]:
    """Go on with the comparison in a folder, by its own plan.

    Args:
        folder: The comparison's folder.
        jobs: Students taught at the same time from now on, where that shall be others than before.
        engine: The engine from now on, where that shall be another one.
        budget: Another budget, for a comparison that has no plan yet since its own was too small.
        announce: Told of the steps.

    Raises:
        FileNotFoundError: The folder holds no comparison.
        ValueError: A budget is given, but the plan is made; or as in `start_comparison`.
    """
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"Expected a comparison in {folder}, but there is no config.yaml.")
    if budget is not None and (folder / "plan.json").exists():
        raise ValueError(
            f"Expected no `budget`, since {folder} has its plan already; start another comparison for one."
        )
    asked = {"jobs": jobs, "engine": engine, "budget": budget}
    changes = {key: value for key, value in asked.items() if value is not None}
    config = parse_config({**read_config(folder / "config.yaml"), **changes}, ComparisonConfig)
    return start_comparison(config, folder, resume=True, announce=announce)


class _Tournament:
    """Plays the rounds of a plan in its folder."""

    def __init__(
        self,
        config: ComparisonConfig,
        data: Data,
        folder: Path,
        plan: Mapping[str, Any],
        runner: TrialRunner,
        announce: Announce,
    ) -> None:
        if plan["data"] != data.train.fingerprint():
            raise ValueError(f"Expected the data that {folder} was begun with, but {data.name} holds others now.")
        self.config, self.data, self.folder, self.plan = config, data, folder, plan
        self.runner, self.announce = runner, announce
        self.rounds = [Round(**one) for one in plan["rounds"]]
        self.settings = {
            name: [Setting.from_dict(one) for one in method["settings"]] for name, method in plan["methods"].items()
        }
        self.context = Context(Scale("comparison", config.seeds, {"config": config.to_yaml()}), folder / "shared")

    def play(self) -> dict[str, Any]:
        """All rounds, the final and what is written at the end."""
        baselines: Sequence[str] = self.plan["baselines"]
        shown: list[dict[str, Any]] = []
        first = self._round(0, [(name, n) for name in self.settings for n in range(self.rounds[0].settings)], shown)
        best = best_settings(first)
        scores = {name: first[name, setting] for name, setting in best.items()}
        names = [name for name in self.settings if name in best]
        for number, one in enumerate(self.rounds[1:-1], start=1):
            names = survivors({name: scores[name] for name in names}, one.methods)
            found = self._round(number, [(name, best[name]) for name in names], shown)
            scores |= {name: score for (name, _), score in found.items()}
            names = [name for name in names if (name, best[name]) in found]
        going = survivors({name: scores[name] for name in names}, self.config.finalists)
        going += [name for name in baselines if name in best and name not in going]
        finalists = self._final([(name, best[name]) for name in going])
        return self._finish(finalists, shown)

    def _round(
        self, number: int, candidates: Sequence[tuple[str, int]], shown: list[dict[str, Any]]
    ) -> dict[tuple[str, int], Score]:
        """The scores of a round's candidates, without those that failed; what a table shows is added to `shown`."""
        one = self.rounds[number]
        # None of these seeds is in the final: who was lucky here starts there anew.
        seeds = range(self.config.seeds, self.config.seeds + one.seeds)
        rows = self._trials(number, candidates, seeds, test=False)
        scores: dict[tuple[str, int], Score] = {}
        for name, setting in candidates:
            found = [rows[name, setting, seed] for seed in seeds]
            failure = next((row["failure"] for row in found if row["failure"]), "")
            if not failure:
                scores[name, setting] = mean_score([self._score(row) for row in found])
            shown.append(
                {
                    "round": number,
                    "steps": one.steps,
                    "method": name,
                    "setting": self.settings[name][setting].label,
                    "score": None if failure else scores[name, setting][0],
                    "failure": failure,
                }
            )
        if not scores:
            raise ValueError(
                f"Expected a student of round {number + 1} to finish, but all failed: {shown[-1]['failure']}"
            )
        name, _ = max(scores, key=lambda candidate: scores[candidate])
        others = len({method for method, _ in candidates}) - 1
        self.announce(f"Round {number + 1} of {len(self.rounds)}: {name} is ahead of {others} others.")
        return scores

    def _final(self, candidates: Sequence[tuple[str, int]]) -> list[Finalist]:
        number = len(self.rounds) - 1
        seeds = range(self.rounds[-1].seeds)
        rows = self._trials(number, candidates, seeds, test=True)
        finalists = []
        for name, setting in candidates:
            found = [rows[name, setting, seed] for seed in seeds]
            label = self.settings[name][setting].label
            failed = [row["failure"] for row in found if row["failure"]]
            if failed:
                finalists.append(Finalist(name, label, failure=f"{len(failed)} of {len(found)} seeds: {failed[0]}"))
                continue
            tested = [key for key in found[0]["metrics"] if key.startswith("test/")]
            finalists.append(
                Finalist(
                    name,
                    label,
                    [self._score(row) for row in found],
                    {
                        key.removeprefix("test/"): [row["metrics"][key] for row in found]
                        for key in tested
                        if all(key in row["metrics"] for row in found)
                    },
                    [row["metrics"]["samples"] for row in found],
                    [row["metrics"]["step_seconds"] for row in found],
                    [row["metrics"]["memory_mb"] for row in found],
                )
            )
        return finalists

    def _score(self, row: Mapping[str, Any]) -> Score:
        """Accuracy, and among equals the smaller loss; of a regression the smaller squared error."""
        metrics = row["metrics"]
        loss = -metrics["validation_loss"]
        return (metrics["validation_accuracy"], loss) if self.data.task == "classification" else (loss,)

    def _trials(
        self, number: int, candidates: Sequence[tuple[str, int]], seeds: range, *, test: bool
    ) -> dict[tuple[str, int, int], dict[str, Any]]:
        """The stored result of every trial of a round; those that are missing are run first."""
        wanted = [(name, setting, seed) for seed in seeds for name, setting in candidates]
        places = {key: self._place(number, *key) for key in wanted}
        missing: dict[tuple[str, int], tuple[str, int, int]] = {}
        trials = []
        for name, setting, seed in wanted:
            if places[name, setting, seed].exists():
                continue
            one = {"setting": self.settings[name][setting].to_dict(), "steps": self.rounds[number].steps}
            arm = Arm(f"{name} #{setting}", {**one, "test": test})
            missing[arm.name, seed] = (name, setting, seed)
            trials.append(Trial(arm, seed))
        told = 0
        for done, outcome in enumerate(self.runner.run(self.context, trials), start=1):
            key = missing[outcome.arm, outcome.seed]
            write_json(places[key], _record(outcome))
            if isinstance(outcome.metrics, Failure):
                self.announce(f"{key[0]}, seed {key[2]}: failed, {outcome.metrics.reason}")
            if 4 * done // len(trials) > told and len(trials) > 4:
                told = 4 * done // len(trials)
                self.announce(f"Round {number + 1} of {len(self.rounds)}: {done} of {len(trials)} students.")
        return {key: read_json(place) for key, place in places.items()}

    def _place(self, number: int, name: str, setting: int, seed: int) -> Path:
        return self.folder / "trials" / f"{number + 1}" / f"{file_name(name)}.{setting + 1}.{seed}.json"

    def _finish(self, finalists: Sequence[Finalist], shown: list[dict[str, Any]]) -> dict[str, Any]:
        task = self.data.task
        baseline = BASELINES[task][0]
        ranking = rank(finalists, task=task, baseline=baseline)
        winner = next(one for one in finalists if one.name == ranking.winner)
        teacher = self._teacher_metrics()
        text = winner_config(self.config, self._setting(winner), winner.name, self.folder / "shared").to_yaml()
        result: dict[str, Any] = {
            "name": self.config.name,
            "data": self.data.description or self.data.name,
            "task": task,
            "metric": MAIN[task],
            "seeds": self.rounds[-1].seeds,
            "summary": closing_sentence(ranking, task=task, baseline=baseline, teacher=teacher.get(MAIN[task])),
            "winner": ranking.winner,
            "baseline": baseline,
            "teacher": teacher,
            "rows": ranking.rows,
            "tests": ranking.tests,
            "rounds": [asdict(one) for one in self.rounds],
            "whole_steps": self.plan["whole_steps"],
            "candidates": shown,
            "inapplicable": self.plan["inapplicable"],
            "environment": environment(),
        }
        write_text(self.folder / "winner.yaml", text)
        write_json(self.folder / "comparison.json", result)
        write_comparison_page(self.folder / "comparison.html", result, text)
        return result

    def _setting(self, one: Finalist) -> Setting:
        return next(setting for setting in self.settings[one.name] if setting.label == one.label)

    def _teacher_metrics(self) -> dict[str, float]:
        """The teacher's own metrics on test."""
        if not self.config.teachers:
            return {}
        config = lesson_config(self.config, assessment={"robustness": False, "latency": False, "examples": 0})
        live = live_teacher(config, self.data, self.folder / "shared", seed=0)
        assert live is not None
        with fixed_threads(1):
            return assess_teacher(config, self.data, live).metrics


def file_name(name: str) -> str:
    """A method's name as part of a file's: itself where it can be, else with a hash that keeps names apart.

    >>> file_name("focal_loss"), file_name("mine:Loss")
    ('focal_loss', 'mine-Loss-a1209660')
    """
    plain = re.sub(r"[^\w-]+", "-", name)
    return plain if plain == name else f"{plain[:60]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _record(outcome: Outcome) -> dict[str, Any]:
    failure = outcome.metrics.reason if isinstance(outcome.metrics, Failure) else ""
    return {"metrics": dict(outcome.metrics), "failure": failure, "seconds": outcome.seconds}
