"""Items in lists: flat with list sizes, or padded with a mask; and how lists are formed."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int64, Shaped
from torch import Tensor

from tutelage._checks import check_at_least


def pad_lists(
    values: Shaped[Tensor, "items *rest"], list_sizes: Tensor, *, padding_value: float = 0.0
) -> tuple[Shaped[Tensor, "lists longest *rest"], Bool[Tensor, "lists longest"]]:
    """Lists that stand one behind the other as rows of equal length. The gradient reaches `values`.

    Memory is lists × longest list; lists of one length are only seen in another shape.

    Args:
        values: `[items, …]`, list after list.
        list_sizes: `[lists]` integers: the number of items of each list.
        padding_value: What stands behind the end of a shorter list.

    Returns:
        `[lists, longest, …]`, and a mask of that shape that is True where there is an item.

    Raises:
        ValueError: Sizes that do not sum to the number of items, or one below 1.

    >>> padded, mask = pad_lists(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2]))
    >>> padded.tolist(), mask.tolist()
    ([[1.0, 0.0], [2.0, 3.0]], [[True, False], [True, True]])
    """
    shortest, longest = _check_list_sizes(list_sizes, len(values))
    mask = torch.arange(longest, device=values.device) < list_sizes.to(values.device)[:, None]
    if shortest == longest:
        return values.reshape(len(list_sizes), longest, *values.shape[1:]), mask
    padded = values.new_full((len(list_sizes), longest, *values.shape[1:]), padding_value)
    padded[mask] = values
    return padded, mask


def unpad_lists(
    padded: Shaped[Tensor, "lists longest *rest"], list_sizes: Int64[Tensor, "lists"]
) -> Shaped[Tensor, "items *rest"]:
    """The inverse of `pad_lists`: the items, list after list.

    Raises:
        ValueError: Another number of lists, or a size below 1 or above the longest list.

    >>> unpad_lists(torch.tensor([[1.0, 0.0], [2.0, 3.0]]), torch.tensor([1, 2]))
    tensor([1., 2., 3.])
    """
    if len(list_sizes) != len(padded):
        raise ValueError(
            f"Expected argument `list_sizes` to hold one size for each of {len(padded)} lists, "
            f"but got {len(list_sizes)}."
        )
    shortest, longest = _check_list_sizes(list_sizes, None)
    if longest > padded.shape[1]:
        raise ValueError(
            f"Expected argument `list_sizes` to hold at most {padded.shape[1]} items a list, but got {longest}."
        )
    if shortest == padded.shape[1]:
        return padded.reshape(-1, *padded.shape[2:])
    return padded[torch.arange(padded.shape[1], device=padded.device) < list_sizes.to(padded.device)[:, None]]


def padded_lists(
    list_sizes: Tensor | None, mask: Tensor | None, **values: Tensor
) -> tuple[list[Tensor], Bool[Tensor, "lists longest"]]:
    """Values by item in the padded layout, whichever of the two layouts they come in.

    What stands in padding is replaced by 0, so that nothing there (NaN, say) reaches a result or a gradient.

    Args:
        list_sizes: `[lists]` for values that are flat (`[items]`, list after list), or None.
        mask: `[lists, longest]`, True where there is an item, for padded values; None when none is padding.
        **values: By name for error texts; all of the first one's shape.

    Returns:
        The values `[lists, longest]`, and the mask.

    Raises:
        ValueError: Shapes that fit neither layout, both or neither of them chosen, or a list without items.

    >>> (scores,), mask = padded_lists(torch.tensor([2, 1]), None, scores=torch.tensor([1.0, 2.0, 3.0]))
    >>> scores.tolist()
    [[1.0, 2.0], [3.0, 0.0]]
    """
    (first_name, first), *rest = values.items()
    for name, value in rest:
        if value.shape != first.shape:
            raise ValueError(
                f"Expected arguments `{first_name}` and `{name}` to have the same shape, "
                f"but got {tuple(first.shape)} and {tuple(value.shape)}."
            )
    if list_sizes is not None:
        if mask is not None:
            raise ValueError("Expected argument `list_sizes` (flat lists) or `mask` (padded lists), but got both.")
        if first.ndim != 1:
            raise ValueError(
                f"Expected argument `{first_name}` to be [items] when `list_sizes` is given, "
                f"but got shape {tuple(first.shape)}."
            )
        padded = [pad_lists(value, list_sizes) for value in values.values()]
        return [value for value, _ in padded], padded[0][1]
    if first.ndim != 2:
        raise ValueError(
            f"Expected argument `{first_name}` to be [lists, items], or [items] with `list_sizes`, "
            f"but got shape {tuple(first.shape)}."
        )
    if mask is None:
        return list(values.values()), torch.ones_like(first, dtype=torch.bool)
    if mask.shape != first.shape or mask.dtype != torch.bool:
        raise ValueError(
            f"Expected argument `mask` to be boolean and of shape {tuple(first.shape)}, "
            f"but got {mask.dtype} and {tuple(mask.shape)}."
        )
    if not mask.any(dim=1).all():
        raise ValueError("Expected argument `mask` to leave at least one item in every list, but a list has none.")
    return [value.masked_fill(~mask, 0) for value in values.values()], mask


def make_ranking_lists(
    labels: Shaped[Tensor, "items"],
    *,
    list_size: int,
    positives_per_list: int | None = 1,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "items"]:
    """Draw items into lists of one size, as PA-RiskRanker's data are built.

    With `positives_per_list`, every list gets that many positive items where there are enough of them for all lists,
    and random items where not. **Lists that are formed so must not be tested on**: that a list holds exactly one
    positive item is knowledge of the labels. `None` never looks at the labels.

    Args:
        labels: `[items]`, positive where not 0.
        list_size: Items a list.
        positives_per_list: Positive items a list, or None for random lists.
        generator: Source of randomness; the global one by default.

    Returns:
        `[items]`: the number of each item's list, from 0; -1 for items that are in none (what is left when items do
        not divide by `list_size`, and positives beyond those that the lists take).

    Raises:
        ValueError: A list size below 2 or above the number of items, or positives per list outside
            [1, list_size - 1].

    Source: Li et al., ACM TOIS 44(1), 2025, public data preparation.

    >>> lists = make_ranking_lists(torch.tensor([1, 0, 0, 0, 1, 0]), list_size=3)
    >>> lists.bincount().tolist(), sorted(lists[[0, 4]].tolist())
    ([3, 3], [0, 1])
    """
    check_at_least(list_size, "list_size", 2)
    if list_size > len(labels):
        raise ValueError(f"Expected argument `list_size` to be at most {len(labels)} (all items), but got {list_size}.")
    num_lists = len(labels) // list_size
    lists = torch.full((len(labels),), -1, dtype=torch.int64, device=labels.device)

    def shuffled(items: Tensor) -> Tensor:
        return items[torch.randperm(len(items), generator=generator).to(items.device)]

    if positives_per_list is not None:
        if not 1 <= positives_per_list < list_size:
            raise ValueError(
                f"Expected argument `positives_per_list` to be in [1, {list_size - 1}], but got {positives_per_list}."
            )
        positive, negative = shuffled((labels != 0).nonzero()[:, 0]), shuffled((labels == 0).nonzero()[:, 0])
        if len(positive) >= num_lists * positives_per_list:
            num_lists = min(num_lists, len(negative) // (list_size - positives_per_list))
            for items, share in ((positive, positives_per_list), (negative, list_size - positives_per_list)):
                lists[items[: num_lists * share]] = torch.arange(num_lists, device=labels.device).repeat(share)
            return lists
    chosen = shuffled(torch.arange(len(labels), device=labels.device))[: num_lists * list_size]
    lists[chosen] = torch.arange(num_lists, device=labels.device).repeat(list_size)
    return lists


def _check_list_sizes(list_sizes: Any, num_items: int | None) -> tuple[int, int]:
    """The shortest and the longest list, or `ValueError`."""
    if list_sizes.ndim != 1 or list_sizes.is_floating_point() or list_sizes.dtype == torch.bool or not len(list_sizes):
        raise ValueError(
            f"Expected argument `list_sizes` to be [lists] integers, but got {list_sizes.dtype} "
            f"of shape {tuple(list_sizes.shape)}."
        )
    shortest, longest = (int(extreme) for extreme in list_sizes.aminmax())
    if shortest < 1:
        raise ValueError(f"Expected argument `list_sizes` to hold sizes of at least 1, but got {shortest}.")
    if num_items is not None and int(list_sizes.sum()) != num_items:
        raise ValueError(
            f"Expected argument `list_sizes` to sum to the number of items ({num_items}), "
            f"but got {int(list_sizes.sum())}."
        )
    return shortest, longest
