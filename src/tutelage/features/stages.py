"""Stages: the parts of a backbone that follow one another, found by the model's structure and named by number."""

from __future__ import annotations

import re

from torch import nn

_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.")  # what `torch.compile` and FSDP put into paths


def stage_paths(model: nn.Module) -> list[str]:
    """The module paths of a backbone's stages, in order: where `stage:0`, `stage:1` … are tapped.

    The rule: of all lists of parts (`nn.ModuleList`s, `nn.Sequential`s of one class, and children that are numbered
    like `stage1`, `stage2`, …) the one that holds most parameters. What that is:

    | family | a stage | its output |
    |---|---|---|
    | ResNet, ConvNeXt, SegFormer | a stage; it starts with its down-sampling | `[batch, width, height, width]` |
    | Swin | the last block of a stage, **before** patches are merged for the next one | `[batch, tokens, width]` |
    | ViT, BEiT, DeiT | a block, without the norm after the last one | `[batch, 1 + tokens, width]` |
    | BERT and other encoders, GPT-2, Llama and other decoders | a layer, without the norm after the last one | \
`[batch, time, width]` |
    | ALBERT | its group of layers, which the model calls again and again: a tap keeps the last call | \
`[batch, time, width]` |
    | `convnet` | `stage1`, … after the activation | `[batch, channels, height, width]` |
    | `mlp` | a hidden layer, after activation and dropout | `[batch, width]` |

    Args:
        model: Any module; it is not called. `torch.compile` and `DistributedDataParallel` around it do not count.

    Returns:
        Paths for `model.get_submodule` (of the model inside a wrapper); an empty list where there are no such parts.

    >>> from tutelage.models import convnet, swin
    >>> stage_paths(convnet((1, 8, 8), 10))
    ['stage1', 'stage2', 'stage3']
    >>> stage_paths(swin((1, 8, 8), 10))
    ['swin.encoder.layers.0.blocks.1', 'swin.encoder.layers.1']
    """
    found: list[str] = []
    most = 0
    for path, module in named_places(model).items():
        for rows in (_listed(module), _numbered(module)):
            parts = [module.get_submodule(name) for row in rows for name in row]
            size = sum(value.numel() for part in parts for value in part.parameters())
            if size > most:
                names = [_before_merging(module, row[-1]) for row in rows]
                found, most = [f"{path}.{name}" if path else name for name in names], size
    return found


def stage_path(model: nn.Module, place: str) -> str:
    """The module path that `stage:N` stands for; negative numbers count from the last stage.

    Raises:
        ValueError: The model has no such stage; the error says how many there are.

    >>> from tutelage.models import convnet
    >>> stage_path(convnet((1, 8, 8), 10), "stage:-1")
    'stage3'
    """
    paths = stage_paths(model)
    kind = type(unwrapped(model)).__name__
    if not paths:
        raise ValueError(
            f"Expected {kind} to have stages, for {place!r}, but none were found; give a module path instead."
        )
    number = place.removeprefix("stage:")
    if not re.fullmatch(r"-?\d+", number) or not -len(paths) <= int(number) < len(paths):
        raise ValueError(
            f"Expected a stage of {kind}, which has {len(paths)} (stage:0 to stage:{len(paths) - 1}, or stage:-1 for "
            f"the last), but got {place!r}."
        )
    return paths[int(number)]


def named_places(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by path, as `named_modules` of the model that `torch.compile`, FSDP or DDP may have wrapped.

    >>> list(named_places(nn.Sequential(nn.Linear(1, 1))))
    ['', '0']
    """
    return {plain_path(path): module for path, module in unwrapped(model).named_modules()}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model without `torch.compile`, `DataParallel` and `DistributedDataParallel` around it."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def plain_path(path: str) -> str:
    """A module path without the parts that wrappers add inside a model.

    >>> plain_path("encoder._orig_mod.layers.0")
    'encoder.layers.0'
    """
    for wrapper in _WRAPPERS:
        path = path.replace(wrapper, "")
    return path.removesuffix("._orig_mod")


def _listed(module: nn.Module) -> list[list[str]]:
    """The entries of a list of parts, each as a row of its own."""
    parts = list(module.children())
    alike = isinstance(module, nn.ModuleList) or (
        isinstance(module, nn.Sequential) and len(parts) > 1 and len({type(part) for part in parts}) == 1
    )
    return [[name] for name, _ in module.named_children()] if alike else []


def _numbered(module: nn.Module) -> list[list[str]]:
    """A row of children for each number that their names end in, such as `linear1` and `activation1`."""
    rows: dict[int, list[str]] = {}
    for name, _ in module.named_children():
        match = re.fullmatch(r"\D+(\d+)", name)
        if match is None:
            continue
        number = int(match[1])
        if rows and number not in (max(rows), max(rows) + 1):
            return []  # two runs of numbers, such as `conv1`, `conv2`, `fc1`: not stages of one backbone
        rows.setdefault(number, []).append(name)
    return list(rows.values()) if rows and min(rows) in (0, 1) else []


def _before_merging(parts: nn.Module, name: str) -> str:
    """Where a stage ends at its own resolution: at its last block, if it goes on to down-sample for the next one."""
    children = list(parts.get_submodule(name).named_children())
    if len(children) < 2 or children[-1][0] != "downsample":
        return name
    path, blocks = children[-2]
    return f"{name}.{path}.{len(blocks) - 1}" if isinstance(blocks, nn.ModuleList) and len(blocks) else name
