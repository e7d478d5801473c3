import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor

from tutelage.features import AdaptiveMasks, channel_masked_mse, mask_diversity_loss, spatial_masked_mse


def maps(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 4, 2, 5, dtype=dtype), torch.randn(3, 4, 2, 5, dtype=dtype)


def slow_channel(teacher: Tensor, student: Tensor, masks: Tensor, squares: bool) -> Tensor:
    losses = []
    for t, s, sample_masks in zip(teacher, student, masks, strict=True):
        total = 0.0
        for mask in sample_masks:
            numerator = sum(((mask[k] * (t[k] - s[k])) ** 2).sum() for k in range(len(mask)))
            total += numerator / (t.shape[1] * t.shape[2] * (mask**2 if squares else mask).sum())
        losses.append(total / len(sample_masks))
    return torch.stack(losses)


def slow_spatial(teacher: Tensor, student: Tensor, masks: Tensor, squares: bool) -> Tensor:
    losses = []
    for t, s, sample_masks in zip(teacher, student, masks, strict=True):
        error = (t - s).flatten(1)
        total = 0.0
        for mask in sample_masks:
            numerator = sum(((mask[p] * error[:, p]) ** 2).sum() for p in range(len(mask)))
            total += numerator / (len(t) * (mask**2 if squares else mask).sum())
        losses.append(total / len(sample_masks))
    return torch.stack(losses)


def slow_diversity(masks: Tensor, dice: str) -> Tensor:
    losses = []
    for sample in masks:
        pairs = [(i, j) for i in range(len(sample)) for j in range(len(sample)) if i != j]
        if dice == "global":
            above = sum(2 * sample[i] @ sample[j] for i, j in pairs)
            losses.append(above / (2 * sum(mask @ mask for mask in sample)))
        else:
            each = [2 * sample[i] @ sample[j] / (sample[i] @ sample[i] + sample[j] @ sample[j]) for i, j in pairs]
            losses.append(sum(each) / len(each))
    return torch.stack(losses)


@pytest.mark.parametrize("normalization", ["sum", "sum_of_squares"])
def test_masked_errors_agree_with_loops(normalization: str) -> None:
    teacher, student = maps()
    channel_masks = torch.rand(3, 6, 4, dtype=torch.float64)
    spatial_masks = torch.rand(3, 6, 10, dtype=torch.float64)
    squares = normalization == "sum_of_squares"
    channel = channel_masked_mse(teacher, student, channel_masks, normalization=normalization, reduction="none")
    spatial = spatial_masked_mse(teacher, student, spatial_masks, normalization=normalization, reduction="none")
    torch.testing.assert_close(channel, slow_channel(teacher, student, channel_masks, squares))
    torch.testing.assert_close(spatial, slow_spatial(teacher, student, spatial_masks, squares))
    options = {"normalization": normalization}
    torch.testing.assert_close(channel_masked_mse(teacher, student, channel_masks, **options), channel.mean())
    torch.testing.assert_close(
        spatial_masked_mse(teacher, student, spatial_masks, **options, reduction="sum"), spatial.sum()
    )


@pytest.mark.parametrize("dice", ["global", "pairwise_mean"])
def test_diversity_agrees_with_loops(dice: str) -> None:
    masks = torch.rand(3, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(mask_diversity_loss(masks, dice=dice, reduction="none"), slow_diversity(masks, dice))


def test_hand_computed_cases() -> None:
    teacher, student = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2), torch.zeros(1, 1, 1, 2)
    masks = torch.tensor([[[0.5, 1.0]]])
    assert spatial_masked_mse(teacher, student, masks).item() == pytest.approx((0.5 * 2) ** 2 / 1.5)
    squares = spatial_masked_mse(teacher, student, masks, normalization="sum_of_squares")
    assert squares.item() == pytest.approx((0.5 * 2) ** 2 / 1.25)
    # Two channels over two positions, error (1, 2) and (3, 4); masks halve the first channel, or drop the second.
    teacher = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 2, 1, 2)
    masks = torch.tensor([[[0.5, 1.0], [1.0, 0.0]]])
    expected = ((0.25 * 5 + 25) / (2 * 1.5) + 5 / (2 * 1)) / 2
    assert channel_masked_mse(teacher, torch.zeros_like(teacher), masks).item() == pytest.approx(expected)
    assert mask_diversity_loss(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]])).item() == pytest.approx(2 / 3)


def test_equal_maps_have_no_error() -> None:
    teacher, _ = maps()
    assert channel_masked_mse(teacher, teacher, torch.rand(3, 2, 4)).item() == 0
    assert spatial_masked_mse(teacher, teacher, torch.rand(3, 2, 10)).item() == 0


@given(kappa=st.floats(1e-3, 1.0))
@settings(max_examples=20)
def test_constant_masks_scale_the_error_only_with_the_papers_normalization(kappa: float) -> None:
    teacher, student = maps()
    mean_square = (teacher - student).square().mean()
    for loss, entries in ((channel_masked_mse, 4), (spatial_masked_mse, 10)):
        masks = torch.full((3, 2, entries), kappa, dtype=torch.float64)
        torch.testing.assert_close(loss(teacher, student, masks), kappa * mean_square)
        torch.testing.assert_close(loss(teacher, student, masks, normalization="sum_of_squares"), mean_square)


@given(factor=st.floats(1e-30, 1.0))
@settings(max_examples=20)
def test_diversity_and_sums_of_squares_do_not_see_a_common_factor(factor: float) -> None:
    masks = torch.rand(2, 4, 6) + 0.1
    for dice in ("global", "pairwise_mean"):
        torch.testing.assert_close(
            mask_diversity_loss(masks * factor, dice=dice), mask_diversity_loss(masks, dice=dice), rtol=1e-4, atol=1e-6
        )
    teacher, student = torch.randn(2, 6, 1, 2), torch.randn(2, 6, 1, 2)
    for loss in (channel_masked_mse,):
        torch.testing.assert_close(
            loss(teacher, student, masks * factor, normalization="sum_of_squares"),
            loss(teacher, student, masks, normalization="sum_of_squares"),
            rtol=1e-4,
            atol=1e-6,
        )


@pytest.mark.parametrize("number", [2, 6, 19])
def test_equal_masks_overlap_fully_and_disjoint_ones_not_at_all(number: int) -> None:
    equal = torch.rand(1, 1, 40, dtype=torch.float64).expand(2, number, 40)
    assert mask_diversity_loss(equal).item() == pytest.approx(number - 1)
    assert mask_diversity_loss(equal, dice="pairwise_mean").item() == pytest.approx(1)
    disjoint = torch.eye(number).unsqueeze(0)
    assert mask_diversity_loss(disjoint).item() == 0
    assert mask_diversity_loss(disjoint, dice="pairwise_mean").item() == 0


def test_zero_masks_say_nothing_and_give_finite_gradients() -> None:
    teacher, student = maps(torch.float32)
    for normalization in ("sum", "sum_of_squares"):
        masks = torch.zeros(3, 2, 4, requires_grad=True)
        loss = channel_masked_mse(teacher, student, masks, normalization=normalization) + mask_diversity_loss(masks)
        loss.backward()
        assert loss.item() == 0
        assert masks.grad is not None
        assert masks.grad.isfinite().all()


def test_one_mask_has_no_diversity_and_says_so() -> None:
    with pytest.warns(UserWarning, match="one mask alone is 0"):
        assert mask_diversity_loss(torch.rand(2, 1, 5)).item() == 0
    with pytest.warns(UserWarning, match="one mask alone is 0"):
        assert mask_diversity_loss(torch.rand(2, 1, 5), dice="pairwise_mean").item() == 0


def test_units_of_zero_make_every_mask_one_half() -> None:
    masks = AdaptiveMasks(4, 3).double()
    for units in masks.parameters():
        torch.nn.init.zeros_(units)
    teacher, student = maps()
    channel_masks, spatial_masks = masks(teacher)
    assert (channel_masks == 0.5).all()
    assert (spatial_masks == 0.5).all()
    half = 0.5 * (teacher - student).square().mean()
    torch.testing.assert_close(channel_masked_mse(teacher, student, channel_masks), half)
    torch.testing.assert_close(spatial_masked_mse(teacher, student, spatial_masks), half)


def test_masks_are_sigmoids_of_units_times_the_map() -> None:
    masks = AdaptiveMasks(4, 3).double()
    fused, _ = maps()
    channel_masks, spatial_masks = masks(fused)
    assert channel_masks.shape == (3, 3, 4)
    assert spatial_masks.shape == (3, 3, 10)
    one = masks.channel_units[2] * fused[1, 3].mean()
    assert channel_masks[1, 2, 3].item() == pytest.approx(one.sigmoid().item())
    place = (masks.spatial_units[0] * fused[2, :, 1, 3]).sum()  # row 1, column 3 of 2 × 5
    assert spatial_masks[2, 0, 8].item() == pytest.approx(place.sigmoid().item())
    halved = masks.float()(fused.to(torch.bfloat16))
    assert all(value.dtype == torch.float32 for value in halved)


@pytest.mark.parametrize("normalization", ["sum", "sum_of_squares"])
def test_gradients_match_finite_differences(normalization: str) -> None:
    teacher, student = (features[:1, :2, :, :2] for features in maps())
    student.requires_grad_()
    for loss, entries in ((channel_masked_mse, 2), (spatial_masked_mse, 4)):
        masks = (torch.rand(1, 2, entries, dtype=torch.float64) + 0.1).requires_grad_()
        torch.autograd.gradcheck(
            lambda s, m, loss=loss: loss(teacher, s, m, normalization=normalization), (student, masks)
        )
    masks = (torch.rand(2, 3, 4, dtype=torch.float64) + 0.1).requires_grad_()
    torch.autograd.gradcheck(lambda m: mask_diversity_loss(m, reduction="none"), masks)
    torch.autograd.gradcheck(lambda m: mask_diversity_loss(m, dice="pairwise_mean"), masks)


def test_the_teacher_gets_no_gradient() -> None:
    teacher, student = (features.requires_grad_() for features in maps())
    (channel_masked_mse(teacher, student, torch.rand(3, 2, 4)) + student.sum()).backward()
    assert teacher.grad is None
    assert student.grad is not None


def test_half_precision_is_computed_in_float32() -> None:
    teacher, student = (100 * features.to(torch.float16) for features in maps())
    masks = torch.rand(3, 2, 4).to(torch.float16)
    loss = channel_masked_mse(teacher, student, masks)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, channel_masked_mse(teacher.float(), student.float(), masks.float()))
    assert mask_diversity_loss(masks).dtype == torch.float32


def test_bad_input_is_refused_in_one_line() -> None:
    teacher, student = maps()
    with pytest.raises(ValueError, match=r"`masks` to have shape \[3, masks, 10\].*got \(3, 2, 4\)"):
        spatial_masked_mse(teacher, student, torch.rand(3, 2, 4))
    with pytest.raises(ValueError, match=r"`masks` to have shape \[3, masks, 4\].*got \(2, 2, 4\)"):
        channel_masked_mse(teacher, student, torch.rand(2, 2, 4))
    with pytest.raises(ValueError, match="`teacher` and `student` to have the same shape"):
        channel_masked_mse(teacher, student[:, :, :1], torch.rand(3, 2, 4))
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        channel_masked_mse(teacher, student, torch.rand(3, 2, 4), normalization="squares")
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        mask_diversity_loss(torch.rand(1, 2, 3), dice="mean")
    with pytest.raises(ValueError, match="`num_masks` to be at least 1, but got 0"):
        AdaptiveMasks(4, 0)
    with pytest.raises(ValueError, match="`fused` to have 4 channels, but got 3"):
        AdaptiveMasks(4, 2)(torch.zeros(1, 3, 2, 2))
