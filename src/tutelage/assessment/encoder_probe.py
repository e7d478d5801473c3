"""Probing an encoder: its frozen representations of two sets, and how well a simple classifier reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_option
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.assessment.probes import knn_probe, linear_probe

Probe = Literal["linear", "knn", "logistic"]


def probe_encoder(
    encoder: nn.Module | Callable[[Tensor], Tensor],
    loaders: tuple[Iterable[Any], Iterable[Any]],
    *,
    probe: Probe = "linear",
    **options: Any,
) -> float:
    """The accuracy of a simple classifier on what an encoder makes of a training and a test set.

    The encoder is called without gradients in evaluation mode, and is left as it was. Its outputs are flattened.

    Args:
        encoder: `[batch, …]` → `[batch, …]`; `torch.nn.Identity()` probes the raw inputs.
        loaders: Training and test batches: pairs of inputs and classes, or `Batch`es.
        probe: `"linear"` and `"knn"` as in `linear_probe` and `knn_probe`; `"logistic"` is a logistic regression of
            standardised features, trained until it has converged (scikit-learn, L2 with C = 1): less noise than
            `"linear"` on small data.
        **options: What the probe is called with besides.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: An unknown probe, an empty loader, or what the probe raises.

    >>> inputs = torch.tensor([[-1.0, 5.0], [1.0, 5.0]]).repeat(20, 1)
    >>> pairs = [(inputs, (inputs[:, 0] > 0).long())]
    >>> probe_encoder(nn.Identity(), (pairs, pairs), probe="logistic")
    1.0
    """
    check_option(probe, "probe", ("linear", "knn", "logistic"))
    train, test = (_represented(encoder, loader) for loader in loaders)
    if probe == "knn":
        return knn_probe(train, test, **options)
    if probe == "linear":
        return linear_probe(train, test, **options)
    return _logistic(train, test, **options)


def _represented(encoder: nn.Module | Callable[[Tensor], Tensor], loader: Iterable[Any]) -> tuple[Tensor, Tensor]:
    features, targets = [], []
    with torch.no_grad(), evaluation_mode(encoder):
        for batch in loader:
            inputs, target = (batch.inputs, batch.target) if hasattr(batch, "inputs") else batch[:2]
            features.append(encoder(inputs).flatten(1))
            targets.append(target)
    if not features:
        raise ValueError("Expected argument `loaders` to give at least one batch each, but one is empty.")
    return torch.cat(features), torch.cat(targets)


def _logistic(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, max_iter: int = 1000) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=max_iter))
    model.fit(train[0].double().cpu().numpy(), train[1].cpu().numpy())
    return float(model.score(test[0].double().cpu().numpy(), test[1].cpu().numpy()))
