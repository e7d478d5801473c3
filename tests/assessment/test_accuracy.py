from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score

from tutelage.assessment import (
    accuracy,
    balanced_top_k_accuracy,
    negative_log_likelihood,
    per_class_recall,
    rank_agreement,
    top_k_accuracy,
)
from tutelage.assessment import accuracy as accuracy_function


@pytest.fixture
def answers() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(200, 7), torch.randint(7, (200,))


def test_agrees_with_scikit_learn(answers):
    logits, target = answers
    labels = list(range(7))
    assert accuracy(logits, target) == pytest.approx(accuracy_score(target, logits.argmax(1)))
    assert top_k_accuracy(logits, target, k=3) == pytest.approx(
        top_k_accuracy_score(target, logits.numpy(), k=3, labels=labels)
    )
    probs = logits.double().softmax(1).numpy()
    assert negative_log_likelihood(logits.double(), target) == pytest.approx(log_loss(target, probs, labels=labels))


def test_balanced_accuracy_is_the_mean_over_the_classes_that_there_are(answers):
    logits, target = answers
    target = target.where(target != 3, -100)
    by_class = [top_k_accuracy(logits[target == label], target[target == label], k=2) for label in (0, 1, 2, 4, 5, 6)]
    assert balanced_top_k_accuracy(logits, target, k=2) == pytest.approx(sum(by_class) / 6)
    kept = target != -100
    recall = per_class_recall(logits[kept], target[kept])
    assert balanced_top_k_accuracy(logits, target) == pytest.approx(float(recall.nanmean()))
    with pytest.raises(ValueError, match="`k` to be at most the number of classes 7, but got 8"):
        balanced_top_k_accuracy(logits, target, k=8)


def test_top_k_goes_from_accuracy_to_one_and_ties_earn_nothing(answers):
    logits, target = answers
    rates = [top_k_accuracy(logits, target, k=k) for k in range(1, 8)]
    assert rates[0] == accuracy(logits, target)
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    constant, labels = torch.zeros(7, 7), torch.arange(7)
    assert [top_k_accuracy(constant, labels, k=k) for k in (1, 3)] == [pytest.approx(1 / 7), pytest.approx(3 / 7)]


def test_sequences_are_flattened_and_ignored_positions_left_out(answers):
    logits, target = answers
    target[::3] = -100
    kept = target != -100
    for measure in (accuracy_function, negative_log_likelihood, top_k_accuracy):
        assert measure(logits.view(20, 10, 7), target.view(20, 10)) == measure(logits[kept], target[kept])
    with pytest.raises(ValueError, match="every sample is left out"):
        accuracy(logits, torch.full((200,), -100))


def test_likelihood_survives_extreme_logits_and_half_precision():
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert negative_log_likelihood(logits, torch.tensor([0, 0])) == pytest.approx(1e4)
    half = torch.tensor([[3.0, 1.0, 0.5]], dtype=torch.bfloat16)
    assert negative_log_likelihood(half, torch.tensor([0])) == negative_log_likelihood(half.float(), torch.tensor([0]))


@pytest.mark.parametrize("tied", [False, True])
def test_rank_agreement_is_the_mean_of_scipys_tau_b(tied):
    student, teacher, target = torch.randn(30, 9), torch.randn(30, 9), torch.randint(9, (30,))
    if tied:
        student, teacher = student.round(), teacher.round()
    expected = []
    for row in range(30):
        others = np.arange(9) != int(target[row])
        expected.append(kendalltau(student[row].numpy()[others], teacher[row].numpy()[others]).statistic)
    assert rank_agreement(student, teacher, target) == pytest.approx(np.nanmean(expected), abs=1e-12)


def test_rank_agreement_ignores_the_label_and_monotone_changes():
    student, teacher, target = torch.randn(8, 5), torch.randn(8, 5), torch.randint(5, (8,))
    value = rank_agreement(student, teacher, target)
    moved = student.scatter(1, target[:, None], 100.0)
    assert rank_agreement(moved, teacher.exp(), target) == pytest.approx(value)
    assert rank_agreement(-student, teacher, target) == pytest.approx(-value)


def test_rank_agreement_in_blocks_is_the_same(monkeypatch):
    import importlib

    module = importlib.import_module("tutelage.assessment.accuracy")
    student, teacher, target = torch.randn(11, 6), torch.randn(11, 6), torch.randint(6, (11,))
    whole = rank_agreement(student, teacher, target)
    monkeypatch.setattr(module, "PAIR_BUDGET", 80)
    assert rank_agreement(student, teacher, target) == pytest.approx(whole)


def test_rank_agreement_without_any_order_is_nan():
    assert math.isnan(rank_agreement(torch.zeros(3, 4), torch.randn(3, 4), torch.zeros(3, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy(torch.zeros(2, 3), torch.tensor([0, 3])), r"classes in \[0, 3\)"),
        (lambda: accuracy(torch.zeros(2, 3).long(), torch.tensor([0, 1])), "floating-point"),
        (lambda: top_k_accuracy(torch.zeros(2, 3), torch.tensor([0, 1]), k=4), "at most the number of classes 3"),
        (lambda: top_k_accuracy(torch.zeros(2, 3), torch.tensor([0, 1]), k=0), "at least 1"),
        (lambda: rank_agreement(torch.zeros(2, 2), torch.zeros(2, 2), torch.tensor([0, 1])), "at least 3 classes"),
        (lambda: rank_agreement(torch.zeros(2, 3), torch.zeros(2, 4), torch.tensor([0, 1])), "number of classes"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
