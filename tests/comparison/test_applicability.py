from __future__ import annotations

import pytest

from tutelage.comparison import ComparisonConfig, Lesson, MethodChoice, Problem, declared_gaps, list_methods
from tutelage.comparison.applicability import Measured, survey
from tutelage.comparison.lessons import BASELINES, canonical_objectives, catalogue
from tutelage.config import parse_config
from tutelage.features import FeatureMatching, NormDirectionLoss
from tutelage.objectives import (
    CrossEntropy,
    ForwardKL,
    LinearDistillation,
    Objective,
    PlackettLuceDistillation,
    SwingDistillation,
    TopKForwardKL,
    TradesLoss,
)

WHOLE = Problem("classification", 10, frozenset({"logits", "embedding", "features"}))
ENSEMBLE = Problem("classification", 10, frozenset({"logits"}), teachers=2)
ALONE = Problem("classification", 10, frozenset(), teachers=0)
TWO = Problem("classification", 2, WHOLE.teacher_gives)


@pytest.mark.parametrize(
    ("objective", "problem", "gaps"),
    [
        (CrossEntropy(), ALONE, []),
        (ForwardKL(), ALONE, ["needs a teacher"]),
        (ForwardKL(), WHOLE, []),
        (PlackettLuceDistillation(), TWO, ["says no more than cross-entropy for two classes or fewer"]),
        (NormDirectionLoss(), ENSEMBLE, ["reads the teacher's embedding, which it does not give"]),
        (FeatureMatching(), ENSEMBLE, ["reads inside the teacher, which an ensemble does not let one do"]),
        (FeatureMatching(), WHOLE, []),
        (SwingDistillation(), WHOLE, ["reads `sensitivity`, which the data do not bring"]),
        (TradesLoss(), WHOLE, ["reads `adversarial_logits` of the student, which it does not give"]),
        (TopKForwardKL(), WHOLE, ["reads a teacher's likeliest classes only, and this one tells all of them"]),
        (LinearDistillation(), WHOLE, ["reads hidden states and an output layer, as language models give them"]),
    ],
)
def test_what_is_missing_is_said_once_and_plainly(objective: Objective, problem: Problem, gaps: list[str]) -> None:
    assert declared_gaps(objective, problem) == gaps


def test_extras_that_the_data_bring_are_no_gap() -> None:
    problem = Problem("classification", 10, WHOLE.teacher_gives, extras=frozenset({"sensitivity"}))
    assert declared_gaps(SwingDistillation(), problem) == []


def look(problem: Problem, choice: MethodChoice | None = None, attempt: object = None) -> tuple[dict, dict]:  # type: ignore[type-arg]
    lessons = catalogue(task=problem.task, num_examples=9, student_head="head", teacher_head="head")
    take = attempt or (lambda lesson: Measured(0.001, 0.1))
    return survey(lessons, {}, problem, choice or MethodChoice(), BASELINES[problem.task], take)  # type: ignore[arg-type]


def test_everything_registered_is_either_in_or_has_a_reason() -> None:
    applicable, reasons = look(WHOLE)
    assert set(canonical_objectives()) <= set(applicable) | set(reasons)
    assert not set(applicable) & set(reasons)
    assert all(reasons.values())


def test_tasks_are_kept_apart() -> None:
    applicable, reasons = look(Problem("regression", 1, WHOLE.teacher_gives))
    assert {"mean_squared_error", "logit_mse", "feature_matching"} <= set(applicable)
    assert reasons["focal_loss"] == "is for classification"


def test_methods_can_be_named_and_left_out_but_baselines_stay() -> None:
    applicable, _ = look(WHOLE, MethodChoice(include=["focal_loss"]))
    assert set(applicable) == {"cross_entropy", "knowledge_distillation", "focal_loss"}
    applicable, _ = look(WHOLE, MethodChoice(exclude=["focal_loss", "cross_entropy"]))
    assert "focal_loss" not in applicable
    assert "cross_entropy" in applicable


def test_places_are_tried_in_order_and_the_step_gives_the_reason() -> None:
    tried: list[str] = []

    def attempt(lesson: Lesson) -> Measured:
        term = lesson.settings[0].terms[-1]
        if lesson.name == "feature_matching":
            tried.append(term["arguments"]["student_taps"])
            if len(tried) == 1:
                raise ValueError("Expected a map.")
        if lesson.name == "channel_wise_distillation":
            raise RuntimeError("no maps\nat all")
        return Measured(0.001, 0.1)

    applicable, reasons = look(WHOLE, attempt=attempt)
    assert tried == ["stage:-1", "head:input"]
    assert applicable["feature_matching"].lesson.settings[3].terms[-1]["arguments"]["teacher_taps"] == "head:input"
    assert reasons["channel_wise_distillation"] == "RuntimeError: no maps at all"


def test_a_real_problem() -> None:
    config = parse_config(
        {
            "data": "iris",
            "teacher": {"name": "mlp", "arguments": {"hidden": [8]}, "train": {"epochs": 1}},
            "student": {"name": "mlp", "arguments": {"hidden": [4]}},
            "arms": {"both": ["cross_entropy", "pld"]},
            "methods": {"include": ["pld", "fitnet", "cwd", "mutual", "hl_gauss_loss", "trades"]},
        },
        ComparisonConfig,
    )
    applicable, reasons = list_methods(config)
    assert set(applicable) == {
        "cross_entropy", "knowledge_distillation", "plackett_luce_distillation", "feature_matching", "mutual", "both",
    }  # fmt: skip
    assert all(found.measured.step > 0 for found in applicable.values())
    assert "tokens" in reasons["channel_wise_distillation"]
    assert reasons["hl_gauss_loss"].startswith("needs `support`")
