"""Taps: read activations inside a model by module path, with hooks that never outlive their block."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tutelage._checks import nearest


class FeatureTaps:
    """Reads the outputs (or inputs) of modules inside a model while a `with` block is open.

    Hooks exist only inside the block: they are removed when it ends, by an exception too, so nothing leaks into later
    calls, copies or exports of the model. Activations keep their graph: gradients flow through them.

    Args:
        model: The model to read from.
        taps: Names and module paths as in `model.named_modules()`, or paths only (then each is its own name). A path
            that ends in `:input` reads what goes into the module instead of what comes out.

    Raises:
        ValueError: A path does not exist; the nearest one is suggested.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    >>> with FeatureTaps(model, {"middle": "1", "before_head": "2:input"}) as taps:
    ...     _ = model(torch.zeros(5, 2))
    >>> {name: tuple(value.shape) for name, value in taps.features.items()}
    {'middle': (5, 3), 'before_head': (5, 3)}
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str] | Iterable[str]) -> None:
        paths = dict(taps) if isinstance(taps, Mapping) else {path: path for path in taps}
        modules = dict(model.named_modules())
        self.features: dict[str, Tensor] = {}
        self._places: list[tuple[str, nn.Module, bool]] = []
        self._handles: list[RemovableHandle] = []
        for name, path in paths.items():
            place, reads_input = (path[: -len(":input")], True) if path.endswith(":input") else (path, False)
            if place not in modules:
                raise ValueError(
                    f"Expected the tap {name!r} to be the path of a module, "
                    f"but the model has no {place!r}{nearest(place, modules)}."
                )
            self._places.append((name, modules[place], reads_input))

    def __enter__(self) -> FeatureTaps:
        self.features = {}
        try:
            for name, module, reads_input in self._places:
                self._handles.append(
                    module.register_forward_pre_hook(self._input_hook(name))
                    if reads_input
                    else module.register_forward_hook(self._output_hook(name))
                )
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _output_hook(self, name: str) -> Any:
        def read(module: nn.Module, arguments: Any, output: Any) -> None:
            self.features[name] = first_tensor(output, name)

        return read

    def _input_hook(self, name: str) -> Any:
        def read(module: nn.Module, arguments: Any) -> None:
            self.features[name] = first_tensor(arguments, name)

        return read


def first_tensor(value: Any, name: str) -> Tensor:
    """The tensor a module gave: itself, or the first one of a tuple, list or mapping (as `transformers` layers give).

    >>> import torch
    >>> first_tensor((torch.ones(1), None), "tap")
    tensor([1.])
    """
    if isinstance(value, Tensor):
        return value
    parts: Iterable[Any] = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple | list) else ()
    )
    for part in parts:
        if isinstance(part, Tensor):
            return part
    raise ValueError(f"Expected the tap {name!r} to give a tensor, but got {type(value).__name__}.")
