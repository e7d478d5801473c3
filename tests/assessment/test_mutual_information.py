import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.assessment import conditional_mutual_information


def case(samples=15, classes=4, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (samples,), generator=generator)


def entropy(probs):
    return -torch.xlogy(probs, probs).sum(-1)


def test_known_answer():
    log_probs, target = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log(), torch.tensor([0, 0])
    assert conditional_mutual_information(log_probs, target).item() == pytest.approx(0.10175, abs=5e-6)
    by_class = conditional_mutual_information(log_probs, target, per_class=True)
    assert by_class[0].item() == pytest.approx(0.10175, abs=5e-6)
    assert by_class[1].isnan()


@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_entropy_form_equals_divergence_form_within_its_bounds(seed, scale):
    logits, target = case(seed=seed, scale=scale)
    probs = logits.softmax(1)
    expected = torch.zeros((), dtype=torch.float64)
    for label in target.unique():
        own = probs[target == label]
        expected += len(own) / len(probs) * (entropy(own.mean(0)) - entropy(own).mean())
    value = conditional_mutual_information(logits, target)
    assert abs(value - expected) < 1e-12
    assert 0 <= value <= math.log(4)


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_classes_weighted_by_their_share_give_the_whole(seed):
    logits, target = case(seed=seed)
    by_class = conditional_mutual_information(logits, target, per_class=True)
    share = target.bincount(minlength=4) / len(target)
    torch.testing.assert_close((by_class.nan_to_num() * share).sum(), conditional_mutual_information(logits, target))


def test_neither_order_nor_a_shift_of_a_row_matters():
    logits, target = case()
    expected = conditional_mutual_information(logits, target)
    order = torch.randperm(len(logits))
    torch.testing.assert_close(conditional_mutual_information(logits[order], target[order]), expected)
    torch.testing.assert_close(conditional_mutual_information(logits + torch.randn(15, 1), target), expected)
    torch.testing.assert_close(conditional_mutual_information(logits.log_softmax(1), target), expected)


def test_it_is_zero_where_outputs_of_a_class_coincide():
    logits, _ = case(3, 4)
    repeated = logits.repeat(5, 1)
    assert conditional_mutual_information(repeated, torch.arange(3).repeat(5)) < 1e-15
    assert conditional_mutual_information(repeated, torch.zeros(15, dtype=torch.int64)) > 0.1
    assert conditional_mutual_information(logits, torch.arange(3)) == 0  # one sample a class
    one_hot = torch.eye(4).log()  # a sure and right teacher, with log 0
    assert conditional_mutual_information(one_hot.repeat(2, 1), torch.arange(4).repeat(2)) == 0


def test_temperature_softens_outputs_and_centroids():
    logits, target = case()
    at_two = conditional_mutual_information(logits, target, temperature=2.0)
    torch.testing.assert_close(at_two, conditional_mutual_information(logits / 2, target))
    assert conditional_mutual_information(logits, target, temperature=1e4) < 1e-6


def test_own_centroids_are_the_default_and_others_give_more():
    logits, target = case(30)
    probs = logits.softmax(1)
    own = torch.stack([probs[target == label].mean(0) for label in range(4)])
    value = conditional_mutual_information(logits, target)
    torch.testing.assert_close(conditional_mutual_information(logits, target, centroids=own), value)
    other = torch.full((4, 4), 0.25)
    assert conditional_mutual_information(logits, target, centroids=other) > value
    assert conditional_mutual_information(logits, target, centroids=torch.eye(4)) == math.inf
    certain = torch.eye(4).log()
    assert conditional_mutual_information(certain, torch.arange(4), centroids=torch.eye(4)) == 0


def test_huge_logits_and_half_precision():
    logits, target = case()
    for scale in (1e3, 1e5):
        assert torch.isfinite(conditional_mutual_information(logits.sign() * scale, target))
    half = conditional_mutual_information(logits.bfloat16(), target)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, conditional_mutual_information(logits.bfloat16().float(), target))


def test_bad_input():
    logits, target = case()
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        conditional_mutual_information(logits, target, temperature=0.0)
    with pytest.raises(ValueError, match="at least one value"):
        conditional_mutual_information(logits[:0], target[:0])
    with pytest.raises(ValueError, match="to hold classes in"):
        conditional_mutual_information(logits, target + 4)
    with pytest.raises(ValueError, match=r"`centroids` to have shape \(4, 4\)"):
        conditional_mutual_information(logits, target, centroids=torch.full((3, 4), 0.25))
    with pytest.raises(ValueError, match="sum to 1"):
        conditional_mutual_information(logits, target, centroids=torch.full((4, 4), 0.26))
