import math

import numpy as np
import pytest
import torch

from tutelage.assessment import diffusion_spectral_entropy, diffusion_spectral_mutual_information, median_bandwidth
from tutelage.assessment.diffusion_information import categories


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def classes(per_class=12, count=3, distance=8.0, seed=0):
    centres = distance * torch.eye(count, 5, dtype=torch.float64)
    labels = torch.arange(count).repeat_interleave(per_class)
    return centres[labels] + torch.randn(len(labels), 5, generator=seeded(seed), dtype=torch.float64), labels


def test_agrees_with_the_definition():
    x, labels = classes()
    labels = labels.clone()
    labels[:3] = 2  # sizes 9, 12 and 15
    subsets = {
        y: [torch.randperm(36, generator=seeded(y + r))[: int((labels == y).sum())] for r in range(2)] for y in range(3)
    }
    known = 0.0
    for y in range(3):
        own = x[labels == y]
        compared = np.mean([diffusion_spectral_entropy(x[rows], bandwidth=2.0, time=2).item() for rows in subsets[y]])
        known += len(own) / 36 * (compared - diffusion_spectral_entropy(own, bandwidth=2.0, time=2).item())
    found = diffusion_spectral_mutual_information(x, labels, subsets=subsets, bandwidth=2.0, time=2)
    assert found.item() == pytest.approx(known)


def test_clusters_that_are_the_classes():
    x, labels = classes(per_class=40, count=4, distance=1000.0)
    exact = diffusion_spectral_mutual_information(1e-3 * x, labels, bandwidth=0.1, repetitions=40, generator=seeded())
    assert exact.item() == pytest.approx(2.0, abs=0.05)  # 40 of the samples hold a little less than all four alike


def test_unrelated_and_single_categories():
    x, _ = classes(per_class=60, distance=3.0)
    unrelated = torch.randint(4, (180,), generator=seeded(5))
    found = diffusion_spectral_mutual_information(x, unrelated, bandwidth="median", repetitions=20, generator=seeded())
    assert abs(found.item()) < 0.1
    assert diffusion_spectral_mutual_information(x, torch.zeros(180, dtype=torch.int64), bandwidth=1.0).item() == 0


@pytest.mark.parametrize("entropy", ["diffusion", "matrix_entry", "histogram"])
def test_names_of_categories_do_not_matter(entropy):
    x, labels = classes()
    rows = [torch.randperm(36, generator=seeded(r))[:12] for r in range(2)]
    renamed = torch.tensor([70, -3, 5])
    one, other = (
        diffusion_spectral_mutual_information(
            x, reference, subsets={int(y): rows for y in reference.unique()}, bandwidth=2.0, entropy=entropy
        )
        for reference in (labels, renamed[labels])
    )
    torch.testing.assert_close(one, other)
    assert abs(one) > 0.1


def test_zero_padding_changes_nothing():
    x, labels = classes()
    padded = torch.cat([x, torch.zeros(36, 192, dtype=torch.float64)], dim=1)
    one, other = (
        diffusion_spectral_mutual_information(z, labels, bandwidth=2.0, generator=seeded()) for z in (x, padded)
    )
    torch.testing.assert_close(one, other)


def test_a_seed_fixes_the_draws_and_leaves_the_global_state():
    x, labels = classes()
    state = torch.get_rng_state()
    found = [
        diffusion_spectral_mutual_information(x, labels, bandwidth=2.0, generator=seeded(seed)) for seed in (0, 0, 1)
    ]
    assert found[0] == found[1] != found[2]
    assert torch.equal(state, torch.get_rng_state())


def test_reals_are_cut_into_bins():
    reals = torch.tensor([0.5, 0.5 + 0.099, 0.5 + 0.101, 1.5, 1.4999])
    assert categories(reals).tolist() == [0, 0, 1, 9, 9]
    assert categories(torch.full((3,), 0.3)).tolist() == [0, 0, 0]
    assert categories(torch.tensor([0.0, 1.0, 2.0]), discrete=True).tolist() == [0, 1, 2]
    assert categories(torch.tensor([0.0, 1.0, 2.0]), discrete=False, clusters=2).tolist() == [0, 1, 1]
    x, _ = classes()
    assert diffusion_spectral_mutual_information(x, x[:, 0], bandwidth=2.0, clusters=2) > 0.1


def test_vectors_are_clustered_once():
    x, labels = classes(per_class=20, distance=12.0)
    value, found = diffusion_spectral_mutual_information(
        x, x.reshape(60, 5, 1), clusters=3, bandwidth=2.0, generator=seeded(), return_clusters=True
    )
    assert len({(int(a), int(b)) for a, b in zip(found, labels, strict=True)}) == 3  # the classes, by other names
    again = diffusion_spectral_mutual_information(x, found, bandwidth=2.0, generator=seeded())
    assert value == again


def test_small_categories():
    x, labels = classes()
    labels = labels.clone()
    labels[0] = 9
    with pytest.raises(ValueError, match="category 9 has 1"):
        diffusion_spectral_mutual_information(x, labels, bandwidth=2.0)
    with pytest.warns(UserWarning, match="Category 9 has 1 samples"):
        found = diffusion_spectral_mutual_information(x, labels, bandwidth=2.0, min_category=2, generator=seeded())
    assert found > 0.1


def test_gradient():
    x, labels = classes(per_class=3, distance=1.0)
    rows = [torch.tensor([0, 4, 8])]
    assert torch.autograd.gradcheck(
        lambda x: diffusion_spectral_mutual_information(x, labels, subsets={0: rows, 1: rows, 2: rows}, bandwidth=2.0),
        (x.requires_grad_(),),
    )


def test_label_corruption_as_published():
    """600 digits, σ = half the median distance: about 1.09 bits with true labels and 0 with shuffled ones."""
    from sklearn.datasets import load_digits

    images, target = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(target))[:600]
    x, labels = torch.from_numpy(images[chosen] / 16), torch.from_numpy(target[chosen])
    bandwidth = median_bandwidth(x, factor=0.5)
    shuffled = labels[torch.randperm(600, generator=seeded())]
    true, none = (
        diffusion_spectral_mutual_information(x, y, bandwidth=bandwidth, generator=seeded()).item()
        for y in (labels, shuffled)
    )
    assert true == pytest.approx(1.09, abs=0.05)
    assert none == pytest.approx(0.01, abs=0.05)


@pytest.mark.parametrize(
    ("reference", "options", "text"),
    [
        (torch.arange(36) % 3 * 1.0, {}, "`discrete` to say whether"),
        (torch.linspace(0, 1, 36), {"discrete": True}, "holds reals"),
        (torch.full((36,), math.nan), {"discrete": False}, "finite"),
        (torch.zeros(36, 2), {"discrete": True}, "shape"),
        (torch.zeros(36, 2), {"clusters": 40}, "at least 40 vectors"),
        (torch.arange(36) % 3, {"repetitions": 0}, "`repetitions` to be at least 1"),
        (torch.arange(36) % 3, {"subsets": {0: [torch.arange(12)]}}, "for category 1"),
        (torch.arange(36) % 3, {"subsets": {0: [torch.arange(11)]}}, "the category's size"),
    ],
)
def test_bad_input(reference, options, text):
    x, _ = classes()
    with pytest.raises(ValueError, match=text):
        diffusion_spectral_mutual_information(x, reference, bandwidth=2.0, **options)
