"""Where a student starts: somewhere between its teacher's weights and fresh ones.

Source: Sarnthein et al., "Random Teachers are Good Teachers", ICML 2023, arXiv 2302.12091, section 3 and appendix A.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from tutelage._checks import check_in_range, check_non_negative


def interpolated_initialization(
    teacher: nn.Module, fresh: nn.Module, alpha: float, *, preserve_variance: bool = True
) -> nn.Module:
    """((1 − α)·θ_T + α·θ̃) / √(α² + (1 − α)²), for every parameter.

    The divisor keeps the variance of weights that were drawn alike and apart. It acts on biases and norms too, as in
    the public code: a scale of 1 becomes larger than 1 in between. α = 0 is the teacher and 1 the fresh network, to
    the bit. A student that starts at exactly α = 0, without a layer that acts differently in training, sits in a
    minimum of its loss and is moved by rounding alone; take α = 1e-3 there.

    Args:
        teacher: θ_T; not changed.
        fresh: θ̃, of the same shapes; not changed.
        alpha: In [0, 1].
        preserve_variance: Divide.

    Returns:
        A new module of the teacher's class, in its mode, with its buffers, whose parameters require gradients.

    Raises:
        ValueError: `alpha` outside [0, 1], or parameters with other names or shapes.

    >>> teacher, fresh = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> with torch.no_grad():
    ...     _ = teacher.weight.fill_(3.0), fresh.weight.fill_(4.0)
    >>> interpolated_initialization(teacher, fresh, 0.5, preserve_variance=False).weight.item()
    3.5
    """
    check_in_range(alpha, "alpha", 0.0, 1.0)
    divisor = (alpha**2 + (1 - alpha) ** 2) ** 0.5 if preserve_variance else 1.0
    return _mixed(teacher, fresh, (1 - alpha) / divisor, alpha / divisor)


def neighborhood_initialization(
    teacher: nn.Module, fresh: nn.Module, eps: float, *, preserve_variance: bool = True
) -> nn.Module:
    """(θ_T + ε·θ̃) / √(1 + ε²): the teacher, pushed a little.

    Args:
        teacher: θ_T; not changed.
        fresh: θ̃, of the same shapes; not changed.
        eps: ε, at least 0.
        preserve_variance: Divide.

    Returns:
        As `interpolated_initialization`.

    Raises:
        ValueError: A negative `eps`, or parameters with other names or shapes.

    >>> teacher, fresh = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> student = neighborhood_initialization(teacher, fresh, 0.0)
    >>> torch.equal(student.weight, teacher.weight)
    True
    """
    check_non_negative(eps, "eps")
    divisor = (1 + eps**2) ** 0.5 if preserve_variance else 1.0
    return _mixed(teacher, fresh, 1 / divisor, eps / divisor)


def _mixed(teacher: nn.Module, fresh: nn.Module, share: float, other: float) -> nn.Module:
    theirs = {name: value.shape for name, value in teacher.named_parameters()}
    found = {name: value.shape for name, value in fresh.named_parameters()}
    if theirs != found:
        differs = next(name for name in (*theirs, *found) if theirs.get(name) != found.get(name))
        raise ValueError(
            "Expected arguments `teacher` and `fresh` to have the same parameters, "
            f"but {differs!r} is {_shape(theirs.get(differs))} and {_shape(found.get(differs))}."
        )
    student = copy.deepcopy(teacher)
    news = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            new = news[name].to(parameter)
            if share == 0:
                parameter.copy_(new if other == 1 else new * other)
            elif (share, other) != (1, 0):
                parameter.mul_(share).add_(new, alpha=other)
    return student.requires_grad_(True)


def _shape(shape: torch.Size | None) -> str:
    return "missing" if shape is None else str(tuple(shape))
