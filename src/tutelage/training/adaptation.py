"""Adapting a deployed classifier to an unlabelled stream: the protocol, and the simple ways."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.models.call import call_model
from tutelage.objectives.divergences import predictive_entropy

OptimizerFactory = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@runtime_checkable
class TestTimeAdaptation(Protocol):
    """A classifier that answers a batch of a stream, and learns from it.

    The answer is what was known before the batch was learned from: every batch is predicted once, then used.
    """

    def adapt(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` of the next batch `[batch, …]`; detached."""

    def reset(self) -> None:
        """Go back to the state of deployment, bit for bit."""


def configure_batch_statistics(model: nn.Module) -> None:
    """Let batch normalisation use each batch's own statistics, and let every parameter learn.

    Two- and three-dimensional norms drop their running statistics for good; one-dimensional norms are put in training
    mode; all else is in evaluation mode, which switches dropout and stochastic depth off.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
    >>> configure_batch_statistics(model)
    >>> model[1].running_mean is None, model[2].training
    (True, False)
    """
    model.requires_grad_(True)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.train()
        elif isinstance(module, BATCH_NORMS):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None


class SourceModel:
    """No adaptation: the deployed model as it is, in evaluation mode.

    >>> SourceModel(nn.Linear(2, 3)).adapt(torch.zeros(4, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval()

    @torch.no_grad()
    def adapt(self, x: Tensor) -> Tensor:
        """Logits of the batch."""
        return logits_of_model(self.model, x)

    def reset(self) -> None:
        """Nothing changes, so nothing comes back."""


class BatchStatistics:
    """BN-1: batch normalisation uses each test batch's statistics, and nothing is learned.

    Args:
        model: Changed in place, see `configure_batch_statistics`.

    Source: Schneider et al., "Improving robustness against common corruptions by covariate shift adaptation", NeurIPS
    2020, arXiv 2006.16971, with N = 0.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> BatchStatistics(model).adapt(torch.rand(4, 1, 2, 2)).shape
    torch.Size([4, 3])
    """

    def __init__(self, model: nn.Module) -> None:
        configure_batch_statistics(model)
        self.model = model.requires_grad_(False)

    @torch.no_grad()
    def adapt(self, x: Tensor) -> Tensor:
        """Logits of the batch."""
        check_several(x)
        return logits_of_model(self.model, x)

    def reset(self) -> None:
        """Nothing was learned, so nothing comes back."""


class EntropyMinimization:
    """TENT: scales and shifts of batch normalisation follow the gradient of the prediction's entropy.

    Args:
        model: Adapted in place.
        optimizer: From parameters to an optimiser; Adam with learning rate 1e-3 by default.

    Raises:
        ValueError: The model has no batch normalisation with a scale.

    Source: Wang et al., "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR 2021, arXiv 2006.10726.

    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    >>> adapter = EntropyMinimization(model)
    >>> adapter.adapt(torch.rand(4, 1, 2, 2)).shape, model[1].weight.eq(1).all().item()
    (torch.Size([4, 3]), False)
    """

    def __init__(self, model: nn.Module, *, optimizer: OptimizerFactory | None = None) -> None:
        configure_batch_statistics(model)
        model.requires_grad_(False)
        norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS) and module.affine]
        if not norms:
            raise ValueError("Expected argument `model` to have batch normalisation with a scale, but it has none.")
        learning: list[nn.Parameter] = [parameter for norm in norms for parameter in norm.parameters()]
        for parameter in learning:
            parameter.requires_grad_(True)
        self.model = model
        self.optimizer = (optimizer or _adam)(learning)
        self._deployed = Deployed(model, self.optimizer)

    def adapt(self, x: Tensor) -> Tensor:
        """Logits from before the step that the batch then makes."""
        check_several(x)
        logits = logits_of_model(self.model, x)
        self.optimizer.zero_grad(set_to_none=True)
        predictive_entropy(logits, reduction="mean").backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return logits.detach()

    def reset(self) -> None:
        """Go back to the state of deployment."""
        self._deployed.restore()


class SlidingWindow:
    """Single samples for a method that needs batches: each is seen together with the latest before it.

    A sample is answered within the window of the last `size` samples. The method learns once for every `size` new
    samples, from a window that is all new. Until the first window is full it is filled with copies of what there is.

    Args:
        method: Must have `predict`, which answers a batch without learning, beside `adapt`.
        size: Samples of a window.

    Source: Döbler et al., CVPR 2023, arXiv 2211.13081, section 4.

    >>> SlidingWindow(BatchStatistics(nn.Linear(2, 3)), 2)
    Traceback (most recent call last):
    ValueError: Expected argument `method` to have `predict`, but BatchStatistics has not.
    """

    def __init__(self, method: Any, size: int) -> None:
        check_at_least(size, "size", 2)
        if not hasattr(method, "predict"):
            raise ValueError(f"Expected argument `method` to have `predict`, but {type(method).__name__} has not.")
        self.method, self.size = method, size
        self._window: list[Tensor] = []
        self._new = 0

    def adapt(self, x: Tensor) -> Tensor:
        """Logits `[batch, classes]` of samples that come one after the other."""
        return torch.cat([self._next(sample) for sample in x.split(1)])  # type: ignore[no-untyped-call]

    def reset(self) -> None:
        """Go back to the state of deployment, with an empty window."""
        self.method.reset()
        self._window, self._new = [], 0

    def _next(self, sample: Tensor) -> Tensor:
        self._window = [*self._window, sample][-self.size :]
        self._new += 1
        window = self._window
        full = torch.cat((window * (self.size // len(window) + 1))[-self.size :])
        if self._new == self.size:
            self._new = 0
            logits: Tensor = self.method.adapt(full)
        else:
            logits = self.method.predict(full)
        return logits[-1:]


class Deployed:
    """The state of modules and an optimiser at one moment, to which they can go back.

    >>> layer = nn.Linear(1, 1)
    >>> before = Deployed(layer)
    >>> weight = layer.weight.item()
    >>> with torch.no_grad():
    ...     _ = layer.weight.fill_(7.0)
    >>> before.restore()
    >>> layer.weight.item() == weight
    True
    """

    def __init__(self, *parts: Any) -> None:
        self._parts = parts
        self._states = [copy.deepcopy(part.state_dict()) for part in parts]

    def restore(self) -> None:
        """Load the states again."""
        for part, state in zip(self._parts, self._states, strict=True):
            part.load_state_dict(copy.deepcopy(state))


def check_several(x: Tensor) -> None:
    """Raise `ValueError` for a batch of one, which has no statistics."""
    if len(x) < 2:
        raise ValueError(
            "Expected argument `x` to hold at least 2 samples, since norms use the batch's own statistics, "
            f"but got {len(x)}; `SlidingWindow` takes single samples."
        )


def logits_of_model(model: nn.Module, x: Tensor) -> Tensor:
    """The logits a model gives.

    >>> logits_of_model(nn.Linear(2, 3), torch.zeros(1, 2)).shape
    torch.Size([1, 3])
    """
    logits = call_model(model, x).logits
    if logits is None:
        raise ValueError(f"Expected {type(model).__name__} to give logits, but it gives none.")
    return logits


def _adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)
