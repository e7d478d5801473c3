"""Pages whose names and texts come from data: shown as they are, and nothing in them ever runs, loads or breaks."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.reliability.faults import Faults
from tests.reporting.test_comparison_page import result as comparison_result
from tutelage.assessment import ReportCard
from tutelage.reporting import ArmResult, Report, write_report
from tutelage.reporting.comparison_page import write_comparison_page
from tutelage.reporting.drift import write_drift_page
from tutelage.reporting.search_page import write_search_page

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>ran=1;alert(1)</script>",
    '"><img src=x onerror="ran=1;alert(1)">',
    "' onmouseover='ran=1;alert(1)' x='",
    "</script><svg onload=ran=1;alert(1)>",
    "</style></title></textarea><iframe srcdoc='<script>top.ran=1</script>'>",
    "--><b onpointerover=ran=1>",
    "javascript:ran=1",
    "http://example.invalid/picture.png",
    "{{ 7 * 7 }}{% include 'report.css' %}",
    "&lt;b&gt;&#60;script&#62;",
    "名前 · Łódź · العربية · עברית · 🎓\u202e\u200d",
    "a\ttab, a\nline and \x1b[31mred",
    "long" * 2500,
    "two words " * 1000,
)
PICTURES = (
    "javascript:ran=1",
    "http://example.invalid/picture.png",
    "data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciIG9ubG9hZD0iYWxlcnQoMSkiLz4=",
    "data:text/html,<script>ran=1</script>",
    'data:image/png;base64,AA" onerror="ran=1',
)


def hostile_report(report: Report) -> Report:
    """A report in which everything that a user names or writes is hostile."""
    texts = itertools.cycle(HOSTILE)
    names = {arm.name: f"{next(texts)} {number}" for number, arm in enumerate(report.arms)}

    def card(given: ReportCard, name: str) -> ReportCard:
        made = copy.deepcopy(given)
        made.name = name
        made.class_names = [f"{next(texts)}" for _ in made.class_names]
        made.metrics |= {next(texts): 0.5}
        if made.robustness:
            made.robustness["attacks"]["note"] = next(texts)
        for example, picture in zip(made.examples, itertools.cycle(PICTURES), strict=False):
            example |= {"image": picture, "text": next(texts), "index": next(texts)}
        return made

    arms = [
        ArmResult(names[arm.name], next(texts), [card(one, names[arm.name]) for one in arm.cards], arm.history)
        for arm in report.arms
    ]
    comparisons = [
        one | {"arm": names[one["arm"]], "baseline": names[one["baseline"]], "method": next(texts)}
        for one in report.comparisons
    ]
    return Report(
        next(texts),
        summary=" ".join(HOSTILE),
        arms=arms,
        teacher=None if report.teacher is None else card(report.teacher, next(texts)),
        config_text="\n".join(HOSTILE),
        environment={text: {text: [text, text]} for text in HOSTILE},
        comparisons=comparisons,
    )


def write_pages(folder: Path, example: Callable[..., Report]) -> Iterator[Path]:
    """Every kind of page that the toolkit writes."""
    everything = " ".join(HOSTILE)
    yield write_report(folder / "report.html", hostile_report(example()))
    yield write_report(folder / "absent.html", absent(everything))
    yield write_drift_page(
        folder / "drift.html", everything, {"error": [0.5, 0.25], "drift": [1.0, 2.0]}, dict.fromkeys(HOSTILE, 0.5)
    )
    candidate = {"arch": everything, "reasons": list(HOSTILE), "parameters": 10, "score": None, "accuracy": 0.5}
    candidate |= {"accuracies": [0.5], "milliseconds": 1.0, "student": {everything: everything}, "on_front": True}
    yield write_search_page(folder / "search.html", everything, [candidate])
    yield write_comparison_page(folder / "comparison.html", comparison_result(everything), everything)


def absent(text: str) -> Report:
    """A report in which reasons stand where figures would."""
    card = ReportCard(text, text, 1, metrics={"accuracy": 0.5}, robustness={"absent": text}, class_names=[text])
    return Report(text, arms=[ArmResult(text, text, [card], [[{"step": 1, text: 1.0}]])])


def test_names_and_texts_from_data_never_act(request: pytest.FixtureRequest, tmp_path: Path, faults: Faults) -> None:
    browser, build_report = request.getfixturevalue("browser"), request.getfixturevalue("build_report")
    for path in write_pages(tmp_path, build_report):
        context = browser.new_context(viewport={"width": 1000, "height": 800})
        page = context.new_page()
        acted: list[str] = []
        page.on("console", lambda message, acted=acted: acted.append(message.text))
        page.on("pageerror", lambda error, acted=acted: acted.append(str(error)))
        page.on("dialog", lambda dialog, acted=acted: (acted.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request, acted=acted: acted.append(request.url))
        with faults.inject("hostile text in a page", times=len(HOSTILE)):
            page.goto(path.as_uri())
            page.wait_for_load_state("networkidle")
            page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
            page.evaluate("""document.querySelectorAll('body *').forEach(part => {
                for (const kind of ['pointerover', 'mouseover', 'focus', 'load', 'error'])
                    part.dispatchEvent(new Event(kind, {bubbles: kind === 'pointerover'}));
            })""")
            assert page.evaluate("'ran' in window") is False
            assert [one for one in acted if one != path.as_uri() and not one.startswith("data:")] == [], path.name
            elements = page.evaluate("""[...document.querySelectorAll('*')].flatMap(part => [part.localName,
                ...[...part.attributes].filter(one => one.name.startsWith('on') || (
                    ['src', 'href'].includes(one.name) && !one.value.match(/^(#|data:)/))).map(one => one.name)])""")
            assert not {"iframe", "object", "embed", "base", "form", "textarea", "src", "href"} & set(elements), (
                path.name
            )
            assert not any(name.startswith("on") for name in elements)
            assert elements.count("script") == (path.name in ("report.html", "absent.html"))
            shown = page.evaluate("document.title + document.body.textContent")
            for text in HOSTILE:
                assert " ".join(text.split()) in " ".join(shown.split()), (path.name, text)
            assert page.evaluate("document.documentElement.scrollWidth") <= 1000, path.name
        context.close()
