"""Improvement tables: SciPy's own tests, what noise alone brings about, clusters, selection, and bad rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tutelage.assessment import ImprovementTable, generalization_fidelity_report, holm_over_tasks


def _rows(count: int = 24, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    sizes = np.array([0.5, 1.5, 3.0, 7.0])
    student = generator.integers(4, size=count)
    return pd.DataFrame(
        {
            "teacher": [f"T{number}" for number in generator.integers(3, size=count)],
            "student": [f"S{number}" for number in student],
            "method": [("forward_kl", "reverse_kl", "gkd")[number % 3] for number in range(count)],
            "kd": 60 + generator.normal(size=count),
            "sft": 58 + generator.normal(size=count),
            "teacher_score": 70 + generator.normal(size=count),
            "student_size": sizes[student],
            "agreement": generator.random(count),
            "fidelity": generator.random(count),
        }
    )


def test_tests_are_scipys() -> None:
    frame = _rows()
    table, gains = ImprovementTable(frame), (frame["kd"] - frame["sft"]).to_numpy()
    expected = stats.ttest_1samp(gains, 0, alternative="greater")
    assert table.t_test()[:2] == pytest.approx((expected.statistic, expected.pvalue))
    groups = [gains[frame["method"] == method] for method in table.methods]
    expected = stats.f_oneway(*groups)
    assert table.anova()[:2] == pytest.approx((expected.statistic, expected.pvalue))
    for name, column in (("size", "student_size"), ("teacher", "teacher_score"), ("agreement", "agreement")):
        expected = stats.spearmanr(gains, frame[column])
        assert table.spearman(name)[:2] == pytest.approx((expected.statistic, expected.pvalue))  # type: ignore[arg-type]
    one = table.t_test("gkd")
    assert one.n == 8
    assert one.statistic == pytest.approx(stats.ttest_1samp(groups[table.methods.index("gkd")], 0).statistic)


def test_the_order_of_rows_does_not_matter() -> None:
    frame = _rows()
    shuffled = frame.sample(frac=1, random_state=1)
    one, other = ImprovementTable(frame), ImprovementTable(shuffled)
    assert one.t_test() == pytest.approx(other.t_test())
    assert one.anova() == pytest.approx(other.anova())
    assert one.spearman("size") == pytest.approx(other.spearman("size"))


def test_noise_correlates_with_the_baseline_but_not_by_oldham() -> None:
    """Both scores are noise: the naive correlation is −0.7 by construction."""
    table = ImprovementTable(_rows(4000))
    assert table.spearman("baseline").statistic == pytest.approx(-0.69, abs=0.03)
    assert table.oldham().statistic == pytest.approx(0, abs=0.05)


def test_clusters_widen_the_interval() -> None:
    """Each student has a gain of its own; many rows of few students say little more than the students."""
    generator = np.random.default_rng(0)
    gains = {f"S{number}": generator.normal(1, 3) for number in range(5)}
    rows = [
        {"teacher": f"T{place % 2}", "student": name, "method": "m", "kd": 50 + gain, "sft": 50.0, "teacher_score": 1.0,
         "student_size": 1.0}
        for name, gain in gains.items() for place in range(20)
    ]  # fmt: skip
    table = ImprovementTable(rows)
    clustered = table.cluster_bootstrap(by=("student",))
    mean, error = float(table.improvement.mean()), float(stats.sem(table.improvement))
    assert clustered.low < mean < clustered.high
    assert clustered.high - clustered.low > 2 * (2 * 1.96 * error)
    assert table.cluster_bootstrap(by=("student",)) == clustered
    with pytest.raises(ValueError, match="`by`"):
        table.cluster_bootstrap(by=("colour",))


def test_selection_gives_both_arms_as_many_tries() -> None:
    row = {"teacher": "T", "student": "S", "method": "m", "teacher_score": 1.0, "student_size": 1.0, "sft": 50.0}
    settings = [dict(row, kd=kd, temperature=t) for t, kd in ((1, 49.0), (2, 55.0), (5, 40.0))]
    averaged = ImprovementTable(settings).selection_adjusted()
    assert len(averaged) == 1
    assert averaged.improvement[0] == pytest.approx(48 - 50)  # nothing to choose by
    chosen = [dict(one, kd_validation=one["kd"], sft_validation=50.0) for one in settings]
    fair = ImprovementTable(chosen).selection_adjusted()
    assert fair.improvement[0] == pytest.approx(48 - 50)  # fine-tuning had one try, and so has distillation
    tuned = [dict(one, sft=50.0 + n, sft_validation=50.0 + n) for n, one in enumerate(chosen)]
    assert ImprovementTable(tuned).selection_adjusted().improvement[0] == pytest.approx(55 - 52)


def test_several_tasks_are_corrected_for() -> None:
    tables = {f"task {seed}": ImprovementTable(_rows(12, seed).assign(kd=58.3)) for seed in range(3)}
    corrected = holm_over_tasks(tables)
    plain = {task: table.t_test().pvalue for task, table in tables.items()}
    smallest = min(plain, key=lambda task: plain[task])
    assert corrected[smallest][1] == pytest.approx(min(1, 3 * plain[smallest]))
    assert all(adjusted >= test.pvalue for test, adjusted in corrected.values())


def test_the_report_holds_everything_and_leaves_out_what_needs_more_rows() -> None:
    report = generalization_fidelity_report(ImprovementTable(_rows()))
    assert set(report["spearman"]) == {"size", "teacher", "baseline", "agreement", "fidelity"}
    assert len(report["scatter"]["agreement"]) == len(report["rows"]) == 24
    small = generalization_fidelity_report(ImprovementTable(_rows(1)))
    assert small["t_test"] is None
    assert small["anova"] is None
    assert small["spearman"]["size"] is None


def test_bad_rows_are_named() -> None:
    frame = _rows(6)
    wrong: list[tuple[Any, str]] = [
        (frame.drop(columns="sft"), "sft is missing"),
        (frame.assign(sft=np.where(frame["student"] == frame["student"][0], np.nan, frame["sft"])), "has none"),
        (frame.assign(kd=np.inf), "`kd` to hold finite"),
        ([], "is missing"),
    ]
    for rows, message in wrong:
        with pytest.raises(ValueError, match=message):
            ImprovementTable(rows)
    with pytest.raises(ValueError, match="at least 3 rows for a correlation"):
        ImprovementTable(_rows(2)).spearman("size")
    with pytest.raises(ValueError, match="`fidelity`, but they have none"):
        ImprovementTable(frame.drop(columns="fidelity")).spearman("fidelity")
