"""Taps: read activations inside a model by module path, with hooks that never outlive their block."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import nearest
from tutelage.features.stages import named_places, plain_path, stage_path, unwrapped


class FeatureTaps:
    """Reads the outputs (or inputs) of modules inside a model while a `with` block is open.

    Hooks exist only inside the block: they are gone when it ends, by an exception too, so nothing leaks into later
    calls, copies or exports of the model. Activations keep their graph: gradients flow through them. A module that is
    called several times in the block gives what it said last. What the model changes in place after the tap is changed
    in the tap too: to read what goes into an in-place ReLU or `+=`, give these a place of their own.

    A model that `torch.compile` made is tapped in its compiled form, which then has two versions, with and without the
    taps. PyTorch must look at hooks before it chooses between them, so `torch._dynamo.config.skip_nnmodule_hook_guards`
    is switched off for the process. Make the taps before the compiled model's first call, or call
    `torch.compiler.reset()`.

    Args:
        model: The model to read from; may be wrapped by `torch.compile` or `DistributedDataParallel`.
        taps: Names and places, or places only (then each is its own name). A place is a module path as in
            `model.named_modules()` (without what a wrapper adds), or `stage:N`, see `stage_paths`; one that ends in
            `:input` reads what goes into the module instead of what comes out.

    Attributes:
        features: What was read, by name.

    Raises:
        ValueError: A place does not exist; the nearest ones are suggested.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4))
    >>> with FeatureTaps(model, {"middle": "1", "before_head": "2:input"}) as taps:
    ...     _ = model(torch.zeros(5, 2))
    >>> {name: tuple(value.shape) for name, value in taps.features.items()}
    {'middle': (5, 3), 'before_head': (5, 3)}
    """

    def __init__(self, model: nn.Module, taps: Mapping[str, str] | Iterable[str]) -> None:
        paths = dict(taps) if isinstance(taps, Mapping) else {path: path for path in taps}
        modules = named_places(model)
        self.features: dict[str, Tensor] = {}
        self._hooks: list[tuple[dict[int, Callable[..., Any]], int, Callable[..., Any]]] = []
        for name, path in paths.items():
            place, reads_input = path.removesuffix(":input"), path.endswith(":input")
            place = stage_path(model, place) if place.startswith("stage:") else plain_path(place)
            if place not in modules:
                raise ValueError(_unknown(name, place, unwrapped(model), modules))
            module = modules[place]
            # Hooks keep their function and key from block to block: a compiled model then knows them again.
            read = partial(self._read_input if reads_input else self._read_output, name)
            handle = module.register_forward_pre_hook(read) if reads_input else module.register_forward_hook(read)
            handle.remove()
            hooks: Any = module._forward_pre_hooks if reads_input else module._forward_hooks
            self._hooks.append((hooks, handle.id, read))
        if any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in model.modules()):
            torch._dynamo.config.skip_nnmodule_hook_guards = False  # type: ignore[attr-defined]

    def __enter__(self) -> FeatureTaps:
        self.features = {}
        for hooks, key, read in self._hooks:
            hooks[key] = read
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hooks, key, _ in self._hooks:
            hooks.pop(key, None)

    def _read_output(self, name: str, module: nn.Module, arguments: Any, output: Any) -> None:
        self.features[name] = first_tensor(output, name)

    def _read_input(self, name: str, module: nn.Module, arguments: Any) -> None:
        self.features[name] = first_tensor(arguments, name)


def first_tensor(value: Any, name: str) -> Tensor:
    """The tensor a module gave: itself, or the first one of a tuple, list or mapping (as `transformers` layers give).

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


def _unknown(name: str, place: str, model: nn.Module, modules: Mapping[str, nn.Module]) -> str:
    near = nearest(place, modules, most=3)
    if not near:
        parts = [part for part, _ in model.named_children()]
        near = f"; its parts are {', '.join(map(repr, parts[:8]))}{', …' if parts[8:] else ''}" if parts else ""
    return f"Expected the tap {name!r} to be the path of a module, but {type(model).__name__} has no {place!r}{near}."
