"""Power laws as objects that predict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tutelage._checks import check_non_negative, check_positive


@dataclass(frozen=True, slots=True)
class PowerLawPlusConstant:
    """L(x) = L_inf + (x0 / x)^alpha: a loss that falls towards a floor.

    Args:
        L_inf: The floor, in the loss's unit; 0 is a pure power law.
        x0: Where the part above the floor is 1, in the unit of x.
        alpha: The exponent.

    Raises:
        ValueError: A negative floor, or a scale or exponent that is not positive.

    Source: Henighan et al., "Scaling Laws for Autoregressive Generative Modeling", 2020, Eq. 1.1.

    >>> law = PowerLawPlusConstant(L_inf=2.0, x0=100.0, alpha=0.5)
    >>> law.predict([100, 400]).tolist(), round(law.solve(2.5), 6)
    ([3.0, 2.5], 400.0)
    """

    L_inf: float
    x0: float
    alpha: float

    def __post_init__(self) -> None:
        check_non_negative(self.L_inf, "L_inf")
        check_positive(self.x0, "x0")
        check_positive(self.alpha, "alpha")

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """The loss at every x, of the shape of x."""
        return np.asarray(self.L_inf + self.reducible(x))

    def reducible(self, x: ArrayLike) -> NDArray[np.float64]:
        """The part above the floor, (x0 / x)^alpha."""
        return np.asarray(np.exp(self.alpha * (math.log(self.x0) - np.log(np.asarray(x, dtype=np.float64)))))

    def solve(self, loss: float) -> float:
        """The x at which the loss is reached.

        Raises:
            ValueError: The loss is not above the floor.
        """
        if not loss > self.L_inf:
            raise ValueError(f"Expected argument `loss` to be above L_inf = {self.L_inf}, but got {loss}.")
        return math.exp(math.log(self.x0) - math.log(loss - self.L_inf) / self.alpha)

    def rescale(self, tokens: float) -> PowerLawPlusConstant:
        """The law per example of so many tokens, from one per token: L_inf · tokens and x0 · tokens^(1 / alpha).

        >>> f"{PowerLawPlusConstant(L_inf=2.64, x0=1.6e-8, alpha=0.16).rescale(768).x0:.3g}"
        '1.73e+10'
        """
        check_positive(tokens, "tokens")
        x0 = math.exp(math.log(self.x0) + math.log(tokens) / self.alpha)
        return PowerLawPlusConstant(self.L_inf * tokens, x0, self.alpha)
