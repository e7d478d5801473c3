from __future__ import annotations

import pytest
import torch

from tutelage.data import ArraySamples, add_outliers


def samples(count: int = 2000) -> ArraySamples:
    inputs = torch.stack([5 + 2 * torch.randn(count), -3 + 0.5 * torch.randn(count)], dim=1)
    return ArraySamples(inputs, torch.zeros(count, dtype=torch.int64), index=torch.arange(count) + 7)


def test_so_many_samples_become_noise_and_the_others_stay() -> None:
    whole = samples()
    before = whole.inputs.clone()
    found = add_outliers(whole, 0.5, 4, generator=torch.Generator().manual_seed(0))
    outlier = found.extras["outlier"]
    assert outlier.sum() == 1000
    assert torch.equal(whole.inputs, before)
    assert torch.equal(found.index, whole.index)
    assert torch.equal(found.inputs[~outlier], before[~outlier])
    assert not found.target[~outlier].any()
    assert (found.inputs[outlier] != before[outlier]).all()
    torch.testing.assert_close(found.inputs[outlier].mean(dim=0), torch.tensor([5.0, -3.0]), rtol=0, atol=0.2)
    torch.testing.assert_close(found.inputs[outlier].std(dim=0), torch.tensor([2.0, 0.5]), rtol=0.1, atol=0)
    assert found.target[outlier].bincount(minlength=4).tolist() == pytest.approx([250] * 4, abs=60)


def test_none_and_all() -> None:
    whole = samples(10)
    assert not add_outliers(whole, 0.0, 2, generator=torch.Generator()).extras["outlier"].any()
    assert add_outliers(whole, 1.0, 2, generator=torch.Generator()).extras["outlier"].all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="`share`"):
        add_outliers(samples(10), 1.5, 2, generator=torch.Generator())
    with pytest.raises(ValueError, match="`num_classes`"):
        add_outliers(samples(10), 0.5, 0, generator=torch.Generator())
    with pytest.raises(ValueError, match="one input tensor and a target"):
        add_outliers(ArraySamples(torch.zeros(3, 1)), 0.5, 2, generator=torch.Generator())
