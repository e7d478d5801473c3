"""A teacher's own last stage as a function of tokens: frozen, yet gradients pass through it to whoever made them.

Source: "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", arXiv 2411.06786 (section 2.4, teacher
parameter perception).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option

TokensToMap = Callable[[Tensor], Tensor]
"""Tokens `[batch, height · width, channels]` of one stage → map `[batch, channels', height', width']` of the next."""


class TeacherStage:
    """Continues a teacher from tokens: a callable `[batch, tokens, width]` → `[batch, width', height', width']`.

    No module: whoever holds it neither trains, saves nor moves the teacher. The teacher is in evaluation mode at every
    call, and its weights get no gradient; the tokens do.

    Args:
        teacher: The module whose weights `fn` uses.
        fn: The part of it that runs.
        dim: Width of the tokens that it takes; told to those who must make them.
        hw: Height and width of their grid.
        tap: The teacher's module whose output is the map that the stage's own output imitates.
        freeze: Stop all parameters of the teacher from learning; otherwise they must be frozen already.

    Raises:
        ValueError: A teacher with parameters that learn, unless `freeze`.

    >>> import torch
    >>> teacher = nn.Linear(3, 5)
    >>> stage = TeacherStage(teacher, lambda tokens: teacher(tokens).mT.unflatten(2, (2, 2)), freeze=True)
    >>> tokens = torch.randn(7, 4, 3, requires_grad=True)
    >>> stage(tokens).shape, stage(tokens).requires_grad, teacher.weight.requires_grad
    (torch.Size([7, 5, 2, 2]), True, False)
    """

    def __init__(
        self,
        teacher: nn.Module,
        fn: TokensToMap,
        *,
        dim: int | None = None,
        hw: tuple[int, int] | None = None,
        tap: str | None = None,
        freeze: bool = False,
    ) -> None:
        if freeze:
            teacher.requires_grad_(False)
        check_frozen(teacher)
        self.teacher, self.fn = teacher.eval(), fn
        self.dim, self.hw, self.tap = dim, hw, tap

    def __call__(self, tokens: Tensor) -> Tensor:
        """The stage's map of some tokens, with the graph that leads back to them."""
        if any(module.training for module in self.teacher.modules()):
            self.teacher.eval()
        if self.hw is not None and (tokens.ndim != 3 or tokens.shape[1:] != (math.prod(self.hw), self.dim)):
            raise ValueError(
                f"Expected argument `tokens` to have shape [batch, {math.prod(self.hw)}, {self.dim}], "
                f"but got {tuple(tokens.shape)}."
            )
        return self.fn(tokens)


def check_frozen(teacher: nn.Module) -> None:
    """Raise `ValueError` when a teacher has parameters that learn."""
    learning = next((name for name, value in teacher.named_parameters() if value.requires_grad), None)
    if learning is not None:
        raise ValueError(
            f"Expected argument `teacher` to be frozen, but its parameter {learning!r} learns; "
            "`freeze=True` freezes it."
        )


def last_stage(model: nn.Module, *, num_blocks: int | None = None, freeze: bool = False) -> TeacherStage:
    """The last stage of a Swin, ViT, DeiT or BEiT model of `transformers`, with or without a head.

    Args:
        model: The teacher.
        num_blocks: See `vit_last_stage`; not for Swin, which has stages of its own.
        freeze: Freeze the teacher.

    Raises:
        ValueError: A model of another kind.

    >>> import torch
    >>> from tutelage.models import swin
    >>> stage = last_stage(swin((1, 8, 8), 10, hidden_size=8, depths=(1, 1)), freeze=True)
    >>> stage(torch.randn(3, 64, 8)).shape, stage.tap
    (torch.Size([3, 16, 4, 4]), 'swin.layernorm')
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    check_option(kind, "model", ("swin", "vit", "deit", "beit"))
    if kind == "swin":
        if num_blocks is not None:
            raise ValueError(f"Expected argument `num_blocks` to be None for Swin, but got {num_blocks}.")
        return swin_last_stage(model, freeze=freeze)
    if kind == "beit":
        return beit_last_stage(model, num_blocks=num_blocks, freeze=freeze)
    return vit_last_stage(model, num_blocks=num_blocks, freeze=freeze)


def swin_last_stage(model: nn.Module, *, freeze: bool = False) -> TeacherStage:
    """A Swin model's patch merging after the last stage but one, its last stage, and its final normalisation.

    On the tokens that the stage before gave *before* its patch merging it gives just the model's own last map.

    Args:
        model: `SwinModel`, or a model that holds one as `swin`.
        freeze: Freeze it.

    Raises:
        ValueError: Fewer than two stages, or parameters that learn, unless `freeze`.
    """
    body, prefix = _body(model, "swin")
    stages = body.encoder.layers
    if len(stages) < 2:
        raise ValueError(f"Expected argument `model` to have at least 2 stages, but got {len(stages)}.")
    height, width = body.embeddings.patch_grid
    halvings = 2 ** (len(stages) - 2)
    height, width = -(-height // halvings), -(-width // halvings)
    merged = (height + 1) // 2, (width + 1) // 2
    merge, stage, norm = stages[-2].downsample, stages[-1], body.layernorm

    def continued(tokens: Tensor) -> Tensor:
        found: Tensor = norm(stage(merge(tokens, (height, width)), merged)[0])
        return as_grid(found, merged)

    return TeacherStage(
        model,
        continued,
        dim=merge.norm.normalized_shape[0] // 4,
        hw=(height, width),
        tap=f"{prefix}layernorm",
        freeze=freeze,
    )


def vit_last_stage(model: nn.Module, *, num_blocks: int | None = None, freeze: bool = False) -> TeacherStage:
    """A plain vision transformer's last blocks and its final normalisation, on patch tokens alone.

    As in the official code the class token is left out: it is no part of the map, and the projector makes none. So
    even on the teacher's own tokens the map differs a little from the teacher's.

    Args:
        model: `ViTModel` or `DeiTModel`, or a model that holds one as `vit` or `deit`.
        num_blocks: How many blocks at the end are the "last stage"; by default 2 of 24 or more, else a third (4 of
            12). The official code gives a network of 12 blocks another split; see `ScaleKD`.
        freeze: Freeze it.

    Raises:
        ValueError: More blocks than there are, or parameters that learn, unless `freeze`.
    """
    body, prefix = _body(model, "vit", "deit")
    blocks, norm, hw = _last_blocks(body, num_blocks), body.layernorm, _grid(body)

    def continued(tokens: Tensor) -> Tensor:
        for block in blocks:
            tokens = block(tokens)
        found: Tensor = norm(tokens)
        return as_grid(found, hw)

    return TeacherStage(model, continued, dim=body.config.hidden_size, hw=hw, tap=f"{prefix}layernorm", freeze=freeze)


def beit_last_stage(model: nn.Module, *, num_blocks: int | None = None, freeze: bool = False) -> TeacherStage:
    """As `vit_last_stage`, for BEiT: with the relative position biases between patches, without the class token's.

    Args:
        model: `BeitModel`, or a model that holds one as `beit`.
        num_blocks: As for `vit_last_stage`.
        freeze: Freeze it.

    Raises:
        ValueError: More blocks than there are, or parameters that learn, unless `freeze`.
    """
    body, prefix = _body(model, "beit")
    blocks, norm, hw = _last_blocks(body, num_blocks), body.layernorm, _grid(body)

    def bias(table: Any) -> Tensor | None:
        found: Tensor | None = None if table is None else table(hw)[..., 1:, 1:]
        return found

    def continued(tokens: Tensor) -> Tensor:
        shared = bias(body.shared_position_bias)
        for block in blocks:
            own = bias(block.relative_position_bias)
            both = own if shared is None else shared if own is None else own + shared
            # Written out, since the block itself would add its bias for the class token too.
            attended, _ = block.attention(block.layernorm_before(tokens), attention_mask=both)
            tokens = tokens + block.lambda_1 * attended
            tokens = tokens + block.lambda_2 * block.mlp(block.layernorm_after(tokens))
        found: Tensor = norm(tokens)
        return as_grid(found, hw)

    return TeacherStage(model, continued, dim=body.config.hidden_size, hw=hw, tap=f"{prefix}layernorm", freeze=freeze)


def as_grid(tokens: Tensor, hw: tuple[int, int]) -> Tensor:
    """Tokens `[batch, height · width, channels]`, row by row, as a map `[batch, channels, height, width]`."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *hw)


def _body(model: nn.Module, *names: str) -> tuple[Any, str]:
    """The headless model inside a model, or itself, and the prefix of its modules' paths."""
    for name in names:
        body = getattr(model, name, None)
        if isinstance(body, nn.Module):
            return body, f"{name}."
    return model, ""


def _last_blocks(body: Any, num_blocks: int | None) -> list[Any]:
    blocks = list(body.layers)
    if num_blocks is None:
        num_blocks = 2 if len(blocks) >= 24 else max(1, round(len(blocks) / 3))
    check_at_least(num_blocks, "num_blocks", 1)
    if num_blocks > len(blocks):
        raise ValueError(f"Expected argument `num_blocks` to be at most {len(blocks)}, but got {num_blocks}.")
    return blocks[-num_blocks:]


def _grid(body: Any) -> tuple[int, int]:
    sides = [
        value if isinstance(value, tuple | list) else (value, value)
        for value in (body.config.image_size, body.config.patch_size)
    ]
    (height, width), (patch_height, patch_width) = sides
    return height // patch_height, width // patch_width
