"""A network that scores the items of a list with an eye on the whole list (PA-RiskRanker, RankFormer)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.data.ranking_lists import pad_lists, padded_lists, unpad_lists


class ListTransformerRanker(nn.Module):
    """Item encoder → transformer over the items of a list, without positions → one score an item.

    With `FeatureTokenizerTransformer` as item encoder this is PA-RiskRanker (self and cross attention), with none it is
    the RankFormer baseline. Items of other lists and padding are never seen, and the order of items does not matter.

    Args:
        num_features: Features an item; read by the default encoder, a linear layer.
        item_encoder: A module that maps features `[items, num_features]` (and, when given, categories) to embeddings
            `[items, width]`, or to a pair whose second part is the embedding.
        width: Width of an item's embedding.
        num_layers: Layers over the list; 0 leaves the list stage out, so that every item is scored alone.
        num_heads: Attention heads.
        feed_forward_width: Width of the layers' feed-forward part.
        dropout: Probability of dropping an activation.
        score_activation: `"tanh"` bounds scores to (−1, 1), so that no pairwise loss can go to 0; None does not.

    Raises:
        ValueError: A width that the heads do not divide, a size that is not positive, or an unknown option.

    Source: Li et al., ACM TOIS 44(1), 2025, section on the self-cross-trader attention, with the sizes of the released
    code.

    >>> ranker = ListTransformerRanker(3)
    >>> ranker(torch.zeros(5, 3), None, torch.tensor([2, 3])).shape, ranker(torch.zeros(2, 4, 3)).shape
    (torch.Size([5]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        num_features: int,
        *,
        item_encoder: nn.Module | None = None,
        width: int = 32,
        num_layers: int = 4,
        num_heads: int = 4,
        feed_forward_width: int = 128,
        dropout: float = 0.25,
        score_activation: Literal["tanh"] | None = "tanh",
    ) -> None:
        super().__init__()
        check_at_least(num_layers, "num_layers", 0)
        for name in ("num_features", "width", "num_heads", "feed_forward_width"):
            check_at_least(locals()[name], name, 1)
        if width % num_heads:
            raise ValueError(f"Expected argument `width` to be a multiple of {num_heads} heads, but got {width}.")
        check_in_range(dropout, "dropout", 0.0, 1.0)
        check_option(score_activation, "score_activation", ("tanh", None))
        self.item_encoder = nn.Linear(num_features, width) if item_encoder is None else item_encoder
        self.list_encoder: nn.TransformerEncoder | None = None
        if num_layers:
            layer = nn.TransformerEncoderLayer(
                width, num_heads, feed_forward_width, dropout, "gelu", batch_first=True, norm_first=True
            )
            self.list_encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 1))
        self.score_activation = score_activation

    def forward(
        self,
        features: Float[Tensor, "*lists items features"],
        categorical: Int[Tensor, "*lists items groups"] | None = None,
        list_sizes: Shaped[Tensor, "number"] | None = None,
        *,
        mask: Bool[Tensor, "lists items"] | None = None,
    ) -> Float[Tensor, "*lists items"]:
        """Score every item.

        Args:
            features: `[items, features]`, list after list, with `list_sizes`; or `[lists, items, features]`.
            categorical: Categories of the same leading shape, for encoders that read them.
            list_sizes: `[lists]` integers for flat items: how many items each list has.
            mask: `[lists, items]` for padded items: True where there is an item.

        Returns:
            `[items]`, or `[lists, items]` with 0 at padding.

        Raises:
            ValueError: Shapes or sizes that fit neither layout.
        """
        flat = features.ndim == 2
        rows = features.reshape(-1, features.shape[-1])
        encoded = self._encode(rows, None if categorical is None else categorical.reshape(len(rows), -1))
        if flat:
            if list_sizes is None or mask is not None:
                raise ValueError("Expected argument `list_sizes`, and no `mask`, for features [items, features].")
            items, present = pad_lists(encoded, list_sizes)
            padding = None if present.numel() == len(rows) else ~present
        else:
            padded_lists(list_sizes, mask, features=features[..., 0])
            items, padding = encoded.reshape(*features.shape[:2], -1), None if mask is None else ~mask
        if self.list_encoder is not None:
            items = self.list_encoder(items, src_key_padding_mask=padding)
        scores: Tensor = self.head(items)[..., 0]
        if self.score_activation == "tanh":
            scores = torch.tanh(scores)
        if flat:
            assert list_sizes is not None
            return unpad_lists(scores, list_sizes)
        return scores if padding is None else scores.masked_fill(padding, 0)

    def _encode(self, rows: Tensor, categorical: Tensor | None) -> Tensor:
        encoded: Any = self.item_encoder(rows) if categorical is None else self.item_encoder(rows, categorical)
        embedding: Tensor = encoded[1] if isinstance(encoded, tuple) else encoded
        return embedding
