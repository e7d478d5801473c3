"""What a recipe is made of: scales, arms and claims, declared; preparing and running, two plain functions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage._checks import check_option
from tutelage.reproduction.catalogue import find_system
from tutelage.reproduction.results import Judgement, Results
from tutelage.reproduction.system import System

Metrics = dict[str, float | list[float]]
"""What one trial (an arm with a seed) measured: finite numbers or lists of them, by name."""


@dataclass(frozen=True)
class Needs:
    """What a scale needs beyond the package and a CPU, so that it can be told before anything runs.

    Attributes:
        gpus: How many CUDA devices.
        packages: Importable modules that are not core dependencies.
        datasets: Hugging Face data-set names that must already be on this machine; nothing is downloaded unasked.
    """

    gpus: int = 0
    packages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How large an experiment is.

    Attributes:
        name: `smoke` (seconds, only shows that it runs), `quick` (at most 3 minutes on 2 cores), `full` (at most 30)
            or `paper` (GPUs and public data sets).
        seeds: How many seeds every arm runs with: 0, 1, …, seeds - 1.
        settings: Whatever the recipe's functions read: sizes, epochs, data.
        needs: What the machine must have for it.
    """

    name: str
    seeds: int
    settings: Mapping[str, Any]
    needs: Needs = field(default_factory=Needs)


@dataclass(frozen=True)
class Arm:
    """One configuration that a recipe compares.

    Attributes:
        name: Its name in tables and in judges.
        settings: What sets it apart, as plain data.
        group: The candidates among which `Results.select` picks by validation; every candidate is an arm, and so has
            the same budget as any other arm.
        description: A few words for the table.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str | None = None
    description: str = ""


@dataclass(frozen=True)
class Claim:
    """A measurable statement of the paper, with the criterion by which it passes.

    Attributes:
        id: A short name.
        text: What is claimed.
        criterion: When it holds, in words that say the same as `judge`.
        judge: Judges the results.
        published: The figure that the paper gives for it, if any.
    """

    id: str
    text: str
    criterion: str
    judge: Callable[[Results], Judgement]
    published: str = ""


@dataclass(frozen=True)
class Context:
    """What a recipe's functions get.

    Attributes:
        scale: The scale that runs.
        folder: Where `prepare` leaves files for the arms (safetensors, JSON). Arms only read it.
    """

    scale: Scale
    folder: Path

    def __getitem__(self, setting: str) -> Any:
        """A setting of the scale."""
        return self.scale.settings[setting]


@dataclass(frozen=True)
class Recipe:
    """A runnable reproduction of one system.

    Attributes:
        slug: The system's name in the catalogue.
        scales: The scales by name.
        arms: The arms of a scale.
        run_arm: Runs one arm with one seed, in a worker process with one thread, and returns what it measured. It
            draws every random number from that seed and gives the same numbers in any process.
        claims: What is judged.
        prepare: Runs once before the arms and writes what they share into `context.folder` (a teacher, its logits);
            returns figures about it (the teacher's accuracy), which are recorded and which judges read as
            `results.facts`.
        breakages: Ways to break the method on purpose, by name: each turns an arm into its broken twin. A claim that
            still holds for a method without its key term proves nothing; `--break NAME` shows that it does not.
        describe: Builds what a scale names (models, data) and says what it is, without running it.
        notes: What a reader of the results must know: departures from the paper, likely reasons.
    """

    slug: str
    scales: Mapping[str, Scale]
    arms: Callable[[Scale], list[Arm]]
    run_arm: Callable[[Context, Arm, int], Metrics]
    claims: tuple[Claim, ...]
    prepare: Callable[[Context], Mapping[str, float] | None] | None = None
    breakages: Mapping[str, Callable[[Arm], Arm]] = field(default_factory=dict)
    describe: Callable[[Scale], Mapping[str, Any]] | None = None
    notes: str = ""

    @property
    def system(self) -> System:
        """The system's entry in the catalogue."""
        return find_system(self.slug)

    def scale(self, name: str) -> Scale:
        """A scale by name.

        Raises:
            ValueError: There is none of that name.
        """
        check_option(name, "scale", tuple(self.scales))
        return self.scales[name]


def load_recipe(slug: str) -> Recipe:
    """The recipe of a system: the attribute `recipe` of its module.

    Raises:
        ValueError: There is no such system, or its recipe is not written yet.
    """
    system = find_system(slug)
    if not system.has_recipe:
        raise ValueError(f"{system.name} is {system.status}: it has no recipe yet (`tutelage systems` shows which do).")
    recipe = importlib.import_module(system.recipe_module).recipe
    assert isinstance(recipe, Recipe)
    return recipe
