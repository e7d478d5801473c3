"""Post-hoc calibrators: what divides a finished classifier's logits by a temperature, and how they are fitted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage._checks import (
    check_at_least,
    check_finite,
    check_option,
    check_positive,
    check_same_length,
    check_target,
)
from tutelage.objectives.correctness_aware import correctness_aware_loss
from tutelage.objectives.precision import at_least_float32

CalibrationLoss = Callable[[Tensor, Tensor], Tensor]
"""A scalar from calibrated logits `[batch, classes]` and true classes `[batch]`."""

TEMPERATURE_RANGE = (0.01, 100.0)
"""Where the temperature of `TemperatureScaling` stays, so that data without a best temperature have one."""


def _brier(logits: Tensor, target: Tensor) -> Tensor:
    """The Brier score over all classes."""
    probs = at_least_float32(logits).softmax(dim=1)
    return (probs - F.one_hot(target, probs.shape[1])).square().sum(dim=1).mean()


def _balanced(logits: Tensor, target: Tensor) -> Tensor:
    return correctness_aware_loss(logits, target, class_balance=True)


CALIBRATION_LOSSES: dict[str, CalibrationLoss] = {
    "correctness_aware": correctness_aware_loss,
    "correctness_aware_balanced": _balanced,
    "cross_entropy": F.cross_entropy,
    "brier": _brier,
}
"""The losses of `fit_calibrator` by name."""


class TemperatureScaling(nn.Module):
    """One temperature for all samples: logits / T.

    A new one has T = 1. `fit` finds T; `log_temperature` is a parameter, so that any other way of fitting can as well.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    >>> logits, target = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> calibrator = TemperatureScaling().fit(logits, target)
    >>> round(calibrator.temperature, 3)  # 4 / log 3: a confidence of 3 / 4
    3.641
    """

    def __init__(self) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))

    @property
    def temperature(self) -> float:
        """T."""
        return math.exp(float(self.log_temperature.detach()))

    def extra_repr(self) -> str:
        """T, in the printed module."""
        return f"temperature={self.temperature:.4g}"

    def forward(self, logits: Float[Tensor, "*batch classes"]) -> Float[Tensor, "*batch classes"]:
        """Logits / T, in float32 or wider."""
        return at_least_float32(logits) * torch.exp(-self.log_temperature)

    def fit(
        self,
        logits: Float[Tensor, "samples classes"],
        target: Int[Tensor, "samples"],
        loss: Literal["nll", "brier", "correctness_aware"] = "nll",
    ) -> TemperatureScaling:
        """Find the temperature that is best on held-out samples.

        The best of a grid over [0.01, 100] is where L-BFGS on log T starts (float64), since all but `"nll"` can have
        several minima. A classifier that is right about every sample has no best T but 0 for `"nll"`; it gets 0.01.

        Args:
            logits: The classifier's, on samples that it was not trained on; detached.
            target: True classes.
            loss: `"nll"`: negative log-likelihood; `"brier"`: over all classes; `"correctness_aware"`: of the largest.

        Returns:
            Itself.

        Raises:
            ValueError: There are no samples, shapes do not match, a class is out of range, or logits are not finite.
        """
        check_option(loss, "loss", ("nll", "brier", "correctness_aware"))
        _check_samples(logits, target)
        exact, labels = logits.detach().double(), target.long()
        measure = CALIBRATION_LOSSES["cross_entropy" if loss == "nll" else loss]
        low, high = map(math.log, TEMPERATURE_RANGE)
        with torch.no_grad():
            grid = torch.linspace(low, high, 25, dtype=torch.float64, device=exact.device)
            start = min(grid, key=lambda point: float(measure(exact * torch.exp(-point), labels)))
        point = start.clone().requires_grad_()
        optimizer = torch.optim.LBFGS(
            [point], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = measure(exact * torch.exp(-point), labels)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            self.log_temperature.copy_(point.clamp(low, high))
        return self


class SampleTemperatureCalibrator(nn.Module):
    """A temperature a sample, read off its features: T(a) = clamp(w₂ᵀ relu(W₁ a + b₁) + b₂, t_min, t_max).

    The prediction never changes. A new one gives every sample a temperature near 1 (w₂ is small, b₂ = 1), since the
    clamp has no gradient outside its range, where the usual initialisation would put many samples.

    Args:
        in_features: Width of the features; `transformation_consistency_features` gives copies × top_k.
        hidden_features: Width of the hidden layer.
        t_min: The least temperature, above 0.
        t_max: The largest.

    Raises:
        ValueError: A width below 1, or temperatures that are not 0 < t_min < t_max.

    Source: arXiv 2404.13016; widths and clamp from the released code.

    >>> calibrator = SampleTemperatureCalibrator(12)
    >>> bool((calibrator.temperature(torch.rand(5, 12)) - 1).abs().max() < 0.2)
    True
    """

    def __init__(self, in_features: int, hidden_features: int = 5, t_min: float = 0.1, t_max: float = 10.0) -> None:
        super().__init__()
        check_at_least(in_features, "in_features", 1)
        check_at_least(hidden_features, "hidden_features", 1)
        check_positive(t_min, "t_min")
        if not t_min < t_max < math.inf:
            raise ValueError(f"Expected argument `t_max` to be above `t_min` ({t_min}) and finite, but got {t_max}.")
        self.t_min, self.t_max = t_min, t_max
        self.hidden = nn.Linear(in_features, hidden_features)
        self.output = nn.Linear(hidden_features, 1)
        nn.init.normal_(self.output.weight, std=0.01)
        nn.init.ones_(self.output.bias)

    def extra_repr(self) -> str:
        """The range of temperatures, in the printed module."""
        return f"t_min={self.t_min}, t_max={self.t_max}"

    def temperature(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch"]:
        """The temperature of every sample."""
        temperature: Tensor = self.output(self.hidden(features).relu()).squeeze(1)
        return temperature.clamp(self.t_min, self.t_max)

    def forward(
        self, logits: Float[Tensor, "batch classes"], features: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch classes"]:
        """Logits / T(features), in float32 or wider."""
        return at_least_float32(logits) / self.temperature(features).unsqueeze(1)


def transformation_consistency_features(
    original_logits: Float[Tensor, "samples classes"],
    transformed_logits: Float[Tensor, "copies samples classes"],
    *,
    top_k: int = 4,
) -> Float[Tensor, "samples features"]:
    """What a classifier says about transformed copies of a sample, at the classes it found likeliest in the original.

    A right prediction tends to survive a rotation or a change of colours, a wrong one less so. The probabilities of the
    original itself are not among the features.

    Args:
        original_logits: The classifier's logits of the samples as they are; they only choose classes and their order
            (descending; of equal logits the lower class first).
        transformed_logits: Its logits of M transformed copies.
        top_k: k, how many classes.

    Returns:
        `[samples, copies · top_k]` in [0, 1], float32 or wider: copy by copy, the probabilities of the k classes.

    Raises:
        ValueError: There are no samples or copies, shapes do not match, or k is below 1 or above the number of classes.

    Source: arXiv 2404.13016; `run_cal.py` of the released code.

    >>> logits = torch.tensor([[0.1, 0.6, 0.3]]).log()
    >>> transformation_consistency_features(logits, torch.tensor([[[0.5, 0.3, 0.2]]]).log(), top_k=2)
    tensor([[0.3000, 0.2000]])
    """
    samples, classes = original_logits.shape
    check_at_least(top_k, "top_k", 1)
    if top_k > classes:
        raise ValueError(f"Expected argument `top_k` to be at most the number of classes, {classes}, but got {top_k}.")
    if transformed_logits.shape[1:] != original_logits.shape:
        raise ValueError(
            "Expected argument `transformed_logits` to have shape (copies, "
            f"{samples}, {classes}), but got {tuple(transformed_logits.shape)}."
        )
    if not transformed_logits.numel():
        copies = transformed_logits.shape[0]
        raise ValueError(f"Expected at least one sample and one transformed copy, but got {samples} and {copies}.")
    chosen = _likeliest(original_logits, top_k)
    probs = at_least_float32(transformed_logits).softmax(dim=2)
    return probs.gather(2, chosen.expand(probs.shape[0], -1, -1)).transpose(0, 1).flatten(1)


def fit_calibrator(
    calibrator: nn.Module,
    logits: Float[Tensor, "samples classes"],
    features: Float[Tensor, "samples features"] | None,
    target: Int[Tensor, "samples"],
    *,
    loss: str | CalibrationLoss,
    steps: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
) -> list[float]:
    """Fit a calibrator with Adam on held-out samples.

    Args:
        calibrator: Called with `(logits, features)`, or with `(logits)` where there are no features; trained in place.
        logits: The classifier's, on samples that it was not trained on; detached.
        features: Of the same samples; detached.
        target: True classes.
        loss: `"correctness_aware"`, `"correctness_aware_balanced"`, `"cross_entropy"`, `"brier"` (over all classes), or
            a function `(calibrated_logits, target)` that gives a scalar.
        steps: How many batches.
        lr: Adam's learning rate.
        batch_size: Samples a batch, drawn without replacement until all were seen; at least all: full batches.
        generator: Shuffles (on the CPU).

    Returns:
        The loss before every step.

    Raises:
        ValueError: There are no samples, sizes do not match, a class is out of range, logits are not finite, or a
            setting is out of range.

    >>> logits, target = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> options = {"loss": "correctness_aware", "steps": 200, "lr": 0.05, "batch_size": 4}
    >>> scaling = TemperatureScaling()
    >>> history = fit_calibrator(scaling, logits, None, target, **options, generator=torch.Generator())
    >>> round(history[0], 2), round(history[-1], 2), round(scaling.temperature, 1)
    (0.24, 0.19, 3.6)
    """
    _check_samples(logits, target)
    check_at_least(steps, "steps", 1)
    check_positive(lr, "lr")
    check_at_least(batch_size, "batch_size", 1)
    if isinstance(loss, str):
        check_option(loss, "loss", CALIBRATION_LOSSES)
        loss = CALIBRATION_LOSSES[loss]
    given = [logits.detach(), target.long()]
    if features is not None:
        check_same_length(features, target, "features", "target")
        given.insert(1, features.detach())
    full = batch_size >= len(target)
    waiting: list[Tensor] = []
    optimizer = torch.optim.Adam(calibrator.parameters(), lr=lr)
    history = []
    for _ in range(steps):
        *inputs, labels = given
        if not full:
            if not waiting:
                order = torch.randperm(len(target), generator=generator).to(target.device)
                waiting = list(order.split(batch_size))  # type: ignore[no-untyped-call]
            rows = waiting.pop()
            *inputs, labels = (tensor[rows] for tensor in given)
        optimizer.zero_grad()
        value = loss(calibrator(*inputs), labels)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        history.append(value.detach())
    return [float(value) for value in history]


def _likeliest(logits: Tensor, top_k: int) -> Tensor:
    """The k likeliest classes of every row in order; unlike `topk`, of equal logits the lower class comes first.

    By `argmax`, which other runtimes can do, where a stable sort cannot be exported to ONNX.
    """
    rest, chosen = logits.detach(), []
    for _ in range(top_k):
        chosen.append(rest.argmax(dim=1, keepdim=True))
        rest = rest.scatter(1, chosen[-1], -math.inf)
    return torch.cat(chosen, dim=1)


def _check_samples(logits: Tensor, target: Tensor) -> None:
    if not len(logits):
        raise ValueError("Expected argument `logits` to hold at least one sample, but it is empty.")
    check_target(target, logits.shape[-1], shape=logits.shape[:1])
    check_finite(logits, "logits")
