"""A transformer that reads one row of a table: every feature is a token (FT-Transformer)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range
from tutelage.models.plain import check_sizes


class FeatureTokenizerTransformer(nn.Module):
    """FT-Transformer: numbers and categories as tokens, a CLS token, pre-norm layers with gated feed-forward parts.

    A number x becomes x · W + b with W and b of its own feature, a category an embedding. What the CLS token says at
    the end is the row's embedding; normalization → ReLU → linear makes a logit of it.

    Args:
        num_numeric: How many numeric features; they are meant to be standardised.
        categories: How many values each categorical feature takes.
        width: Width of a token.
        num_layers: Layers.
        num_heads: Attention heads.
        head_width: Width of a head, whatever the width of a token.
        feed_forward_factor: Width of the gated (GEGLU) feed-forward part, in widths of a token.
        dropout: Probability of dropping an attention weight or a feed-forward activation.

    Raises:
        ValueError: No feature at all, a size that is not positive, or a dropout outside [0, 1].

    Source: Gorishniy et al., NeurIPS 2021, arXiv 2106.11959; the sizes are those of Li et al., ACM TOIS 44(1), 2025.

    >>> model = FeatureTokenizerTransformer(3, categories=(4,))
    >>> logit, embedding = model(torch.zeros(5, 3), torch.zeros(5, 1, dtype=torch.int64))
    >>> logit.shape, embedding.shape
    (torch.Size([5, 1]), torch.Size([5, 32]))
    """

    def __init__(
        self,
        num_numeric: int,
        categories: Sequence[int] = (),
        *,
        width: int = 32,
        num_layers: int = 2,
        num_heads: int = 8,
        head_width: int = 16,
        feed_forward_factor: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check_at_least(num_numeric, "num_numeric", 0)
        sizes = check_sizes(categories, "categories", empty=True)
        if num_numeric + len(sizes) == 0:
            raise ValueError("Expected arguments `num_numeric` and `categories` to hold at least one feature.")
        for name in ("width", "num_layers", "num_heads", "head_width", "feed_forward_factor"):
            check_at_least(locals()[name], name, 1)
        check_in_range(dropout, "dropout", 0.0, 1.0)
        self.num_numeric = num_numeric
        self.categories = sizes
        self.width = width
        self.numeric_weight = nn.Parameter(torch.randn(num_numeric, width))
        self.numeric_bias = nn.Parameter(torch.randn(num_numeric, width))
        self.embeddings = nn.ModuleList(nn.Embedding(size, width) for size in sizes)
        self.cls_token = nn.Parameter(torch.randn(width))
        self.layers = nn.ModuleList(
            _Layer(width, num_heads, head_width, feed_forward_factor * width, dropout) for _ in range(num_layers)
        )
        self.head = nn.Sequential(nn.LayerNorm(width), nn.ReLU(), nn.Linear(width, 1))

    def forward(
        self,
        numeric: Float[Tensor, "rows numbers"] | None = None,
        categorical: Int[Tensor, "rows groups"] | None = None,
    ) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows width"]]:
        """A logit and an embedding a row.

        Args:
            numeric: `[rows, num_numeric]`; may be left out when there is no numeric feature.
            categorical: `[rows, number of categorical features]`, values in [0, its size).

        Raises:
            ValueError: Another number of features.
        """
        for name, value, number in (
            ("numeric", numeric, self.num_numeric),
            ("categorical", categorical, len(self.categories)),
        ):
            found = 0 if value is None else value.shape[-1]
            if found != number:
                raise ValueError(f"Expected argument `{name}` to hold {number} features, but got {found}.")
        tokens = []
        if numeric is not None:
            tokens.append(numeric[:, :, None] * self.numeric_weight + self.numeric_bias)
        if categorical is not None:
            embedded = [embed(column) for embed, column in zip(self.embeddings, categorical.unbind(dim=1), strict=True)]
            tokens.extend(column[:, None] for column in embedded)
        rows = torch.cat([self.cls_token.expand(len(tokens[0]), 1, -1), *tokens], dim=1)
        for layer in self.layers:
            rows = layer(rows)
        embedding = rows[:, 0]
        return self.head(embedding), embedding


class _Layer(nn.Module):
    """Pre-norm attention whose heads have a width of their own, then a gated feed-forward part."""

    def __init__(self, width: int, num_heads: int, head_width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.to_query_key_value = nn.Linear(width, 3 * num_heads * head_width, bias=False)
        self.from_heads = nn.Linear(num_heads * head_width, width, bias=False)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * hidden)
        self.contract = nn.Linear(hidden, width)

    def forward(self, tokens: Tensor) -> Tensor:
        rate = self.dropout if self.training else 0.0
        joined = self.to_query_key_value(self.attention_norm(tokens))
        query, key, value = joined.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        tokens = tokens + self.from_heads(attended.transpose(1, 2).flatten(2))
        content, gate = self.expand(self.feed_forward_norm(tokens)).chunk(2, dim=-1)
        hidden = F.dropout(content * F.gelu(gate), rate, self.training)
        result: Tensor = tokens + self.contract(hidden)
        return result
