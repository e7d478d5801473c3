"""A teacher's and a student's feature maps fused by cross-attention over positions (ACAM-KD, step 1).

Source: Lan and Tian, "ACAM-KD: Adaptive and Cooperative Attention Masking for Knowledge Distillation", ICCV 2025,
arXiv 2503.06307, the section on student-teacher cross-attention feature fusion.
"""

from __future__ import annotations

from typing import Literal, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option, check_same_shape
from tutelage.objectives.precision import at_least_float32

Side = Literal["teacher", "student"]
"""Whose positions ask; the other side is what they look at."""

MAX_TOKENS = 1 << 15
"""Positions of a map that attention takes unless told otherwise: a level of 128 × 256 fits."""


class StudentTeacherCrossAttention(nn.Module):
    """Single-head attention from the positions of one feature map to those of the other.

    With the teacher asking, Q = W_q F_T, K = W_k F_S, V = W_v F_S, and the fused map is softmax(Q Kᵀ / √C_q) V: the
    softmax runs over the student's positions, so every position of the teacher says where in the student to look. The
    projections are 1×1 convolutions without bias (whether the paper's have one is not known). Everything is computed in
    float32 or wider, under autocast too. The attention matrix is only built when it is asked for.

    Args:
        channels: C of both maps.
        query_channels: C_q of queries and keys; by default half of C, which must then be even.
        query_from: `"teacher"` (the paper's better choice), or `"student"`: keys and values then come from the teacher.
        max_tokens: The most positions a map may have. Time grows with their square, and so does memory where the
            backend builds the matrix.

    Attributes:
        query: The 1×1 layer W_q, C → C_q.
        key: The 1×1 layer W_k, C → C_q.
        value: The 1×1 layer W_v, C → C.

    Raises:
        ValueError: A width that is not positive, or an odd C without `query_channels`.

    >>> fusion = StudentTeacherCrossAttention(4)
    >>> fused, attention = fusion(torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5), return_attention=True)
    >>> tuple(fused.shape), tuple(attention.shape), bool((attention.sum(dim=-1) - 1).abs().max() < 1e-5)
    ((2, 4, 3, 5), (2, 15, 15), True)
    """

    def __init__(
        self,
        channels: int,
        query_channels: int | None = None,
        *,
        query_from: Side = "teacher",
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        super().__init__()
        check_at_least(channels, "channels", 1)
        check_option(query_from, "query_from", ("teacher", "student"))
        check_at_least(max_tokens, "max_tokens", 1)
        if query_channels is None:
            if channels % 2:
                raise ValueError(
                    "Expected argument `channels` to be even where `query_channels` is not given, "
                    f"since that is half of it, but got {channels}."
                )
            query_channels = channels // 2
        check_at_least(query_channels, "query_channels", 1)
        self.query_from = query_from
        self.max_tokens = max_tokens
        self.query = nn.Conv2d(channels, query_channels, kernel_size=1, bias=False)
        self.key = nn.Conv2d(channels, query_channels, kernel_size=1, bias=False)
        self.value = nn.Conv2d(channels, channels, kernel_size=1, bias=False)

    @overload
    def forward(self, teacher: Tensor, student: Tensor, return_attention: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, teacher: Tensor, student: Tensor, return_attention: Literal[True]) -> tuple[Tensor, Tensor]: ...

    def forward(
        self,
        teacher: Float[Tensor, "batch channels height width"],
        student: Float[Tensor, "..."],
        return_attention: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Fuse two maps.

        Args:
            teacher: `[batch, C, H, W]`.
            student: `[batch, C, H, W]`.
            return_attention: Also build and give the attention matrix, which takes batch · (H·W)² numbers.

        Returns:
            The fused map `[batch, C, H, W]`, its positions those of the side that asks; with `return_attention` also
            the attention `[batch, H·W, H·W]` (row: a position that asks). Gradients reach both maps.

        Raises:
            ValueError: Maps of different shapes or another width, or more than `max_tokens` positions.
        """
        check_same_shape(teacher, student, "teacher", "student")
        asking, seen = (teacher, student) if self.query_from == "teacher" else (student, teacher)
        batch, channels, height, width = asking.shape
        positions = height * width
        if channels != self.value.in_channels:
            raise ValueError(
                f"Expected arguments `teacher` and `student` to have {self.value.in_channels} channels, "
                f"but got {channels}."
            )
        if positions > self.max_tokens:
            raise ValueError(
                f"Expected maps of at most {self.max_tokens} positions, but got {height} × {width} = {positions}, "
                f"whose attention has {positions**2:,} entries a sample ({4 * positions**2 / 2**20:,.0f} MiB); "
                "tap a smaller map, or raise `max_tokens`."
            )
        with torch.autocast(asking.device.type, enabled=False):
            query = _tokens(self.query, asking)
            key = _tokens(self.key, seen)
            value = _tokens(self.value, seen)
            scale = query.shape[-1] ** -0.5
            if return_attention:
                attention = (query @ key.mT * scale).softmax(dim=-1)
                fused = attention @ value
                return fused.mT.reshape(batch, channels, height, width), attention
            # Fused kernels, whose memory is linear in the positions, want heads and one width for all three; zeros
            # in the added channels leave every product of query and key as it is.
            missing = (0, channels - query.shape[-1])
            if missing[1] > 0:
                query, key = F.pad(query, missing), F.pad(key, missing)
            fused = F.scaled_dot_product_attention(
                query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1), scale=scale
            ).squeeze(1)
            return fused.mT.reshape(batch, channels, height, width)


def _tokens(layer: nn.Conv2d, features: Tensor) -> Tensor:
    """A 1×1 layer's output as tokens `[batch, positions, channels]`, in float32 or wider."""
    weight = at_least_float32(layer.weight).flatten(1)
    return at_least_float32(features).flatten(2).mT @ weight.T
