from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from tutelage.assessment import knn_probe, linear_probe


@pytest.fixture(scope="module")
def digits() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    features, target = load_digits(return_X_y=True)
    x, y = torch.tensor(features).float() / 16, torch.tensor(target)
    return (x[:600], y[:600]), (x[600:900], y[600:900])


def test_knn_agrees_with_scikit_learn(digits):
    train, test = digits
    for k in (1, 5, 20):
        reference = KNeighborsClassifier(k).fit(train[0].numpy(), train[1].numpy())
        expected = reference.score(test[0].numpy(), test[1].numpy())
        assert knn_probe(train, test, k=k) == pytest.approx(expected, abs=1.01 / 300)  # equal distances may part


def test_knn_keeps_its_digits_far_from_the_origin(digits):
    (x, y), (x_test, y_test) = digits
    assert knn_probe((x + 1e3, y), (x_test + 1e3, y_test), k=5) == pytest.approx(
        knn_probe((x, y), (x_test, y_test), k=5)
    )


def test_the_smallest_class_wins_ties():
    train = (torch.tensor([[0.0], [1.0], [1.1], [0.1]]), torch.tensor([2, 1, 1, 2]))
    assert knn_probe(train, (torch.tensor([[0.5]]), torch.tensor([1])), k=4) == 1.0


def test_a_long_linear_probe_is_logistic_regression(digits):
    train, test = digits
    expected = LogisticRegression(max_iter=500).fit(train[0], train[1]).score(test[0], test[1])
    assert linear_probe(train, test, epochs=600) == pytest.approx(expected, abs=0.03)


def test_linear_probe_is_reproducible_and_alone(digits):
    train, test = digits
    state = torch.get_rng_state()
    first = linear_probe(train, test, seed=1, epochs=2)
    assert linear_probe(train, test, seed=1, epochs=2) == first
    assert torch.get_rng_state().equal(state)
    with torch.inference_mode():
        assert linear_probe(train, test, seed=1, epochs=2) == first


def test_standardising_takes_away_scale_and_constants(digits):
    (x, y), (x_test, y_test) = digits
    base = linear_probe((x, y), (x_test, y_test), standardize=True, epochs=3)
    scaled = linear_probe((x * 100 - 7, y), (x_test * 100 - 7, y_test), standardize=True, epochs=3)
    assert scaled == pytest.approx(base, abs=0.01)
    features = torch.zeros(10, 2)  # constant columns
    target = torch.zeros(10, dtype=torch.int64)
    assert linear_probe((features, target), (features, target), standardize=True) == 1.0


def test_features_are_left_alone():
    features = torch.randn(20, 3, requires_grad=True)
    target = torch.randint(2, (20,))
    linear_probe((features, target), (features, target), epochs=1)
    assert features.grad is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: knn_probe((x, y), (x, y), k=5), "at most the number of training samples 4"),
        (lambda x, y: knn_probe((x, y), (x, y), k=0), "at least 1"),
        (lambda x, y: knn_probe((x, y), (x[:, :1], y), k=1), "same width"),
        (lambda x, y: linear_probe((x, y[:2]), (x, y)), "shape"),
        (lambda x, y: linear_probe((x[:0], y[:0]), (x, y)), "samples, width"),
        (lambda x, y: linear_probe((x, y - 1), (x, y)), "classes in"),
        (lambda x, y: linear_probe((x, y), (x, y), epochs=0), "at least 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
