"""The config of a distillation: one typed model that YAML, the command line and Python share.

Anything that is named in it may be a registered name or `package.module:attribute` of your own.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from torch import nn

from tutelage._checks import nearest
from tutelage.files import read_yaml
from tutelage.models.specification import ModelSpecification
from tutelage.monitor_settings import MonitorSettings
from tutelage.objectives import Constant, CosineRamp, LinearRamp, Objective, Schedule, registered_objectives
from tutelage.registry import resolve
from tutelage.teacher_settings import TeacherSettings
from tutelage.training import (
    AdversarialDistillation,
    Distillation,
    GeneralizedKD,
    GradientBalancedDistillation,
    Method,
    MutualDistillation,
)
from tutelage.training.distillation import Objectives, Weighted
from tutelage.training.settings import StrictModel, TrainingSettings

SCHEDULES: dict[str, Callable[..., Schedule]] = {"constant": Constant, "cosine": CosineRamp, "linear": LinearRamp}


class DataSettings(StrictModel):
    """What is learned. A plain string is a name without options."""

    name: str = Field("digits", description="Built-in name, folder, file, or `module:factory`.")
    options: dict[str, Any] = Field({}, description="What `tutelage.data.load_data` is called with besides.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class LoraSettings(StrictModel):
    """Low-rank adapters (through PEFT) that learn in place of a language model's own weights."""

    rank: PositiveInt = Field(8, description="Rank of every adapter.")
    alpha: PositiveFloat = Field(16.0, description="Adapters count alpha / rank times.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout before an adapter.")
    target_modules: list[str] | str | None = Field(
        None, description="Names of the layers with adapters, or `all-linear`; by default PEFT's for the model."
    )


class StudentSettings(ModelSpecification):
    """A student: a model (see `ModelSpecification`), and which part of it learns."""

    lora: LoraSettings | None = Field(None, description="Learn adapters only; they are merged into the saved student.")


class ScheduleSettings(StrictModel):
    """A number that changes during the run."""

    schedule: str = Field(description="linear, cosine, constant, or `module:attribute`.")
    arguments: dict[str, Any] = Field({}, description="What it is made with, such as `start`, `end` and `epochs`.")

    def make(self) -> Schedule:
        """The schedule."""
        made: Schedule = _make(resolve(self.schedule, SCHEDULES, "schedule"), self.schedule, self.arguments)
        return made


class ObjectiveSettings(StrictModel):
    """One term of a lesson. A plain string is a name with weight 1."""

    name: str = Field(description="Registered objective, or `module:attribute`.")
    weight: float | ScheduleSettings = Field(1.0, description="Factor of this term in the sum; may change over time.")
    arguments: dict[str, Any] = Field({}, description="What the objective is made with, such as `temperature`.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def make(self) -> Weighted:
        """The objective with its weight."""
        objective = _make(resolve(self.name, registered_objectives(), "objective"), self.name, self.arguments)
        if not isinstance(objective, Objective):
            raise ValueError(f"Expected {self.name!r} to make an `Objective`, but got {type(objective).__name__}.")
        return Weighted(objective, self.weight.make() if isinstance(self.weight, ScheduleSettings) else self.weight)


class MethodSettings(StrictModel):
    """The way to teach, the same for all arms. A plain string is a name without arguments."""

    name: str = Field(
        "distillation",
        description="distillation, adversarial (inputs are attacked first), generalized_kd (a language model learns "
        "from its own responses), gradient_balanced (every objective pulls equally hard), mutual (teachers of kind "
        "`online` learn with the student), or `module:attribute`.",
    )
    arguments: dict[str, Any] = Field(
        {}, description="What it is made with besides teacher, student and objectives, such as `teacher_objectives`."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def make(self, teacher: Any, student: nn.Module, objectives: Objectives) -> Method:
        """The method: what is named is called as `(teacher, student, objectives, **arguments)`.

        The teacher is a list of networks when it is of kind `online`; else one teacher, one network, or None.
        """
        method = self._factory()(teacher, student, objectives, **self.arguments)
        if not isinstance(method, Method):
            raise ValueError(f"Expected {self.name!r} to make a `Method`, but got {type(method).__name__}.")
        return method

    def check(self) -> None:
        """Find out without a model whether the method exists and takes the arguments."""
        try:
            inspect.signature(self._factory()).bind(None, None, None, **self.arguments)
        except TypeError as error:
            raise ValueError(f"Expected the arguments of {self.name!r} to fit it, but: {error}.") from error

    def _factory(self) -> Callable[..., Any]:
        factory: Callable[..., Any] = resolve(self.name, METHODS, "method")
        return factory


def mutual(
    teacher: Sequence[nn.Module],
    student: nn.Module,
    objectives: Objectives,
    *,
    teacher_objectives: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = ("cross_entropy", "forward_kl"),
) -> MutualDistillation:
    """`MutualDistillation.online`, with the teachers' lesson in the form of a config.

    Args:
        teacher: The networks that teach and learn.
        student: The student.
        objectives: What the student learns from.
        teacher_objectives: What the teachers learn from, by names or settings; by default that of deep mutual learning.
    """
    single = isinstance(teacher_objectives, str | Mapping)
    lesson = [
        parse_config({"name": entry} if isinstance(entry, str) else entry, ObjectiveSettings).make()  # type: ignore[arg-type]
        for entry in ([teacher_objectives] if single else teacher_objectives)
    ]
    teachers = teacher[0] if len(teacher) == 1 else teacher
    return MutualDistillation.online(teachers, student, objectives, teacher_objectives=lesson)


METHODS: dict[str, Callable[..., Method]] = {
    "adversarial": AdversarialDistillation,
    "distillation": Distillation,
    "generalized_kd": GeneralizedKD,
    "gradient_balanced": GradientBalancedDistillation,
    "mutual": mutual,
}


class AssessmentSettings(StrictModel):
    """What the report card holds besides accuracy, calibration and fidelity."""

    robustness: bool = Field(True, description="Accuracy under attack, by radius and by kind of attack.")
    attack_radius: float = Field(8 / 255, gt=0, description="Of FGSM to AutoAttack; a share of the inputs' range.")
    auto_attack_seconds: float = Field(60.0, ge=0, description="The most that AutoAttack may take; 0: not at all.")
    latency: bool = Field(True, description="How long one call takes.")
    examples: int = Field(12, ge=0, description="Samples shown that only student or teacher gets right.")


DEFAULT_ARMS: dict[str, list[dict[str, Any]]] = {
    "cross-entropy": [{"name": "cross_entropy"}],
    "distillation": [{"name": "knowledge_distillation", "arguments": {"alpha": 0.9, "temperature": 2.0}}],
    "pld": [{"name": "plackett_luce_distillation", "arguments": {"temperature": 1.0}}],
}
"""What is compared when a config names no objectives: the label alone, the classic loss, and the ranking loss."""

DEFAULT_TEACHER: dict[str, Any] = {
    "name": "convnet",
    "arguments": {"channels": [16, 32, 64]},
    "train": {"epochs": 25, "batch_size": 64, "learning_rate": 2e-3},
}


class DistillConfig(StrictModel):
    """Everything that a distillation run is made of; the defaults are the demo on handwritten digits."""

    name: str = Field("digits", description="Title of the run; by default that of its data.")
    data: DataSettings = Field(DataSettings(), description="What is learned.")
    teacher: TeacherSettings | list[TeacherSettings] | None = Field(
        TeacherSettings.model_validate(DEFAULT_TEACHER), description="Who teaches; several make an ensemble."
    )
    teacher_average: Literal["logits", "probabilities"] = Field(
        "probabilities", description="What an ensemble takes the mean of."
    )
    cache: bool | str = Field(False, description="Ask the teacher once and keep its signals; a path: read them there.")
    cache_top_k: PositiveInt | None = Field(
        None, description="Keep this many likeliest classes and what is left, not all logits."
    )
    student: StudentSettings = Field(StudentSettings(name="mlp", arguments={"hidden": [24]}), description="Who learns.")
    method: MethodSettings = Field(MethodSettings(), description="The way to teach.")
    arms: dict[str, list[ObjectiveSettings]] = Field(
        {}, description="Lessons to compare: objectives by name of the arm."
    )
    objectives: list[ObjectiveSettings] = Field([], description="One lesson: short for a single arm.")
    training: TrainingSettings = Field(TrainingSettings(learning_rate=0.01), description="How students train.")
    monitors: list[MonitorSettings] = Field([], description="What watches every student's run.")
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="One student a seed and arm.")
    assessment: AssessmentSettings = Field(AssessmentSettings(), description="What the report card holds.")
    jobs: int = Field(0, ge=0, description="Students taught at the same time; 0 is one a core.")

    @model_validator(mode="before")
    @classmethod
    def _fill_name(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or "name" in value or not value.get("data"):
            return value
        named = value["data"].get("name") if isinstance(value["data"], Mapping) else value["data"]
        title = Path(str(getattr(named, "name", named)).rpartition(":")[2]).stem
        return {**value, "name": title} if title else value

    @model_validator(mode="before")
    @classmethod
    def _fill_arms(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if value.get("arms") and value.get("objectives"):
            raise ValueError("give `arms` or `objectives`, not both")
        if value.get("objectives"):
            objectives = value["objectives"]
            objectives = [objectives] if isinstance(objectives, str | Mapping) else objectives
            return {**value, "arms": {"student": objectives}, "objectives": []}
        arms = DEFAULT_ARMS if value.get("teacher", DEFAULT_TEACHER) else {"cross-entropy": ["cross_entropy"]}
        return value if value.get("arms") else {**value, "arms": arms}

    @model_validator(mode="after")
    def _arm_names_are_folders(self) -> DistillConfig:
        for name in self.arms:
            if not re.fullmatch(r"\w[\w .+-]*", name) or name.endswith((" ", ".")):
                raise ValueError(f"the name of an arm is letters, digits, spaces and `_.+-`, but got {name!r}")
        return self

    @model_validator(mode="after")
    def _method_fits_the_teacher(self) -> DistillConfig:
        if any(teacher.kind == "online" for teacher in self.teachers) != self.online:
            raise ValueError("teachers of kind `online` learn with the student, and so do all of them or none")
        if self.online and self.cache:
            raise ValueError("the signals of an `online` teacher change as it learns and can not be cached")
        if self.method.name == "mutual" and not self.online:
            raise ValueError("the method `mutual` needs a teacher that learns with the student: set its `kind: online`")
        if self.method.name in ("distillation", "adversarial", "generalized_kd", "gradient_balanced") and self.online:
            raise ValueError("an `online` teacher needs a method that teaches it, such as `method: mutual`")
        return self

    @model_validator(mode="after")
    def _served_teachers_teach_alone(self) -> DistillConfig:
        if len(self.teachers) > 1 and any(teacher.kind == "served" for teacher in self.teachers):
            raise ValueError("a `served` teacher tells its likeliest tokens only, and can not be part of an ensemble")
        if self.cache_top_k is not None and self.cache is not True:
            raise ValueError("`cache_top_k` says how a cache is made, so it needs `cache: true`")
        return self

    @property
    def online(self) -> bool:
        """Whether the teachers learn with the student."""
        return bool(self.teachers) and all(teacher.kind == "online" for teacher in self.teachers)

    @property
    def teachers(self) -> list[TeacherSettings]:
        """The teachers, as a list of any length."""
        return [] if self.teacher is None else self.teacher if isinstance(self.teacher, list) else [self.teacher]

    def to_yaml(self) -> str:
        """The resolved config, as `config.yaml` holds it."""
        plain = self.model_dump(mode="json", exclude_none=True)
        plain.pop("objectives", None)
        if self.teacher is None:
            plain["teacher"] = None  # said, since a config that says nothing has the demo's teacher
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


_Model = TypeVar("_Model", bound=BaseModel)


def parse_config(value: Mapping[str, Any], kind: type[_Model]) -> _Model:
    """Check a mapping against a config model.

    Raises:
        ValueError: One clear line that names the key, the value and what is allowed, for the first thing that is wrong.

    >>> parse_config({"trainign": {}}, DistillConfig)
    Traceback (most recent call last):
    ValueError: Config key `trainign` is not known (did you mean 'training'?).
    >>> parse_config({"training": {"epochs": 0}}, DistillConfig)
    Traceback (most recent call last):
    ValueError: Config key `training.epochs`: input should be greater than 0, but got 0.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise ValueError(_explain(error, kind)) from None


def read_config(path: Path | str) -> dict[str, Any]:
    """Read a YAML config as a plain mapping; nothing but plain data is made from it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no YAML, or holds something else than keys with plain data.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Expected a config file at {path}, but there is none.")
    content = read_yaml(path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"Expected {path} to hold config keys, but it holds a {type(content).__name__}.")
    return content


def set_key(config: dict[str, Any], assignment: str) -> None:
    """Apply `dotted.key=value` to a plain config in place; the value is read as YAML.

    >>> config = {"training": {"epochs": 3}}
    >>> set_key(config, "training.batch_size=16")
    >>> config
    {'training': {'epochs': 3, 'batch_size': 16}}
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"Expected a setting of the form `dotted.key=value`, but got {assignment!r}.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"Expected the value of `{key}` to be YAML, but got {text!r}.") from error
    place = config
    *path, last = key.strip().split(".")
    for part in path:
        found = place.setdefault(part, {})
        if isinstance(found, str):
            found = place[part] = {"name": found}  # `student: mlp` is short for `student: {name: mlp}`
        if not isinstance(found, dict):
            raise ValueError(f"Expected `{part}` in `{key}` to hold further keys, but it is {found!r}.")
        place = found
    place[last] = value


def config_from_options(path: Path | str | None, options: Mapping[str, Any], settings: Sequence[str]) -> DistillConfig:
    """The config that a command line stands for: a file, over it what was given as options, over it single settings.

    Args:
        path: A YAML file; None starts from the defaults.
        options: Values by (dotted) config key; None and empty lists are not given.
        settings: Assignments `dotted.key=value`, see `set_key`.

    >>> config_from_options(None, {"student": "mlp", "seeds": [7]}, ["training.epochs=2"]).training.epochs
    2
    """
    plain = {} if path is None else read_config(path)
    for key, value in options.items():
        if value is None or value == []:
            continue
        if key == "teacher" and isinstance(value, list) and len(value) == 1:
            value = value[0]
        if key == "objectives":
            plain.pop("arms", None)
        _start_from_default(plain, key)
        place = plain
        *parts, last = key.split(".")
        for part in parts:
            place = place.setdefault(part, {})
        place[last] = value
    for assignment in settings:
        _start_from_default(plain, assignment.partition("=")[0])
        set_key(plain, assignment)
    return parse_config(plain, DistillConfig)


def _start_from_default(plain: dict[str, Any], key: str) -> None:
    """Let `student.arguments.hidden=…` change the default student, where none was given."""
    top, dot, _ = key.partition(".")
    if dot and top not in plain and top in ("data", "teacher", "student", "method", "training", "assessment"):
        plain[top] = DistillConfig().model_dump(mode="json", exclude_none=True)[top]


def _make(factory: Callable[..., Any], name: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return factory(**arguments)
    except TypeError as error:
        problem = str(error).split("() ")[-1]
        raise ValueError(f"Expected the arguments of {name!r} to fit it, but it {problem}.") from error


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first problem in one line."""
    problems = error.errors(include_url=False)
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    named = first["type"] in ("extra_forbidden", "missing")  # then the last part is a key, whatever it looks like
    location = [part for part in first["loc"][:-1] if not _is_branch(part)]
    location += [part for part in first["loc"][-1:] if named or not _is_branch(part)]
    key = " ".join(".".join(str(part) for part in location).split()) or "(top)"
    if first["type"] == "extra_forbidden":
        return f"Config key `{key}` is not known{nearest(location[-1], _fields_at(kind, location[:-1]))}."
    if first["type"] == "missing":
        return f"Config key `{key}` is missing."
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"Config key `{key}`: {message}." if location else f"Config: {message}."
    return f"Config key `{key}`: {message[0].lower()}{message[1:]}, but got {_shown(first['input'])}."


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]} …"


def _is_branch(part: str | int) -> bool:
    """Pydantic puts the name of a union's member into the path of an error."""
    return isinstance(part, str) and (part[:1].isupper() or "[" in part or part in ("float", "bool", "str", "int"))


def _fields_at(kind: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that are known at a place of the config."""
    for part in location:
        if isinstance(part, int) or part not in kind.model_fields:
            continue
        found = _models_in(kind.model_fields[part].annotation)
        if not found:
            return []
        kind = found[0]
    return list(kind.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _models_in(part)]
