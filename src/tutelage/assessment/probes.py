"""What frozen representations hold: the accuracy of a linear layer, or of nearest neighbours, on top of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage._checks import check_at_least, check_target

CHUNK = 1024  # test samples whose distances are held at once


def linear_probe(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    epochs: int = 10,
    batch_size: int = 256,
    standardize: bool = False,
    seed: int = 0,
) -> float:
    """The accuracy on `test` of a linear layer trained on `train` with cross-entropy.

    The layer starts uniform in ±1/√width and is trained by AdamW at its defaults (learning rate 1e-3, weight decay
    1e-2). With few steps it is far from converged: for small data raise `epochs`.

    Args:
        train: Features `[samples, width]` and classes `[samples]`; features are taken as they are, without gradient.
        test: The same, for the samples that are counted.
        epochs: Passes over `train`.
        batch_size: Samples a step.
        standardize: Subtract the training mean and divide by the unbiased standard deviation; a constant feature is
            divided by 1.
        seed: Of the start and of the order of samples; the global random state is not touched.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: Shapes do not match, a part is empty, a class is negative, or a setting is below 1.

    Source: Random Teachers, arXiv 2302.12091, appendix; settings as in its public code.

    >>> features = torch.tensor([[-1.0], [1.0]]).repeat(50, 1)
    >>> linear_probe((features, (features[:, 0] > 0).long()), (features, (features[:, 0] > 0).long()), epochs=200)
    1.0
    """
    check_at_least(epochs, "epochs", 1)
    check_at_least(batch_size, "batch_size", 1)
    (x, y), (x_test, y_test), classes = _checked(train, test)
    if standardize:
        mean, deviation = x.mean(dim=0), x.std(dim=0) if len(x) > 1 else torch.zeros_like(x[0])
        deviation = torch.where(deviation < 10 * torch.finfo(x.dtype).eps, 1.0, deviation)
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    generator = torch.Generator().manual_seed(seed)
    bound = x.shape[1] ** -0.5
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode
        weight, bias = (
            ((2 * torch.rand(shape, generator=generator) - 1) * bound).to(x.device).requires_grad_()
            for shape in ((classes, x.shape[1]), (classes,))
        )
        optimizer = torch.optim.AdamW([weight, bias])
        x, y = x.clone(), y.clone()
        for _ in range(epochs):
            for rows in torch.randperm(len(x), generator=generator).to(x.device).split(batch_size):  # type: ignore[no-untyped-call]
                optimizer.zero_grad()
                F.cross_entropy(F.linear(x[rows], weight, bias), y[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
    with torch.no_grad():
        return float((F.linear(x_test, weight, bias).argmax(dim=1) == y_test).double().mean())


def knn_probe(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, k: int = 20) -> float:
    """The accuracy on `test` of the majority among the `k` nearest samples of `train`, by Euclidean distance.

    Every neighbour has one vote; the smallest class wins ties.

    Args:
        train: Features `[samples, width]` and classes `[samples]`.
        test: The same, for the samples that are counted.
        k: How many neighbours; at most the number of training samples.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: Shapes do not match, a part is empty, a class is negative, or `k` is not in [1, samples].

    Source: Random Teachers, arXiv 2302.12091 (k = 20).

    >>> train = (torch.tensor([[0.0], [0.2], [5.0], [5.2]]), torch.tensor([0, 0, 1, 1]))
    >>> knn_probe(train, (torch.tensor([[0.1], [4.0], [9.0]]), torch.tensor([0, 1, 0])), k=2)
    0.6666666666666666
    """
    (x, y), (x_test, y_test), _ = _checked(train, test)
    check_at_least(k, "k", 1)
    if k > len(x):
        raise ValueError(f"Expected argument `k` to be at most the number of training samples {len(x)}, but got {k}.")
    centre = x.mean(dim=0)  # distances through inner products lose digits far from the origin
    x, x_test = (x - centre).double(), (x_test - centre).double()
    right = 0
    for part, classes in zip(x_test.split(CHUNK), y_test.split(CHUNK), strict=True):  # type: ignore[no-untyped-call]
        nearest = torch.cdist(part, x).topk(k, dim=1, largest=False).indices
        right += int((y[nearest].mode(dim=1).values == classes).sum())
    return right / len(x_test)


def _checked(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], int]:
    """Detached float32 (or float64) features with int64 classes, and the number of classes."""
    for name, (features, target) in (("train", train), ("test", test)):
        if features.ndim != 2 or not len(features):
            raise ValueError(f"Expected `{name}` to hold features [samples, width], but got {tuple(features.shape)}.")
        check_target(target, int(target.max()) + 1 if target.numel() else 1, shape=features.shape[:1])
    if train[0].shape[1] != test[0].shape[1]:
        raise ValueError(
            f"Expected `train` and `test` to have features of the same width, "
            f"but got {train[0].shape[1]} and {test[0].shape[1]}."
        )
    classes = int(max(train[1].max(), test[1].max())) + 1
    x, x_test = (part[0].detach().float() for part in (train, test))
    return (x, train[1].long()), (x_test, test[1].long()), classes
