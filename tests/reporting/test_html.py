import math
import re
from html.parser import HTMLParser

import pytest

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting import ArmResult, Report, render_report, write_report
from tutelage.reporting.html import _IMAGE_BUDGET

BAD = "<script>alert(1)</script>"
SECTIONS = {
    *("results", "learning", "calibration", "robustness", "latency"),
    *("partings", "examples", "figures", "config", "environment"),
}
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """What a page is made of; fails when elements do not nest."""

    def __init__(self, page):
        super().__init__()
        self.elements = []
        self.open = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def sections(self):
        return {attrs["id"] for attrs in self.all("section")}


def test_all_sections_are_there_and_linked(build_report):
    page = Page(render_report(build_report()))
    assert page.sections == SECTIONS
    assert {attrs["href"] for attrs in page.all("a")} == {f"#{name}" for name in (*SECTIONS, "main")}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == 1
    assert {attrs["aria-labelledby"] for attrs in page.all("section")} <= set(ids)


def test_the_summary_stands_before_every_section(build_report):
    report = build_report()
    report.summary = "The student learned everything but its seven."
    page = render_report(report)
    assert page.index(report.summary) < page.index("<section")


def test_nothing_is_loaded(build_report):
    text = render_report(build_report())
    page = Page(text)
    for tag, attrs in page.elements:
        for key in ("src", "href", "srcset", "action", "data", "poster"):
            assert attrs.get(key, "#").startswith(("#", "data:")), (tag, attrs)
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert "url(" not in text
    assert len(page.all("script")) == 1
    policy = next(attrs for attrs in page.all("meta") if "http-equiv" in attrs)["content"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_page_is_small(build_report):
    assert len(render_report(build_report())) < 300_000


def poisoned(build_report):
    report = build_report()
    report.title = report.summary = report.config_text = BAD
    report.environment = {BAD: {BAD: BAD}}
    report.created = BAD
    report.teacher.name = BAD
    for arm in report.arms:
        arm.name = arm.description = BAD
        for card in arm.cards:
            card.name = BAD
            card.class_names = [BAD] * 10
            card.metrics[BAD] = 1.0
            card.latency["batch_size"] = BAD
            for example in card.examples:
                example["text"] = BAD
        for run in arm.history:
            for record in run:
                record[BAD] = 1.0
    for comparison in report.comparisons:
        comparison.update(arm=BAD, baseline=BAD, method=BAD)
    report.comparisons.append({"arm": BAD, "baseline": BAD, "metric": BAD, "difference": 1.0})
    return report


def test_names_and_texts_stay_text(build_report):
    text = render_report(poisoned(build_report))
    assert "<script>alert" not in text.lower()
    page = Page(text)
    assert len(page.all("script")) == 1
    assert page.text.count(BAD) > 50
    assert not [attrs for _, attrs in page.elements if any(key.startswith("on") for key in attrs)]


@pytest.mark.parametrize(
    "image",
    [
        "https://example.org/a.png",
        "javascript:alert(1)",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        7,
    ],
)
def test_only_pictures_that_are_inside_are_shown(build_report, image):
    report = build_report(seeds=1)
    for arm in report.arms:
        for example in arm.cards[0].examples:
            example["image"] = image
    assert not Page(render_report(report)).all("img")


def test_pictures_stop_before_the_page_grows_large(build_report):
    report = build_report(seeds=1)
    for arm in report.arms:
        for example in arm.cards[0].examples:
            example["image"] = "data:image/png;base64," + "A" * (_IMAGE_BUDGET // 3)
    text = render_report(report)
    assert len(Page(text).all("img")) == 2
    assert len(text) < 1_000_000


def test_an_empty_report_says_what_is_missing():
    page = Page(render_report(Report("Nothing")))
    assert page.sections == {"results"}
    assert "No figure was measured." in page.text
    assert "learning curves, calibration, robustness" in page.text


def test_one_arm_one_seed_no_teacher(build_report):
    report = build_report(seeds=1, with_teacher=False)
    report.arms, report.comparisons = report.arms[:1], []
    page = Page(render_report(report))
    assert page.sections >= {"results", "learning", "calibration"}
    assert "±" not in page.text.split("Every metric")[0].split("all figures")[0].replace("Mean ± deviation", "")
    assert "(best)" not in page.text
    assert "One seed each" in page.text


def test_arms_without_any_card_or_with_empty_parts():
    card = ReportCard("a", "classification", 0, reliability={"confidence": [], "accuracy": [], "count": []})
    card.robustness = {"epsilon": [], "accuracy": []}
    card.latency = {"milliseconds": []}
    report = Report("t", arms=[ArmResult("a", cards=[card], history=[[], [{}]]), ArmResult("b")])
    assert Page(render_report(report)).sections == {"results"}


def test_regression():
    cards = [ReportCard("a", "regression", 9, {"r2": value, "mean_squared_error": 1e-7}) for value in (0.5, -3.0)]
    page = Page(render_report(Report("t", arms=[ArmResult("a", cards=cards)])))
    assert "R²" in page.text
    assert "1.00e−07" in page.text


def test_not_a_number_is_said_and_never_best():
    arms = [
        ArmResult(name, cards=[ReportCard(name, "classification", 9, {"accuracy": v}) for v in values],
                  history=[[{"step": 1, "train_loss": math.nan}, {"step": 2, "train_loss": math.inf}]])
        for name, values in (("lost", (math.nan, 0.9)), ("kept", (0.5, 0.6)), ("gone", (math.nan, math.nan)))
    ]  # fmt: skip
    page = Page(render_report(Report("t", arms=arms)))
    assert "1 of 2 not finite" in page.text
    assert "2 of 2 not finite" in page.text
    assert "(best)" not in page.text  # one arm alone has all its seeds
    assert "learning" not in page.sections


def test_a_difference_that_is_not_significant_is_said(build_report):
    text = render_report(build_report())
    assert "not significantly different from the best" in text
    assert "points, not significant" in text


def test_without_a_test_the_page_says_so(build_report):
    report = build_report()
    report.comparisons = []
    assert "No test between arms was run" in render_report(report)


def test_partings_are_summed_over_seeds():
    parting = {"teacher": 0, "student": 1, "count": 2, "student_right": 1, "teacher_right": 1}
    cards = [ReportCard("a", "classification", 9, partings=[parting], class_names=["cat", "dog"]) for _ in range(2)]
    page = render_report(Report("t", arms=[ArmResult("a", cards=cards)]))
    row = re.search(r"<tr><td>cat</td><td class=\"words\">dog</td><td>(\d+)</td>", page)
    assert row is not None
    assert row[1] == "4"
    assert "student right 2, teacher right 2, neither 0" in page


def test_with_many_arms_the_best_are_drawn_and_all_are_in_the_table():
    arms = [
        ArmResult(f"arm {i:02}", cards=[ReportCard("a", "classification", 9, {"accuracy": i / 20})]) for i in range(12)
    ]
    text = render_report(Report("t", arms=arms))
    assert "The best 8 of 12 arms" in text
    assert all(f"arm {i:02}" in Page(text).text for i in range(12))
    chart = text[text.index("<figure") : text.index("</figure>")]
    assert "arm 11" in chart
    assert "arm 03" not in chart


def test_long_histories_are_thinned():
    history = [[{"step": step, "train_loss": 1 / (1 + step)} for step in range(20_000)]]
    report = Report("t", arms=[ArmResult("a", history=history)])
    assert len(render_report(report)) < 100_000


def test_write_report_writes_both_files_and_nothing_else(build_report, tmp_path):
    path = write_report(tmp_path / "run" / "report.html", build_report())
    assert sorted(file.name for file in path.parent.iterdir()) == ["report.html", "report.json"]
    with pytest.raises(ValueError, match="to name an HTML file"):
        write_report(tmp_path / "report.json", Report("t"))


def test_reliability_is_pooled_bin_by_bin_whichever_bins_a_seed_fills():
    curves = [
        {"confidence": [0.5, 0.95], "accuracy": [0.4, 0.9], "count": [10, 30]},
        {"confidence": [0.95], "accuracy": [0.7], "count": [10]},
        {"confidence": [math.nan, 0.2], "accuracy": [math.nan, 0.0], "count": [0, 1]},
    ]
    cards = [ReportCard("a", "classification", 40, {"accuracy": 0.5}, reliability=curve) for curve in curves]
    page = render_report(Report("t", arms=[ArmResult("a", cards=cards)]))
    rows = re.findall(r"<tr><th scope=\"row\">(.*?) %</th><td>(.*?) %</td><td>(\d+)</td></tr>", page)
    assert rows == [("20.0", "0.0", "1"), ("50.0", "40.0", "10"), ("95.0", "85.0", "40")]
