"""Several short texts in one row, so that little of a batch is padding."""

from __future__ import annotations

import bisect

import torch

from tutelage._checks import check_at_least
from tutelage.data.arrays import IGNORE_INDEX, ArraySamples


def pack_samples(samples: ArraySamples, length: int, *, padding_token: int = 0) -> ArraySamples:
    """Put the texts of padded samples side by side into rows of one length, as few as best-fit packing needs.

    No text is cut, and none sees another: `position_ids` start again at 0 with every text, from which the attention
    of `transformers` models finds where one ends (so there is no `attention_mask`). Every token has the same target,
    and hence the same loss, as in its own row. What is left of a row counts as one more text, without targets.

    Args:
        samples: Inputs `input_ids` and `attention_mask` (padded on the right), and targets `[samples, time]`, as
            `completion_samples` gives them.
        length: Tokens a row.
        padding_token: Fills up.

    Returns:
        Inputs `input_ids` and `position_ids` `[rows, length]`, targets `[rows, length]`, rows numbered from 0. Extras
        and indices of single texts are gone.

    Raises:
        ValueError: A text is longer than a row, or the samples have no targets or other inputs.

    >>> texts = ArraySamples({"input_ids": torch.tensor([[5, 6, 0], [7, 0, 0]]),
    ...                       "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])},
    ...                      torch.tensor([[6, 2, -100], [2, -100, -100]]))
    >>> packed = pack_samples(texts, 4)
    >>> packed.inputs["input_ids"].tolist(), packed.inputs["position_ids"].tolist(), packed.target.tolist()
    ([[5, 6, 7, 0]], [[0, 1, 0, 0]], [[6, 2, 2, -100]])
    """
    check_at_least(length, "length", 1)
    if not isinstance(samples.inputs, dict) or set(samples.inputs) != {"input_ids", "attention_mask"}:
        raise ValueError("Expected samples with the inputs `input_ids` and `attention_mask`.")
    if samples.target is None or samples.target.shape != samples.inputs["input_ids"].shape:
        raise ValueError("Expected samples with a target for every token.")
    ids, mask = samples.inputs["input_ids"], samples.inputs["attention_mask"].bool()
    lengths = mask.sum(dim=1)
    if int(lengths.max()) > length:
        longest = int(lengths.argmax())
        raise ValueError(
            f"Expected texts of at most {length} tokens, but sample {int(samples.index[longest])} has "
            f"{int(lengths[longest])}."
        )
    rows = best_fit(lengths.tolist(), length)
    packed = torch.full((len(rows), length), padding_token, dtype=ids.dtype)
    positions = torch.zeros(len(rows), length, dtype=torch.int64)
    target = torch.full((len(rows), length), IGNORE_INDEX, dtype=torch.int64)
    for row, members in enumerate(rows):
        start = 0
        for member in members:
            size = int(lengths[member])
            place = slice(start, start + size)
            packed[row, place] = ids[member, :size]
            positions[row, place] = torch.arange(size)
            target[row, place] = samples.target[member, :size]
            start += size
        positions[row, start:] = torch.arange(length - start)
    return ArraySamples({"input_ids": packed, "position_ids": positions}, target)


def best_fit(sizes: list[int], capacity: int) -> list[list[int]]:
    """Numbers of the items in every bin, by best-fit decreasing: at most 11/9 of the fewest bins possible, and one.

    >>> best_fit([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    rooms: list[int] = []  # distinct rooms of bins that are not full, ascending
    with_room: dict[int, list[int]] = {}
    bins: list[list[int]] = []
    for item in sorted(range(len(sizes)), key=lambda item: -sizes[item]):
        place = bisect.bisect_left(rooms, sizes[item])
        if place == len(rooms):
            chosen, room = len(bins), capacity
            bins.append([])
        else:
            room = rooms[place]
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms.pop(place)
        bins[chosen].append(item)
        left = room - sizes[item]
        if left > 0:
            if not with_room.setdefault(left, []):
                bisect.insort(rooms, left)
            with_room[left].append(chosen)
    return bins
