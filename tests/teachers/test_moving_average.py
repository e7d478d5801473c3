from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.batch import Batch
from tutelage.teachers import ExponentialMovingAverage, MovingAverageTeacher


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


@settings(max_examples=15, deadline=None)
@given(momentum=st.floats(0, 1), steps=st.integers(0, 6))
def test_a_constant_model_is_approached_geometrically(momentum: float, steps: int) -> None:
    start, model = network().double(), network().double()
    average = ExponentialMovingAverage(start, momentum=momentum)
    for _ in range(steps):
        average.update(model)
    for mine, first, target in zip(average.module.parameters(), start.parameters(), model.parameters(), strict=True):
        assert torch.allclose(mine, target + momentum**steps * (first - target), atol=1e-12)


def test_a_momentum_for_one_update_replaces_the_stored_one() -> None:
    model = network()
    average = ExponentialMovingAverage(network(), momentum=0.9)
    average.update(model, momentum=0.0)
    assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), model.parameters(), strict=True))
    assert average.momentum == 0.9


@pytest.mark.parametrize(("policy", "mean", "count"), [("copy", 8.0, 5), ("average", 2.0, 5), ("ignore", 0.0, 0)])
def test_buffer_policies(policy: str, mean: float, count: int) -> None:
    model = network()
    average = ExponentialMovingAverage(model, momentum=0.75, buffers=policy)
    model[1].running_mean.fill_(8.0)
    model[1].num_batches_tracked.fill_(5)
    average.update(model)
    assert torch.allclose(average.module[1].running_mean, torch.full((4,), mean))
    assert average.module[1].num_batches_tracked.item() == count


def test_the_model_is_copied_and_never_changed() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    average = ExponentialMovingAverage(model, momentum=0.5)
    assert average.module is not model
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        average.module[0].weight.fill_(1.0)
    average.update(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(average(torch.ones(2, 3)), average.module(torch.ones(2, 3)))


def test_tied_weights_move_once_and_stay_tied() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    model[1].weight = model[0].weight
    average = ExponentialMovingAverage(model, momentum=0.5)
    start = average.module[0].weight.clone()
    with torch.no_grad():
        model[0].weight.add_(2.0)
    average.update(model)
    assert average.module[0].weight is average.module[1].weight
    assert torch.allclose(average.module[0].weight, start + 1.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_stall(dtype: torch.dtype) -> None:
    model = nn.Linear(1, 1, bias=False).to(dtype)
    nn.init.ones_(model.weight)
    average = ExponentialMovingAverage(model, momentum=0.999)
    nn.init.constant_(model.weight, 2.0)
    for _ in range(100):
        average.update(model)
    assert average.module.weight.item() == pytest.approx(2 - 0.999**100, rel=1e-5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"`momentum` to be in \[0.0, 1.0\], but got 1.5"):
        ExponentialMovingAverage(network(), momentum=1.5)
    average = ExponentialMovingAverage(network())
    with pytest.raises(ValueError, match="a parameter is missing or differs"):
        average.update(nn.Linear(3, 4))
    with pytest.raises(ValueError, match="momentum"):
        average.update(network(), momentum=-0.1)


def test_the_teacher_follows_its_student_in_evaluation_mode() -> None:
    student = network()
    teacher = MovingAverageTeacher(student, 0.5, embedding=True)
    data = Batch(torch.randn(6, 3), None, torch.arange(6))
    start = teacher.model[0].weight.clone()
    with torch.no_grad():
        student[0].weight.add_(2.0)
    teacher.train()
    teacher.update()
    assert torch.allclose(teacher.model[0].weight, start + 1.0)
    teacher.update(decay=0.0)
    outputs = teacher(data)
    assert torch.allclose(outputs.logits, copy.deepcopy(student).eval()(data.inputs))
    assert outputs.embedding is not None
    assert not outputs.logits.requires_grad
    assert len(teacher.state_dict()) == len(student.state_dict())
