import pytest

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import ArmResult, Report, summary_sentence
from tutelage.reporting.summary import key_figures


def report(comparisons=(), teacher=None, **accuracies):
    arms = [
        ArmResult(name, cards=[ReportCard(name, "classification", 10, {"accuracy": v})])
        for name, v in accuracies.items()
    ]
    return Report("t", arms=arms, teacher=teacher, comparisons=list(comparisons))


def comparison(arm, baseline, p_value):
    return {"arm": arm, "baseline": baseline, "metric": "accuracy", "difference": 0.1, "p_value": p_value}


@pytest.mark.parametrize(
    ("comparisons", "ending"),
    [
        ([], "No test says whether its lead over the other arms is more than chance."),
        ([comparison("b", "a", 0.3), comparison("b", "c", 0.3)], "Its lead over a and c is not significant."),
        ([comparison("a", "b", 0.3), comparison("b", "c", 0.01)], "Its lead over a is not significant."),
        ([comparison("b", "a", 0.01), comparison("b", "c", 0.01)], "Its lead over a and c is significant."),
        ([comparison("b", "a", 0.01)], "It was not tested against c."),
    ],
)
def test_the_lead_is_said_as_far_as_it_was_comparison(comparisons, ending):
    assert summary_sentence(report(comparisons, a=0.8, b=0.9, c=0.7)) == f"b reaches an accuracy of 90.00 %. {ending}"


def test_nothing_measured_is_said():
    assert summary_sentence(Report("t")).startswith("Nothing was measured")
    assert key_figures(Report("t")) == []


def test_key_figures_stand_beside_the_teacher():
    teacher = ReportCard("big", "classification", 10, {"accuracy": 0.8, "parameters": 1000, "latency_ms": 1.0})
    student = ReportCard(
        "kd", "classification", 10, {"accuracy": 0.6, "parameters": 100, "latency_ms": 2.0, "teacher_agreement": 0.7}
    )
    figures = key_figures(Report("t", arms=[ArmResult("kd", cards=[student])], teacher=teacher))
    assert [(figure.label, figure.value) for figure in figures] == [
        ("Accuracy", "60.00 %"),
        ("Of the teacher’s accuracy", "75.0 %"),
        ("Fewer parameters", "10.0 ×"),
        ("Slower", "2.0 ×"),
        ("Agreement", "70.00 %"),
    ]


def test_regression_is_summed_up_too():
    card = ReportCard("kd", "regression", 10, {"r2": 0.41})
    assert summary_sentence(Report("t", arms=[ArmResult("kd", cards=[card])])) == "kd reaches an R² of 0.410."
