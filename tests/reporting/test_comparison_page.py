from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tutelage.comparison import Finalist, rank
from tutelage.reporting.comparison_page import FEW_COLUMNS, comparison_table, text_table, write_comparison_page

EVIL = "<script>alert(1)</script>"


def result(name: str = "mine") -> dict[str, Any]:
    def one(method: str, score: float, right: list[list[float]]) -> Finalist:
        accuracy = [sum(row) / len(row) for row in right]
        return Finalist(method, f"{name} setting", [(score, 0.0)] * 2, {"accuracy": accuracy}, right, [0.001], [9.0])

    finalists = [
        one("cross_entropy", 0.5, [[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]),
        one(name, 0.9, [[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]),
        Finalist("broken", name, failure=f"1 of 2 seeds: {name}"),
    ]
    ranking = rank(finalists, task="classification", baseline="cross_entropy")
    return {
        "name": name,
        "data": f"about {name}",
        "task": "classification",
        "metric": "accuracy",
        "seeds": 2,
        "summary": f"{name} wins.",
        "winner": ranking.winner,
        "baseline": "cross_entropy",
        "teacher": {"accuracy": 0.99},
        "rows": ranking.rows,
        "tests": ranking.tests,
        "rounds": [
            {"methods": 3, "settings": 2, "seeds": 1, "steps": 10},
            {"methods": 2, "settings": 1, "seeds": 2, "steps": 30},
        ],
        "whole_steps": 60,
        "candidates": [
            {"round": 0, "steps": 10, "method": name, "setting": name, "score": 0.9, "failure": ""},
            {"round": 0, "steps": 10, "method": "lost", "setting": "", "score": None, "failure": f"bad {name}"},
        ],
        "inapplicable": {f"{name}2": f"since {name}"},
        "environment": {"processor": name},
    }


def test_every_text_is_escaped_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = write_comparison_page(tmp_path / "comparison.html", result(EVIL), f"name: {EVIL}\n").read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 10
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_the_page_tells_the_whole_story(tmp_path: Path) -> None:
    page = write_comparison_page(tmp_path / "comparison.html", result(), "student: mlp\n").read_text()
    for text in (
        "mine wins.",
        "87.50",
        "failed: 1 of 2 seeds: mine",
        "Round 1: 2 candidates, 10 steps",
        "failed: bad mine",
        "since mine",
        "student: mlp",
        "no room for the 60 steps",
        "Final: up to 2 methods, 2 seeds, 30 steps",
    ):
        assert text in page, text
    assert page.count("<svg") == 2


def test_the_table_marks_the_chosen_one() -> None:
    head, rows = comparison_table(result(), FEW_COLUMNS)
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert cells["teacher"]["Accuracy, %"] == "99.00"
    assert cells["mine"]["Accuracy, %"].startswith("87.50 [")
    assert cells["mine"]["Accuracy, %"].endswith("] *")
    assert cells["cross_entropy"]["Accuracy, %"].endswith(" ≈")
    assert cells["cross_entropy"]["p against cross_entropy"] == "–"
    assert float(cells["mine"]["p against cross_entropy"]) == pytest.approx(result()["tests"][0]["p_value"], rel=0.05)
    assert cells["broken"]["Validation, %"] == "failed: 1 of 2 seeds: mine"
    assert len(text_table(head, rows).splitlines()) == 5
