"""Searching for a student: many architectures looked at cheaply, a few distilled, and a page that says why.

Candidates come from a space and are scored without training, or they are the teacher itself, compressed by policies
(N2N). Parameters alone are a strong baseline, so the largest architecture within the budget is always among the
finalists, and so is a random one.
"""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option
from tutelage.assessment import latency_distribution
from tutelage.data import load_data
from tutelage.data.samples import Data
from tutelage.features import stage_paths
from tutelage.files import read_json, remove_half_written, write_json
from tutelage.models import build_model, head_path, load_model, parameter_count, save_model
from tutelage.models.specification import specification_of
from tutelage.objectives import KnowledgeDistillation
from tutelage.registry import resolve
from tutelage.reporting.search_page import write_search_page
from tutelage.reproduction.engines import Engine, run_trials
from tutelage.reproduction.recipe import Arm, Context, Metrics, Scale
from tutelage.reproduction.trial import Trial
from tutelage.searching.compressing import propose_compressed
from tutelage.searching.proposing import Proposal, RememberedScores
from tutelage.students import (
    DepthSpace,
    DisWOT,
    PerceptronSpace,
    SearchSpace,
    evolutionary_search,
    pareto_front,
    random_search,
)
from tutelage.teachers.folder_lock import folder_lock
from tutelage.training import Distillation, Trainer, TrainingSettings, evaluate_model

Method = Literal["score", "n2n"]
Score = Literal["diswot", "parameters", "random"]
SCORES = ("diswot", "parameters", "random")
SPACES: dict[str, Callable[..., SearchSpace]] = {"residual": DepthSpace, "perceptron": PerceptronSpace}


@dataclass(frozen=True)
class Candidate:
    """One finalist.

    Attributes:
        arch: Its choices, as text.
        reasons: Why it was distilled: its rank by score, the largest within the budget, a random pick.
        parameters: How many.
        score: What the search gave it, where it scored it.
        accuracy: On validation, the mean over seeds.
        accuracies: One a seed.
        milliseconds: For one sample.
        student: The student's part of a config.
        on_front: Whether no other finalist is at least as accurate, small and fast.
    """

    arch: str
    reasons: tuple[str, ...]
    parameters: int
    score: float | None
    accuracy: float
    accuracies: tuple[float, ...]
    milliseconds: float
    student: Mapping[str, Any] = field(default_factory=dict)
    on_front: bool = False


def search_students(
    teacher: Path | str,
    data: Path | str,
    folder: Path | str,
    *,
    data_options: Mapping[str, Any] | None = None,
    method: Method = "score",
    space: str = "residual",
    space_options: Mapping[str, Any] | None = None,
    budget: float | None = None,
    score: Score = "diswot",
    evaluations: int = 100,
    lesson_epochs: int = 3,
    finalists: int = 4,
    epochs: int = 5,
    seeds: int = 2,
    jobs: int = 2,
    engine: Engine = "processes",
    announce: Callable[[str], None] = print,
) -> list[Candidate]:
    """Propose students for a teacher, and distil the most promising for a while to see.

    What is finished stays in the folder: a search that was stopped goes on where it was.

    Args:
        teacher: A saved classifier, which `load_model` reads.
        data: What `load_data` reads.
        folder: Where scores, trials, `search.json`, `search.html` and the best student go.
        data_options: Passed on to `load_data`.
        method: `"score"` proposes networks of a space by a score without training; `"n2n"` deletes and shrinks layers
            of the teacher, see `tutelage.students.NetworkCompressor` (space and score do nothing then).
        space: `"residual"` (images), `"perceptron"`, or `module:attribute`, which is called with `num_classes`,
            `input_shape` and the options and gives a `SearchSpace`.
        space_options: What the space is made with besides, such as `depths` and `widths`.
        budget: The most parameters that a student may have; None: a tenth of the teacher's.
        score: `"diswot"`, `"parameters"` or `"random"`.
        evaluations: Architectures that the search looks at.
        lesson_epochs: With `"n2n"`, epochs of the short lesson after which an architecture is judged.
        finalists: How many of the best are distilled, beside the largest and a random one.
        epochs: Of each distillation.
        seeds: Distillations of each finalist.
        jobs: How many run at once.
        engine: Processes of this machine, or a Ray cluster.
        announce: Told of the steps.

    Returns:
        The finalists, the most accurate on validation first.

    Raises:
        ValueError: A setting out of range, a space that does not fit the data, a budget without room, or a teacher
            that cannot be compressed.
    """
    check_option(method, "method", ("score", "n2n"))
    check_option(score, "score", SCORES)
    for value, name in ((evaluations, "evaluations"), (finalists, "finalists"), (epochs, "epochs"), (seeds, "seeds")):
        check_at_least(value, name, 1)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {"teacher": str(teacher), "data": str(data), "data_options": dict(data_options or {})}
    settings |= {"space": space, "space_options": dict(space_options or {}), "epochs": epochs}
    chosen_by = {"score": score} if method == "score" else {"method": method, "lesson_epochs": lesson_epochs}
    with folder_lock(folder):
        remove_half_written(folder)
        _check_same_search(folder, settings | {"budget": budget} | chosen_by)
        loaded = load_data(data, **settings["data_options"])
        model = load_model(teacher)
        limit = parameter_count(model) / 10 if budget is None else budget
        scores = folder / "scores.jsonl"
        if method == "score":
            made = make_space(space, loaded, settings["space_options"])
            proposals, looked = _propose_by_score(made, model, loaded, scores, score, evaluations, finalists, limit)
        else:
            proposals, looked = propose_compressed(
                model,
                loaded,
                scores,
                input_shape=_input_shape(loaded),
                budget=limit,
                evaluations=evaluations,
                finalists=finalists,
                lesson_epochs=lesson_epochs,
            )
        announce(f"Looked at {looked} architectures; distilling {len(proposals)} of them.")
        _distil(proposals, settings, folder, seeds, jobs, engine, announce)
        found = _collect(proposals, folder, seeds)
        write_json(folder / "search.json", {"budget": limit, "candidates": [asdict(one) for one in found]})
        write_search_page(folder / "search.html", f"Students for {teacher}", [asdict(one) for one in found])
    return found


def make_space(name: str, data: Data, options: Mapping[str, Any]) -> SearchSpace:
    """A space by its name, for the shape and classes of the data."""
    factory: Callable[..., SearchSpace] = resolve(name, SPACES, "space")
    made = factory(num_classes=data.num_classes, input_shape=_input_shape(data), **options)
    if not isinstance(made, SearchSpace):
        raise ValueError(f"Expected {name!r} to make a `SearchSpace`, but got {type(made).__name__}.")
    return made


def distil_candidate(context: Context, arm: Arm, seed: int) -> Metrics:
    """Distil one finalist, keep its weights, and say how accurate, large and fast it is."""
    settings = context.scale.settings
    data = load_data(settings["data"], **settings["data_options"])
    teacher = load_model(settings["teacher"]).eval()
    if "student" in arm.settings:
        student = build_model(arm.settings["student"])
    else:
        student = make_space(settings["space"], data, settings["space_options"]).build(_as_arch(arm.settings["arch"]))
    training = TrainingSettings(epochs=settings["epochs"], batch_size=64, learning_rate=2e-3, seed=seed)
    method = Distillation(teacher, student, KnowledgeDistillation(alpha=0.9, temperature=4.0))
    Trainer(method, data.train, settings=training).run()
    student.eval().cpu()
    accuracy = evaluate_model(student, data.validation, task=data.task)["validation_accuracy"]
    one = data.validation.batch(torch.tensor([0])).inputs
    timed = latency_distribution(student, one, repeats=20, threads=1)
    save_model(context.folder / "students" / f"{arm.name}-{seed}.safetensors".replace("/", "_"), student)
    return {"accuracy": accuracy, "milliseconds": timed.median, "parameters": float(parameter_count(student))}


def _input_shape(data: Data) -> tuple[int, ...]:
    first = data.train.batch(torch.tensor([0])).inputs
    if not isinstance(first, Tensor) or data.task != "classification":
        raise ValueError("Expected data with one tensor of inputs and classes, for which students can be built.")
    return tuple(first.shape[1:])


def _propose_by_score(
    space: SearchSpace,
    teacher: nn.Module,
    data: Data,
    scores: Path,
    score: Score,
    evaluations: int,
    finalists: int,
    budget: float,
) -> tuple[list[Proposal], int]:
    """The architectures of a space to distil, and how many were looked at."""
    scored = RememberedScores(scores, _scorer(score, space, teacher, data))
    options: dict[str, Any] = {"evaluations": evaluations, "budget": budget}
    if score == "random":
        history, _ = random_search(space, scored, **options)
    else:
        population = min(24, evaluations)
        options |= {"population": population, "tournament": min(4, population)}
        history, _ = evolutionary_search(space, scored, **options)
    found = dict(history)
    proposals = []
    for arch, reasons in _choose(space, found, finalists).items():
        specification = specification_of(space.build(arch))
        student = {} if specification is None else specification.model_dump(mode="json", exclude_none=True)
        proposals.append(Proposal(str(arch), tuple(reasons), found.get(arch), {"arch": list(arch)}, student))
    return proposals, len(found)


def _scorer(score: Score, space: SearchSpace, teacher: nn.Module, data: Data) -> Callable[[Any], float]:
    if score == "parameters":
        return space.cost
    if score == "random":
        return lambda arch: random.Random(str(arch)).random()
    batch = data.train.batch(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:64])
    assert isinstance(batch.inputs, Tensor)
    assert batch.target is not None
    x, y = batch.inputs, batch.target
    scorers: dict[bool, DisWOT] = {}

    def diswot(arch: Any) -> float:
        torch.manual_seed(0)  # a score depends on the architecture alone, not on what was scored before
        student = space.build(arch)
        alike = _head_width(student) == _head_width(teacher)
        if alike not in scorers:
            torch.manual_seed(1)
            scorers[alike] = DisWOT(
                teacher,
                x,
                y,
                semantic_weight=float(alike),
                feature=(_last_map(teacher), _last_map(student)),
                repeats=2,
            )
        torch.manual_seed(2)
        return scorers[alike](student).total

    return diswot


def _head_width(model: nn.Module) -> int:
    return int(model.get_submodule(head_path(model)).in_features)  # type: ignore[arg-type]


def _last_map(model: nn.Module) -> str:
    """The last stage, or what the head reads where a model has no stages."""
    try:
        stage_paths(model)
    except ValueError:
        return f"{head_path(model)}:input"
    return "stage:-1"


def _choose(space: SearchSpace, scores: Mapping[Any, float], count: int) -> dict[Any, list[str]]:
    """The best by score, the largest that was looked at, and one at random, each with its reasons."""
    best = sorted(scores, key=lambda arch: -scores[arch])[:count]
    chosen: dict[Any, list[str]] = {arch: [f"rank {rank} by score"] for rank, arch in enumerate(best, start=1)}
    largest = max(scores, key=space.cost)
    chosen.setdefault(largest, []).append("the largest within the budget")
    chosen.setdefault(random.Random(0).choice(sorted(scores, key=str)), []).append("a random pick")
    return chosen


def _distil(
    proposals: Sequence[Proposal],
    settings: Mapping[str, Any],
    folder: Path,
    seeds: int,
    jobs: int,
    engine: Engine,
    announce: Callable[[str], None],
) -> None:
    """Distil what is not distilled yet, in parallel."""
    (folder / "students").mkdir(exist_ok=True)
    places = {
        name: str(Path(settings[name]).absolute()) for name in ("teacher", "data") if Path(settings[name]).exists()
    }
    context = Context(Scale("search", seeds, {**settings, **places}), folder)
    trials = [
        Trial(Arm(one.name, one.settings), seed)
        for seed in range(seeds)
        for one in proposals
        if not _trial_file(folder, one.name, seed).exists()
    ]
    for number, outcome in enumerate(run_trials(distil_candidate, context, trials, engine=engine, jobs=jobs), start=1):
        write_json(_trial_file(folder, outcome.arm, outcome.seed), dict(outcome.metrics))
        accuracy = outcome.metrics["accuracy"]
        announce(f"[{number}/{len(trials)}] {outcome.arm}, seed {outcome.seed}: validation accuracy {accuracy:.4f}")


def _collect(proposals: Sequence[Proposal], folder: Path, seeds: int) -> list[Candidate]:
    found = []
    for one in proposals:
        rows = [read_json(_trial_file(folder, one.name, seed)) for seed in range(seeds)]
        accuracies = tuple(row["accuracy"] for row in rows)
        found.append(
            Candidate(
                one.name,
                one.reasons,
                int(rows[0]["parameters"]),
                one.score,
                statistics.fmean(accuracies),
                accuracies,
                statistics.median(row["milliseconds"] for row in rows),
                one.student,
            )
        )
    front = pareto_front(
        [one.accuracy for one in found], [one.parameters for one in found], [one.milliseconds for one in found]
    )
    marked = [replace(one, on_front=place in front) for place, one in enumerate(found)]
    return sorted(marked, key=lambda one: -one.accuracy)


def _as_arch(value: Any) -> Any:
    return tuple(_as_arch(entry) for entry in value) if isinstance(value, list | tuple) else value


def _trial_file(folder: Path, name: str, seed: int) -> Path:
    return folder / "trials" / f"{name.replace('/', '_')}-{seed}.json"


def _check_same_search(folder: Path, settings: Mapping[str, Any]) -> None:
    path, wanted = folder / "settings.json", json.loads(json.dumps(settings))
    if path.exists() and read_json(path) != wanted:
        raise ValueError(f"Expected {folder} to hold this search, but it holds one with other settings.")
    write_json(path, wanted)
