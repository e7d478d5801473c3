"""The loss landscape between networks: paths, barriers and planes.

Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020, arXiv 1912.05671;
planes as in Sarnthein et al., ICML 2023, arXiv 2302.12091, section 4.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least


class Connectivity(NamedTuple):
    """A path between two networks.

    Attributes:
        curve: What was measured along it, from the first end to the last.
        barrier: Its largest value less the mean of the ends.
    """

    curve: list[float]
    barrier: float


def linear_mode_connectivity(
    model_a: nn.Module, model_b: nn.Module, evaluate: Callable[[nn.Module], float], points: int = 11
) -> Connectivity:
    """Measure networks on the straight line between two others, at evenly spaced points.

    Floating-point buffers (running statistics) are interpolated like parameters; all else is the first network's. Give
    an `evaluate` that brings statistics up to date, if they matter.

    Args:
        model_a: One end; not changed.
        model_b: The other, of the same shapes; not changed.
        evaluate: An error or loss; called with a network in the first one's mode, which it may change.
        points: How many, the ends included.

    Returns:
        The curve, and the barrier: max − mean of the ends.

    Raises:
        ValueError: Fewer than two points, or networks of other shapes.

    >>> one, other = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = one.weight.fill_(-1.0), other.weight.fill_(1.0)
    >>> linear_mode_connectivity(one, other, lambda model: 1 - model.weight.item() ** 2, points=3)
    Connectivity(curve=[0.0, 1.0, 0.0], barrier=1.0)
    """
    check_at_least(points, "points", 2)
    ends = model_a.state_dict(), model_b.state_dict()
    _check_alike(*ends)
    curve = []
    for number in range(points):
        share = number / (points - 1)
        middle = copy.deepcopy(model_a)
        mixed = {
            name: torch.lerp(value, ends[1][name].to(value), share) if value.is_floating_point() else value
            for name, value in ends[0].items()
        }
        middle.load_state_dict(mixed)
        curve.append(float(evaluate(middle)))
    return Connectivity(curve, max(curve) - (curve[0] + curve[-1]) / 2)


@dataclass(frozen=True)
class ParameterPlane:
    """A plane through networks: θ(λ₁, λ₂) = origin + λ₁ v₁ + λ₂ v₂.

    Attributes:
        origin: The first network's parameters, flat.
        basis: `[2, parameters]`.
        coordinates: `[points, 2]`, where the networks lie.
    """

    origin: Tensor
    basis: Tensor
    coordinates: Tensor

    def at(self, first: float, second: float) -> Tensor:
        """The flat parameters of a place in the plane."""
        return self.origin + first * self.basis[0] + second * self.basis[1]

    def place(self, model: nn.Module, first: float, second: float) -> nn.Module:
        """A copy of a network with the parameters of a place in the plane."""
        moved = copy.deepcopy(model)
        with torch.no_grad():
            torch.nn.utils.vector_to_parameters(self.at(first, second).to(next(moved.parameters())), moved.parameters())
        return moved


def parameter_plane(points: Sequence[nn.Module], *, orthogonal: bool = True) -> ParameterPlane:
    """The plane through three networks, or the one closest to more of them.

    Args:
        points: At least three networks of the same shapes; the first is the origin.
        orthogonal: Take orthonormal directions (by a singular value decomposition, largest first); else the differences
            of the second and third network from the first.

    Raises:
        ValueError: Fewer than three networks, other shapes, or networks that all lie on a line.

    >>> nets = [nn.Linear(2, 1, bias=False) for _ in range(3)]
    >>> plane = parameter_plane(nets, orthogonal=False)
    >>> plane.coordinates.round(decimals=3).abs()
    tensor([[0., 0.],
            [1., 0.],
            [0., 1.]], dtype=torch.float64)
    """
    check_at_least(len(points), "points", 3)
    for other in points[1:]:
        _check_alike(dict(points[0].named_parameters()), dict(other.named_parameters()))
    flat = [torch.nn.utils.parameters_to_vector(point.parameters()).detach().double() for point in points]
    differences = torch.stack([vector - flat[0] for vector in flat[1:]])
    if int(torch.linalg.matrix_rank(differences)) < 2:
        raise ValueError("Expected argument `points` to span a plane, but the networks lie on a line.")
    basis = torch.linalg.svd(differences, full_matrices=False).Vh[:2] if orthogonal else differences[:2]
    relative = torch.stack([torch.zeros_like(flat[0]), *differences])
    coordinates = torch.linalg.lstsq(basis.t(), relative.t()).solution.t()
    return ParameterPlane(flat[0], basis, coordinates)


def _check_alike(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError("Expected networks with parameters of the same names and shapes, but they differ.")
