from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.data import (
    CORRUPTIONS,
    ArraySamples,
    DatasetSamples,
    add_class_dependent_label_noise,
    add_uniform_label_noise,
    corrupt,
    corruption_stream,
    drop_classes,
    few_shot_subset,
    targets_of,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("rate", [0.3, 0.9])
def test_uniform_noise_flips_the_expected_share_to_any_class(rate: float) -> None:
    labels = torch.arange(40_000) % 10
    noisy = add_uniform_label_noise(labels, 10, rate, generator=generator())
    changed = noisy != labels
    assert float(changed.float().mean()) == pytest.approx(rate * 0.9, abs=0.01)
    confusion = torch.zeros(10, 10).index_put_((labels, noisy), torch.ones(()), accumulate=True) / 4000
    off_diagonal = confusion[~torch.eye(10, dtype=torch.bool)]
    assert torch.allclose(off_diagonal, torch.full_like(off_diagonal, rate / 10), atol=0.025)
    assert torch.equal(labels, torch.arange(40_000) % 10)


def test_uniform_noise_is_seeded() -> None:
    labels = torch.arange(100) % 5
    first, again, other = (add_uniform_label_noise(labels, 5, 0.5, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(add_uniform_label_noise(labels, 5, 0.0, generator=generator()), labels)


def test_class_dependent_noise_goes_to_the_partner_only() -> None:
    labels = torch.arange(30_000) % 3
    noisy = add_class_dependent_label_noise(labels, 0.4, transition={0: 1, 1: 0}, generator=generator())
    assert torch.equal(noisy[labels == 2], labels[labels == 2])
    assert set(noisy[labels == 0].tolist()) == {0, 1}
    assert float((noisy != labels)[labels < 2].float().mean()) == pytest.approx(0.4, abs=0.01)
    swapped = add_class_dependent_label_noise(labels, 1.0, transition={0: 1, 1: 0}, generator=generator())
    assert swapped[:3].tolist() == [1, 0, 2]


def test_noise_refuses_bad_input() -> None:
    labels = torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"`rate` to be in \[0.0, 1.0\], but got 1.5"):
        add_uniform_label_noise(labels, 2, 1.5, generator=generator())
    with pytest.raises(ValueError, match=r"`labels` to hold classes in \[0, 1\)"):
        add_uniform_label_noise(labels, 1, 0.5, generator=generator())
    with pytest.raises(ValueError, match="`num_classes` to be given"):
        add_class_dependent_label_noise(labels, 0.5, transition="next", generator=generator())
    with pytest.raises(ValueError, match="`transition`"):
        add_class_dependent_label_noise(labels, 0.5, transition={0: 7}, num_classes=2, generator=generator())


@given(fraction=st.floats(0.01, 1.0), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_few_shot_is_class_balanced(fraction: float, seed: int) -> None:
    whole = ArraySamples(torch.arange(66.0), torch.tensor([0] * 50 + [1] * 15 + [2]))
    part = few_shot_subset(whole, fraction, seed)
    counts = targets_of(part).bincount(minlength=3).tolist()
    assert counts == [max(1, round(fraction * count)) for count in (50, 15, 1)]
    batch = part.batch(torch.arange(len(part)))
    assert torch.equal(batch.inputs, batch.index.float())


def test_few_shot_subsets_are_nested_and_take_torch_data_sets() -> None:
    whole = [(torch.tensor([float(row)]), row % 4) for row in range(80)]
    small, large = (few_shot_subset(whole, fraction, 3) for fraction in (0.1, 0.5))
    indices = [set(part.batch(torch.arange(len(part))).index.tolist()) for part in (small, large)]
    assert indices[0] < indices[1]


def test_few_shot_bad_input() -> None:
    whole = ArraySamples(torch.zeros(2, 1), torch.tensor([0, 1]))
    for fraction in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`fraction`"):
            few_shot_subset(whole, fraction, 0)
    with pytest.raises(ValueError, match="one class each"):
        few_shot_subset(ArraySamples(torch.zeros(2, 1), torch.rand(2)), 0.5, 0)


def test_drop_classes() -> None:
    whole = DatasetSamples([(torch.zeros(1), row % 4) for row in range(12)])
    kept = drop_classes(whole, [1, 3])
    assert targets_of(kept).tolist() == [0, 2] * 3
    with pytest.raises(ValueError, match="all of them"):
        drop_classes(whole, [0, 1, 2, 3])
    with pytest.raises(ValueError, match="9 has no sample"):
        drop_classes(whole, [9])


def images() -> ArraySamples:
    generator = torch.Generator().manual_seed(3)
    smooth = torch.nn.functional.interpolate(torch.rand(32, 1, 4, 4, generator=generator), 16, mode="bilinear")
    return ArraySamples(smooth, torch.arange(32) % 4)


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_corruptions_grow_with_severity_and_stay_in_range(name: str) -> None:
    clean = images().inputs
    distances = []
    for severity in (1, 2, 3, 4, 5):
        changed = corrupt(clean, name, severity=severity, generator=generator())
        assert changed.shape == clean.shape
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1
        assert torch.equal(changed, corrupt(clean, name, severity=severity, generator=generator()))
        distances.append(float((changed - clean).pow(2).mean()))
    assert distances == sorted(distances)
    assert distances[0] > 0


def test_corruptions_take_small_and_coloured_images() -> None:
    for name in CORRUPTIONS:
        assert corrupt(torch.rand(2, 3, 8, 8), name, severity=5, generator=generator()).shape == (2, 3, 8, 8)


def test_stream_order() -> None:
    options = {"severities": (3,), "batch_size": 12, "seed": 0}
    stream = list(corruption_stream(images(), ["blur", "contrast"], setting="reset", **options))
    assert [(item.corruption, item.starts, item.reset, len(item.batch)) for item in stream] == [
        ("blur", True, True, 12),
        ("blur", False, False, 12),
        ("blur", False, False, 8),
        ("contrast", True, True, 12),
        ("contrast", False, False, 12),
        ("contrast", False, False, 8),
    ]
    seen = torch.cat([item.batch.index for item in stream[:3]])
    assert sorted(seen.tolist()) == list(range(32))
    assert torch.equal(stream[0].batch.target, images().target[stream[0].batch.index])
    assert not any(item.reset for item in corruption_stream(images(), ["blur"], setting="continual", **options))
    again = list(corruption_stream(images(), ["blur", "contrast"], setting="reset", **options))
    assert all(torch.equal(a.batch.inputs, b.batch.inputs) for a, b in zip(stream, again, strict=True))


def test_gradual_stream_goes_up_and_down() -> None:
    stream = corruption_stream(
        images(), ["blur", "contrast"], setting="gradual", severities=(1, 2, 3, 4, 5), batch_size=32, seed=0
    )
    assert [item.severity for item in stream] == [1, 2, 3, 4, 5, 4, 3, 2, 1] * 2


def test_stream_bad_input() -> None:
    with pytest.raises(ValueError, match="did you mean 'blur'"):
        corruption_stream(images(), ["blurr"], severities=1, batch_size=2, seed=0)
    with pytest.raises(ValueError, match="`severities`"):
        corruption_stream(images(), ["blur"], severities=6, batch_size=2, seed=0)
