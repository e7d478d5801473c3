from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.models import FeatureTokenizerTransformer, ListTransformerRanker


def small(**options) -> ListTransformerRanker:
    torch.manual_seed(0)
    return ListTransformerRanker(5, **{"width": 8, "num_layers": 2, "num_heads": 2, **options}).eval()


@pytest.fixture(params=["linear", "tokens"])
def ranker(request) -> ListTransformerRanker:
    torch.manual_seed(1)
    tokens = FeatureTokenizerTransformer(5, width=8, num_layers=1, num_heads=2, head_width=4)
    return small(item_encoder=tokens if request.param == "tokens" else None)


SIZES = torch.tensor([4, 1, 6])


@torch.no_grad()
def test_the_order_of_items_does_not_matter(ranker) -> None:
    features = torch.randn(11, 5)
    order = torch.cat([torch.randperm(4), torch.tensor([4]), 5 + torch.randperm(6)])
    torch.testing.assert_close(
        ranker(features[order], None, SIZES), ranker(features, None, SIZES)[order], atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_other_lists_and_padding_are_not_seen(ranker) -> None:
    features = torch.randn(11, 5)
    together = ranker(features, None, SIZES)
    alone = torch.cat([ranker(part, None, torch.tensor([len(part)])) for part in features.split(SIZES.tolist())])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    padded, mask = torch.full((3, 9, 5), 1e3), torch.arange(9) < SIZES[:, None]
    padded[mask] = features
    scores = ranker(padded, mask=mask)
    torch.testing.assert_close(scores[mask], together, atol=1e-5, rtol=0)
    assert not scores[~mask].any()


@torch.no_grad()
def test_the_list_is_seen_unless_there_is_no_list_stage() -> None:
    features = torch.randn(2, 4, 5)
    changed = features.clone()
    changed[0, 3] += 1
    with_list, without = small(), small(num_layers=0)
    assert not torch.allclose(with_list(changed)[0, :3], with_list(features)[0, :3])
    assert torch.equal(with_list(changed)[1], with_list(features)[1])
    assert torch.equal(without(changed)[0, :3], without(features)[0, :3])


@torch.no_grad()
def test_scores_are_bounded_only_by_tanh() -> None:
    features = 3 * torch.randn(3, 6, 5)
    bounded, free = small(), small(score_activation=None)
    assert bounded(features).abs().max() < 1
    torch.testing.assert_close(bounded(features), free(features).tanh())


def test_every_parameter_learns_and_categories_reach_the_encoder() -> None:
    encoder = FeatureTokenizerTransformer(2, categories=(3, 4), width=8, num_layers=2, num_heads=2, head_width=4)
    ranker = ListTransformerRanker(2, item_encoder=encoder, width=8, num_layers=1, num_heads=2)
    features, categorical = torch.randn(7, 2), torch.randint(3, (7, 2))
    scores = ranker(features, categorical, torch.tensor([3, 4]))
    scores.square().sum().backward()
    silent = {name for name, value in ranker.named_parameters() if value.grad is None}
    assert silent == {name for name, _ in ranker.named_parameters() if name.startswith("item_encoder.head")}
    ranker.eval()
    with torch.no_grad():
        before = ranker(features, categorical, torch.tensor([3, 4]))
        other = ranker(features, (categorical + 1) % 3, torch.tensor([3, 4]))
    assert not torch.allclose(before, other)


def test_sizes_of_the_paper() -> None:
    """Four layers of width 32 with 128 inside: attention, feed-forward part and two normalizations each."""
    ranker = ListTransformerRanker(28, item_encoder=FeatureTokenizerTransformer(28))
    assert ranker.list_encoder is not None
    expected = 4 * (4 * 32**2 + 4 * 32 + 2 * 32 * 128 + 128 + 32 + 4 * 32)
    assert sum(value.numel() for value in ranker.list_encoder.parameters()) == expected
    assert isinstance(ranker.head[-1], nn.Linear)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 9}, "`width` to be a multiple of 2 heads, but got 9"),
        ({"num_layers": -1}, "`num_layers` to be at least 0"),
        ({"num_heads": 0}, "`num_heads` to be at least 1"),
        ({"dropout": 1.5}, "`dropout` to be in"),
    ],
)
def test_bad_sizes_are_named(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        ListTransformerRanker(5, **{"width": 8, "num_layers": 2, "num_heads": 2, **options})


@pytest.mark.parametrize(
    ("features", "sizes", "mask", "message"),
    [
        (torch.zeros(4, 5), None, None, "`list_sizes`, and no `mask`"),
        (torch.zeros(4, 5), torch.tensor([3]), None, "sum to the number of items"),
        (torch.zeros(2, 4, 5), torch.tensor([4, 4]), None, r"to be \[items\]"),
    ],
)
def test_layouts_that_do_not_fit_are_named(features, sizes, mask, message) -> None:
    with pytest.raises(ValueError, match=message):
        small()(features, None, sizes, mask=mask)
