import math

import pytest

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import ArmResult, Report
from tutelage.reporting.headline import best_arms, headline_table, is_significant, main_metric, ranked
from tutelage.reporting.metrics import metric


def arm(name, latency=(), **metrics):
    seeds = max((len(values) for values in metrics.values()), default=0)
    cards = [
        ReportCard(
            name,
            "classification",
            10,
            metrics={key: values[seed] for key, values in metrics.items()},
            latency={"milliseconds": list(latency)} if latency else {},
        )
        for seed in range(seeds)
    ]
    return ArmResult(name, cards=cards)


def marks(report, column):
    table = headline_table(report)
    place = [shown.name for shown in table.columns].index(column)
    return [row.cells[place].mark for row in table.rows if row.position is not None]


def test_higher_accuracy_and_lower_loss_are_best():
    report = Report("t", arms=[
        arm("a", accuracy=[0.8], negative_log_likelihood=[0.3]), arm("b", accuracy=[0.9], negative_log_likelihood=[0.4])
    ])  # fmt: skip
    assert marks(report, "accuracy") == ["", "best"]
    assert marks(report, "negative_log_likelihood") == ["best", ""]


def test_ties_are_both_best_and_equals_are_none():
    assert best_arms(
        [arm("a", accuracy=[0.9]), arm("b", accuracy=[0.9]), arm("c", accuracy=[0.1])], metric("accuracy")
    ) == [0, 1]
    assert best_arms([arm("a", parameters=[10.0]), arm("b", parameters=[10.0])], metric("parameters")) == []


def test_one_arm_is_not_best_of_anything():
    assert best_arms([arm("a", accuracy=[0.9])], metric("accuracy")) == []


def test_a_metric_without_a_better_way_has_no_best():
    assert (
        best_arms([arm("a", mean_confidence=[0.9]), arm("b", mean_confidence=[0.5])], metric("mean_confidence")) == []
    )


def test_an_arm_with_a_lost_seed_is_never_best():
    report = Report("t", arms=[
        arm("a", accuracy=[0.99, math.nan]), arm("b", accuracy=[0.9, 0.9]), arm("c", accuracy=[0.8, 0.8])
    ])  # fmt: skip
    assert marks(report, "accuracy") == ["", "best", ""]
    assert headline_table(report).rows[0].cells[0].lost == 1


@pytest.mark.parametrize(("pair", "expected"), [(("b", "a"), "level"), (("a", "b"), "level"), (("b", "c"), "")])
def test_a_test_without_a_difference_makes_an_arm_level(pair, expected):
    comparison = {"arm": pair[0], "baseline": pair[1], "metric": "accuracy", "difference": 0.1, "p_value": 0.4}
    report = Report("t", arms=[arm("a", accuracy=[0.8]), arm("b", accuracy=[0.9]), arm("c", accuracy=[0.1])])
    report.comparisons = [comparison]
    assert marks(report, "accuracy")[0] == expected
    report.comparisons = [{**comparison, "p_value": 0.01}]
    assert marks(report, "accuracy")[0] == ""
    report.comparisons = [{**comparison, "metric": "r2"}]
    assert marks(report, "accuracy")[0] == ""


def test_latency_inside_the_best_timings_is_level():
    arms = [arm("a", [1.0, 2.0, 3.0, 4.0], latency_ms=[2.5]), arm("b", [2.9, 3.0, 3.1], latency_ms=[3.0])]
    arms.append(arm("c", [9.0, 9.0], latency_ms=[9.0]))
    assert marks(Report("t", arms=arms), "latency_ms") == ["best", "level", ""]


@pytest.mark.parametrize(
    ("comparison", "expected"),
    [
        ({"p_value": 0.049}, True),
        ({"p_value": 0.05}, False),
        ({"p_value": 0.2, "ci_low": 0.1, "ci_high": 0.2}, False),
        ({"p_value": None, "ci_low": -0.2, "ci_high": -0.1}, True),
        ({"p_value": math.nan, "ci_low": -0.2, "ci_high": 0.1}, False),
        ({"ci_low": -math.inf, "ci_high": math.inf}, None),
        ({"difference": 0.3}, None),
    ],
)
def test_significance(comparison, expected):
    assert is_significant(comparison) is expected


def test_arms_are_ranked_by_the_first_quality_metric_that_is_finite():
    arms = [arm("a", mean_squared_error=[3.0]), arm("b", mean_squared_error=[1.0]), arm("c")]
    report = Report("t", arms=arms)
    assert main_metric(report) == metric("mean_squared_error")
    assert ranked(report) == [1, 0, 2]
    assert main_metric(Report("t")) is None
    assert ranked(Report("t", arms=[arm("a"), arm("b")])) == [0, 1]


def test_absent_figures_are_empty_cells():
    report = Report(
        "t", arms=[arm("a", accuracy=[0.5])], teacher=ReportCard("big", "classification", 1, {"parameters": 5})
    )
    table = headline_table(report)
    assert [column.name for column in table.columns] == ["accuracy", "parameters"]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["", "5"], ["50.00", ""]]
