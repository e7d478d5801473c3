from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tutelage.objectives import online_hard_example_mask


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=12), st.integers(0, 300))
def test_the_hardest_negatives_are_kept_and_ties_go_to_the_first(items, percent) -> None:
    scores = torch.tensor([float(score) for score, _ in items])
    target = torch.tensor([int(label) for _, label in items])
    mask = online_hard_example_mask(scores, target, ratio=percent / 100)
    wanted = percent * int(target.sum()) // 100
    negatives = sorted((-items[i][0], i) for i in range(len(items)) if not items[i][1])
    expected = {i for _, i in negatives[:wanted]} | {i for i in range(len(items)) if items[i][1]}
    assert set(mask.nonzero()[:, 0].tolist()) == expected


def test_edges() -> None:
    scores, target = torch.rand(6), torch.tensor([1, 0, 0, 1, 0, 0])
    assert online_hard_example_mask(scores, target, ratio=0.0).tolist() == target.bool().tolist()
    assert online_hard_example_mask(scores, target, ratio=100.0).all()
    assert not online_hard_example_mask(scores, torch.zeros(6), ratio=2.0).any()
    hundred = torch.arange(400) < 100
    assert int(online_hard_example_mask(torch.rand(400), hundred, ratio=0.29).sum()) == 129  # 0.29 · 100 is 28.999…


def test_columns_are_mined_one_by_one() -> None:
    scores, target = torch.rand(9, 3), torch.nn.functional.one_hot(torch.randint(3, (9,)), 3)
    whole = online_hard_example_mask(scores, target, ratio=0.6)
    for c in range(3):
        assert whole[:, c].equal(online_hard_example_mask(scores[:, c], target[:, c], ratio=0.6))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`ratio`"):
        online_hard_example_mask(torch.zeros(2), torch.tensor([0, 1]), ratio=-0.1)
    with pytest.raises(ValueError, match="labels 0 and 1, but got 2"):
        online_hard_example_mask(torch.zeros(2), torch.tensor([0, 2]), ratio=1.0)
    with pytest.raises(ValueError, match="same shape"):
        online_hard_example_mask(torch.zeros(2), torch.tensor([0]), ratio=1.0)
