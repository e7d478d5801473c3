from __future__ import annotations

import pytest
import torch

from tutelage.objectives import MeanSquaredError


def test_outputs_may_have_a_last_dimension_of_one() -> None:
    target = torch.tensor([0.0, 3.0], dtype=torch.float64)
    outputs = torch.tensor([[1.0], [3.0]])
    assert MeanSquaredError()(outputs, target).item() == 0.5
    assert MeanSquaredError()(outputs[:, 0], target).item() == 0.5
    assert MeanSquaredError()(outputs, target).dtype == torch.float32
    assert MeanSquaredError()(outputs.bfloat16(), target).dtype == torch.float32


def test_several_outputs() -> None:
    assert MeanSquaredError()(torch.ones(2, 3), torch.zeros(2, 3)).item() == 1


def test_shapes_that_would_broadcast_are_refused() -> None:
    with pytest.raises(ValueError, match="same shape"):
        MeanSquaredError()(torch.ones(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="same shape"):
        MeanSquaredError()(torch.ones(2), torch.zeros(2, 1))
