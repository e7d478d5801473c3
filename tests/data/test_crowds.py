from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from tutelage.data import crowds, density_map, downsample_density

few = settings(max_examples=20, deadline=None)


def slow_density(points: list[tuple[int, int]], shape: tuple[int, int], sigma: str | float) -> np.ndarray:
    """The official preparation: a filtered image for each head."""
    places = sorted(set(points))
    density = np.zeros(shape)
    for x, y in places:
        spread = sigma
        if sigma == "adaptive":
            distances = sorted(float(np.hypot(x - a, y - b)) for a, b in places)[1:4]
            spread = 0.1 * sum(distances) if len(places) > 1 else np.mean(shape) / 4
            if 0 < len(distances) < 3:
                spread *= 3 / len(distances)
        alone = np.zeros(shape)
        alone[y, x] = 1
        density += gaussian_filter(alone, spread, mode="constant")
    return density


@few
@given(
    points=st.lists(st.tuples(st.integers(0, 39), st.integers(0, 29)), min_size=0, max_size=8),
    sigma=st.sampled_from(["adaptive", 1.5, 6.0]),
)
def test_agrees_with_a_filtered_image_for_each_head(points: list[tuple[int, int]], sigma: str | float) -> None:
    density = density_map(torch.tensor(points).reshape(-1, 2), (30, 40), sigma=sigma)
    expected = torch.from_numpy(slow_density(points, (30, 40), sigma)).float()
    torch.testing.assert_close(density, expected, atol=1e-6, rtol=1e-4)


def test_interior_heads_sum_to_the_count_and_border_heads_lose_mass() -> None:
    inside = torch.tensor([[20.0, 20.0], [30.0, 25.0], [26.0, 40.0]])
    assert density_map(inside, (64, 64), sigma=2.5).sum().item() == pytest.approx(3, abs=1e-5)
    assert density_map(torch.tensor([[0.0, 32.0]]), (64, 64), sigma=2.5).sum().item() == pytest.approx(0.58, abs=0.01)
    corner = density_map(torch.tensor([[0, 0]]), (64, 64), sigma=2.5).sum().item()
    assert corner == pytest.approx(0.58**2, abs=0.01)


def test_points_are_x_then_y_and_a_pixel_counts_once() -> None:
    density = density_map(torch.tensor([[10.0, 20.0], [10.9, 20.2]]), (40, 30), sigma=1.0)
    assert density.sum().item() == pytest.approx(1, abs=1e-6)
    assert divmod(int(density.argmax()), 30) == (20, 10)


def test_adaptive_widths_follow_the_neighbours() -> None:
    near, far = torch.tensor([[50, 50], [52, 50], [50, 52], [52, 52]]), torch.tensor([[50, 50], [80, 50]])
    peak = density_map(near, (100, 100)).max()
    assert peak > 10 * density_map(far, (100, 100)).max()
    # Two heads at distance 30: the one distance stands for three, sigma = 0.1 · 3 · 30 = 9.
    torch.testing.assert_close(density_map(far, (100, 100)), density_map(far, (100, 100), sigma=9.0))
    one = torch.tensor([[50, 50]])
    torch.testing.assert_close(density_map(one, (80, 120)), density_map(one, (80, 120), sigma=25.0))


@few
@given(height=st.integers(1, 30), width=st.integers(1, 30), factor=st.integers(1, 9))
def test_downsampling_keeps_the_sum_and_rounds_sizes_up(height: int, width: int, factor: int) -> None:
    density = torch.rand(2, 3, height, width, dtype=torch.float64)
    small = downsample_density(density, factor)
    assert small.shape == (2, 3, -(-height // factor), -(-width // factor))
    torch.testing.assert_close(small.sum(dim=(2, 3)), density.sum(dim=(2, 3)), atol=1e-6, rtol=0)
    torch.testing.assert_close(small[..., 0, 0], density[..., :factor, :factor].sum(dim=(2, 3)))


def test_crowds_count_exactly_and_parts_share_nothing() -> None:
    data = crowds(size=48, counts=(2, 12), sigma=1.5, train=6, validation=3, test=5)
    for part, length in [(data.train, 6), (data.validation, 3), (data.test, 5)]:
        batch = part.batch(torch.arange(length))
        assert batch.inputs.shape == (length, 1, 48, 48)
        assert 0 <= batch.inputs.min() <= batch.inputs.max() <= 1
        assert len(part) == length
        counts = batch.extras["count"]
        assert (counts >= 2).all()
        assert (counts <= 12).all()
        torch.testing.assert_close(batch.target.sum(dim=(1, 2, 3)), counts.float(), atol=1e-4, rtol=0)
    index = torch.cat([part.batch(torch.arange(len(part))).index for part in (data.train, data.validation, data.test)])
    assert torch.equal(index, torch.arange(14))


def test_mirrored_canvases_follow_the_plain_ones() -> None:
    plain = crowds(size=40, counts=(1, 5), sigma=1.0, train=4, validation=1, test=1).train
    both = crowds(size=40, counts=(1, 5), sigma=1.0, train=4, validation=1, test=1, mirrored=True).train
    first, second = both.batch(torch.arange(4)), both.batch(torch.arange(4, 8))
    assert torch.equal(first.inputs, plain.batch(torch.arange(4)).inputs)
    assert torch.equal(second.inputs, first.inputs.flip(-1))
    torch.testing.assert_close(second.target, first.target.flip(-1))
    assert torch.equal(second.extras["count"], first.extras["count"])


def test_a_digit_brightens_its_head() -> None:
    data = crowds(size=64, counts=(1, 1), sigma=1.0, noise=0.0, distractors=0, train=40, validation=1, test=1)
    batch = data.train.batch(torch.arange(40))
    cells = batch.target.flatten(1).argmax(dim=1)
    light = torch.nn.functional.avg_pool2d(batch.inputs, 8).flatten(1)
    light = light - light.median(dim=1, keepdim=True).values
    assert (light.gather(1, cells[:, None]) > 0.05).float().mean() > 0.9


def test_the_seed_decides() -> None:
    options = {"size": 40, "counts": (1, 4), "sigma": 1.0, "train": 3, "validation": 1, "test": 1}
    assert crowds(**options).train.fingerprint() == crowds(**options).train.fingerprint()
    assert crowds(**options).train.fingerprint() != crowds(**options, seed=1).train.fingerprint()


def test_bad_input() -> None:
    for points in ([[40.0, 3.0]], [[-0.5, 3.0]], [[float("nan"), 3.0]]):
        with pytest.raises(ValueError, match=r"`points` to lie in 40×30 pixels \(x, y\), but got"):
            density_map(torch.tensor(points), (30, 40))
    for options, message in [
        ({"sigma": 0.0}, "`sigma` to be positive"),
        ({"k": 0}, "`k` to be at least 1"),
        ({"beta": -1.0}, "`beta` to be positive"),
    ]:
        with pytest.raises(ValueError, match=message):
            density_map(torch.zeros(1, 2), (30, 40), **options)
    with pytest.raises(ValueError, match="`factor` to be at least 1, but got 0"):
        downsample_density(torch.zeros(4, 4), 0)
    with pytest.raises(ValueError, match="leave room for 40 heads at 10 pixels from the border, but got 20"):
        crowds(size=20)
    with pytest.raises(ValueError, match="`counts` to be at least 5, but got 3"):
        crowds(counts=(5, 3))
