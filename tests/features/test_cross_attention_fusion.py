import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from tutelage.features import StudentTeacherCrossAttention


def maps(batch: int = 2, channels: int = 4, height: int = 3, width: int = 5) -> tuple[Tensor, Tensor]:
    return (
        torch.randn(batch, channels, height, width, dtype=torch.float64),
        torch.randn(batch, channels, height, width, dtype=torch.float64),
    )


def slow_fusion(fusion: StudentTeacherCrossAttention, asking: Tensor, seen: Tensor) -> Tensor:
    """Position by position, with loops."""
    query, key, value = (layer.weight[:, :, 0, 0] for layer in (fusion.query, fusion.key, fusion.value))
    batch, _, height, width = asking.shape
    fused = torch.zeros_like(asking)
    for sample in range(batch):
        others = [seen[sample, :, row, column] for row in range(height) for column in range(width)]
        for row in range(height):
            for column in range(width):
                own = query @ asking[sample, :, row, column]
                scores = torch.stack([own @ (key @ other) for other in others]) / len(own) ** 0.5
                weights = scores.exp() / scores.exp().sum()
                fused[sample, :, row, column] = sum(
                    weight * (value @ other) for weight, other in zip(weights, others, strict=True)
                )
    return fused


@pytest.mark.parametrize("query_from", ["teacher", "student"])
@pytest.mark.parametrize("query_channels", [None, 1, 7])
def test_agrees_with_loops_over_positions(query_from: str, query_channels: int | None) -> None:
    fusion = StudentTeacherCrossAttention(4, query_channels, query_from=query_from).double()
    teacher, student = maps()
    asking, seen = (teacher, student) if query_from == "teacher" else (student, teacher)
    expected = slow_fusion(fusion, asking, seen)
    torch.testing.assert_close(fusion(teacher, student), expected)
    fused, attention = fusion(teacher, student, return_attention=True)
    torch.testing.assert_close(fused, expected)
    assert attention.shape == (2, 15, 15)
    torch.testing.assert_close(attention.sum(dim=-1), torch.ones(2, 15, dtype=torch.float64))
    assert (attention >= 0).all()


def test_layers_are_one_by_one_without_bias_and_half_as_wide_for_queries() -> None:
    fusion = StudentTeacherCrossAttention(6)
    shapes = {name: tuple(value.shape) for name, value in fusion.named_parameters()}
    assert shapes == {"query.weight": (3, 6, 1, 1), "key.weight": (3, 6, 1, 1), "value.weight": (6, 6, 1, 1)}
    teacher, student = torch.randn(1, 6, 4, 4), torch.randn(1, 6, 4, 4)
    tokens = [
        layer(side).flatten(2).mT for layer, side in zip(fusion.children(), (teacher, student, student), strict=True)
    ]
    attention = (tokens[0] @ tokens[1].mT / 3**0.5).softmax(dim=-1)
    torch.testing.assert_close(fusion(teacher, student), (attention @ tokens[2]).mT.reshape(1, 6, 4, 4))


def test_without_queries_attention_is_uniform_and_the_map_constant() -> None:
    fusion = StudentTeacherCrossAttention(4).double()
    torch.nn.init.zeros_(fusion.query.weight)
    teacher, student = maps()
    fused, attention = fusion(teacher, student, return_attention=True)
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / 15))
    expected = student.mean(dim=(2, 3)) @ fusion.value.weight[:, :, 0, 0].T
    torch.testing.assert_close(fused, expected[:, :, None, None].expand_as(fused))


def test_permuting_the_student_changes_nothing_and_permuting_the_teacher_permutes() -> None:
    fusion = StudentTeacherCrossAttention(4).double()
    teacher, student = maps()
    order = torch.randperm(15)

    def permuted(features: Tensor) -> Tensor:
        return features.flatten(2)[:, :, order].reshape(features.shape)

    fused = fusion(teacher, student)
    torch.testing.assert_close(fusion(teacher, permuted(student)), fused)
    torch.testing.assert_close(fusion(permuted(teacher), student), permuted(fused))


def test_gradients_match_finite_differences() -> None:
    fusion = StudentTeacherCrossAttention(2).double()
    teacher, student = (features.requires_grad_() for features in maps(1, 2, 2, 2))
    weights = [value.detach().requires_grad_() for value in fusion.parameters()]

    def fused(teacher: Tensor, student: Tensor, *weights: Tensor) -> Tensor:
        named = dict(zip(dict(fusion.named_parameters()), weights, strict=True))
        return torch.func.functional_call(fusion, named, (teacher, student))

    torch.autograd.gradcheck(fused, (teacher, student, *weights))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    fusion = StudentTeacherCrossAttention(4)
    teacher, student = (30 * torch.randn(2, 4, 3, 3).to(dtype) for _ in range(2))
    fused = fusion(teacher, student)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, fusion(teacher.float(), student.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(fusion(teacher, student), fused)


def test_the_matrix_is_not_built_unless_it_is_asked_for() -> None:
    """A mean over 4096 positions: the matrix alone would take 64 MiB."""
    fusion = StudentTeacherCrossAttention(8)
    teacher, student = torch.randn(1, 8, 64, 64), torch.randn(1, 8, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        fusion(teacher, student).sum().backward()
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert 0 < largest < 16 << 20


def test_bad_input_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"`channels` to be even where `query_channels` is not given.*got 11"):
        StudentTeacherCrossAttention(11)
    assert StudentTeacherCrossAttention(11, 5).query.out_channels == 5
    with pytest.raises(ValueError, match="`query_channels` to be at least 1, but got 0"):
        StudentTeacherCrossAttention(4, 0)
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        StudentTeacherCrossAttention(4, query_from="techer")
    fusion = StudentTeacherCrossAttention(4, max_tokens=12)
    with pytest.raises(ValueError, match=r"at most 12 positions, but got 4 × 4 = 16.*256 entries"):
        fusion(torch.zeros(1, 4, 4, 4), torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="`teacher` and `student` to have the same shape"):
        fusion(torch.zeros(1, 4, 3, 4), torch.zeros(1, 4, 4, 3))
    with pytest.raises(ValueError, match="to have 4 channels, but got 6"):
        fusion(torch.zeros(1, 6, 2, 2), torch.zeros(1, 6, 2, 2))
