"""A run: from a config to a folder. The teacher first, then a student for every arm and seed, then the report card.

The folder holds `config.yaml` (resolved), `environment.json`, `report.html`, `report.json`, `student.safetensors` and
`student.json` (the best arm's best seed, chosen on validation), `metrics.jsonl` (that student's), `teacher/` when one
was trained, and `arms/ARM/seed-N/` for each student, with its own metrics, checkpoints, weights and card.
"""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from tutelage.assessment import ReportCard
from tutelage.config import DistillConfig, ObjectiveSettings, parse_config, read_config
from tutelage.data import load_data
from tutelage.data.samples import Data
from tutelage.files import read_json, remove_half_written, write_json, write_text
from tutelage.reporting import ArmResult, Report, compare_arms, print_report, summary_sentence, write_report
from tutelage.reporting.report import card_from_dict
from tutelage.reproduction.environment import environment
from tutelage.teachers.folder_lock import folder_lock
from tutelage.teaching import (
    Announce,
    assess_teacher,
    cache_teacher,
    check_fit,
    live_teacher,
    teach_one,
    teacher_folder,
    train_teacher,
    trial_folder,
)
from tutelage.training.monitors import Record
from tutelage.workers import core_count, on_main_process, run_in_workers


def start_run(config: DistillConfig, folder: Path | str, *, resume: bool = False, announce: Announce = print) -> Report:
    """Carry a config out in a folder, and write the report.

    Args:
        config: What to do.
        folder: The run's folder; a new one, unless `resume`.
        resume: Keep what is finished in the folder, and go on with the rest.
        announce: Told of the steps.

    Returns:
        The report that `report.html` shows.

    Raises:
        FileExistsError: The folder holds a run already.
        ValueError: Something in the config does not fit, or another process writes to the folder.
        Interrupted: Ctrl-C or SIGTERM came; every student's checkpoint was written first.
    """
    folder = Path(folder)
    main = int(os.environ.get("RANK", "0")) == 0
    if main and not resume and (folder / "config.yaml").exists():
        raise FileExistsError(f"{folder} holds a run already: resume it, or choose another folder.")
    data = load_data(config.data.name, **config.data.options)
    check_fit(config, data)  # before anything is written, so that a mended config can use the same folder
    folder.mkdir(parents=True, exist_ok=True)
    if not main:  # under torchrun: the others only help to train
        return _carry_out(config, data, folder, announce=lambda line: None)
    with folder_lock(folder):
        remove_half_written(folder)
        write_text(folder / "config.yaml", config.to_yaml())
        write_json(folder / "environment.json", environment())
        return _carry_out(config, data, folder, announce=announce)


def resume_run(folder: Path | str, *, announce: Announce = print) -> Report:
    """Go on with the run in a folder, from its own config."""
    folder = Path(folder)
    if not (folder / "config.yaml").is_file():
        raise FileNotFoundError(f"Expected a run in {folder}, but there is no config.yaml.")
    return start_run(
        parse_config(read_config(folder / "config.yaml"), DistillConfig), folder, resume=True, announce=announce
    )


def run_from_terminal(config: DistillConfig | None, folder: Path | None) -> None:
    """Carry a run out for a person at a terminal: progress, a table, a closing line; Ctrl-C says how to go on.

    Args:
        config: What to do; None goes on with the run in `folder`.
        folder: The run's folder; None takes a new one under `runs/`.
    """
    main = int(os.environ.get("RANK", "0")) == 0
    if folder is None:
        title = "run" if config is None else config.name
        safe = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in title)
        folder = on_main_process(lambda: free_folder(safe))
    place = folder
    announce: Announce = (lambda line: print(line, flush=True)) if main else (lambda line: None)
    try:
        report = resume_run(place, announce=announce) if config is None else start_run(config, place, announce=announce)
    except KeyboardInterrupt as stop:
        text = f"{stop} " if str(stop) else "Stopped. "
        if main:
            print(f"\n{text}Go on with: tutelage distill --resume {place}", file=sys.stderr)
        sys.exit(130)
    if main:
        print_report(report, page=place / "report.html")


def free_folder(name: str, parent: Path | str = "runs") -> Path:
    """The first of `parent/name`, `parent/name-2`, … that holds no run."""
    for number in itertools.count(1):
        folder = Path(parent) / (name if number == 1 else f"{name}-{number}")
        if not (folder / "config.yaml").exists():
            return folder
    raise AssertionError("unreachable")


def _carry_out(config: DistillConfig, data: Data, folder: Path, *, announce: Announce) -> Report:
    for number, teacher in enumerate(config.teachers):
        if teacher.train is not None:
            train_teacher(teacher, config, data, teacher_folder(folder, number), announce)
    if config.cache is True:
        on_main_process(lambda: cache_teacher(config, data, folder, announce))
    trials = [(arm, seed) for arm in config.arms for seed in config.seeds]
    waiting = [trial for trial in trials if not (trial_folder(folder, *trial) / "card.json").exists()]
    several_processes = int(os.environ.get("WORLD_SIZE", "1")) > 1
    jobs = 1 if several_processes else config.jobs or core_count()
    quiet = jobs > 1 and len(waiting) > 1
    if quiet:
        announce(f"Teaching {len(waiting)} students, {min(jobs, len(waiting))} at a time.")
    done = len(trials) - len(waiting)
    for position, figures in run_in_workers(
        teach_one, [(config, folder, *trial, quiet) for trial in waiting], jobs=jobs
    ):
        done += 1
        arm, seed = waiting[position]
        announce(f"[{done}/{len(trials)}] {arm}, seed {seed}: {figures}")
    if int(os.environ.get("RANK", "0")) != 0:
        return Report(config.name)
    report = _report(config, data, folder, trials)
    _keep_best(config, folder, trials)
    write_report(folder / "report.html", report)
    return report


def read_card(path: Path) -> tuple[ReportCard, list[Record]]:
    """The report card of a student that was taught, and its history of at least one record.

    Raises:
        ValueError: The file is damaged; without it the card is made again, from the student's last checkpoint.
    """
    found = read_json(path)
    try:
        card, history = card_from_dict(found["card"]), list(found["history"])
        if not history or not all(isinstance(record, dict) for record in history):
            raise TypeError("`history` holds something else than records")
    except (TypeError, KeyError, AttributeError) as error:
        problem = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ValueError(f"Expected {path} to hold a report card, but {problem}; remove it and resume.") from error
    return card, history


def _report(config: DistillConfig, data: Data, folder: Path, trials: Sequence[tuple[str, int]]) -> Report:
    arms = []
    for arm, terms in config.arms.items():
        stored = [read_card(trial_folder(folder, arm, seed) / "card.json") for seed in config.seeds]
        arms.append(
            ArmResult(
                arm,
                " + ".join(_described(term) for term in terms),
                [card for card, _ in stored],
                [history for _, history in stored],
            )
        )
    live = None
    if config.teachers and all(teacher.kind == "frozen" for teacher in config.teachers):
        live = live_teacher(config, data, folder, seed=config.seeds[0])
    report = Report(
        config.name,
        arms=arms,
        teacher=None if live is None else assess_teacher(config, data, live),
        config_text=config.to_yaml(),
        environment=environment(),
        comparisons=compare_arms(arms),
    )
    report.summary = summary_sentence(report)
    return report


def _keep_best(config: DistillConfig, folder: Path, trials: Sequence[tuple[str, int]]) -> None:
    """Put the best arm's best student at the top of the folder; both are chosen on validation."""
    scores: dict[tuple[str, int], float] = {}
    for trial in trials:
        last = read_card(trial_folder(folder, *trial) / "card.json")[1][-1]
        accuracy = last.get("validation_accuracy")
        scores[trial] = accuracy if accuracy is not None else -(last.get("validation_loss") or float("inf"))
    arm = max(config.arms, key=lambda name: statistics.fmean(scores[name, seed] for seed in config.seeds))
    seed = max(config.seeds, key=lambda number: scores[arm, number])
    best = trial_folder(folder, arm, seed)
    for name in ("student.safetensors", "student.json", "metrics.jsonl"):
        if (best / name).exists():
            part = folder / f".{name}.part"
            shutil.copyfile(best / name, part)
            part.replace(folder / name)


def _described(term: ObjectiveSettings) -> str:
    arguments = ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}" for name, value in term.arguments.items()
    )
    weight = "" if term.weight == 1.0 else f"{term.weight:g} × " if isinstance(term.weight, float) else "scheduled × "
    return f"{weight}{term.name}({arguments})" if arguments else f"{weight}{term.name}"
