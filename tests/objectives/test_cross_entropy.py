from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.batch import Batch
from tutelage.objectives import CrossEntropy
from tutelage.outputs import Outputs


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 4)])
def test_agrees_with_torch(label_smoothing: float, shape: tuple[int, ...]) -> None:
    logits, target = torch.randn(*shape, 5), torch.randint(5, shape)
    target.view(-1)[1] = -100
    expected = F.cross_entropy(logits.reshape(-1, 5), target.reshape(-1), label_smoothing=label_smoothing)
    torch.testing.assert_close(CrossEntropy(label_smoothing=label_smoothing)(logits, target), expected)


def test_needs_no_teacher() -> None:
    objective = CrossEntropy()
    assert objective.needs_target
    assert not objective.needs_teacher
    batch = Batch(torch.zeros(1, 1), torch.tensor([0]), torch.arange(1))
    assert objective(Outputs(logits=torch.zeros(1, 2)), None, batch).item() == pytest.approx(0.693147, abs=1e-6)


def test_another_label_can_mark_what_is_skipped() -> None:
    logits = torch.randn(3, 5)
    expected = F.cross_entropy(logits[:2], torch.tensor([0, 1]))
    torch.testing.assert_close(CrossEntropy(ignore_index=4)(logits, torch.tensor([0, 1, 4])), expected)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"`label_smoothing` to be in \[0, 1\], but got 1.5"):
        CrossEntropy(label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"classes in \[0, 5\) or be -100, but got 5"):
        CrossEntropy()(torch.zeros(1, 5), torch.tensor([5]))
