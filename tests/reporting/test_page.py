"""The page in a browser: what is drawn, what fits, what the keyboard reaches, and that nothing goes out."""

import math
import re
from pathlib import Path

import pytest

import tutelage.reporting
from tutelage.reporting import write_report

pytestmark = pytest.mark.browser

STYLE = (Path(tutelage.reporting.__file__).parent / "page" / "report.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(build_report, tmp_path_factory):
    path = write_report(tmp_path_factory.mktemp("page") / "report.html", build_report())
    return path.as_uri()


@pytest.fixture
def visit(browser, address):
    contexts = []

    def open_page(width=1280, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.complaints = []
        page.requested = []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.requested.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()


def paper(page):
    return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def test_no_complaints_and_no_requests(visit, address):
    page = visit()
    page.wait_for_load_state("networkidle")
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith("data:")] == [address]


def test_every_chart_has_drawn_marks(visit):
    page = visit()
    drawn = page.evaluate("""[...document.querySelectorAll("figure > svg")].map(svg =>
        [...svg.querySelectorAll(".line, .dot, .bar, .estimate, .centre")].filter(mark => {
          const box = mark.getBoundingClientRect(), style = getComputedStyle(mark);
          const painted = style.stroke !== "none" || style.fill !== "none";
          return painted && box.width + box.height > 1;
        }).length)""")
    assert len(drawn) == 10  # accuracy, differences, two curves, four reliabilities, robustness, latency
    assert min(drawn) >= 3
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


@pytest.mark.parametrize("width", [320, 390, 768])
def test_no_sideways_scroll_of_the_page(visit, width):
    page = visit(width)
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 390:  # the wide table scrolls inside its own box
        assert page.evaluate("(box => box.scrollWidth > box.clientWidth)(document.querySelector('#results .scroll'))")


def test_dark_follows_the_system_and_the_button(visit):
    light, dark = paper(visit()), paper(visit(scheme="dark"))
    assert light != dark
    page = visit()
    page.click("#theme")
    assert paper(page) == dark
    page.wait_for_timeout(500)  # the browser's storage is another process, which may lag on a busy machine
    page.reload()
    assert paper(page) == dark  # remembered
    page.click("#theme")
    assert paper(page) == light
    page = visit(scheme="dark")
    page.click("#theme")
    assert paper(page) == light


def test_tab_reaches_the_controls(visit):
    page = visit(390)
    page.wait_for_timeout(100)
    reached = []
    for _ in range(80):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("""(() => {
            const e = document.activeElement, style = getComputedStyle(e);
            return [e.tagName, e.id || e.className || e.getAttribute("href") || "", style.outlineStyle];
        })()""")
        )
        if reached[-1][0] == "BODY":
            break
    kinds = {kind for kind, _, _ in reached}
    assert reached[0][:2] == ["A", "skip"]
    assert ["BUTTON", "theme"] in [stop[:2] for stop in reached]
    assert {"A", "BUTTON", "SUMMARY", "DIV"} <= kinds
    assert all(outline != "none" for kind, _, outline in reached if kind != "BODY")
    summaries = page.evaluate("""[...document.querySelectorAll("summary")].filter(s => s.checkVisibility()).length""")
    assert sum(kind == "SUMMARY" for kind, _, _ in reached) == summaries


def test_enter_on_the_skip_link_and_a_summary(visit):
    page = visit()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.focus("#config summary")
    page.keyboard.press("Enter")
    assert page.is_visible("#config pre")


def test_a_table_that_fits_is_no_stop(visit):
    page = visit()
    page.wait_for_timeout(100)
    assert page.evaluate("document.querySelector('#results .scroll').hasAttribute('tabindex')") is False


def test_pointing_at_a_mark_tells_its_value(visit):
    page = visit()
    mark = page.locator("#robustness .dot.s0").last
    mark.scroll_into_view_if_needed()
    page.wait_for_timeout(300)  # a tip goes when the page scrolls
    mark.hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.text_content() == mark.get_attribute("data-tip")
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280


def test_print_is_light_and_opens_what_is_closed(visit):
    page = visit(scheme="dark")
    page.emulate_media(media="print")
    assert paper(page) != paper(visit(scheme="dark"))
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.is_visible("#config pre")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not page.is_visible("#config pre")


def palette(block):
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))


def contrast(first, second):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return (
            math.sumprod((0.2126, 0.7152, 0.0722), linear)
            if hasattr(math, "sumprod")
            else sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
        )

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", [0, 1])
def test_colours_have_contrast(mode):
    blocks = STYLE.split("@media screen")
    colours = palette(blocks[mode].split(".s0 {")[0])
    assert len(colours) == 19
    for name in ("ink", "muted", "accent", "hit", "miss", "teacher", "other", *(f"s{i}" for i in range(8))):
        for ground in ("paper", "raised"):
            assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)
    assert palette(blocks[1].split(".s0 {")[0]) == palette(blocks[2].split(".s0 {")[0])
