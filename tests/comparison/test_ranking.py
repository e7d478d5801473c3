from __future__ import annotations

import pytest

from tutelage.assessment import holm_correction
from tutelage.comparison import Finalist, closing_sentence, crossed_comparison, rank


def finalist(name: str, validation: float, right: list[list[float]], **changes: object) -> Finalist:
    accuracies = [sum(row) / len(row) for row in right]
    given = {
        "name": name,
        "label": "",
        "scores": [(validation, 0.0)] * len(right),
        "test": {"accuracy": accuracies},
        "samples": right,
        "step_seconds": [0.002, 0.002],
        "memory_mb": [10.0, 12.0],
    }
    return Finalist(**{**given, **changes})  # type: ignore[arg-type]


def rights(rate: int, seeds: int = 3, samples: int = 40) -> list[list[float]]:
    return [[float((sample + seed) % 10 < rate) for sample in range(samples)] for seed in range(seeds)]


PLAIN = finalist("cross_entropy", 0.8, rights(5), step_seconds=[0.001])
GOOD = finalist("good", 0.9, rights(10))
LUCKY = finalist("lucky", 0.7, [[1.0] * 40] * 3)


def test_validation_chooses_and_test_reports() -> None:
    ranking = rank([PLAIN, LUCKY, GOOD], task="classification", baseline="cross_entropy")
    assert ranking.winner == "good"
    assert [row["method"] for row in ranking.rows] == ["good", "cross_entropy", "lucky"]
    assert [row["cost"] for row in ranking.rows] == pytest.approx([2.0, 1.0, 2.0])
    assert ranking.rows[0]["memory_mb"] == 12.0
    assert ranking.rows[1]["test"]["accuracy"]["mean"] == pytest.approx(0.5)


def test_pairs_and_their_correction() -> None:
    ranking = rank([PLAIN, LUCKY, GOOD], task="classification", baseline="cross_entropy")
    pairs = [(test["arm"], test["baseline"]) for test in ranking.tests]
    assert pairs == [("good", "cross_entropy"), ("good", "lucky"), ("lucky", "cross_entropy")]
    plain = [
        crossed_comparison(first.samples, second.samples).p_value
        for first, second in ((GOOD, PLAIN), (GOOD, LUCKY), (LUCKY, PLAIN))
    ]
    assert [test["p_value"] for test in ranking.tests] == pytest.approx(holm_correction(plain))


def test_a_clear_lead_is_called_significant_and_ties_are_named() -> None:
    ranking = rank([PLAIN, LUCKY, GOOD], task="classification", baseline="cross_entropy")
    text = closing_sentence(ranking, task="classification", baseline="cross_entropy", teacher=0.97)
    assert "good is chosen on validation. On test it has an accuracy of 100.00 %" in text
    assert "its teacher has 97.00 %" in text
    assert "Its lead over cross_entropy, 50.00 points, is significant" in text
    assert "not told apart from lucky" in text


def test_intervals_of_shares_stay_between_nothing_and_all() -> None:
    shaky = finalist("shaky", 0.9, [[1.0] * 20, [0.0] * 20], test={"accuracy": [1.0, 0.0], "nll": [0.1, 2.0]})
    spread = rank([shaky], task="classification", baseline="cross_entropy").rows[0]["test"]
    assert (spread["accuracy"]["low"], spread["accuracy"]["high"]) == (0.0, 1.0)
    assert spread["nll"]["low"] < 0


def test_a_small_lead_is_called_chance_and_a_gap_a_gap() -> None:
    near = finalist("near", 0.9, [[*row[:-1], 1.0] for row in rights(5)])
    text = closing_sentence(
        rank([PLAIN, near], task="classification", baseline="cross_entropy"),
        task="classification",
        baseline="cross_entropy",
        teacher=None,
    )
    assert "lead over cross_entropy" in text
    assert "not significant" in text
    assert "teacher" not in text
    worse = finalist("worse", 0.9, rights(4))
    ranking = rank([PLAIN, worse], task="classification", baseline="cross_entropy")
    text = closing_sentence(ranking, task="classification", baseline="cross_entropy", teacher=None)
    assert "gap to cross_entropy" in text
    assert "best mean on test is that of cross_entropy, which validation did not choose" in text


def test_the_baseline_may_win() -> None:
    ranking = rank([PLAIN, finalist("other", 0.1, rights(2))], task="classification", baseline="cross_entropy")
    text = closing_sentence(ranking, task="classification", baseline="cross_entropy", teacher=None)
    assert "No method did better on validation" in text


def test_who_failed_is_last_and_never_wins() -> None:
    broken = Finalist("broken", "", failure="1 of 3 seeds: NaN")
    ranking = rank([broken, PLAIN], task="classification", baseline="cross_entropy")
    assert [row["method"] for row in ranking.rows] == ["cross_entropy", "broken"]
    with pytest.raises(ValueError, match="1 of 3 seeds: NaN"):
        rank([broken], task="classification", baseline="cross_entropy")


def test_errors_are_better_when_small() -> None:
    def one(name: str, score: float, error: float) -> Finalist:
        table = [[error + 0.01 * sample for sample in range(9)]] * 2
        return finalist(name, score, table, test={"mean_squared_error": [error + 0.04] * 2}, scores=[(score,)] * 2)

    ranking = rank([one("a", -0.5, 0.5), one("b", -0.2, 0.2)], task="regression", baseline="a")
    assert ranking.winner == "b"
    text = closing_sentence(ranking, task="regression", baseline="a", teacher=None)
    assert "Its lead over a, 0.300, is significant" in text
