import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import (
    adjacency_spectral_entropy,
    diffusion_spectral_entropy,
    diffusion_spectrum,
    matrix_entry_entropy,
    shannon_histogram_entropy,
)


def cloud(samples=40, width=5, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_known_answers():
    assert diffusion_spectral_entropy(torch.full((20, 3), 7.5)).item() == pytest.approx(0, abs=1e-9)
    far = 1e4 * torch.eye(8, dtype=torch.float64)
    assert diffusion_spectral_entropy(far).item() == pytest.approx(3)
    for clusters in (2, 4):
        tight = far[:clusters].repeat_interleave(5, dim=0) + 1e-4 * cloud(5 * clusters, 8)
        assert diffusion_spectral_entropy(tight).item() == pytest.approx(math.log2(clusters), abs=1e-6)
    pair = torch.tensor([[0.0], [math.sqrt(2 * math.log(3))]], dtype=torch.float64)  # g = 1/3, so α = (2/3, 1/3)
    assert diffusion_spectral_entropy(pair, bandwidth=1.0).item() == pytest.approx(0.9183, abs=5e-5)
    assert diffusion_spectral_entropy(pair, bandwidth=1.0, base=math.e).item() == pytest.approx(0.6365, abs=5e-5)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), bandwidth=st.floats(0.3, 5), kind=st.sampled_from(["random_walk", "anisotropic"]))
def test_range_and_time(seed, bandwidth, kind):
    x = cloud(20, 3, seed)
    values = [
        diffusion_spectral_entropy(x, bandwidth=bandwidth, time=time, normalization=kind).item()
        for time in (0.5, 1, 2, 3.7, 8)
    ]
    assert all(0 <= value <= math.log2(20) + 1e-9 for value in values)
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(values))


def test_long_times_count_components():
    x = torch.cat([cloud(6), cloud(7, seed=1) + 1000, cloud(5, seed=2) - 1000])
    assert diffusion_spectral_entropy(x, bandwidth=1.0, time=1e5).item() == pytest.approx(math.log2(3), abs=1e-6)


def test_falls_with_the_bandwidth_on_generic_data():
    values = [diffusion_spectral_entropy(cloud(), bandwidth=bandwidth) for bandwidth in (0.2, 0.5, 1, 2, 4, 10)]
    assert all(wider < narrower for narrower, wider in itertools.pairwise(values))


def test_subsample():
    x = cloud(30)
    part = [
        diffusion_spectral_entropy(x, bandwidth=1.0, max_samples=10, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert part[0] == part[1] != part[2]
    assert part[0] < math.log2(10)


def test_gradient_and_types():
    x = cloud(8, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diffusion_spectral_entropy(x, bandwidth=1.2, time=2), (x,))
    assert torch.autograd.gradcheck(lambda x: matrix_entry_entropy(x, bandwidth=1.2), (x,))
    same = torch.zeros(4, 2, requires_grad=True)  # zero eigenvalues and coinciding points
    diffusion_spectral_entropy(same, bandwidth=1.0).backward()
    assert torch.isfinite(same.grad).all()
    assert diffusion_spectral_entropy(cloud().half(), bandwidth=1.0).dtype == torch.float32
    assert diffusion_spectral_entropy(cloud(), bandwidth=1.0).dtype == torch.float64


def test_intrinsic_dimension_of_the_published_algorithm():
    """Unit spheres of dimension 1 to 8 in 256 dimensions, N = 500, σ = 0.5, t = 2: the published code, two seeds."""
    published = {1: 2.49, 4: 4.33, 8: 5.35}
    for dimension, known in published.items():
        points = cloud(500, dimension + 1, seed=dimension)
        points = points / points.norm(dim=1, keepdim=True)
        assert diffusion_spectral_entropy(points, bandwidth=0.5, time=2).item() == pytest.approx(known, abs=0.06)


def test_matrix_entries():
    assert matrix_entry_entropy(torch.zeros(8, 2)).item() == pytest.approx(6)
    assert matrix_entry_entropy(1e4 * torch.eye(8)).item() == pytest.approx(3)
    x, samples = cloud(12), 12
    affinity = torch.exp(-torch.cdist(x, x).square() / 2)
    density = affinity.sum(1).sqrt()
    kernel = affinity / density[:, None] / density
    entries = (kernel / kernel.sum(1, keepdim=True) / samples).flatten()
    known = -sum(float(entry) * math.log2(float(entry)) for entry in entries)
    assert matrix_entry_entropy(x, bandwidth=1.0).item() == pytest.approx(known)


def test_adjacency():
    x = cloud(30)
    known = diffusion_spectral_entropy(x, bandwidth=1.5)
    torch.testing.assert_close(adjacency_spectral_entropy(x, kind="anisotropic", bandwidth=1.5), known)
    assert abs(adjacency_spectral_entropy(x, kind="gaussian", bandwidth=1.5) - known) > 1e-3
    # A directed path 0 ← 1 ← 2 …: the eigenvalues of a triangular matrix are its diagonal.
    path = torch.tensor([[float(2**k)] for k in range(4)], dtype=torch.float64)
    assert adjacency_spectral_entropy(path, neighbors=2).item() == pytest.approx(_directed_entropy(path, 2), abs=1e-6)
    assert adjacency_spectral_entropy(cloud(8), neighbors=8).item() == pytest.approx(0, abs=1e-6)  # all ones: rank 1


def _directed_entropy(x, neighbors):
    distance = np.abs(x.numpy() - x.numpy().T)
    adjacency = (distance <= np.sort(distance, axis=1)[:, [neighbors - 1]]).astype(float)
    moduli = np.abs(np.linalg.eigvals(adjacency))
    shares = moduli[moduli > 1e-12] / moduli.sum()
    return float(-(shares * np.log2(shares)).sum())


def test_histogram():
    x = torch.tensor([[0.0, 5.0], [0.49, 5.0], [0.5, 5.0], [1.0, 5.0], [1.0, 5.0]])
    shares = np.array([2, 3]) / 5
    assert shannon_histogram_entropy(x).item() == pytest.approx(-(shares * np.log2(shares)).sum())
    assert shannon_histogram_entropy(x, bins=1).item() == 0
    assert shannon_histogram_entropy(x, bins=4).item() == pytest.approx(1.9219, abs=5e-5)  # bins 0, 1, 2, 3, 3
    assert shannon_histogram_entropy(cloud(64, 100)).item() == pytest.approx(6)  # alone in its cell, each


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: diffusion_spectral_entropy(x, time=0), "`time` to be positive, but got 0"),
        (lambda x: diffusion_spectral_entropy(x, base=1.0), "`base` to be above 1, but got 1.0"),
        (lambda x: diffusion_spectral_entropy(x, max_samples=1), "`max_samples` to be at least 2"),
        (lambda x: diffusion_spectral_entropy(x[:1]), "at least 2 samples"),
        (lambda x: shannon_histogram_entropy(x, bins=0), "`bins` to be at least 1"),
        (lambda x: adjacency_spectral_entropy(x, neighbors=41), "at most 40"),
        (lambda x: matrix_entry_entropy(x, bandwidth=-1.0), "`bandwidth` to be positive"),
    ],
)
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call(cloud())


def test_entropy_is_that_of_the_spectrum():
    spectrum = diffusion_spectrum(cloud(), bandwidth=1.0).numpy() ** 3
    shares = spectrum / spectrum.sum()
    known = -(shares * np.log2(shares)).sum()
    assert diffusion_spectral_entropy(cloud(), bandwidth=1.0, time=3).item() == pytest.approx(known)
