import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.features import class_conditional_mean
from tutelage.objectives import ClassCentroids, MCMILoss, Progress, mcmi_loss
from tutelage.objectives.mcmi import MCMIParts, centroid_divergence, class_log_means


def case(samples=12, classes=4, seed=0, scale=2.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=dtype)
    target = torch.cat([torch.arange(classes), torch.randint(classes, (samples - classes,), generator=generator)])
    centroids = class_conditional_mean(logits.softmax(dim=1), target, num_classes=classes).to(dtype)
    return logits, target, centroids


def slow_loss(logits, target, centroids, weight):
    """Sample by sample, entry by entry, from probabilities."""
    values = []
    for row, label in zip(logits.double().tolist(), target.tolist(), strict=True):
        total = sum(math.exp(value - max(row)) for value in row)
        probs = [math.exp(value - max(row)) / total for value in row]
        centroid = centroids.double()[label].tolist()
        divergence = sum(p * (math.log(p) - math.log(q)) for p, q in zip(probs, centroid, strict=True))
        values.append(-math.log(probs[label]) - weight * divergence)
    return torch.tensor(values, dtype=torch.float64)


def test_known_answer():
    # P = (0.9, 0.1) and (0.5, 0.5) of one class: Q = (0.7, 0.3), mean KL 0.10175.
    log_probs, target = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64).log(), torch.tensor([0, 0])
    centroids = torch.tensor([[0.7, 0.3], [0.5, 0.5]], dtype=torch.float64)
    parts = mcmi_loss(log_probs, target, centroids, cmi_weight=0.5, return_parts=True)
    assert isinstance(parts, MCMIParts)
    assert parts.cmi.item() == pytest.approx(0.10175, abs=5e-6)
    assert parts.cross_entropy.item() == pytest.approx(-(math.log(0.9) + math.log(0.5)) / 2)
    assert parts.loss.item() == pytest.approx(parts.cross_entropy.item() - 0.5 * parts.cmi.item())


@given(seed=st.integers(0, 1000), weight=st.floats(0, 2))
@settings(max_examples=20, deadline=None)
def test_agrees_with_a_slow_obvious_reference(seed, weight):
    logits, target, centroids = case(seed=seed)
    expected = slow_loss(logits, target, centroids, weight)
    torch.testing.assert_close(
        mcmi_loss(logits, target, centroids, cmi_weight=weight, reduction="none"), expected, rtol=1e-9, atol=1e-12
    )
    torch.testing.assert_close(mcmi_loss(logits, target, centroids, cmi_weight=weight), expected.mean())
    torch.testing.assert_close(mcmi_loss(logits, target, centroids, cmi_weight=weight, reduction="sum"), expected.sum())


def test_gradient_is_the_closed_form():
    logits, target, centroids = case()
    logits.requires_grad_()
    centroids.requires_grad_()
    mcmi_loss(logits, target, centroids, cmi_weight=0.3).backward()
    probs, log_probs, own = logits.detach().softmax(1), logits.detach().log_softmax(1), centroids.detach()[target]
    divergence = (probs * (log_probs - own.log())).sum(1, keepdim=True)
    expected = probs - F.one_hot(target, 4) - 0.3 * probs * (log_probs - own.log() - divergence)
    torch.testing.assert_close(logits.grad, expected / len(logits))
    assert centroids.grad is None


def test_gradient_matches_finite_differences():
    logits, target, centroids = case(6, 3)
    assert torch.autograd.gradcheck(lambda z: mcmi_loss(z, target, centroids, cmi_weight=0.7), logits.requires_grad_())


def test_weight_zero_is_cross_entropy():
    logits, target, centroids = case(dtype=torch.float32)
    assert torch.equal(mcmi_loss(logits, target, centroids, cmi_weight=0.0), F.cross_entropy(logits, target))


@given(seed=st.integers(0, 1000), shift=st.floats(-50, 50))
@settings(max_examples=15, deadline=None)
def test_a_constant_added_to_a_row_and_the_order_of_samples_change_nothing(seed, shift):
    logits, target, centroids = case(seed=seed)
    expected = mcmi_loss(logits, target, centroids)
    torch.testing.assert_close(mcmi_loss(logits + shift, target, centroids), expected)
    order = torch.randperm(len(logits))
    torch.testing.assert_close(mcmi_loss(logits[order], target[order], centroids), expected)


@given(seed=st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_class_means_are_the_centroids_of_smallest_mean_divergence(seed):
    logits, target, centroids = case(seed=seed)
    log_probs = logits.log_softmax(1)
    best = centroid_divergence(log_probs, target, centroids.log()).mean()
    generator = torch.Generator().manual_seed(seed)
    for size in (0.01, 0.1, 1.0):
        other = (centroids.log() + size * torch.randn(4, 4, generator=generator, dtype=torch.float64)).log_softmax(1)
        assert centroid_divergence(log_probs, target, other).mean() > best - 1e-12


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_predictions_that_underflow_stay_finite(scale):
    logits, target, _ = case(dtype=torch.float32)
    logits = (logits.sign() * scale).requires_grad_()
    centroids = ClassCentroids().estimate([(logits.detach(), target)])
    flat = torch.full((4, 4), 0.25)
    one_hot = torch.eye(4)  # entries of 0 stand for underflow
    for loss in (
        MCMILoss(centroids)(logits, target),
        mcmi_loss(logits, target, flat),
        mcmi_loss(logits, target, one_hot),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()


def test_impossible_classes_contribute_nothing():
    logits = torch.tensor([[0.0, -math.inf], [0.0, -math.inf]], requires_grad=True)
    parts = mcmi_loss(logits, torch.tensor([0, 0]), torch.eye(2), return_parts=True)
    parts.loss.backward()
    assert parts.cmi.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 2))


def test_half_precision_is_computed_in_float32():
    logits, target, centroids = case(dtype=torch.float32)
    half = logits.bfloat16()
    loss = mcmi_loss(half, target, centroids)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, mcmi_loss(half.float(), target, centroids))


def test_twin_gives_the_same_as_the_function():
    logits, target, probabilities = case()
    centroids = ClassCentroids("fixed").estimate([(logits, target)])
    torch.testing.assert_close(centroids.probabilities, probabilities)
    torch.testing.assert_close(
        MCMILoss(centroids, cmi_weight=0.4)(logits, target), mcmi_loss(logits, target, probabilities, cmi_weight=0.4)
    )
    assert not list(MCMILoss(centroids).parameters())


def test_log_means_are_the_logarithms_of_class_means_in_any_batches():
    logits, target, expected = case(40, 4)
    log_probs = logits.log_softmax(1)
    torch.testing.assert_close(class_log_means(log_probs, target, num_classes=4).exp(), expected)
    batches = [(logits[rows], target[rows]) for rows in torch.randperm(40).split(7)]
    torch.testing.assert_close(ClassCentroids().estimate(batches).probabilities, expected)
    assert class_log_means(log_probs, target, num_classes=6)[4:].isnan().all()


def test_log_means_do_not_underflow():
    log_probs = torch.tensor([[0.0, -5000.0], [0.0, -5000.0 - math.log(3)]], dtype=torch.float64)
    means = class_log_means(log_probs, torch.tensor([0, 0]), num_classes=1)
    assert means[0, 1].item() == pytest.approx(-5000 + math.log((1 + 1 / 3) / 2))


def test_released_centroids_are_class_sums_with_normalised_rows():
    """The release adds probabilities up by class and then divides each row by its sum."""
    logits, target, _ = case(40, 4)
    probs = logits.softmax(1)
    sums = torch.stack([probs[target == label].sum(0) for label in range(4)])
    centroids = ClassCentroids("fixed").estimate([(logits, target)])
    torch.testing.assert_close(centroids.probabilities, sums / sums.sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("update", "due"),
    [("epoch", [True, False, True, False]), ("fixed", [True] + 3 * [False]), ("ema", [True] + 3 * [False])],
)
def test_when_centroids_are_taken_anew(update, due):
    centroids = ClassCentroids(update)
    assert [centroids.due(Progress(step, 4, steps_per_epoch=2)) for step in range(4)] == due


def test_moving_average_follows_the_classes_of_a_batch():
    logits, target, before = case()
    centroids = ClassCentroids("ema", decay=0.9).estimate([(logits, target)])
    batch, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 2, 0, 2, 2])
    centroids.follow(batch, labels)
    expected = before.clone()
    for label in (0, 2):
        expected[label] = 0.9 * before[label] + 0.1 * batch.softmax(1)[labels == label].mean(0)
    torch.testing.assert_close(centroids.probabilities, expected)
    torch.testing.assert_close(centroids.probabilities.sum(1), torch.ones(4, dtype=torch.float64))


@pytest.mark.parametrize("update", ["epoch", "fixed"])
def test_other_centroids_do_not_follow(update):
    logits, target, before = case()
    centroids = ClassCentroids(update).estimate([(logits, target)])
    centroids.follow(torch.randn(4, 4, dtype=torch.float64), target[:4])
    torch.testing.assert_close(centroids.probabilities, before)


def test_a_checkpoint_holds_the_centroids():
    logits, target, before = case(dtype=torch.float32)
    state = ClassCentroids().estimate([(logits, target)]).state_dict()
    fresh = ClassCentroids()
    fresh.build(logits)
    with pytest.raises(ValueError, match="estimated before they are used"):
        fresh.known()
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.probabilities, before)


def test_bad_input():
    logits, target, centroids = case()
    for weight in (-0.1, math.inf, math.nan):
        with pytest.raises(ValueError, match="`cmi_weight` to be at least 0"):
            mcmi_loss(logits, target, centroids, cmi_weight=weight)
        with pytest.raises(ValueError, match="`cmi_weight` to be at least 0"):
            MCMILoss(ClassCentroids(), cmi_weight=weight)
    with pytest.raises(ValueError, match=r"`centroids` to have shape \(4, 4\), but got \(3, 4\)"):
        mcmi_loss(logits, target, centroids[:3])
    with pytest.raises(ValueError, match=r"probabilities that sum to 1, but got a sum of 1\.001"):
        mcmi_loss(logits, target, centroids * 1.001)
    with pytest.raises(ValueError, match=r"`target` to hold classes in \[0, 4\), but got 4"):
        mcmi_loss(logits, target + 1, centroids)
    with pytest.raises(ValueError, match="there are none of 1"):
        ClassCentroids().estimate([(logits, torch.zeros_like(target))])
    with pytest.raises(ValueError, match="at least one batch"):
        ClassCentroids().estimate([])
    for decay in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"`decay` to be in \(0, 1\)"):
            ClassCentroids("ema", decay=decay)
    with pytest.raises(ValueError, match="estimated before they are used"):
        MCMILoss(ClassCentroids())(logits, target)
