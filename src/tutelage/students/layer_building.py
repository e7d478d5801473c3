"""Networks from descriptions of layers: shapes are worked out first, so that what does not fit is told, not met."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.models.plain import check_sizes
from tutelage.models.sizes import parameter_count
from tutelage.models.specification import ModelSpecification, remember
from tutelage.students.layers import InvalidArchitecture, LayerSpec, in_blocks

LINEAR_INPUTS = (10, 50_000)
"""The fewest and most features that a linear layer may read, unless it reads the input itself (the official code's)."""

Shape = tuple[int, ...]


class ResidualBlock(nn.Module):
    """body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """`[batch, channels, …]` in and out."""
        total: Tensor = self.body(x) + self.shortcut(x)
        return total


def build_student(
    specs: Sequence[LayerSpec], input_shape: Sequence[int], *, linear_inputs: tuple[int, int] = LINEAR_INPUTS
) -> nn.Sequential:
    """The network of a description, with fresh weights from PyTorch's global generator.

    Every layer takes what the one before it gives: channels are refitted, and a map is flattened before a linear layer.

    Args:
        specs: The layers.
        input_shape: Of one input, without the batch axis.
        linear_inputs: The fewest and most features that a linear layer may read, unless it reads the input itself.

    Returns:
        Maps `[batch, *input_shape]` to `[batch, classes]`; `save_model` can save it.

    Raises:
        InvalidArchitecture: The layers do not fit on each other, or do not end in one value a class.

    >>> layers = [LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("ReLU"), LayerSpec("Linear", width=10)]
    >>> build_student(layers, (1, 8, 8))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    >>> build_student([LayerSpec("MaxPool2d", 2, 2), *layers], (1, 1, 1))
    Traceback (most recent call last):
    tutelage.students.layers.InvalidArchitecture: MaxPool2d with kernel 2 does not fit a map of (1, 1).
    """
    shape: Shape = check_sizes(input_shape, "input_shape")
    modules: list[nn.Module] = []
    for body, shortcut in in_blocks(specs):
        if not (body and body[0].block):
            chain, shape = _chain(body or shortcut, shape, linear_inputs, reads_input=not modules)
            modules += chain
            continue
        inside, inner = _chain(body, shape, linear_inputs, reads_input=False)
        beside, outer = _chain(shortcut, shape, linear_inputs, reads_input=False)
        if inner != outer:
            raise InvalidArchitecture(f"Block {body[0].block} adds {inner} and {outer}, which differ.")
        modules.append(ResidualBlock(nn.Sequential(*inside), nn.Sequential(*beside)))
        shape = inner
    if len(shape) > 1:
        if math.prod(shape[1:]) != 1:
            raise InvalidArchitecture(f"The network ends in {shape}, not in one value a class.")
        modules.append(nn.Flatten())
    student = nn.Sequential(*modules)
    arguments = {"layers": [asdict(spec) for spec in specs], "input_shape": list(input_shape)}
    remember(student, ModelSpecification(name=f"{__name__}:layered_student", arguments=arguments))
    return student


def layered_student(layers: Sequence[Mapping[str, Any]], input_shape: Sequence[int]) -> nn.Sequential:
    """`build_student` for a description in plain data, as a saved student holds it; linear layers have no bounds here.

    >>> layered_student([{"kind": "Linear", "width": 3}], (4,))
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    specs = [LayerSpec(**{**layer, "skip": tuple(layer.get("skip", (0, 0)))}) for layer in layers]
    return build_student(specs, input_shape, linear_inputs=(1, sys.maxsize))


def architecture_size(
    specs: Sequence[LayerSpec], input_shape: Sequence[int], *, linear_inputs: tuple[int, int] = LINEAR_INPUTS
) -> int:
    """The number of parameters of a description's network, which is not made for it.

    Raises:
        InvalidArchitecture: As `build_student`.

    >>> architecture_size([LayerSpec("Conv2d", 3, 1, 16, 1), LayerSpec("Linear", width=10)], (1, 8, 8))
    10410
    """
    with torch.device("meta"):
        return parameter_count(build_student(specs, input_shape, linear_inputs=linear_inputs))


def _chain(
    specs: Sequence[LayerSpec], shape: Shape, linear_inputs: tuple[int, int], *, reads_input: bool
) -> tuple[list[nn.Module], Shape]:
    modules: list[nn.Module] = []
    for spec in specs:
        if spec.family == "Linear":
            features = math.prod(shape)
            low, high = linear_inputs
            if not low <= features <= high and not reads_input:
                raise InvalidArchitecture(f"A linear layer reads {features} features, not {low} to {high}.")
            modules += [nn.Flatten()] if len(shape) > 1 else []
            modules.append(nn.Linear(features, spec.width, bias=spec.bias))
            shape = (spec.width,)
        else:
            modules.append(_layer(spec, shape))
            shape = _after(spec, shape)
        reads_input = False
    return modules, shape


def _layer(spec: LayerSpec, shape: Shape) -> nn.Module:
    make = getattr(nn, spec.kind)
    match spec.family:
        case "Conv":
            sizes = {"kernel_size": spec.kernel, "stride": spec.stride, "padding": spec.padding}
            layer = make(shape[0], spec.width, **sizes, bias=spec.bias)
        case "MaxPool" | "AvgPool":
            layer = make(spec.kernel, spec.stride, spec.padding)
        case "AdaptiveAvgPool":
            layer = make(spec.kernel)
        case "BatchNorm":
            layer = (nn.BatchNorm2d if len(shape) == 3 else nn.BatchNorm1d)(shape[0])
        case "Dropout":
            layer = make(spec.rate)
        case "Softmax" | "LogSoftmax":
            layer = make(dim=1)
        case _:
            layer = make()
    assert isinstance(layer, nn.Module)
    return layer


def _after(spec: LayerSpec, shape: Shape) -> Shape:
    """The shape after a layer; `InvalidArchitecture` unless the layer fits."""
    if spec.family not in ("Conv", "MaxPool", "AvgPool", "AdaptiveAvgPool"):
        return shape
    channels, *sides = shape
    if len(sides) != int(spec.kind[-2]):
        raise InvalidArchitecture(f"{spec.kind} does not fit an input of shape {shape}.")
    if spec.family == "AdaptiveAvgPool":
        return (channels, *(spec.kernel for _ in sides))
    after = [(side + 2 * spec.padding - spec.kernel) // spec.stride + 1 for side in sides]
    too_padded = spec.family != "Conv" and 2 * spec.padding > spec.kernel
    if min(after) < 1 or too_padded:
        padded = f" and padding {spec.padding}" if spec.padding else ""
        raise InvalidArchitecture(
            f"{spec.kind} with kernel {spec.kernel}{padded} does not fit a map of {tuple(sides)}."
        )
    return (spec.width if spec.family == "Conv" else channels, *after)
