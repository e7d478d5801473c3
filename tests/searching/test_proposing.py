from __future__ import annotations

from pathlib import Path

from tutelage.searching.proposing import RememberedScores


def test_a_line_that_a_kill_cut_off_costs_that_score_alone(tmp_path: Path) -> None:
    path, asked = tmp_path / "scores.jsonl", []

    def score(arch: tuple[int, ...]) -> float:
        asked.append(arch)
        return 1.0 / sum(arch)

    first = RememberedScores(path, score)
    assert [first((1, 2)), first((4, 4)), first((1, 2))] == [1 / 3, 1 / 8, 1 / 3]
    path.write_text(path.read_text()[:-9], encoding="utf-8")
    second = RememberedScores(path, score)
    assert [second((1, 2)), second((4, 4))] == [1 / 3, 1 / 8]
    assert asked == [(1, 2), (4, 4), (4, 4)]
    third = RememberedScores(path, score)
    assert [third((1, 2)), third((4, 4))] == [1 / 3, 1 / 8]
    assert len(asked) == 3
