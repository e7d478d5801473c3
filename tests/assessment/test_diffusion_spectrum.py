import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import diffusion_spectrum, median_bandwidth


def cloud(samples=40, width=5, seed=0):
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(x, bandwidth, normalization):
    """Entry by entry, with the non-symmetric matrix and a general eigenvalue solver."""
    samples = len(x)
    affinity = np.zeros((samples, samples))
    for i in range(samples):
        for j in range(samples):
            affinity[i, j] = math.exp(-float(((x[i] - x[j]) ** 2).sum()) / (2 * bandwidth**2))
    if normalization == "anisotropic":
        density = affinity.sum(axis=1) ** 0.5
        affinity = affinity / density[:, None] / density
    matrix = affinity / affinity.sum(axis=1, keepdims=True)
    eigenvalues = np.linalg.eigvals(matrix)
    assert np.abs(eigenvalues.imag).max() < 1e-9
    return np.sort(eigenvalues.real)[::-1]


@pytest.mark.parametrize("normalization", ["random_walk", "anisotropic"])
def test_agrees_with_the_matrix_written_out(normalization):
    found = diffusion_spectrum(cloud(), bandwidth=1.5, normalization=normalization)
    np.testing.assert_allclose(found.numpy(), reference(cloud(), 1.5, normalization), atol=1e-10)


def test_the_two_normalizations_differ():
    x = cloud(60, 8)
    second = [diffusion_spectrum(x, bandwidth=2.0, normalization=kind)[1] for kind in ("random_walk", "anisotropic")]
    assert abs(second[0] - second[1]) > 0.005


@pytest.mark.parametrize("affinity", [1 / 3, 0.9, 1e-6])
def test_two_points(affinity):
    distance = math.sqrt(-2 * math.log(affinity))
    x = torch.tensor([[0.0, 0.0], [0.6 * distance, 0.8 * distance]], dtype=torch.float64)
    known = torch.tensor([1.0, (1 - affinity) / (1 + affinity)], dtype=torch.float64)
    torch.testing.assert_close(diffusion_spectrum(x, bandwidth=1.0), known)


def test_connected_components_are_ones():
    x = torch.cat([cloud(6), cloud(7, seed=1) + 1000, cloud(5, seed=2) - 1000])
    spectrum = diffusion_spectrum(x, bandwidth=1.0)
    assert (spectrum > 1 - 1e-9).sum() == 3
    assert (diffusion_spectrum(cloud(), bandwidth=1.0) > 1 - 1e-9).sum() == 1


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), kind=st.sampled_from(["random_walk", "anisotropic"]))
def test_invariances(seed, scale, kind):
    x = cloud(25, 4, seed)
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64)).Q
    moved = torch.cat([x, torch.full((25, 2), 3.0, dtype=torch.float64)], dim=1) @ rotation + 7
    moved = scale * moved[torch.randperm(25, generator=generator)]
    same = diffusion_spectrum(moved, bandwidth=scale * 1.3, normalization=kind)
    spectrum = diffusion_spectrum(x, bandwidth=1.3, normalization=kind)
    torch.testing.assert_close(same, spectrum, atol=1e-9, rtol=0)
    assert spectrum[0] == pytest.approx(1, abs=1e-12)
    assert 0 <= spectrum.min() <= spectrum.max() <= 1
    assert (spectrum.diff() <= 0).all()


def test_gradient():
    x = cloud(6, 3).requires_grad_()
    # Single eigenvalues where none coincide, and a symmetric function of all where some do.
    assert torch.autograd.gradcheck(lambda x: diffusion_spectrum(x, bandwidth=1.2), (x,))
    square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: diffusion_spectrum(x, bandwidth=1.0).square().sum(), (square,))


def test_half_precision_is_taken_in_float64():
    x = cloud().half()
    assert diffusion_spectrum(x, bandwidth=1.0).dtype == torch.float64
    torch.testing.assert_close(diffusion_spectrum(x, bandwidth=1.0), diffusion_spectrum(x.double(), bandwidth=1.0))


@pytest.mark.parametrize("samples", [9, 10])
def test_median_bandwidth(samples):
    x = cloud(samples)
    distances = [float((x[i] - x[j]).norm()) for i in range(samples) for j in range(i + 1, samples)]
    assert median_bandwidth(x, factor=0.5) == pytest.approx(0.5 * np.median(distances))
    torch.testing.assert_close(
        diffusion_spectrum(x, bandwidth="median"), diffusion_spectrum(x, bandwidth=float(np.median(distances)))
    )


@pytest.mark.parametrize(
    ("x", "options", "text"),
    [
        (torch.zeros(1, 2), {}, "at least 2 samples, but got 1"),
        (torch.tensor([[0.0], [math.nan]]), {}, "to be finite"),
        (cloud(), {"bandwidth": 0.0}, "`bandwidth` to be positive, but got 0.0"),
        (cloud(), {"bandwidth": math.inf}, "`bandwidth` to be positive"),
        (torch.zeros(4, 2), {"bandwidth": "median"}, "positive median distance"),
    ],
)
def test_bad_input(x, options, text):
    with pytest.raises(ValueError, match=text):
        diffusion_spectrum(x, **options)


def test_bad_options():
    with pytest.raises(ValueError, match="positive"):
        median_bandwidth(cloud(), factor=-1.0)
