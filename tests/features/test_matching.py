from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.features import FeatureMatching, feature_matching
from tutelage.models import convnet, swin, vit
from tutelage.objectives import Objective
from tutelage.training import Distillation


def batch(count: int = 3) -> Batch:
    return Batch(torch.randn(count, 1, 8, 8), torch.arange(count) % 3, torch.arange(count))


def test_by_hand() -> None:
    student = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    teacher = torch.tensor([[1.0, 4.0], [1.0, 0.0]])
    assert feature_matching(student, teacher, reduction="none").tolist() == [2.0, 0.5]
    assert feature_matching(student, teacher).item() == 1.25
    assert feature_matching(student, teacher, reduction="sum").item() == 2.5


def test_gradients() -> None:
    student = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda value: feature_matching(value, teacher.detach()), student)
    feature_matching(student, teacher).backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / student.numel())


def test_half_precision_is_summed_in_float32() -> None:
    student = torch.full((1, 5000), 300.0, dtype=torch.float16)
    loss = feature_matching(student, torch.zeros_like(student))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(90000.0, rel=1e-6)


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"the same shape, but got \(2, 3\) and \(2, 4\)"):
        feature_matching(torch.zeros(2, 3), torch.zeros(2, 4))


def test_what_is_built_fits_every_pair_and_learns_with_the_student() -> None:
    torch.manual_seed(0)
    objective = FeatureMatching(["stage:0", "stage:1", "head:input"], ["stage:0", "stage:1", "pool"])
    student, teacher = convnet((1, 8, 8), 3, channels=(4, 6)), convnet((1, 8, 8), 3, channels=(4, 8))
    method = Distillation(teacher, student, objective)
    method.setup(batch())
    assert objective.projectors is not None
    assert [type(projector) for projector in objective.projectors] == [nn.Identity, nn.Conv2d, nn.Linear]
    assert set(method.trainable()) == {"student", "objectives"}
    made = list(objective.projectors)
    method.setup(batch())
    assert list(objective.projectors) == made
    method.step(batch())["feature_matching"].backward()
    assert all(value.grad is not None for value in objective.parameters())
    assert all(value.grad is None for value in teacher.parameters())
    assert student.get_parameter("head.weight").grad is None  # nothing asks for the logits


def test_the_loss_is_the_sum_of_the_pairs() -> None:
    pairs = [torch.randn(2, 3, 4, 4), torch.randn(2, 5)]
    others = [torch.randn(2, 3, 4, 4), torch.randn(2, 5)]
    objective = FeatureMatching(["one", "two"], ["one", "two"])
    expected = feature_matching(pairs[0], others[0]) + feature_matching(pairs[1], others[1])
    torch.testing.assert_close(objective(pairs, others), expected)


@pytest.mark.parametrize("teacher", ["vit", "swin"])
def test_tokens_of_a_transformer_meet_the_maps_of_a_convolutional_network(teacher: str) -> None:
    model = vit((1, 8, 8), 3, patch_size=2) if teacher == "vit" else swin((1, 8, 8), 3)
    student = convnet((1, 8, 8), 3, channels=(4, 6))
    method = Distillation(model, student, FeatureMatching("stage:1", "stage:-1"))
    method.setup(batch())
    method.step(batch())["feature_matching"].backward()
    assert student.get_parameter("stage2.convolution.weight").grad is not None
    with pytest.raises(ValueError, match="to have the same size"):
        Distillation(model, student, FeatureMatching("stage:0", "stage:-1")).setup(batch())


def test_an_error_of_shape_says_where_and_what_would_help() -> None:
    places = ["stage:0"], ["stage:1"]
    maps, small = [torch.zeros(2, 3, 8, 8)], [torch.zeros(2, 3, 4, 4)]
    message = (
        r"Expected 'stage:0' of the student and 'stage:1' of the teacher to have the same size but for their widths, "
        r"but got \(2, 3, 8, 8\) and \(2, 3, 4, 4\); `resize=\"bilinear\"` would resize the student's"
    )
    with pytest.raises(ValueError, match=message):
        FeatureMatching(*places)(maps, small)
    assert FeatureMatching(*places, resize="area")(maps, small).item() == 0
    tokens = [torch.zeros(2, 16, 3)]
    assert FeatureMatching(*places)(tokens, small).item() == 0
    with pytest.raises(
        ValueError, match=r"got \(2, 16, 3\) and \(2, 17, 3\); `resize=\"bilinear\"` would make maps of"
    ):
        FeatureMatching(*places)(tokens, [torch.zeros(2, 17, 3)])
    assert FeatureMatching(*places, resize="bilinear")(tokens, [torch.zeros(2, 5, 3)]).item() == 0
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(2, 16, 3\)"):
        FeatureMatching(*places)([torch.zeros(2, 3)], tokens)
    with pytest.raises(ValueError, match=r"'stage:0' of the student: Expected argument `features` to fill a grid"):
        FeatureMatching(*places)([torch.zeros(2, 15, 3)], small)
    assert FeatureMatching(*places, extra_tokens=3)([torch.zeros(2, 19, 3)], small).item() == 0


def test_arguments_are_checked() -> None:
    for wrong in ([], "", ["stage:0", ""]):
        with pytest.raises(ValueError, match="`student_taps` to be a module path or a list of them"):
            FeatureMatching(wrong, "stage:0")
    with pytest.raises(ValueError, match="`student_taps` and `teacher_taps` to have the same length, but got 2 and 1"):
        FeatureMatching(["0", "1"], ["0"])
    with pytest.raises(ValueError, match="`extra_tokens`"):
        FeatureMatching("0", "0", extra_tokens=-1)
    with pytest.raises(ValueError, match="`aspect_ratio`"):
        FeatureMatching("0", "0", aspect_ratio=-1.0)


def test_one_place_may_be_read_for_several_pairs() -> None:
    objective = FeatureMatching(["stage:-1", "stage:-1"], ["stage:0", "stage:1"], resize="bilinear")
    assert isinstance(objective, Objective)
    method = Distillation(convnet((1, 8, 8), 3, channels=(4, 4)), convnet((1, 8, 8), 3, channels=(4, 4)), objective)
    method.setup(batch())
    assert method.step(batch())["feature_matching"].shape == ()


def test_a_compiled_student_is_taught_as_it_is_without_compiling() -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = convnet((1, 8, 8), 3, channels=(4, 6))
    teacher = convnet((1, 8, 8), 3, channels=(4, 8))
    student = copy.deepcopy(plain)
    compiled: nn.Module = torch.compile(student, backend="aot_eager")  # type: ignore[assignment]
    data = batch()
    objective = FeatureMatching(["stage:-1", "head:input"], ["stage:-1", "head:input"])
    losses = []
    for model in (plain, compiled):
        method = Distillation(teacher, model, objective)
        method.setup(data)
        loss = method.step(data)["feature_matching"]
        loss.backward()
        losses.append(loss.detach())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(
        [value.grad for value in plain.parameters()], [value.grad for value in student.parameters()]
    )
    torch.compiler.reset()
