from __future__ import annotations

import pytest
import torch

from tutelage.data.account_lists import load_account_lists
from tutelage.data.traders import FEATURES, synthetic_traders


def test_traders_are_reproducible_mostly_lose_and_have_heavy_tails() -> None:
    traders = synthetic_traders(100, 50, seed=3)
    again, other = synthetic_traders(100, 50, seed=3), synthetic_traders(100, 50, seed=4)
    assert torch.equal(traders.amounts, again.amounts)
    assert not torch.equal(traders.amounts, other.amounts)
    assert traders.features.shape == (100, 50, len(FEATURES))
    assert torch.isfinite(traders.features).all()
    assert (traders.amounts > 0).double().mean() < 0.5
    sizes = traders.amounts.abs().flatten()
    assert sizes.max() > 30 * sizes.median()
    correlations = torch.corrcoef(traders.features.flatten(0, 1).T) - torch.eye(len(FEATURES))
    assert correlations.abs().max() > 0.2


def test_the_mood_moves_a_list_and_is_seen_in_its_mean_only_when_there_is_one() -> None:
    traders = synthetic_traders(400, 50, seed=0)
    mean_skill = traders.skill.mean(dim=1)
    assert torch.corrcoef(torch.stack([mean_skill, traders.regime]))[0, 1] > 0.7
    leverage = traders.features[..., FEATURES.index("leverage")].log()
    by_list = torch.corrcoef(torch.stack([leverage.double().mean(dim=1), traders.regime]))[0, 1]
    by_item = torch.corrcoef(torch.stack([leverage[:, 0].double(), traders.regime]))[0, 1]
    assert by_list > 0.8
    assert by_item < 0.7
    calm = synthetic_traders(400, 50, regime_strength=0.0, seed=0)
    assert calm.skill.mean(dim=1).std() < 0.3 * mean_skill.std()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_lists": 0}, "`num_lists` to be at least 1"),
        ({"list_size": 1}, "`list_size` to be at least 2"),
        ({"regime_strength": -1.0}, "`regime_strength` to be at least 0"),
        ({"noise": 1.0}, r"`noise` to be in \[0, 1\)"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_traders(**{"num_lists": 2, "list_size": 3, **arguments})  # type: ignore[arg-type]


def test_parts_are_standardised_by_the_training_part_and_labels_are_the_largest() -> None:
    parts = load_account_lists("traders", 0, lists=(30, 10, 20), list_size=20, fraction=0.05)
    flat = parts["train"].features.flatten(0, 1)
    torch.testing.assert_close(flat.mean(dim=0), torch.zeros(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(flat.std(dim=0), torch.ones(12), atol=1e-4, rtol=0)
    amounts = torch.cat([lists.amounts.flatten() for lists in parts.values()])
    labels = torch.cat([lists.labels.flatten() for lists in parts.values()])
    assert labels.sum() == 60
    assert amounts[labels].min() >= amounts[~labels].max()


def test_only_formed_test_lists_know_their_labels() -> None:
    options = {"rows": 3000, "list_size": 20, "fraction": 0.05, "positives_per_list": 1}
    parts = load_account_lists("one_market", 0, **options)
    assert set(parts) == {"train", "validation", "test", "formed"}
    assert set(parts["test"].labels.sum(dim=1).tolist()) != {1}
    enough = parts["formed"].labels.sum() >= len(parts["formed"].labels)
    assert (parts["formed"].labels.sum(dim=1) == 1).all() or not enough
    train, test = (set(parts[part].amounts.flatten().tolist()) for part in ("train", "test"))
    assert not train & test


def test_a_table_in_a_file(tmp_path) -> None:
    file = tmp_path / "creditcard.csv"
    rows = [f"{row},{row % 7},{row % 3},{row * 1.5},{row % 2}" for row in range(200)]
    file.write_text("Time,V1,V2,Amount,Class\n" + "\n".join(rows))
    options = {"list_size": 10, "fraction": 0.1, "positives_per_list": 1, "split_seeds": (42, 2024)}
    parts = load_account_lists(str(file), 1, **options)
    assert parts["train"].features.shape[-1] == 3
    assert parts["train"].rows().features.shape[1:] == (1, 3)
    assert all(lists.amounts[lists.labels].min() >= 1.5 * 180 for lists in parts.values() if lists.labels.any())
