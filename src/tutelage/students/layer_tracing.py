"""Describing a network: its layers found by following a tensor from the logits back to the input (torch.fx)."""

from __future__ import annotations

import operator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn import functional

from tutelage.students.layers import LayerSpec, fitted, layer_table, with_fixed

_SILENT = (nn.Identity, nn.Flatten, nn.Sequential)
_FLATTENING = ("flatten", "view", "reshape", torch.flatten, torch.reshape)
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_MODULES = {  # functions and methods that stand for a layer, which takes the same arguments after the tensor
    "relu": nn.ReLU,
    torch.relu: nn.ReLU,
    functional.relu: nn.ReLU,
    functional.max_pool1d: nn.MaxPool1d,
    functional.max_pool2d: nn.MaxPool2d,
    functional.avg_pool2d: nn.AvgPool2d,
    functional.adaptive_avg_pool1d: nn.AdaptiveAvgPool1d,
    functional.adaptive_avg_pool2d: nn.AdaptiveAvgPool2d,
}
_ACTIVATIONS = ("ReLU", "ReLU6", "GELU", "SiLU", "Mish", "ELU", "LeakyReLU", "Tanh", "Sigmoid", "Hardswish")
_OTHERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.LogSoftmax, nn.Softmax)


def describe_layers(model: nn.Module) -> tuple[Float[Tensor, "layers entries"], list[LayerSpec]]:
    """The layers of a network, as a table for a policy and as specifications to build from.

    Works for chains of layers (VGG and its kind) and for residual blocks without blocks inside, with convolutions,
    batch norms, pools, activations, dropouts and linear layers; `transformers` models, too. Flattening has no row.

    Args:
        model: A classifier; it is traced with `torch.fx`, not called, and left as it is.

    Returns:
        `[layers, 5]` raw whole numbers (`[layers, 7]` with residual blocks, see `ENTRIES`), and a specification a row.

    Raises:
        ValueError: The model is something else; one line says what was met.

    >>> from tutelage.models import convnet
    >>> table, specs = describe_layers(convnet((1, 8, 8), 10, channels=(8, 16)))
    >>> [spec.kind for spec in specs][:4], table.shape, table[3].tolist()
    (['Conv2d', 'BatchNorm2d', 'ReLU', 'Conv2d'], torch.Size([8, 5]), [1.0, 3.0, 2.0, 16.0, 1.0])
    """
    try:
        graph = _Tracer().trace(_Logits(model))
    except Exception as error:  # whatever a model's own code raises when it meets a stand-in for a tensor
        cause = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        raise _undescribed(f"torch.fx cannot follow it ({cause})") from error
    reader = _Reader(model)
    output = next(node for node in graph.nodes if node.op == "output")
    specs = reader.read(output.args[0])
    if not any(spec.family in ("Conv", "Linear") for spec in specs):
        raise _undescribed("no convolution or linear layer was met")
    for name, parameter in model.named_parameters():
        if id(parameter) not in reader.parameters:
            raise _undescribed(f"the parameter {name!r} belongs to no layer that was met")
    specs = fitted(with_fixed(specs))
    return layer_table(specs), specs


class _Tracer(fx.Tracer):
    """Goes into every module that has children; a comparison of shapes is taken to be false (checks of the input)."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return next(m.children(), None) is None

    def to_bool(self, obj: fx.Proxy) -> bool:
        return False


class _Logits(nn.Module):
    """A model that returns logits alone, whatever its own form of call and result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Any) -> Any:
        name = getattr(self.model, "main_input_name", None)
        result = self.model(inputs) if name is None else self.model(**{name: inputs})
        return result if isinstance(result, fx.Proxy) else result.logits


class _Reader:
    """Reads a graph from its output back to its input."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters: set[int] = set()
        self._blocks = 0

    def read(self, node: Any) -> list[LayerSpec]:
        """The layers between the input and a node."""
        parts: list[list[LayerSpec]] = []
        while node.op != "placeholder":
            if node.target in _ADDITIONS:
                block, node = self._block(node)
                parts.append(block)
            else:
                parts.append(self._layers(node))
                node = _source(node)
        found = [spec for part in reversed(parts) for spec in part]
        return [replace(spec, block=self._blocks + 1 - spec.block) if spec.block else spec for spec in found]

    def _block(self, addition: fx.Node) -> tuple[list[LayerSpec], fx.Node]:
        """A residual block's layers, and the node at which its two ways part."""
        ways = [argument for argument in addition.args if isinstance(argument, fx.Node)]
        if len(ways) != 2 or addition.kwargs:
            raise _undescribed(f"it adds a constant at {addition.name!r}")
        first, second = (_way_back(way) for way in ways)
        fork = next((node for node in first if node in second), None)
        if fork is None:
            raise _undescribed(f"the two ways that meet at {addition.name!r} hold further branches")
        branches = []
        for way in (first, second):
            inside = way[: way.index(fork)]
            branches.append([spec for node in reversed(inside) for spec in self._layers(node)])
        body, shortcut = sorted(branches, key=len, reverse=True)
        self._blocks += 1
        return [
            *(replace(spec, block=self._blocks) for spec in body),
            *(replace(spec, block=self._blocks, shortcut=True) for spec in shortcut),
        ], fork

    def _layers(self, node: fx.Node) -> list[LayerSpec]:
        """What a node stands for: one layer, or none."""
        if node.op == "call_module":
            module = self.model.get_submodule(str(node.target).removeprefix("model").removeprefix("."))
            parameters = {id(parameter) for parameter in module.parameters()}
            if parameters & self.parameters:
                raise _undescribed(f"the layer {node.target!r} is used twice")
            self.parameters |= parameters
            where = str(node.target).removeprefix("model.")
        elif node.target in _FLATTENING:
            return []
        elif node.target == "mean":
            dims = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else ())
            count = len(dims) if isinstance(dims, (tuple, list)) else 1
            module, where = (nn.AdaptiveAvgPool2d if count == 2 else nn.AdaptiveAvgPool1d)(1), node.name
        elif node.target in _MODULES:
            module, where = _MODULES[node.target](*node.args[1:], **node.kwargs), node.name
        else:
            raise _undescribed(f"it calls {getattr(node.target, '__name__', node.target)!r}")
        return [] if isinstance(module, _SILENT) else [_specification(module, where)]


def _specification(module: nn.Module, where: str) -> LayerSpec:
    kind = type(module).__name__
    if isinstance(module, (nn.Conv1d, nn.Conv2d)):
        plain = module.groups == 1 and module.padding_mode == "zeros" and _one(module.dilation, where) == 1
        kernel, stride = _one(module.kernel_size, where), _one(module.stride, where)
        padding: Any = module.padding
        if isinstance(padding, str):
            plain &= padding == "valid" or kernel % 2 == 1
            padding = 0 if padding == "valid" else kernel // 2
        if plain:
            return LayerSpec(
                kind, kernel, stride, module.out_channels, _one(padding, where), bias=module.bias is not None
            )
    elif isinstance(module, (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d)):
        if not module.ceil_mode and _one(getattr(module, "dilation", 1), where) == 1:
            kernel, stride = _one(module.kernel_size, where), _one(module.stride, where)
            return LayerSpec(kind, kernel, stride, padding=_one(module.padding, where))
    elif isinstance(module, (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d)):
        return LayerSpec(kind, kernel=_one(module.output_size, where))
    elif isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
        if module.affine and module.track_running_stats:
            return LayerSpec(kind, width=module.num_features)
    elif isinstance(module, nn.Linear):
        return LayerSpec(kind, width=module.out_features, bias=module.bias is not None)
    elif isinstance(module, _OTHERS) or kind in _ACTIVATIONS:
        return LayerSpec(kind, rate=float(getattr(module, "p", 0.0)))
    raise _undescribed(f"the layer {where!r} is {module}")


def _one(value: Any, where: str) -> int:
    """The whole number behind a size that is the same along every axis."""
    sizes = set(value) if isinstance(value, tuple) else {value}
    if len(sizes) != 1 or not isinstance(size := sizes.pop(), int):
        raise _undescribed(f"the layer {where!r} has unequal or open sizes {value}")
    return size


def _way_back(node: fx.Node) -> list[fx.Node]:
    """A node and those that it comes from, up to and with the nearest addition or the input."""
    found = [node]
    while found[-1].op != "placeholder" and found[-1].target not in _ADDITIONS:
        found.append(_source(found[-1]))
    return found


def _source(node: fx.Node) -> fx.Node:
    """The one node that a node reads a tensor from."""
    found = node.args[0] if node.args else next(iter(node.kwargs.values()), None)
    if not isinstance(found, fx.Node):
        raise _undescribed(f"{node.name!r} reads several tensors, or none")
    return found


def _undescribed(reason: str) -> ValueError:
    return ValueError(f"Expected argument `model` to be a chain of plain layers and residual blocks, but {reason}.")
