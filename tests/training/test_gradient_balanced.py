"""Balanced losses: equal pulls whatever their scale, and everything else as in plain distillation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.config import MethodSettings
from tutelage.data import ArraySamples
from tutelage.models import causal_lm
from tutelage.objectives import CrossEntropy, ForwardKL, Objective
from tutelage.training import Distillation, GradientBalancedDistillation, Trainer, TrainingSettings, Weighted
from tutelage.training.gradient_balanced import last_block_path


class _Scaled(Objective):
    """Cross-entropy in another unit."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.plain = ForwardKL()

    reads = ("student.logits", "teacher.logits")

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return self.scale * self.plain(student_logits, teacher_logits)


def _batch() -> Batch:
    return Batch(torch.randint(9, (3, 6)), torch.randint(9, (3, 6)), torch.arange(3))


def _models() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    teacher, student = (causal_lm(9, hidden_size=8, num_layers=2, num_heads=1) for _ in range(2))
    return teacher, student


def _pull(loss: Tensor, layer: nn.Module) -> float:
    parts = torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True)
    return float(sum(part.square().sum() for part in parts) ** 0.5)


def test_losses_pull_equally_and_weights_come_on_top() -> None:
    teacher, student = _models()
    method = GradientBalancedDistillation(teacher, student, [Weighted(CrossEntropy(), 2.0), _Scaled(1e-5)])
    losses = method.step(_batch())
    first, second = (_pull(loss, student.get_submodule("transformer.h.1")) for loss in losses.values())
    assert first == pytest.approx(2 * second, rel=1e-3)
    assert method.shares["_scaled"] > 0.99
    assert sum(method.shares.values()) == pytest.approx(1)


def test_the_unit_of_a_loss_does_not_matter() -> None:
    directions = []
    for scale in (1.0, 1e3):
        teacher, student = _models()
        torch.manual_seed(1)
        losses = GradientBalancedDistillation(teacher, student, [CrossEntropy(), _Scaled(scale)]).step(_batch())
        sum(losses.values()).backward()  # type: ignore[union-attr]
        gradient = torch.cat([value.grad.flatten() for value in student.parameters() if value.grad is not None])
        directions.append(gradient / gradient.norm())
    torch.testing.assert_close(*directions, rtol=1e-3, atol=1e-5)


def test_one_loss_is_left_as_it_is() -> None:
    teacher, student = _models()
    batch = _batch()
    balanced = GradientBalancedDistillation(teacher, student, ForwardKL()).step(batch)
    plain = Distillation(teacher, student, ForwardKL()).step(batch)
    torch.testing.assert_close(balanced, plain)


def test_it_trains_and_watchers_see_it() -> None:
    teacher, student = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs = torch.randn(64, 4)
    samples = ArraySamples(inputs, teacher(inputs).argmax(dim=1))
    method = MethodSettings(name="gradient_balanced").make(teacher, student, [CrossEntropy(), _Scaled(1e-4)])
    assert isinstance(method, GradientBalancedDistillation)
    seen = []
    method.observers.append(lambda student, teacher, batch: seen.append(len(batch)))
    settings = TrainingSettings(epochs=20, batch_size=16, learning_rate=0.05)
    history = Trainer(method, samples, settings=settings).run()
    assert sum(seen) == 20 * 64
    assert history[-1]["loss/cross_entropy"] < 0.5 * history[0]["loss/cross_entropy"]  # type: ignore[operator]


def test_the_watched_layer() -> None:
    teacher, student = _models()
    assert last_block_path(student) == "transformer.h.1"
    assert last_block_path(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))) == "1"
    with pytest.raises(ValueError, match="a module of the student, but got 'nowhere'"):
        GradientBalancedDistillation(teacher, student, ForwardKL(), layer="nowhere")
    student.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'transformer\.h\.1' to have parameters that learn"):
        GradientBalancedDistillation(teacher, student, ForwardKL())
