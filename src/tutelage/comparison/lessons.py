"""The catalogue of a comparison: for every method the lesson that its paper asks for, and settings to choose among.

A method gets as many settings as any other (four): two of its own, each at two learning rates; one that has nothing to
set gets four learning rates. An objective that comes without its label loss gets cross-entropy beside it, with the
weights of its paper or documentation.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage._checks import nearest
from tutelage.config import ObjectiveSettings
from tutelage.objectives import Objective, registered_objectives
from tutelage.objectives.objective import snake_case
from tutelage.registry import resolve

Term = dict[str, Any]
"""One objective with its weight and arguments, as a config has it."""

RATES = (1.0, 0.5, 2.0, 0.25)
"""Learning rates that are tried, in shares of the one in the config; with two settings of its own a method gets two."""

BASELINES = {
    "classification": ("cross_entropy", "knowledge_distillation"),
    "regression": ("mean_squared_error", "logit_mse"),
}
"""What is always in the final, by task: the labels alone, and the classic loss."""


@dataclass(frozen=True)
class Setting:
    """One way to teach by a method: what one student of the comparison is taught with.

    Attributes:
        label: What sets it apart from the method's other settings, for tables.
        terms: Its objectives, as a config has them.
        rate: Its learning rate, as a share of the config's.
        method: The way to teach, as a config has it; empty: plain distillation.
    """

    label: str
    terms: tuple[Term, ...]
    rate: float = 1.0
    method: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `plan.json` holds it."""
        return {"label": self.label, "terms": list(self.terms), "rate": self.rate, "method": dict(self.method)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Setting:
        """The setting that plain data stand for."""
        return cls(plain["label"], tuple(plain["terms"]), plain["rate"], plain["method"])


@dataclass(frozen=True)
class Lesson:
    """A method with its settings, the published one first.

    Attributes:
        name: The method's name in tables: that of its objective, or the user's own.
        settings: At most four.
        tasks: What it is for.
        places: For each side the alternatives that features are tapped at, in the order in which they are tried; a
            term that holds `PLACE` is tapped at the first pair that works.
        online: The teacher learns with the student.
    """

    name: str
    settings: tuple[Setting, ...]
    tasks: tuple[str, ...] = ("classification",)
    places: tuple[tuple[str | list[str], str | list[str]], ...] = ()
    online: bool = False

    def tapped_at(self, student: Any, teacher: Any) -> Lesson:
        """The same lesson with its places filled in."""
        taps = {"student_taps": student, "teacher_taps": teacher}
        settings = tuple(
            Setting(one.label, tuple(_filled(term, taps) for term in one.terms), one.rate, one.method)
            for one in self.settings
        )
        return Lesson(self.name, settings, self.tasks, (), self.online)


def _filled(term: Term, taps: Mapping[str, Any]) -> Term:
    arguments = term.get("arguments", {})
    if "PLACE" not in arguments:
        return term
    return {**term, "arguments": {**{key: value for key, value in arguments.items() if key != "PLACE"}, **taps}}


def lesson(name: str, *variants: tuple[str, Sequence[Term | str]], **options: Any) -> Lesson:
    """A lesson from its variants (label and terms): crossed with learning rates, so that there are four settings.

    >>> [setting.label for setting in lesson("mae", ("", ["mean_absolute_error_loss"])).settings]
    ['', 'rate × 0.5', 'rate × 2', 'rate × 0.25']
    """
    method = options.pop("method", {})
    settings = [
        Setting(
            ", ".join(filter(None, [label, "" if rate == 1 else f"rate × {rate:g}"])),
            tuple({"name": term} if isinstance(term, str) else term for term in terms),
            rate,
            method,
        )
        for rate in RATES[: 4 // len(variants)]
        for label, terms in variants
    ]
    return Lesson(name, tuple(settings), **options)


def _term(name: str, weight: float = 1.0, **arguments: Any) -> Term:
    return {"name": name, "weight": weight, "arguments": arguments}


def _alone(name: str, *arguments: dict[str, Any], **options: Any) -> Lesson:
    """An objective that holds the label already, or is all there is."""
    return lesson(name, *((_label(one), [_term(name, **one)]) for one in arguments or ({},)), **options)


def _beside(name: str, *arguments: dict[str, Any], label: str = "cross_entropy", **options: Any) -> Lesson:
    """An objective beside the label loss; `weight` among its arguments is its weight in the sum."""
    variants = []
    for one in arguments or ({},):
        given = dict(one)
        variants.append((_label(one), [_term(label), _term(name, given.pop("weight", 1.0), **given)]))
    return lesson(name, *variants, **options)


_UNSHOWN = ("PLACE", "num_examples", "scale_by_temperature_squared")


def _label(arguments: Mapping[str, Any]) -> str:
    shown = {name: value for name, value in arguments.items() if name not in _UNSHOWN}
    return ", ".join(
        f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in shown.items()
    )


def _softened(name: str, *temperatures: float, **more: Any) -> Lesson:
    """Cross-entropy and T² · divergence, at each temperature."""
    return _beside(name, *({"temperature": one, "scale_by_temperature_squared": True, **more} for one in temperatures))


def _sinkhorn(temperature: float) -> tuple[str, list[Term]]:
    soft = _term("soft_cross_entropy", 0.9, teacher_temperature=temperature, student_temperature=temperature)
    transport = _term("sinkhorn_distillation", 0.0008, temperature=temperature)
    return f"temperature {temperature:g}", [_term("cross_entropy", 0.1), soft, transport]


def _norm_direction(weight: float) -> tuple[str, list[Term]]:
    kd = _term("forward_kl", 1.0, temperature=4.0, scale_by_temperature_squared=True)
    return f"weight {weight:g}", [_term("cross_entropy"), kd, _term("norm_direction_loss", weight)]


def _balanced(temperature: float) -> tuple[str, list[Term]]:
    return f"temperature {temperature:g}", [
        _term("cross_entropy"),
        _term("forward_kl", temperature=temperature, scale_by_temperature_squared=True),
    ]


LABEL_LOSS = {"classification": "cross_entropy", "regression": "mean_squared_error"}
"""The plain loss on labels, by task."""

_MAPS = (("stage:-1", "stage:-1"),)
_TWO_MAPS = ((["stage:0", "stage:-1"], ["stage:0", "stage:-1"]),)


def catalogue(*, task: str, num_examples: int, student_head: str, teacher_head: str) -> dict[str, Lesson]:
    """The lessons that the toolkit knows, by name; those of objectives that it does not know come from `plain_lesson`.

    Args:
        task: `classification` or `regression`.
        num_examples: One more than the largest index of a training sample.
        student_head: Module path of the student's output layer.
        teacher_head: The same of the teacher.
    """
    both: dict[str, Any] = {"tasks": tuple(LABEL_LOSS), "label": LABEL_LOSS[task]}
    maps_or_embeddings = (*_MAPS, (f"{student_head}:input", f"{teacher_head}:input"))
    lessons = [
        _alone("cross_entropy"),
        _alone("knowledge_distillation", {"alpha": 0.9, "temperature": 4.0}, {"alpha": 0.5, "temperature": 2.0}),
        # From labels alone.
        lesson(
            "label_smoothing", *((f"{one:g}", [_term("cross_entropy", label_smoothing=one)]) for one in (0.1, 0.05))
        ),
        _alone("active_passive_loss", {"passive": "rce"}, {"passive": "aul"}),
        _alone(
            "adaptive_ldr_loss",
            {"num_examples": num_examples, "initial_temperature": 1.0},
            {"num_examples": num_examples, "initial_temperature": 10.0},
        ),
        _alone("comp_sum_loss", {"tau": 1.5}, {"tau": 0.5}),
        _alone("crammer_singer_loss", {"margin": 1.0}, {"margin": 4.0}),
        _alone("dice_loss", {"square_denominator": True}, {"square_denominator": False}),
        _alone("direct_coverage_loss", {"num_samples": 4.0}, {"num_samples": 16.0}),
        _alone("focal_loss", {"gamma": 2.0}, {"gamma": 1.0}),
        _alone("generalized_cross_entropy", {"q": 0.7}, {"q": 0.3}),
        _alone("jensen_shannon_label_loss", {"label_weight": 0.5}, {"label_weight": 0.1}),
        _alone("label_distributionally_robust_loss", {"temperature": 1.0}, {"temperature": 0.1}),
        _alone("robust_log_loss", {"alpha": 1.0}, {"alpha": 0.1}),
        _alone("self_adjusting_dice_loss", {"alpha": 0.01}, {"alpha": 0.1}),
        _alone("symmetric_cross_entropy_loss", {"balance": 0.5}, {"balance": 0.1}),
        _alone("tversky_loss", {"alpha": 0.5, "beta": 0.5}, {"alpha": 0.3, "beta": 0.7}),
        _alone("weston_watkins_loss", {"margin": 1.0}, {"margin": 4.0}),
        _alone("mean_squared_error", tasks=("regression",)),
        # From the teacher's logits.
        _beside("balanced_divergence", {"nu": 2.0, "temperature": 1.0}, {"nu": 2.0, "temperature": 4.0}),
        _beside("decoupled_distillation", {"beta": 8.0}, {"beta": 2.0}),
        _beside(
            "dist_distillation",
            {"beta": 2.0, "gamma": 2.0, "temperature": 1.0},
            {"beta": 2.0, "gamma": 2.0, "temperature": 4.0},
        ),
        _softened("forward_kl", 4.0, 1.0),
        _softened("jensen_shannon", 4.0, 1.0),
        _beside("logit_mse", {"weight": 1.0}, {"weight": 0.1}, **both),
        _alone("plackett_luce_distillation", {"temperature": 1.0}, {"temperature": 4.0}),
        _softened("reverse_kl", 4.0, 1.0),
        lesson("sinkhorn_distillation", _sinkhorn(2.0), _sinkhorn(4.0)),
        lesson(
            "soft_cross_entropy",
            *(
                (
                    f"temperature {one:g}, no labels",
                    [_term("soft_cross_entropy", teacher_temperature=one, student_temperature=one)],
                )
                for one in (4.0, 1.0)
            ),
        ),
        _beside("symmetric_cross_entropy", {"alpha": 0.5}, {"alpha": 0.1}),
        _softened("total_variation", 4.0, 1.0),
        _beside("universal_logit_distance", {"weight": 1.5}, {"weight": 0.5}),
        _alone("weighted_soft_labels", {"temperature": 1.5}, {"temperature": 4.0}),
        # From inside the teacher.
        _beside(
            "adaptive_mask_distillation", {"PLACE": 0, "weight": 1.0}, {"PLACE": 0, "weight": 0.1}, places=_MAPS, **both
        ),
        _beside(
            "channel_relation_distance", {"PLACE": 0, "weight": 1.0}, {"PLACE": 0, "weight": 10.0}, places=_MAPS, **both
        ),
        _beside(
            "channel_wise_distillation", {"PLACE": 0, "weight": 3.0}, {"PLACE": 0, "weight": 50.0}, places=_MAPS, **both
        ),
        _beside(
            "feature_matching",
            {"PLACE": 0, "weight": 1.0},
            {"PLACE": 0, "weight": 10.0},
            places=maps_or_embeddings,
            **both,
        ),
        lesson("norm_direction_loss", _norm_direction(2.0), _norm_direction(1.0)),
        _beside(
            "sample_relation_distance",
            {"PLACE": 0, "weight": 3000.0},
            {"PLACE": 0, "weight": 300.0},
            places=maps_or_embeddings,
            **both,
        ),
        _alone("scale_kd_objective", {}, {"kd_weight": 0.25}),
        _beside(
            "structured_transfer", {"PLACE": 0, "weight": 1.0}, {"PLACE": 0, "weight": 0.1}, places=_TWO_MAPS, **both
        ),
        # Ways to teach that are no single objective.
        lesson("gradient_balanced", _balanced(4.0), _balanced(1.0), method={"name": "gradient_balanced"}),
        lesson("mutual", _balanced(1.0), _balanced(4.0), method={"name": "mutual"}, online=True),
    ]
    return {one.name: one for one in lessons}


LEFT_OUT: dict[str, str] = {
    "adversarial": "answers another question: accuracy under attack, at many passes a step",
    "bilevel": "learns weights on held-out data, which here choose among the methods",
    "correctness_aware_loss": "is for calibrators: it teaches confidence, not classes",
    "direction_loss": "is a part of norm_direction_loss, which takes part whole",
    "feature_norm_loss": "is a part of norm_direction_loss, which takes part whole",
    "fused_distillation_loss": "is knowledge_distillation where all samples share one ratio",
    "generalized_kd": "is for language models, which learn from their own responses",
    "lambda_loss": "orders the items of lists, not classes",
    "listwise_softmax_loss": "orders the items of lists, not classes",
    "mst_distill": "needs teachers that see other views of a sample",
    "profit_aware_pairwise_loss": "orders the items of lists, not classes",
    "ranknet_loss": "orders the items of lists, not classes",
    "token_divergence": "is for sequences; its divergences take part under their own names",
}
"""Objectives and methods that do not take part wherever they would run, with the reason."""


def plain_lesson(name: str, task: str = "classification") -> Lesson:
    """The lesson of an objective that the catalogue does not know: alone if it reads labels, else beside them.

    Args:
        name: Registered, or `package.module:attribute`.
        task: `classification` or `regression`.

    >>> [term["name"] for term in plain_lesson("logit_mse").settings[0].terms]
    ['cross_entropy', 'logit_mse']
    """
    found = resolve(name, registered_objectives(), "objective")
    if "batch.target" in getattr(found, "reads", ()):
        return _alone(name, tasks=tuple(LABEL_LOSS))
    return _beside(name, label=LABEL_LOSS[task], tasks=tuple(LABEL_LOSS))


def own_lesson(name: str, terms: Sequence[ObjectiveSettings]) -> Lesson:
    """A lesson of the user's own, at four learning rates."""
    plain = [term.model_dump(mode="json", exclude_none=True) for term in terms]
    return lesson(name, ("", plain), tasks=tuple(LABEL_LOSS))


def canonical_objectives() -> dict[str, type[Objective]]:
    """Every registered objective once, under the name of its class.

    >>> "plackett_luce_distillation" in canonical_objectives(), "pld" in canonical_objectives()
    (True, False)
    """
    return {snake_case(one.__name__): one for one in registered_objectives().values()}


def method_name(name: str) -> str:
    """The name of a method in tables, for any of its names in configs.

    Raises:
        ValueError: No method has this name; the nearest is suggested.

    >>> method_name("pld"), method_name("mutual"), method_name("mypackage.losses:Mine")
    ('plackett_luce_distillation', 'mutual', 'mypackage.losses:Mine')
    """
    objectives = registered_objectives()
    if name in objectives:
        return snake_case(objectives[name].__name__)
    known = {
        *catalogue(task="classification", num_examples=1, student_head="", teacher_head=""),
        *LEFT_OUT,
        *objectives,
    }
    if name in known or ":" in name:
        return name
    raise ValueError(f"Expected a method that takes part in comparisons, but got {name!r}{nearest(name, known)}.")


def required_arguments(objective: type[Objective]) -> list[str]:
    """Arguments that an objective can not be made without.

    >>> from tutelage.objectives import HLGaussLoss
    >>> required_arguments(HLGaussLoss)
    ['support']
    """
    parameters = list(inspect.signature(objective.__init__).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [one.name for one in parameters if one.default is one.empty and one.kind in kinds]
