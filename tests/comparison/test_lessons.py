from __future__ import annotations

import pytest

import tutelage.features  # noqa: F401 - registers its objectives
from tutelage.comparison.lessons import (
    BASELINES,
    LABEL_LOSS,
    LEFT_OUT,
    canonical_objectives,
    catalogue,
    method_name,
    own_lesson,
    plain_lesson,
)
from tutelage.config import ObjectiveSettings

TASKS = tuple(LABEL_LOSS)


def lessons(task: str = "classification") -> dict:  # type: ignore[type-arg]
    return catalogue(task=task, num_examples=10, student_head="head", teacher_head="head")


@pytest.mark.parametrize("task", TASKS)
def test_no_method_has_more_settings_than_another(task: str) -> None:
    for name, lesson in lessons(task).items():
        assert len(lesson.settings) == 4, name
        assert len({setting.label for setting in lesson.settings}) == 4, name
        assert lesson.settings[0].rate == 1.0, name
        both = len({setting.rate for setting in lesson.settings[:2]}) == 1  # settings of its own first, then rates
        rates = [setting.rate for setting in lesson.settings]
        assert rates == ([1.0, 1.0, 0.5, 0.5] if both else [1.0, 0.5, 2.0, 0.25]), name


@pytest.mark.parametrize("task", TASKS)
def test_every_setting_can_be_made(task: str) -> None:
    for lesson in lessons(task).values():
        placed = lesson.tapped_at(*lesson.places[0]) if lesson.places else lesson
        for setting in placed.settings:
            for term in setting.terms:
                ObjectiveSettings.model_validate(term).make()


def test_names_are_those_of_objectives_or_of_methods() -> None:
    known = {*canonical_objectives(), "label_smoothing", "gradient_balanced", "mutual"}
    assert set(lessons()) <= known
    assert not set(lessons()) & set(LEFT_OUT)
    assert all(set(names) <= set(lessons(task)) for task, names in BASELINES.items())


def test_label_losses_follow_the_task() -> None:
    assert lessons()["logit_mse"].settings[0].terms[0]["name"] == "cross_entropy"
    assert lessons("regression")["logit_mse"].settings[0].terms[0]["name"] == "mean_squared_error"


def test_unknown_and_own_objectives_have_lessons_too() -> None:
    assert [term["name"] for term in plain_lesson("squared_error_loss").settings[0].terms] == ["squared_error_loss"]
    beside = plain_lesson("logit_mse", "regression").settings[0].terms
    assert [term["name"] for term in beside] == ["mean_squared_error", "logit_mse"]
    own = own_lesson("mine", [ObjectiveSettings(name="pld", weight=0.5)])
    assert [setting.rate for setting in own.settings] == [1.0, 0.5, 2.0, 0.25]
    assert own.settings[0].terms[0]["weight"] == 0.5


def test_any_name_finds_its_method() -> None:
    assert method_name("kd") == "knowledge_distillation"
    assert method_name("mutual") == "mutual"
    with pytest.raises(ValueError, match="did you mean 'focal_loss'"):
        method_name("focal_los")
