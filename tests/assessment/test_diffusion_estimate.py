import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import diffusion_spectral_entropy, estimate_diffusion_spectral_entropy, median_bandwidth
from tutelage.assessment.diffusion_estimate import _coupling, _entropy, _tail

ROUNDING = 1e-6


def clouds(samples=300):
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(samples, 6, generator=generator)
    centres = 6 * torch.randn(7, 6, generator=generator)
    return {
        "normal": normal,
        "sphere": normal / normal.norm(dim=1, keepdim=True),
        "clusters": centres[torch.randint(7, (samples,), generator=generator)] + 0.5 * normal,
        "rectified": (normal @ torch.randn(6, 20, generator=generator)).relu(),
    }


@pytest.mark.parametrize("time", [1, 1.3, 2, 2.5, 4])
@pytest.mark.parametrize("name", clouds())
def test_bounds_hold_and_the_value_is_close(name, time):
    x = clouds()[name]
    for factor, normalization in ((0.3, "random_walk"), (0.7, "random_walk"), (1.0, "anisotropic")):
        options = {"bandwidth": factor * median_bandwidth(x), "time": time, "normalization": normalization}
        exact = diffusion_spectral_entropy(x.double(), **options).item()
        for rank, block in ((32, 4), (32, 32), (160, 16)):
            found = estimate_diffusion_spectral_entropy(x, **options, max_rank=rank, block_size=block)
            assert found.low - ROUNDING * exact <= exact <= found.high + ROUNDING * exact
            assert found.low <= found.value <= found.high
            assert 0 < found.rank <= rank
        if time >= 2 and factor >= 0.7:
            assert found.value == pytest.approx(exact, rel=1e-3)


def test_rows_computed_anew_give_the_same():
    x = clouds()["rectified"]
    options = {"bandwidth": 0.7 * median_bandwidth(x), "time": 2, "max_rank": 96}
    kept, anew = (
        estimate_diffusion_spectral_entropy(
            x, **options, store_matrix=store, chunk_size=64, generator=torch.Generator().manual_seed(0)
        )
        for store in (True, False)
    )
    assert anew.value == pytest.approx(kept.value, rel=1e-6)
    assert anew.high == pytest.approx(kept.high, rel=1e-6)


def test_few_samples_are_exact():
    x = clouds(50)["normal"]
    found = estimate_diffusion_spectral_entropy(x, bandwidth=1.0)
    assert found.value == diffusion_spectral_entropy(x.double(), bandwidth=1.0).item()
    assert found.error_bound == 0
    assert found.rank == 50


@pytest.mark.parametrize(
    ("x", "known"),
    [
        (torch.zeros(100, 2), 0.0),  # of rank 1: every block but the first is empty
        (1e4 * torch.eye(128), 7.0),  # the identity
        (1e4 * torch.eye(4).repeat_interleave(30, dim=0), 2.0),
    ],
)
def test_degenerate_spectra(x, known):
    for time in (1, 2, 3):
        found = estimate_diffusion_spectral_entropy(x, bandwidth=1.0, time=time, max_rank=24, block_size=8)
        assert found.value == pytest.approx(known, abs=1e-4)
        assert found.low - 1e-4 <= known <= found.high + 1e-4


def test_base_is_that_of_the_logarithm():
    x = clouds()["normal"]
    bits, nats = (
        estimate_diffusion_spectral_entropy(
            x, bandwidth=2.0, time=2, base=base, max_rank=64, generator=torch.Generator().manual_seed(0)
        )
        for base in (2.0, math.e)
    )
    assert nats.value == pytest.approx(bits.value * math.log(2))
    assert nats.high == pytest.approx(bits.high * math.log(2))


@settings(max_examples=25, deadline=None)
@given(
    values=st.lists(st.floats(1e-6, 0.3), min_size=2, max_size=12),
    slack=st.floats(1.0, 2.0),
    time=st.sampled_from([1, 1.2, 1.7, 2, 2.5, 3, 6]),
)
def test_the_rest_is_within_its_bounds(values, slack, time):
    x = np.array(values)
    largest = np.array([min(1.0, slack * x.max())])
    count, first, second = np.array([len(x)]), np.array([x.sum()]), np.array([(x**2).sum()])
    (power_low, power_high), (entropy_low, entropy_high) = _tail(count, first, second, largest, time)
    power, entropy = (x**time).sum(), _entropy(x, time).sum()
    assert power_low * (1 - 1e-6) - 1e-12 <= power <= power_high * (1 + 1e-6) + 1e-12
    assert entropy_low * (1 - 1e-6) - 1e-12 <= entropy <= entropy_high * (1 + 1e-6) + 1e-12


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), size=st.floats(1e-6, 0.3), time=st.sampled_from([1, 1.5, 2, 3]))
def test_a_coupling_changes_no_more_than_its_bounds(seed, size, time):
    generator = np.random.default_rng(seed)
    leading, rest = np.sort(generator.random(5))[::-1], 0.2 * generator.random(7)
    coupling = size * generator.standard_normal((7, 5)) / 35**0.5
    whole = np.block([[np.diag(leading), coupling.T], [coupling, np.diag(rest)]])
    after = np.linalg.eigvalsh(whole)
    if after.min() < 1e-9 or after.max() > 1:
        return
    before = np.concatenate([leading, rest])
    power_error, entropy_error = _coupling(
        np.array([np.linalg.norm(coupling)]),
        leading,
        np.array([5]),
        np.array([7]),
        np.array([rest.sum()]),
        np.array([rest.max()]),
        time,
    )
    assert abs((after**time).sum() - (before**time).sum()) <= power_error[0]
    assert abs(_entropy(after, time).sum() - _entropy(before, time).sum()) <= entropy_error[0]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"time": 0.5}, "`time` to be at least 1, but got 0.5"),
        ({"max_rank": 0}, "`max_rank` to be at least 1"),
        ({"block_size": 0}, "`block_size` to be at least 1"),
        ({"tolerance": 0.0}, "`tolerance` to be positive"),
        ({"base": 0.5}, "`base` to be above 1"),
    ],
)
def test_bad_input(options, text):
    with pytest.raises(ValueError, match=text):
        estimate_diffusion_spectral_entropy(clouds(30)["normal"], **options)
