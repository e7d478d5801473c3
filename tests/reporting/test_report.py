import math

import numpy as np
import pytest

from tutelage.assessment.report_card import ReportCard
from tutelage.files import write_json
from tutelage.reporting import ArmResult, Report, read_report, write_report


def test_json_round_trip(build_report, tmp_path):
    report = build_report()
    write_report(tmp_path / "report.html", report)
    assert read_report(tmp_path / "report.json") == report


def test_numbers_that_json_lacks_become_none_and_come_back_as_nan():
    card = ReportCard("a", "classification", 1, metrics={"accuracy": math.nan, "perplexity": math.inf})
    history = [[{"step": np.int64(3), "train_loss": np.float32(0.5)}, {"step": 4, "train_loss": math.inf}]]
    plain = Report("t", arms=[ArmResult("a", cards=[card], history=history)]).to_dict()
    assert plain["arms"][0]["cards"][0]["metrics"] == {"accuracy": None, "perplexity": None}
    assert plain["arms"][0]["history"] == [[{"step": 3, "train_loss": 0.5}, {"step": 4, "train_loss": None}]]
    back = Report.from_dict(plain).arms[0].values("accuracy")
    assert len(back) == 1
    assert math.isnan(back[0])


def test_values_skip_seeds_without_the_metric():
    cards = [ReportCard("a", "classification", 1, metrics=metrics) for metrics in ({"accuracy": 0.5}, {})]
    assert ArmResult("a", cards=cards).values("accuracy") == [0.5]


def test_created_is_a_time_with_its_zone():
    assert Report("t").created.endswith("+00:00")


@pytest.mark.parametrize("data", [{"arms": []}, {"title": "t", "colour": "red"}, {"title": "t", "arms": [{"nam": 1}]}])
def test_what_is_no_report_is_named(data):
    with pytest.raises(ValueError, match="Expected a report with the keys `title`"):
        Report.from_dict(data)


def test_a_list_is_no_report(tmp_path):
    write_json(tmp_path / "report.json", [1])
    with pytest.raises(ValueError, match=r"report\.json to hold a report, but got a JSON list"):
        read_report(tmp_path / "report.json")
