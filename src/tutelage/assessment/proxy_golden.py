"""The two curves of a distillation: distance to the teacher (proxy), and to what the teacher imitates (golden)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tutelage._checks import check_non_negative


@dataclass(frozen=True)
class ProxyGoldenCurve:
    """Distances along a run, on held-out prompts.

    Teacher hacking is where the proxy falls and the golden distance rises: the student comes closer to its teacher and
    farther from what the teacher stands for.

    Attributes:
        steps: Optimiser steps, rising; 0 is the student before its first step.
        proxy: Distance from the teacher to the student.
        golden: Distance from the oracle to the student.
        se_proxy: Standard errors of `proxy` over the prompts.
        se_golden: Standard errors of `golden`.

    Raises:
        ValueError: Lengths that differ, no point, steps that do not rise, or a number that is not finite.

    Source: "On Teacher Hacking in Language Model Distillation", ICML 2025, Sections 3 and 4. The rule by which an
    interval is found and the index are ours.

    >>> curve = ProxyGoldenCurve([0, 1, 2, 3], [4, 3, 2, 1], [4, 2, 3, 5], [0.1] * 4, [0.1] * 4)
    >>> curve.hacking_interval(), curve.golden_rise
    ((1, 3), 1.5)
    """

    steps: Sequence[int]
    proxy: Sequence[float]
    golden: Sequence[float]
    se_proxy: Sequence[float]
    se_golden: Sequence[float]

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.steps, self.proxy, self.golden, self.se_proxy, self.se_golden)}
        if len(lengths) > 1 or not self.steps:
            raise ValueError(f"Expected a curve of one length of at least 1, but got lengths {sorted(lengths)}.")
        if any(late <= early for early, late in zip(self.steps, self.steps[1:], strict=False)):
            raise ValueError(f"Expected argument `steps` to rise, but got {list(self.steps)}.")
        if not all(np.isfinite(values).all() for values in (self.proxy, self.golden, self.se_proxy, self.se_golden)):
            raise ValueError("Expected a curve of finite numbers, but it holds NaN or infinity.")

    @property
    def best(self) -> int:
        """The position of the smallest golden distance; of equals, the first."""
        return int(np.argmin(self.golden))

    @property
    def golden_rise(self) -> float:
        """Golden at the end over its minimum, less 1."""
        return _rise(self.golden, self.best)

    @property
    def proxy_rise(self) -> float:
        """Proxy at the end over where golden is smallest, less 1; negative when it still falls."""
        return _rise(self.proxy, self.best)

    def hacking_interval(self, z: float = 2.0) -> tuple[int, int] | None:
        """The steps [s1, s2] from the smallest golden distance to the end, if that is teacher hacking.

        It is when golden ends more than z standard errors above its minimum, and proxy ends less than z standard errors
        above where it was then. Standard errors are those at the end; since the prompts are the same all along, the
        error of a difference is smaller than that.

        Args:
            z: How many standard errors.

        Raises:
            ValueError: z is negative.
        """
        check_non_negative(z, "z")
        golden_up = self.golden[-1] - self.golden[self.best] > z * self.se_golden[-1]
        proxy_not_up = self.proxy[-1] - self.proxy[self.best] < z * self.se_proxy[-1]
        return (self.steps[self.best], self.steps[-1]) if golden_up and proxy_not_up else None

    def hacking_index(self) -> float:
        """Relative rise of golden from its minimum to the end, less that of proxy over the same steps.

        Above 0: golden suffers more than proxy. At or below 0 with a rise in both, it is plain overfitting.
        """
        return self.golden_rise - self.proxy_rise

    def plot(self, ax: Any = None) -> Any:
        """Draw golden over proxy, from the first step to the last, with the hacking interval marked.

        Args:
            ax: Matplotlib axes; new ones by default.

        Returns:
            The axes.
        """
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=(4.5, 3.5), layout="constrained").add_subplot()
        proxy, golden = _array(self.proxy), _array(self.golden)
        ax.plot(proxy, golden, color="0.4", linewidth=1)
        ax.errorbar(proxy, golden, xerr=self.se_proxy, yerr=self.se_golden, fmt="none", ecolor="0.8", zorder=0)
        drawn = ax.scatter(proxy, golden, c=np.log1p(_array(self.steps)), s=14)
        ax.figure.colorbar(drawn, ax=ax, label="log(1 + step)")
        if self.hacking_interval() is not None:
            ax.plot(proxy[self.best :], golden[self.best :], color="tab:red", linewidth=2, label="teacher hacking")
            ax.legend()
        ax.invert_xaxis()
        ax.set(xlabel="distance to the teacher (proxy)", ylabel="distance to the oracle (golden)")
        return ax


def _rise(values: Sequence[float], best: int) -> float:
    """The last value over the one at `best`, less 1; 0 where both are 0."""
    return 0.0 if values[-1] == values[best] else float(np.divide(values[-1], values[best])) - 1


def _array(values: Sequence[float]) -> NDArray[np.float64]:
    return np.asarray(values, dtype=np.float64)
