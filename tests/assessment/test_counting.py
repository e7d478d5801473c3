from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import counting_errors


def test_known_answer() -> None:
    errors = counting_errors(torch.tensor([1.0, 5.0, 7.0]), torch.tensor([1.0, 2.0, 11.0]))
    assert errors == {"mae": pytest.approx(7 / 3), "rmse": pytest.approx(math.sqrt(25 / 3))}


def test_maps_are_summed_and_may_differ_in_size() -> None:
    pred, target = torch.rand(4, 1, 6, 6), torch.rand(4, 1, 48, 48)
    counts = pred.sum(dim=(1, 2, 3)), target.sum(dim=(1, 2, 3))
    assert counting_errors(pred, target)["mae"] == pytest.approx(counting_errors(*counts)["mae"], rel=1e-5)
    assert counting_errors(pred, counts[1])["rmse"] == pytest.approx(counting_errors(*counts)["rmse"], rel=1e-5)


def test_errors_of_opposite_cells_cancel_within_an_image() -> None:
    assert counting_errors(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])) == {"mae": 0.0, "rmse": 0.0}


def test_integer_counts() -> None:
    assert counting_errors(torch.tensor([3, 4]), torch.tensor([1, 4]))["mae"] == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=9))
def test_the_root_is_at_least_the_mean(differences: list[float]) -> None:
    errors = counting_errors(torch.tensor(differences), torch.zeros(len(differences)))
    assert errors["rmse"] >= errors["mae"] - 1e-9


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`pred` and `target` to have the same length, but got 2 and 3"):
        counting_errors(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match="`pred` to be finite"):
        counting_errors(torch.tensor([math.nan]), torch.zeros(1))
    with pytest.raises(ValueError, match="at least one value"):
        counting_errors(torch.zeros(0), torch.zeros(0))
