"""Clusters, true subclasses and lots as subclass targets: the baselines of LELP."""

import numpy as np
import pytest
import torch

from tutelage.features import ClusterSubclassTargets, RandomSubclassTargets, SubclassTargets

CENTERS = torch.tensor([[[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]], [[30.0, 0.0], [40.0, 0.0], [30.0, 10.0]]])


def blobs(count=20):
    """Three well separated blobs in each of two classes: embeddings, classes, and the blob of each sample."""
    blob = torch.arange(6 * count) % 6
    embeddings = CENTERS.flatten(0, 1)[blob] + 0.1 * torch.randn(len(blob), 2)
    return embeddings, blob // 3, blob


@pytest.mark.parametrize("method", ["kmeans", "agglomerative"])
def test_clusters_are_found_within_classes(method):
    embeddings, labels, blob = blobs()
    found = ClusterSubclassTargets(3, method=method).fit(embeddings, labels=labels)
    assert (torch.cdist(found.centers, CENTERS).min(dim=2).values < 0.2).all()
    conditional = found.conditional(embeddings)
    assert conditional.shape == (120, 2, 3)
    assert ((conditional == 0) | (conditional == 1)).all()
    own = conditional[torch.arange(120), labels].argmax(dim=1)
    for one in range(6):
        assert len(own[blob == one].unique()) == 1
    for label in range(2):
        assert len(own[labels == label].unique()) == 3
    # For the other class, the nearest of its centres; here compared with a loop.
    for row in (0, 7, 119):
        for label in range(2):
            nearest = int((found.centers[label] - embeddings[row]).norm(dim=1).argmin())
            assert conditional[row, label, nearest] == 1


def test_targets_keep_the_teachers_probabilities():
    embeddings, labels, blob = blobs()
    logits = torch.randn(120, 2)
    expected = (logits / 2).softmax(dim=1)
    oracle = ClusterSubclassTargets(3, method="oracle").fit(embeddings, labels=labels, subclasses=blob)
    random = RandomSubclassTargets(3, generator=torch.Generator().manual_seed(0)).fit(embeddings, logits=logits)
    clusters = ClusterSubclassTargets(3).fit(embeddings, logits=torch.nn.functional.one_hot(labels).float())
    told = [
        oracle.targets(embeddings, logits, temperature=2.0, subclasses=blob),
        random.targets(embeddings, logits, temperature=2.0),
        clusters.targets(embeddings, logits, temperature=2.0),
    ]
    for targets in told:
        assert (targets >= 0).all()
        torch.testing.assert_close(targets.sum(dim=2), expected)


def test_the_oracle_knows_its_own_class_and_is_indifferent_in_the_others():
    digits = torch.tensor([0, 1, 2, 3, 4, 5, 4])
    oracle = ClusterSubclassTargets(3, method="oracle").fit(torch.zeros(7, 1), labels=digits % 2, subclasses=digits)
    conditional = oracle.conditional(torch.zeros(2, 1), torch.tensor([4, 3]))
    third = 1 / 3
    expected = [[[0.0, 0.0, 1.0], [third, third, third]], [[third, third, third], [0.0, 1.0, 0.0]]]
    torch.testing.assert_close(conditional, torch.tensor(expected))


def test_lots_are_even_independent_of_the_embedding_and_repeatable():
    embeddings, labels, _ = blobs(500)

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return RandomSubclassTargets(3, generator=generator).fit(embeddings, labels=labels).conditional(embeddings)

    drawn = draw(0)
    assert torch.equal(drawn, draw(0))
    assert not torch.equal(drawn, draw(1))
    shares = drawn.mean(dim=0)
    assert (shares - 1 / 3).abs().max() < 4 * (2 / 9 / 3000) ** 0.5
    together = (drawn[:, 0, :, None] * drawn[:, 1, None, :]).mean(dim=0)  # the two classes draw apart
    assert (together - 1 / 9).abs().max() < 0.03


def test_clusters_of_half_precision_embeddings_and_seeds():
    embeddings, labels, _ = blobs()
    one = ClusterSubclassTargets(3, seed=1).fit(embeddings.half(), labels=labels)
    other = ClusterSubclassTargets(3, seed=1).fit(embeddings.half(), labels=labels)
    assert torch.equal(one.centers, other.centers)
    assert one.centers.dtype == torch.float32
    assert one.conditional(embeddings.half()).shape == (120, 2, 3)
    assert np.isfinite(one.centers.numpy()).all()


def test_the_form_itself_makes_nothing():
    class Nothing(SubclassTargets):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must define `fit`"):
        Nothing(2).fit(torch.zeros(2, 1))
    with pytest.raises(NotImplementedError, match="Nothing must define `conditional`"):
        Nothing(2).targets(torch.zeros(2, 1), torch.zeros(2, 2))


def test_bad_input():
    embeddings, labels, blob = blobs(2)
    with pytest.raises(ValueError, match="`num_subclasses` to be at least 1, but got 0"):
        RandomSubclassTargets(0)
    with pytest.raises(ValueError, match="`labels` or `logits` to be given"):
        ClusterSubclassTargets(2).fit(embeddings)
    with pytest.raises(ValueError, match="class 0 to have at least 9 samples, but it has 6"):
        ClusterSubclassTargets(9).fit(embeddings, labels=labels)
    with pytest.raises(ValueError, match=r"classes in \[0, 2\), but got 4"):
        ClusterSubclassTargets(2).fit(embeddings, torch.zeros(2, 2), labels=labels + 4)
    with pytest.raises(ValueError, match="`labels` to hold 12 samples"):
        ClusterSubclassTargets(2).fit(embeddings, labels=labels[:3])
    with pytest.raises(ValueError, match="`fit` to be called first"):
        ClusterSubclassTargets(2).conditional(embeddings)
    with pytest.raises(ValueError, match="`fit` to be called first"):
        RandomSubclassTargets(2).conditional(embeddings)
    with pytest.raises(ValueError, match="`subclasses` to be given"):
        ClusterSubclassTargets(2, method="oracle").fit(embeddings, labels=labels)
    with pytest.raises(ValueError, match="at most 2 true subclasses in a class, but class 0 has more"):
        ClusterSubclassTargets(2, method="oracle").fit(embeddings, labels=labels, subclasses=blob)
    with pytest.raises(ValueError, match="0 belongs to two"):
        ClusterSubclassTargets(3, method="oracle").fit(embeddings, labels=labels, subclasses=0 * blob)
    clusters = ClusterSubclassTargets(2).fit(embeddings, labels=labels)
    with pytest.raises(ValueError, match=r"shape \[batch, 2\], but got \(3, 5\)"):
        clusters.conditional(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"`logits` to have shape \(12, 2\), but got \(12, 3\)"):
        clusters.targets(embeddings, torch.zeros(12, 3))
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        clusters.targets(embeddings, torch.zeros(12, 2), temperature=-1.0)
