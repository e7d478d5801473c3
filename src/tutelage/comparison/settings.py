"""The config of a comparison: the problem as in a distillation's config, and how much time may be spent on it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveInt, field_validator, model_validator

from tutelage.config import (
    DEFAULT_TEACHER,
    DataSettings,
    DistillConfig,
    ObjectiveSettings,
    StudentSettings,
    parse_config,
    read_config,
    set_key,
)
from tutelage.teacher_settings import TeacherSettings
from tutelage.training.settings import StrictModel, TrainingSettings

UNUSED = ("method", "objectives", "monitors", "assessment", "cache", "cache_top_k", "jobs", "seeds")
"""Keys of a distillation's config that a comparison decides for itself, or means otherwise."""

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


class MethodChoice(StrictModel):
    """Which methods take part."""

    include: list[str] = Field([], description="Only these, besides the baselines; by default all that apply.")
    exclude: list[str] = Field([], description="All but these.")
    own: list[str] = Field([], description="Objectives of your own, as `package.module:attribute`.")


class ComparisonConfig(StrictModel):
    """Everything that a comparison is made of; the defaults are the digits and models of `tutelage distill`."""

    name: str = Field("digits", description="Title of the comparison.")
    data: DataSettings = Field(
        DataSettings(options={"fractions": [0.5, 0.25, 0.25]}),
        description="What is learned; a large validation part chooses better among many methods.",
    )
    teacher: TeacherSettings | list[TeacherSettings] | None = Field(
        TeacherSettings.model_validate(DEFAULT_TEACHER), description="Who teaches; several make an ensemble."
    )
    teacher_average: Literal["logits", "probabilities"] = Field(
        "probabilities", description="What an ensemble takes the mean of."
    )
    student: StudentSettings = Field(StudentSettings(name="mlp", arguments={"hidden": [24]}), description="Who learns.")
    training: TrainingSettings = Field(
        TrainingSettings(learning_rate=0.01),
        description="How a student trains that you would use; the final trains so, where the budget allows.",
    )
    arms: dict[str, list[ObjectiveSettings]] = Field(
        {}, description="Lessons of your own, which join under their names."
    )
    methods: MethodChoice = Field(MethodChoice(), description="Which methods take part.")
    budget: float = Field(240.0, gt=0, description="Time for all of it: seconds, or a text such as `90s`, `5m`, `2h`.")
    settings: int = Field(4, ge=1, le=4, description="Settings of each method that the first round looks at.")
    keep: float = Field(3.0, gt=1, description="A round keeps one of so many methods, and trains so much longer.")
    finalists: PositiveInt = Field(5, description="Methods in the final, besides the baselines.")
    seeds: PositiveInt = Field(10, description="Students of each finalist: seeds 0, 1, …")
    jobs: int = Field(0, ge=0, description="Students taught at the same time; 0 is one a core.")
    engine: Literal["processes", "ray"] = Field("processes", description="Processes of this machine, or a Ray cluster.")

    @field_validator("budget", mode="before")
    @classmethod
    def _budget_in_words(cls, value: Any) -> Any:
        return seconds_of(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _teachers_are_the_same_for_all(self) -> ComparisonConfig:
        for teacher in self.teachers:
            if teacher.kind != "frozen":
                raise ValueError(
                    "a comparison needs a `frozen` teacher, who tells every method the same, "
                    f"but got kind `{teacher.kind}`"
                )
        self.distillation(next(iter(self.arms), "lesson"), self.arms or {"lesson": ["cross_entropy"]}, {}, {})
        return self

    @property
    def teachers(self) -> list[TeacherSettings]:
        """The teachers, as a list of any length."""
        return [] if self.teacher is None else self.teacher if isinstance(self.teacher, list) else [self.teacher]

    def distillation(
        self,
        name: str,
        arms: Mapping[str, Sequence[Any]],
        method: Mapping[str, Any],
        training: Mapping[str, Any],
        **changes: Any,
    ) -> DistillConfig:
        """The distillation that teaches by one lesson on this problem.

        Args:
            name: Title of the run.
            arms: Lessons by name, as in a config.
            method: The way to teach, as in a config; empty: plain distillation.
            training: What differs from this comparison's training.
            **changes: Further keys of a distillation's config.
        """
        plain = self.model_dump(mode="json", exclude_none=True)
        problem = {key: plain.get(key) for key in ("data", "teacher", "teacher_average", "student")}
        return parse_config(
            {
                "name": name,
                **problem,
                "arms": {arm: [_plain(term) for term in terms] for arm, terms in arms.items()},
                "training": {**plain["training"], **training},
                **({"method": dict(method)} if method else {}),
                **changes,
            },
            DistillConfig,
        )

    def to_yaml(self) -> str:
        """The resolved config, as the comparison's folder holds it."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain.setdefault("teacher", None)  # said, since a config that says nothing has the demo's teacher
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def seconds_of(text: str) -> float:
    """The seconds that a text such as `90s`, `5m` or `1.5h` stands for.

    >>> seconds_of("90s"), seconds_of("5m"), seconds_of("1.5h"), seconds_of("30")
    (90.0, 300.0, 5400.0, 30.0)
    >>> seconds_of("soon")
    Traceback (most recent call last):
    ValueError: expected a time such as `90s`, `5m` or `2h`, but got 'soon'
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|m|min|h)?\s*", text)
    if match is None:
        raise ValueError(f"expected a time such as `90s`, `5m` or `2h`, but got {text!r}")
    return float(match[1]) * _UNITS[match[2] or ""]


def comparison_from_options(
    path: Path | str | None, options: Mapping[str, Any], settings: Sequence[str]
) -> tuple[ComparisonConfig, list[str]]:
    """The comparison that a command line stands for: a file, over it options, over them single settings.

    The file may be the config of a distillation: its `arms` (and `objectives`) join as lessons of your own; what a
    comparison decides for itself is left out.

    Args:
        path: A YAML file; None starts from the defaults.
        options: Values by (dotted) config key; None and empty lists are not given.
        settings: Assignments `dotted.key=value`.

    Returns:
        The config, and the keys of the file that were left out.

    >>> comparison_from_options(None, {"budget": "2m", "methods.exclude": ["pld"]}, ["seeds=3"])[0].budget
    120.0
    """
    plain = {} if path is None else read_config(path)
    if plain.get("objectives"):
        terms = plain["objectives"]
        plain["arms"] = {"own lesson": [terms] if isinstance(terms, str | Mapping) else terms}
    own = set(ComparisonConfig.model_fields)
    left_out = [key for key in UNUSED if key in plain and (key not in own or not isinstance(plain[key], int))]
    left_out = [key for key in left_out if key != "objectives"]
    for key in (*left_out, "objectives"):
        plain.pop(key, None)
    if "name" not in plain and (title := path or options.get("data")):
        plain["name"] = Path(title).stem
    for key, value in options.items():
        if value is None or value == []:
            continue
        *parts, last = key.split(".")
        place = plain
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value[0] if key == "teacher" and isinstance(value, list) and len(value) == 1 else value
    defaults = ComparisonConfig().model_dump(mode="json", exclude_none=True)
    for assignment in settings:
        top, dot, _ = assignment.partition("=")[0].partition(".")
        if dot and top not in plain and isinstance(defaults.get(top), dict):
            plain[top] = defaults[top]
        set_key(plain, assignment)
    return parse_config(plain, ComparisonConfig), left_out


def _plain(term: Any) -> Any:
    return term.model_dump(mode="json", exclude_none=True) if isinstance(term, ObjectiveSettings) else term
