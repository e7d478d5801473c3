import pytest
import torch
from sklearn.metrics import recall_score

from tutelage.assessment import accuracy, per_class_recall, zero_shot_recall


def test_agrees_with_scikit_learn():
    logits, target = torch.randn(60, 5), torch.arange(60) % 5
    expected = recall_score(target, logits.argmax(1), average=None)
    torch.testing.assert_close(per_class_recall(logits, target), torch.from_numpy(expected))
    # With equally many samples a class, the mean recall is the accuracy.
    assert per_class_recall(logits, target).mean().item() == pytest.approx(accuracy(logits, target))


def test_a_class_without_samples_has_no_recall():
    recall = per_class_recall(torch.eye(3), torch.tensor([0, 1, 1]))
    assert recall[:2].tolist() == [1.0, 0.5]
    assert recall[2].isnan()


def test_unseen_classes_count_alike_whatever_their_size():
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]])
    target = torch.tensor([0, 1, 1, 1, 2])
    assert zero_shot_recall(logits, target, [1]) == 1.0
    assert zero_shot_recall(logits, target, [1, 2]) == 0.5


def test_bad_input():
    logits, target = torch.eye(3), torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="at least one class"):
        zero_shot_recall(logits, target, [])
    with pytest.raises(ValueError, match="2 has no sample"):
        zero_shot_recall(logits, target, [2])
    with pytest.raises(ValueError, match=r"`classes` to be in \[0, 2\], but got 3"):
        zero_shot_recall(logits, target, [3])
    with pytest.raises(ValueError, match=r"`target` to hold classes in \[0, 3\), but got 3"):
        per_class_recall(logits, target + 2)
