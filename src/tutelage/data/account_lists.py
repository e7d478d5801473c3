"""Accounts with amounts in lists: made-up traders market by market, and the rows of a table."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tutelage.data.arrays import ArraySamples
from tutelage.data.loading import read_table
from tutelage.data.ranking_lists import make_ranking_lists
from tutelage.data.traders import synthetic_traders
from tutelage.files import errors_name


@dataclass(frozen=True, slots=True)
class AccountLists:
    """Items in lists of one size.

    Attributes:
        features: `[lists, items, features]`.
        amounts: `[lists, items]` float64.
        labels: `[lists, items]`: whether the item is among the largest amounts of all data.
    """

    features: Tensor
    amounts: Tensor
    labels: Tensor

    def samples(self) -> ArraySamples:
        """A list a sample: features as inputs, labels as target, `amounts` among the extras."""
        return ArraySamples(self.features, self.labels.long(), extras={"amounts": self.amounts})

    def rows(self) -> AccountLists:
        """Every item as a list of its own."""
        return AccountLists(*(value.flatten(0, 1)[:, None] for value in (self.features, self.amounts, self.labels)))


@functools.lru_cache(maxsize=2)
def load_account_lists(name: str, seed: int, **options: Any) -> dict[str, AccountLists]:
    """The parts of a data set as lists, standardised by the training part.

    Args:
        name: `"traders"` (a market a list), `"one_market"` (the same traders without moods), `"diabetes"`
            (scikit-learn's; its progression is the amount), or a CSV file with the columns `Amount` and `Class`, of
            which the second is dropped.
        seed: Of the made-up accounts, or of the cut into parts and lists.
        **options: `list_size`, `fraction` (the share of largest amounts that is positive), and: of traders `lists` (how
            many teach, choose and test), else `positives_per_list` (see `make_ranking_lists`), `rows` of one market,
            and `split_seeds` (the cut's seed for each seed).

    Returns:
        `train`, `validation` and `test`. The test part's lists are random; with `positives_per_list`, `formed` holds
        its rows in lists that were formed by their labels.

    >>> parts = load_account_lists("traders", 0, lists=(4, 2, 3), list_size=20, fraction=0.1)
    >>> {part: tuple(lists.amounts.shape) for part, lists in parts.items()}
    {'train': (4, 20), 'validation': (2, 20), 'test': (3, 20)}
    """
    if name == "traders":
        traders = synthetic_traders(sum(options["lists"]), options["list_size"], seed=seed)
        labels = _largest(traders.amounts.flatten(), options["fraction"]).reshape(traders.amounts.shape)
        cut = zip(
            *(torch.split(whole, list(options["lists"])) for whole in (traders.features, traders.amounts, labels)),
            strict=True,
        )
        parts = {part: AccountLists(*found) for part, found in zip(("train", "validation", "test"), cut, strict=True)}
    else:
        with errors_name(name):
            parts = _lists_of_rows(*_table(name, seed, **options), seed=seed, **options)
    mean = parts["train"].features.mean(dim=(0, 1))
    deviation = parts["train"].features.std(dim=(0, 1)).clamp(min=1e-6)
    return {part: replace(lists, features=(lists.features - mean) / deviation) for part, lists in parts.items()}


def _table(name: str, seed: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Features `[rows, features]` and amounts `[rows]`."""
    if name == "one_market":
        traders = synthetic_traders(options["rows"] // 100, 100, regime_strength=0.0, seed=seed)
        return traders.features.flatten(0, 1), traders.amounts.flatten()
    if name == "diabetes":
        from sklearn.datasets import load_diabetes

        table = load_diabetes()
        return torch.tensor(table.data, dtype=torch.float32), torch.tensor(table.target, dtype=torch.float64)
    frame = read_table(Path(name))
    features = frame.drop(columns=["Amount", "Class"]).to_numpy("float32")
    return torch.tensor(features), torch.tensor(frame["Amount"].to_numpy("float64"))


def _lists_of_rows(features: Tensor, amounts: Tensor, *, seed: int, **options: Any) -> dict[str, AccountLists]:
    """A 70/10/20 cut of the rows, and lists within each part."""
    generator = torch.Generator().manual_seed(options.get("split_seeds", range(seed + 1))[seed])
    labels = _largest(amounts, options["fraction"])
    taught, choosing = int(0.7 * len(labels)), int(0.1 * len(labels))
    order = torch.randperm(len(labels), generator=generator)
    train, validation, test = torch.split(order, [taught, choosing, len(labels) - taught - choosing])
    positives = options["positives_per_list"]
    wanted = [("train", train, positives), ("validation", validation, positives), ("test", test, None)]
    if positives is not None:
        wanted.append(("formed", test, positives))
    parts = {}
    for part, rows, share in wanted:
        numbers = make_ranking_lists(
            labels[rows], list_size=options["list_size"], positives_per_list=share, generator=generator
        )
        placed = rows[numbers.argsort(stable=True)[int((numbers < 0).sum()) :]].reshape(-1, options["list_size"])
        parts[part] = AccountLists(features[placed], amounts[placed], labels[placed])
    return parts


def _largest(amounts: Tensor, fraction: float) -> Tensor:
    """Whether an amount is among the largest ⌊fraction · items⌋."""
    labels = torch.zeros(len(amounts), dtype=torch.bool)
    labels[amounts.argsort(descending=True, stable=True)[: int(fraction * len(amounts))]] = True
    return labels
