"""What distillation gained over fine-tuning, pair by pair, and what the gain goes with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tutelage._checks import check_option
from tutelage.assessment.statistics import Interval, holm_correction

With = Literal["size", "teacher", "baseline", "agreement", "fidelity"]

_COLUMNS = ("teacher", "student", "method", "kd", "sft", "teacher_score", "student_size")
_WITH = {
    "size": "student_size",
    "teacher": "teacher_score",
    "baseline": "sft",
    "agreement": "agreement",
    "fidelity": "fidelity",
}


class StatisticalTest(NamedTuple):
    """A test's statistic, its p-value, and how many rows it saw."""

    statistic: float
    pvalue: float
    n: int


class ImprovementTable:
    """Rows of (teacher, student, method) with the score after distillation and after fine-tuning the same student.

    The improvement of a row is kd − sft. Rows share students and teachers, so plain tests take them for more than they
    are: `cluster_bootstrap` resamples whole students and teachers. Where several settings were tried and the best one
    was kept, `selection_adjusted` gives both arms the same number of tries.

    Args:
        rows: Mappings or a data frame with `teacher`, `student`, `method`, `kd`, `sft`, `teacher_score` and
            `student_size`; optionally `agreement`, `fidelity`, `temperature`, and `kd_validation` and
            `sft_validation` for selection. Scores of one task, or their average over tasks.

    Raises:
        ValueError: A column is missing, a score is no number, or a student has no baseline.

    >>> rows = [{"teacher": "L", "student": s, "method": m, "kd": kd, "sft": sft, "teacher_score": 80,
    ...          "student_size": size} for s, sft, size in (("S", 50, 0.5), ("M", 60, 1.5))
    ...         for m, kd in (("forward_kl", sft + 4), ("reverse_kl", sft + 6))]
    >>> table = ImprovementTable(rows)
    >>> table.improvement.tolist(), round(table.t_test().statistic, 2)
    ([4.0, 6.0, 4.0, 6.0], 8.66)
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> None:
        frame = rows.copy() if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
        missing = [column for column in _COLUMNS if column not in frame.columns]
        if missing or frame.empty:
            lacking = ", ".join(missing) or "every row"
            raise ValueError(f"Expected rows with {', '.join(_COLUMNS)}, but {lacking} is missing.")
        without = frame[frame["sft"].isna()]["student"]
        if len(without):
            raise ValueError(f"Expected a baseline for every student, but {without.iloc[0]!r} has none.")
        for column in ("kd", "sft", "teacher_score", "student_size"):
            frame[column] = pd.to_numeric(frame[column])
            if not np.isfinite(frame[column]).all():
                raise ValueError(f"Expected the column `{column}` to hold finite numbers, but it does not.")
        self.rows = frame.reset_index(drop=True)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def improvement(self) -> NDArray[np.float64]:
        """Kd − sft, a value a row."""
        gains: NDArray[np.float64] = (self.rows["kd"] - self.rows["sft"]).to_numpy(dtype=np.float64)
        return gains

    @property
    def methods(self) -> list[str]:
        """The methods, sorted."""
        return sorted(self.rows["method"].unique())

    def only(self, method: str) -> ImprovementTable:
        """The rows of one method."""
        check_option(method, "method", self.methods)
        return ImprovementTable(self.rows[self.rows["method"] == method])

    def t_test(self, method: str | None = None) -> StatisticalTest:
        """One-sided one-sample t-test: is the mean improvement above 0?

        Args:
            method: Of this method's rows only.

        Raises:
            ValueError: Fewer than two rows, or an unknown method.
        """
        from scipy.stats import ttest_1samp

        gains = self.improvement if method is None else self.only(method).improvement
        _at_least(gains, 2, "a t-test")
        result = ttest_1samp(gains, 0, alternative="greater")
        return StatisticalTest(float(result.statistic), float(result.pvalue), len(gains))

    def anova(self) -> StatisticalTest:
        """One-way analysis of variance: do methods differ in their mean improvement?

        Raises:
            ValueError: Fewer than two methods, or a method with one row.
        """
        from scipy.stats import f_oneway

        groups = [self.only(method).improvement for method in self.methods]
        if len(groups) < 2 or min(map(len, groups)) < 2:
            counts = dict(zip(self.methods, map(len, groups), strict=True))
            raise ValueError(f"Expected at least two methods with two rows each, but got {counts}.")
        result = f_oneway(*groups)
        return StatisticalTest(float(result.statistic), float(result.pvalue), len(self))

    def spearman(self, with_: With) -> StatisticalTest:
        """Rank correlation of the improvement with something else.

        Args:
            with_: `"size"` of the student, score of the `"teacher"` or of the `"baseline"` (which shares a term with
                the improvement and so correlates with it by construction: see `oldham`), `"agreement"` or `"fidelity"`.

        Raises:
            ValueError: Fewer than three rows, or no such column.
        """
        check_option(with_, "with_", _WITH)
        column = _WITH[with_]
        if column not in self.rows.columns:
            raise ValueError(f"Expected rows with `{column}`, but they have none.")
        return _spearman(self.improvement, pd.to_numeric(self.rows[column]).to_numpy(dtype=np.float64))

    def oldham(self) -> StatisticalTest:
        """Rank correlation of the improvement with the mean of both scores, which pure noise does not bring about.

        Source: Oldham, "A note on the analysis of repeated measurements of the same subjects", 1962.
        """
        return _spearman(self.improvement, ((self.rows["kd"] + self.rows["sft"]) / 2).to_numpy(dtype=np.float64))

    def cluster_bootstrap(
        self,
        by: Sequence[str] = ("teacher", "student"),
        *,
        num_resamples: int = 2000,
        level: float = 0.95,
        seed: int = 0,
    ) -> Interval:
        """Interval of the mean improvement when teachers and students, not rows, are the random draw.

        Each cluster variable is resampled with replacement, and a row weighs the product of how often its clusters were
        drawn (the multiway bootstrap); resamples without any row are drawn again.

        Args:
            by: Columns whose values are clusters.
            num_resamples: How many.
            level: Of the interval.
            seed: Fixes the draws.

        Raises:
            ValueError: No such column.

        Source: Owen, "The pigeonhole bootstrap", 2007.
        """
        for column in by:
            check_option(column, "by", self.rows.columns)
        generator = np.random.default_rng(seed)
        gains = self.improvement
        codes = [pd.factorize(self.rows[column])[0] for column in by]
        means: list[float] = []
        while len(means) < num_resamples:
            weights = np.ones(len(gains))
            for code in codes:
                count = code.max() + 1
                weights *= np.bincount(generator.integers(count, size=count), minlength=count)[code]
            if weights.sum() > 0:
                means.append(float(np.average(gains, weights=weights)))
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        return Interval(float(low), float(high))

    def selection_adjusted(self) -> ImprovementTable:
        """The table when both arms may try equally many settings, chosen on validation.

        Rows of one (teacher, student, method) are settings of it, with `kd_validation` and `sft_validation` beside
        their test scores. The number of tries is the smaller number of distinct settings of the two arms; the arm with
        more of them is scored by its mean over all choices of that many (`best_of_budget`). Without validation scores
        nothing may be chosen, and the settings are averaged.

        Returns:
            One row a (teacher, student, method).
        """
        from tutelage.assessment.statistics import best_of_budget

        kept = []
        for _, group in self.rows.groupby(["teacher", "student", "method"], sort=True, dropna=False):
            row = group.iloc[0].to_dict()
            if "kd_validation" in group and "sft_validation" in group:
                fine_tuned = group.drop_duplicates(["sft", "sft_validation"])
                tries = min(len(group), len(fine_tuned))
                row["kd"] = best_of_budget(group["kd_validation"], group["kd"], tries)
                row["sft"] = best_of_budget(fine_tuned["sft_validation"], fine_tuned["sft"], tries)
            else:
                row["kd"] = float(group["kd"].mean())
            kept.append(row)
        return ImprovementTable(kept)


def holm_over_tasks(tables: Mapping[str, ImprovementTable]) -> dict[str, tuple[StatisticalTest, float]]:
    """The t-test of every task, and its p-value after Holm's correction for testing them all.

    >>> row = {"teacher": "T", "method": "m", "sft": 1.0, "teacher_score": 2.0, "student_size": 1.0}
    >>> table = ImprovementTable([row | {"student": "a", "kd": 2.0}, row | {"student": "b", "kd": 2.5}])
    >>> {task: round(adjusted, 3) for task, (_, adjusted) in holm_over_tasks({"one": table, "two": table}).items()}
    {'one': 0.126, 'two': 0.126}
    """
    tests = {task: table.t_test() for task, table in tables.items()}
    adjusted = holm_correction([test.pvalue for test in tests.values()])
    return {task: (test, value) for (task, test), value in zip(tests.items(), adjusted, strict=True)}


def generalization_fidelity_report(table: ImprovementTable) -> dict[str, Any]:
    """What an improvement table says, in plain data: its rows, tests and correlations, and the points of a scatter.

    Args:
        table: One task, or the average over tasks; `agreement` and `fidelity` are used where rows have them.

    Returns:
        `rows` (a mapping a row), `mean_improvement`, `t_test`, `t_test_by_method`, `anova`, `spearman` by what it is
        with, `oldham`, `cluster_interval`, and `scatter`: points (closeness to the teacher, improvement) by measure.
        Tests that need more rows are None.

    >>> rows = [{"teacher": "T", "student": str(n), "method": "m", "kd": 50 + n * n, "sft": 50, "teacher_score": 60,
    ...          "student_size": n, "fidelity": 30 + n} for n in range(4)]
    >>> report = generalization_fidelity_report(ImprovementTable(rows))
    >>> round(report["spearman"]["fidelity"].statistic, 2), report["scatter"]["fidelity"][:2]
    (1.0, [(30.0, 0.0), (31.0, 1.0)])
    """
    measures = [name for name in ("agreement", "fidelity") if name in table.rows.columns]
    correlations: list[With] = ["size", "teacher", "baseline", *measures]  # type: ignore[list-item]
    gains = table.improvement
    return {
        "rows": table.rows.assign(improvement=gains).to_dict("records"),
        "mean_improvement": float(gains.mean()),
        "t_test": _or_none(table.t_test),
        "t_test_by_method": {method: _or_none(lambda method=method: table.t_test(method)) for method in table.methods},
        "anova": _or_none(table.anova),
        "spearman": {name: _or_none(lambda name=name: table.spearman(name)) for name in correlations},
        "oldham": _or_none(table.oldham),
        "cluster_interval": table.cluster_bootstrap(),
        "scatter": {
            name: [(float(x), float(y)) for x, y in zip(table.rows[name], gains, strict=True)] for name in measures
        },
    }


def _spearman(first: NDArray[np.float64], second: NDArray[np.float64]) -> StatisticalTest:
    from scipy.stats import spearmanr

    known = np.isfinite(second)
    first, second = first[known], second[known]
    _at_least(first, 3, "a correlation")
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return StatisticalTest(math.nan, math.nan, len(first))
    result = spearmanr(first, second)
    return StatisticalTest(float(result.statistic), float(result.pvalue), len(first))


def _at_least(values: NDArray[np.float64], count: int, what: str) -> None:
    if len(values) < count:
        raise ValueError(f"Expected at least {count} rows for {what}, but got {len(values)}.")


def _or_none(test: Any) -> StatisticalTest | None:
    try:
        result: StatisticalTest = test()
    except ValueError:
        return None
    return result
