"""ScaleKD's projector: a student's feature map, read by queries on the teacher's grid through cross-attention.

Source: "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", arXiv 2411.06786 (section 2.2).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option, check_positive


class CrossAttentionProjector(nn.Module):
    """Brings a student's map to the width and the grid of a teacher's: every query gathers what it needs from the map.

    The map goes through a 3×3 convolution, normalisation and ReLU, gets a learned position map added, and its tokens
    become keys and values. The queries, learned or given, go through a 1×1 convolution, ReLU and a linear layer. After
    multi-head attention over all tokens, with logits q·k / √d · `softmax_scale`, and a linear layer, the tokens are
    normalised to y, and the output is y + MLP(y). There is no residual around the attention, so queries shape the
    output by what they look at alone. Student and teacher may have different grids: the attention resamples.

    Learned queries are the same for all samples, so their path is computed once a batch. It is used only while
    training; the student does not change. Given queries that are much alike may start with every unit of their ReLU off
    where the teacher is narrow: then they carry nothing and get no gradient. Learned ones start with half of it on.

    Args:
        student_dim: Channels of the student's map.
        teacher_dim: Channels of the teacher's map; width of queries and output.
        query_hw: Height and width of the teacher's map: the grid of the queries.
        student_hw: Height and width of the student's map.
        num_heads: Attention heads; they divide `teacher_dim`.
        softmax_scale: Multiplies the attention's logits, beside 1 / √d.
        trainable_query: Learn a table of queries; otherwise every call must give them.
        norm: Of the student's map: `"batch"`, or `"layer"` over channels (for ConvNeXt students). In training mode
            batch normalisation needs more than one value a channel in a batch.

    Attributes:
        position: `[1, student_dim, *student_hw]`, from a normal distribution of deviation 0.02, truncated at ±2.
        queries: `[height · width, teacher_dim]`, standard normal; only when they are learned.

    Shape: map `[batch, student_dim, *student_hw]`, query `[batch, height · width, teacher_dim]` → `[batch, height ·
    width, teacher_dim]`, tokens row by row.

    Raises:
        ValueError: Heads that do not divide the width, a map or query of another shape, or no query where none is
            learned.

    >>> projector = CrossAttentionProjector(6, 8, query_hw=(2, 2), student_hw=(5, 5), num_heads=2)
    >>> projector(torch.randn(3, 6, 5, 5)).shape
    torch.Size([3, 4, 8])
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        *,
        query_hw: tuple[int, int],
        student_hw: tuple[int, int],
        num_heads: int = 8,
        softmax_scale: float = 5.0,
        trainable_query: bool = True,
        norm: Literal["batch", "layer"] = "batch",
    ) -> None:
        super().__init__()
        check_at_least(student_dim, "student_dim", 1)
        check_at_least(teacher_dim, "teacher_dim", 1)
        check_at_least(num_heads, "num_heads", 1)
        check_positive(softmax_scale, "softmax_scale")
        check_option(norm, "norm", ("batch", "layer"))
        if teacher_dim % num_heads:
            raise ValueError(
                f"Expected argument `num_heads` to divide `teacher_dim`, but got {num_heads} heads for {teacher_dim}."
            )
        self.query_hw, self.student_hw = tuple(query_hw), tuple(student_hw)
        self.num_heads, self.softmax_scale = num_heads, softmax_scale
        self.conv = nn.Conv2d(student_dim, student_dim, 3, padding=1)
        self.norm = nn.BatchNorm2d(student_dim) if norm == "batch" else _ChannelNorm(student_dim)
        self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, student_dim, *student_hw), std=0.02))
        length = query_hw[0] * query_hw[1]
        self.queries = nn.Parameter(torch.randn(length, teacher_dim)) if trainable_query else None
        self.query_conv = nn.Conv2d(teacher_dim, teacher_dim, 1)
        self.query = nn.Linear(teacher_dim, teacher_dim)
        self.key = nn.Linear(student_dim, teacher_dim)
        self.value = nn.Linear(student_dim, teacher_dim)
        self.output = nn.Linear(teacher_dim, teacher_dim)
        self.output_norm = nn.LayerNorm(teacher_dim)
        self.mlp = nn.Sequential(
            nn.Linear(teacher_dim, 4 * teacher_dim), nn.ReLU(), nn.Linear(4 * teacher_dim, teacher_dim)
        )

    def forward(self, x: Tensor, query: Tensor | None = None) -> Tensor:
        """Project `[batch, student_dim, h, w]` to tokens `[batch, height · width, teacher_dim]`.

        Args:
            x: The student's map.
            query: `[batch, height · width, teacher_dim]`; None for the learned ones. A gradient flows into them.
        """
        if x.ndim != 4 or x.shape[1:] != self.position.shape[1:]:
            raise ValueError(
                f"Expected argument `x` to have shape [batch, {', '.join(map(str, self.position.shape[1:]))}], "
                f"but got {tuple(x.shape)}."
            )
        tokens = (F.relu(self.norm(self.conv(x))) + self.position).flatten(2).transpose(1, 2)
        attended = F.scaled_dot_product_attention(
            self._heads(self.query(self._query(query, len(x)))).expand(len(x), -1, -1, -1),
            self._heads(self.key(tokens)),
            self._heads(self.value(tokens)),
            scale=self.softmax_scale * (self.query.out_features // self.num_heads) ** -0.5,
        )
        normalised = self.output_norm(self.output(attended.transpose(1, 2).flatten(2)))
        projected: Tensor = normalised + self.mlp(normalised)
        return projected

    def _query(self, query: Tensor | None, batch: int) -> Tensor:
        """The queries after their 1×1 convolution and ReLU; learned ones with a batch of 1."""
        length, width = self.query_hw[0] * self.query_hw[1], self.query.in_features
        if query is None:
            if self.queries is None:
                raise ValueError(
                    "Expected argument `query` to be given, since the projector learns none, but got None."
                )
            query = self.queries.unsqueeze(0)
        elif query.shape != (batch, length, width):
            raise ValueError(
                f"Expected argument `query` to have shape {(batch, length, width)}, but got {tuple(query.shape)}."
            )
        return F.relu(F.linear(query, self.query_conv.weight.flatten(1), self.query_conv.bias))

    def _heads(self, tokens: Tensor) -> Tensor:
        """`[batch, tokens, width]` → `[batch, heads, tokens, width / heads]`."""
        return tokens.view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map, at each position."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, 3)).movedim(3, 1)
