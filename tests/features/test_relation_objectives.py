from __future__ import annotations

import pytest
import torch

from tutelage.batch import Batch
from tutelage.features import (
    ChannelRelationDistance,
    SampleRelationDistance,
    channel_relation_distance,
    sample_relation_distance,
)
from tutelage.models import convnet, vit
from tutelage.training import Distillation


def batch(count: int = 4) -> Batch:
    return Batch(torch.randn(count, 1, 8, 8), torch.arange(count) % 3, torch.arange(count))


@pytest.mark.parametrize(
    ("objective", "distance"),
    [(SampleRelationDistance, sample_relation_distance), (ChannelRelationDistance, channel_relation_distance)],
)
def test_the_loss_is_the_sum_of_the_pairs(objective: type, distance: object) -> None:
    students, teachers = [[torch.randn(3, 5, size, size) for size in sizes] for sizes in ((2, 4), (4, 3))]
    expected = sum(distance(*pair) for pair in zip(students, teachers, strict=True))  # type: ignore[operator]
    torch.testing.assert_close(objective(["one", "two"], ["three", "four"])(students, teachers), expected)


def test_samples_meet_across_layouts_and_widths() -> None:
    torch.manual_seed(0)
    student = convnet((1, 8, 8), 3, channels=(4, 6))
    method = Distillation(
        vit((1, 8, 8), 3), student, SampleRelationDistance(["stage:0", "pool"], ["stage:0", "stage:-1"])
    )
    method.setup(batch())
    assert set(method.trainable()) == {"student"}  # nothing learns beside it
    torch.autograd.backward(method.step(batch())["sample_relation_distance"])
    assert student.get_parameter("stage1.convolution.weight").grad is not None
    assert student.get_parameter("head.weight").grad is None


def test_a_student_comes_to_relate_channels_as_its_teacher_does() -> None:
    torch.manual_seed(0)
    teacher, student = convnet((1, 8, 8), 3, channels=(4, 6)), convnet((1, 8, 8), 3, channels=(3, 6), kernel_size=5)
    method, data = Distillation(teacher, student, ChannelRelationDistance()), batch(8)
    method.setup(data)
    optimizer = torch.optim.Adam(student.parameters(), 0.01)
    losses = []
    for _ in range(15):
        losses.append(method.step(data)["channel_relation_distance"])
        optimizer.zero_grad()
        torch.autograd.backward(losses[-1])
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
    assert all(value.grad is None for value in teacher.parameters())


def test_tokens_become_maps_for_channels() -> None:
    tokens = torch.randn(2, 17, 3)
    maps = tokens[:, 1:].transpose(1, 2).reshape(2, 3, 4, 4)
    assert ChannelRelationDistance()([tokens], [maps]).item() == pytest.approx(0, abs=1e-6)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="student_taps"):
        SampleRelationDistance(["a", "b"], "a")
    with pytest.raises(ValueError, match=r"'stage:-1' of the student to have as many channels .* but got 3 and 4"):
        ChannelRelationDistance()([torch.zeros(2, 3, 4, 4)], [torch.zeros(2, 4, 4, 4)])
    with pytest.raises(ValueError, match="the same batch size"):
        SampleRelationDistance()([torch.zeros(2, 3)], [torch.zeros(3, 3)])
