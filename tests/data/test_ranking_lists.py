from __future__ import annotations

from inspect import unwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import make_ranking_lists, pad_lists, unpad_lists
from tutelage.data.ranking_lists import padded_lists


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), width=st.sampled_from([None, 2]))
def test_padding_and_back(sizes: list[int], width: int | None) -> None:
    values = torch.randn(sum(sizes), *([] if width is None else [width]), dtype=torch.float64, requires_grad=True)
    list_sizes = torch.tensor(sizes)
    padded, mask = pad_lists(values, list_sizes, padding_value=7.0)
    assert mask.sum(dim=1).tolist() == sizes
    assert (padded[~mask] == 7).all()
    for row, part in zip(padded, values.split(sizes), strict=True):
        assert torch.equal(row[: len(part)], part)
    assert torch.equal(unpad_lists(padded, list_sizes), values)
    torch.autograd.gradcheck(lambda flat: unpad_lists(pad_lists(flat, list_sizes)[0], list_sizes), values)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([1, 1], r"sum to the number of items \(3\), but got 2"),
        ([3, 0], "sizes of at least 1, but got 0"),
        ([4, -1], "sizes of at least 1, but got -1"),
        ([1.0, 2.0], "integers, but got torch.float32"),
        ([[1, 2]], r"of shape \(1, 2\)"),
        ([], "`list_sizes` to be"),
    ],
)
def test_sizes_that_do_not_fit_are_named(sizes: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pad_lists(torch.zeros(3), torch.tensor(sizes))


def test_unpadding_names_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one size for each of 2 lists, but got 1"):
        unwrap(unpad_lists)(torch.zeros(2, 3), torch.tensor([3]))
    with pytest.raises(ValueError, match="at most 3 items a list, but got 4"):
        unpad_lists(torch.zeros(2, 3), torch.tensor([4, 1]))


def test_nothing_in_padding_reaches_the_values() -> None:
    scores = torch.tensor([[1.0, float("nan")], [2.0, 3.0]])
    mask = torch.tensor([[True, False], [True, True]])
    (clean,), same = padded_lists(None, mask, scores=scores)
    assert clean.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert torch.equal(same, mask)


@pytest.mark.parametrize(
    ("list_sizes", "mask", "scores", "other", "message"),
    [
        (None, None, torch.zeros(3), torch.zeros(3), r"\[lists, items\], or \[items\] with `list_sizes`"),
        (torch.tensor([3]), None, torch.zeros(1, 3), torch.zeros(1, 3), r"`scores` to be \[items\]"),
        (torch.tensor([3]), torch.ones(3, dtype=torch.bool), torch.zeros(3), torch.zeros(3), "but got both"),
        (None, torch.ones(2, 2, dtype=torch.bool), torch.zeros(1, 3), torch.zeros(1, 3), "`mask` to be boolean"),
        (None, torch.ones(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), "`mask` to be boolean"),
        (None, torch.zeros(1, 3, dtype=torch.bool), torch.zeros(1, 3), torch.zeros(1, 3), "a list has none"),
        (None, None, torch.zeros(1, 3), torch.zeros(1, 2), "`scores` and `other` to have the same shape"),
    ],
)
def test_layouts_that_do_not_fit_are_named(list_sizes, mask, scores, other, message) -> None:
    with pytest.raises(ValueError, match=message):
        padded_lists(list_sizes, mask, scores=scores, other=other)


@pytest.mark.parametrize("per_list", [1, 2])
def test_every_list_has_its_positives_where_there_are_enough(per_list: int) -> None:
    labels = torch.zeros(103, dtype=torch.int64)
    labels[::4] = 1  # 26 of 103
    lists = make_ranking_lists(
        labels, list_size=10, positives_per_list=per_list, generator=torch.Generator().manual_seed(0)
    )
    num_lists = 77 // (10 - per_list)  # negatives run out first
    assert lists.max() == num_lists - 1
    assert lists[lists >= 0].bincount().tolist() == [10] * num_lists
    assert lists[(lists >= 0) & (labels == 1)].bincount().tolist() == [per_list] * num_lists


@pytest.mark.parametrize("positives", [None, 1])
def test_lists_are_random_where_positives_are_few_or_not_looked_at(positives: int | None) -> None:
    labels = torch.zeros(25, dtype=torch.int64)
    labels[0] = 1
    generator = torch.Generator().manual_seed(0)
    lists = make_ranking_lists(labels, list_size=10, positives_per_list=positives, generator=generator)
    assert lists[lists >= 0].bincount().tolist() == [10, 10]
    assert (lists == -1).sum() == 5
    same = make_ranking_lists(
        labels, list_size=10, positives_per_list=positives, generator=torch.Generator().manual_seed(0)
    )
    other = make_ranking_lists(
        labels, list_size=10, positives_per_list=positives, generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(lists, same)
    assert not torch.equal(lists, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"list_size": 1}, "`list_size` to be at least 2"),
        ({"list_size": 5}, r"`list_size` to be at most 4 \(all items\)"),
        ({"list_size": 2, "positives_per_list": 0}, r"`positives_per_list` to be in \[1, 1\]"),
        ({"list_size": 2, "positives_per_list": 2}, r"`positives_per_list` to be in \[1, 1\]"),
    ],
)
def test_bad_list_options_are_named(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_ranking_lists(torch.tensor([1, 0, 0, 1]), **options)
