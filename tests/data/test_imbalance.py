from __future__ import annotations

import pytest
import torch

from tutelage.data import ArraySamples, imbalanced_table, oversample_classes


def test_table_has_the_shares_and_sizes_that_were_asked_for() -> None:
    data = imbalanced_table(shares=(0.7, 0.3), num_features=10, sizes=(400, 100, 200))
    assert (len(data.train), len(data.validation), len(data.test)) == (400, 100, 200)
    batch = data.train.batch(torch.arange(400))
    assert batch.inputs.shape == (400, 10)
    assert 0 <= batch.inputs.min() < batch.inputs.max() <= 1
    assert batch.target.bincount().tolist() == pytest.approx([280, 120], abs=3)
    again = imbalanced_table(shares=(0.7, 0.3), num_features=10, sizes=(400, 100, 200))
    assert again.train.fingerprint() == data.train.fingerprint()


def test_oversampling_keeps_every_sample_and_evens_classes_out() -> None:
    samples = ArraySamples(torch.arange(12.0), torch.tensor([0] * 7 + [2] * 4 + [1]), extras={"mark": torch.arange(12)})
    found = oversample_classes(samples, torch.Generator().manual_seed(0))
    assert found.target.bincount().tolist() == [7, 7, 7]
    assert set(found.inputs.tolist()) == set(samples.inputs.tolist())
    assert torch.equal(found.inputs.long(), found.extras["mark"])
    assert torch.equal(samples.target[found.extras["mark"]], found.target)
    assert found.index.unique().numel() == 21
    same = oversample_classes(samples, torch.Generator().manual_seed(0))
    assert torch.equal(found.inputs, same.inputs)


@pytest.mark.parametrize("target", [None, torch.zeros(3), torch.zeros(3, 2, dtype=torch.int64)])
def test_oversampling_needs_classes(target: torch.Tensor | None) -> None:
    with pytest.raises(ValueError, match="`samples` to have one class each"):
        oversample_classes(ArraySamples(torch.zeros(3, 1), target), torch.Generator())
