from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from tutelage.features import FeatureMask, SpatialFeatureMask, SpecializedTeacher, feature_mask_for
from tutelage.models import mlp


class Ones(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return torch.ones_like(features)


class Fixed(nn.Module):
    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, features: Tensor) -> Tensor:
        return self.mask.expand(len(features), -1)


class WithTuple(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 6, batch_first=True)
        self.head = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        states, _ = self.layer(inputs)
        return self.head(states)


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


# ---- Masks -----------------------------------------------------------------------------------------------------------


def test_vector_mask_is_attention_written_out() -> None:
    mask, features = FeatureMask(12, num_heads=2, hidden_divisor=2), torch.randn(5, 12)
    assert mask.hidden == 6
    tokens = (features @ mask.embed.weight.T + mask.embed.bias).reshape(5, 12, 6)
    weight, bias = mask.attention.in_proj_weight, mask.attention.in_proj_bias
    query, key, value = (tokens @ weight.T + bias).split(6, dim=2)
    heads = []
    for head in (slice(0, 3), slice(3, 6)):
        scores = (query[..., head] @ key[..., head].transpose(1, 2) / 3**0.5).softmax(dim=2)
        heads.append(scores @ value[..., head])
    attended = torch.cat(heads, dim=2) @ mask.attention.out_proj.weight.T + mask.attention.out_proj.bias
    expected = torch.sigmoid((attended @ mask.score.weight.T + mask.score.bias).squeeze(2))
    torch.testing.assert_close(mask(features), expected)


@pytest.mark.parametrize(("dim", "divisor", "hidden"), [(64, 2, 30), (32, 2, 15), (6, 2, 3), (64, 8, 6), (596, 2, 297)])
def test_width_of_tokens(dim: int, divisor: int, hidden: int) -> None:
    with torch.device("meta"):
        assert FeatureMask(dim, hidden_divisor=divisor).hidden == hidden


def test_parameters_are_dominated_by_the_first_layer() -> None:
    mask = FeatureMask(64)
    assert sum(value.numel() for value in mask.embed.parameters()) == (64 + 1) * 64 * 30 == 124_800
    assert sum(value.numel() for value in mask.parameters()) - 124_800 == (30 * 90 + 90) + (30 * 30 + 30) + (30 + 1)


def test_masks_lie_between_0_and_1() -> None:
    assert FeatureMask(8, num_heads=2)(10 * torch.randn(6, 8)).min() > 0
    mask = SpatialFeatureMask(8, num_heads=2)(torch.randn(6, 8, 5, 3))
    assert mask.shape == (6, 8)
    assert mask.min() > 0
    assert mask.max() < 1


def test_map_mask_reduces_positions_as_the_paper_says() -> None:
    mask, features = SpatialFeatureMask(6).eval(), torch.randn(2, 6, 7, 7)
    convolution, pointwise, normalization, _ = mask.reduce
    assert convolution(features).shape == (2, 6, 4, 4)
    assert convolution.bias is None
    assert pointwise.bias is None
    reduced = normalization(pointwise(convolution(features))).relu().mean(dim=(2, 3))
    torch.testing.assert_close(mask(features), mask.channel_mask(reduced))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureMask(5), r"`dim` to be at least 6 \(`hidden_divisor` · `num_heads`\), but got 5"),
        (lambda: SpatialFeatureMask(5), "at least 6"),
        (lambda: FeatureMask(64, num_heads=0), "`num_heads` to be at least 1, but got 0"),
        (lambda: FeatureMask(64, hidden_divisor=0), "`hidden_divisor` to be at least 1, but got 0"),
        (lambda: FeatureMask(12)(torch.zeros(2, 13)), r"shape \(batch, 12\), but got \(2, 13\)"),
        (lambda: SpatialFeatureMask(12)(torch.zeros(2, 12)), r"\(batch, 12, height, width\), but got \(2, 12\)"),
        (lambda: feature_mask_for(torch.zeros(2, 3, 12)), r"but got \(2, 3, 12\)"),
    ],
)
def test_masks_refuse(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mask_that_fits_the_layer() -> None:
    assert isinstance(feature_mask_for(torch.zeros(2, 12)), FeatureMask)
    spatial = feature_mask_for(torch.zeros(2, 12, 3, 3), num_heads=2, hidden_divisor=3)
    assert isinstance(spatial, SpatialFeatureMask)
    assert spatial.channel_mask.hidden == 4


# ---- Specialised teachers --------------------------------------------------------------------------------------------


def test_a_mask_of_ones_is_the_teacher_bit_for_bit() -> None:
    model, inputs = mlp(5, 3, hidden=(8, 6)), torch.randn(4, 5)
    assert torch.equal(SpecializedTeacher(model, "linear2", Ones())(inputs), model(inputs))
    assert torch.equal(SpecializedTeacher(model, "linear2", Ones())(input=inputs), model(inputs))


def test_the_layer_is_scaled_and_the_rest_runs_on() -> None:
    model, inputs, mask = mlp(5, 3, hidden=(8,)), torch.randn(4, 5), torch.rand(8)
    expected = model.head(model.activation1(model.linear1(inputs) * mask))
    torch.testing.assert_close(SpecializedTeacher(model, "linear1", Fixed(mask))(inputs), expected)


def test_channels_of_maps_share_a_mask() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten())
    inputs, mask = torch.randn(2, 1, 5, 5), torch.rand(4)
    expected = (model[0](inputs) * mask[:, None, None]).flatten(1)
    torch.testing.assert_close(SpecializedTeacher(model, "0", Fixed(mask))(inputs), expected)


def test_first_of_several_outputs_is_masked() -> None:
    model, inputs = WithTuple(), torch.randn(2, 4, 3)
    halved = SpecializedTeacher(model, "layer", Fixed(torch.full((4,), 0.5)))(inputs)
    torch.testing.assert_close(halved, model.head(model.layer(inputs)[0] / 2))


def test_no_hook_is_left_behind_not_even_by_an_error() -> None:
    model = mlp(5, 3, hidden=(8,))
    SpecializedTeacher(model, "linear1", Ones())(torch.zeros(2, 5))
    assert hooks(model) == 0
    with pytest.raises(ValueError, match=r"to fit features \(2, 8\), but got \(2, 7\)"):
        SpecializedTeacher(model, "linear1", Fixed(torch.ones(7)))(torch.zeros(2, 5))
    assert hooks(model) == 0
    with pytest.raises(RuntimeError):
        SpecializedTeacher(model, "linear1", Ones())(torch.zeros(2, 6))
    assert hooks(model) == 0


def test_teachers_of_one_network_do_not_know_of_each_other() -> None:
    model, inputs = mlp(5, 3, hidden=(8, 6)), torch.randn(4, 5)
    first = SpecializedTeacher(model, "linear1", Fixed(torch.rand(8)))
    second = SpecializedTeacher(model, "linear2", Fixed(torch.rand(6)))
    alone = [teacher(inputs) for teacher in (first, second, model)]
    for _ in range(2):
        for teacher, said in zip((second, model, first), (alone[1], alone[2], alone[0]), strict=True):
            assert torch.equal(teacher(inputs), said)
    assert torch.equal(copy.deepcopy(first)(inputs), alone[0])


def test_a_specialised_teacher_specialised_again_has_both_masks() -> None:
    model, inputs = mlp(5, 3, hidden=(8, 6)), torch.randn(4, 5)
    first, second = torch.rand(8), torch.rand(6)
    both = SpecializedTeacher(SpecializedTeacher(model, "linear1", Fixed(first)), "model.linear2", Fixed(second))
    inner = model.activation2(model.linear2(model.activation1(model.linear1(inputs) * first)) * second)
    torch.testing.assert_close(both(inputs), model.head(inner))


def test_gradients_reach_the_mask() -> None:
    teacher = SpecializedTeacher(mlp(5, 3, hidden=(8,)).requires_grad_(False), "linear1", FeatureMask(8, num_heads=2))
    teacher(torch.randn(4, 5)).square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in teacher.mask.embed.parameters())
    assert all(value.grad is None for value in teacher.model.parameters())


def test_unknown_layers_and_layers_that_do_not_run() -> None:
    with pytest.raises(ValueError, match=r"one of 'linear1', 'activation1', 'head', but got 'liner1' \(did"):
        SpecializedTeacher(mlp(5, 3, hidden=(8,)), "liner1", Ones())
    model = mlp(5, 3, hidden=(8,))
    teacher = SpecializedTeacher(nn.ModuleDict({"a": model, "b": nn.Linear(1, 1)}), "b", Ones())
    teacher.model.forward = teacher.model["a"].forward
    with pytest.raises(ValueError, match="layer 'b' to run in a call of the model, but it did not"):
        teacher(torch.zeros(2, 5))
