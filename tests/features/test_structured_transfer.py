from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from tutelage.data import ArraySamples
from tutelage.features import (
    StructuredKnowledgeTransfer,
    StructuredTransfer,
    dense_fsp_loss,
    fsp_matrix,
    intra_layer_pattern_loss,
)
from tutelage.models import CSRNET_TAPS, CSRNet
from tutelage.objectives import LogitMSE, MeanSquaredError
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted

few = settings(max_examples=15, deadline=None)
reductions = st.sampled_from(["sum", "mean"])


def maps(*channels: int, batch: int = 2, size: int = 4, seed: int = 0) -> list[Tensor]:
    """Maps at size · 2 and size, the rest at size."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [2 * size, *[size] * (len(channels) - 1)]
    return [
        torch.randn(batch, width, side, side + 1 + (side == 2 * size), generator=generator, dtype=torch.float64)
        for width, side in zip(channels, sizes, strict=True)
    ]


def slow_intra(student: list[Tensor], teacher: list[Tensor], reduction: str) -> float:
    layers = []
    for s, t in zip(student, teacher, strict=True):
        cosines = functional.cosine_similarity(s, t, dim=1)
        layers.append(float((1 - cosines).sum() / len(s) if reduction == "sum" else (1 - cosines).mean()))
    return sum(layers) if reduction == "sum" else sum(layers) / len(layers)


def slow_fsp(student: list[Tensor], teacher: list[Tensor], pool: tuple[int, ...], reduction: str) -> float:
    """Sample by sample and pair by pair, as the official code does for a batch of one."""
    totals = []
    for row in range(len(student[0])):
        sides = []
        for side in (student, teacher):
            alone = [value[row : row + 1] for value in side]
            for number, kernel in enumerate(pool):
                alone[number] = nn.MaxPool2d(kernel, stride=kernel, ceil_mode=True)(alone[number])
            alone = [nn.InstanceNorm2d(value.shape[1])(value)[0].flatten(1) for value in alone]
            sides.append([a @ b.T / a.shape[1] for a, b in combinations(alone, 2)])
        distances = [(a - b).square() for a, b in zip(*sides, strict=True)]
        if reduction == "sum":
            totals.append(sum(float(one.sum()) for one in distances))
        else:
            totals.append(sum(float(one.mean()) for one in distances) / len(distances))
    return sum(totals) / len(totals)


# ---- Within layers ---------------------------------------------------------------------------------------------------


def test_hand_case_and_bounds() -> None:
    student = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    teacher = torch.tensor([[[[0.0, 0.0]], [[1.0, 1.0]]]])
    assert intra_layer_pattern_loss([student], [teacher]).item() == pytest.approx(1)
    assert intra_layer_pattern_loss([student], [-student]).item() == pytest.approx(4)  # opposite: 2 a position
    turned = student.flip(1)
    assert intra_layer_pattern_loss([student], [turned]).item() == pytest.approx(2)  # orthogonal: 1 a position
    assert intra_layer_pattern_loss([student, student], [-student, turned], reduction="mean").item() == 1.5


@few
@given(seed=st.integers(0, 999), reduction=reductions)
def test_intra_agrees_with_cosines_layer_by_layer(seed: int, reduction: str) -> None:
    student, teacher = maps(3, 5, 2, seed=seed), maps(3, 5, 2, seed=seed + 1)
    found = intra_layer_pattern_loss(student, teacher, reduction=reduction)
    assert found.item() == pytest.approx(slow_intra(student, teacher, reduction))


def test_empty_vectors_count_one_and_pass_no_gradient() -> None:
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = intra_layer_pattern_loss([student], [torch.ones(1, 3, 2, 2)])
    loss.backward()
    assert loss.item() == 4
    assert torch.equal(student.grad, torch.zeros_like(student))


# ---- Between layers --------------------------------------------------------------------------------------------------


@few
@given(seed=st.integers(0, 999), reduction=reductions, batch=st.integers(1, 4))
def test_fsp_agrees_with_pairs_of_single_samples(seed: int, reduction: str, batch: int) -> None:
    student = maps(3, 5, 2, 1, batch=batch, seed=seed)
    teacher = maps(3, 5, 2, 1, batch=batch, seed=seed + 1)
    found = dense_fsp_loss(student, teacher, pool=(2,), reduction=reduction)
    assert found.item() == pytest.approx(slow_fsp(student, teacher, (2,), reduction))


def test_seven_maps_make_twenty_one_pairs() -> None:
    channels = (4, 4, 6, 3, 5, 2, 1)
    generator = torch.Generator().manual_seed(0)
    sides = [
        [torch.randn(2, width, 3, 3, generator=generator, dtype=torch.float64) for width in channels] for _ in range(2)
    ]
    pairs = list(combinations(range(7), 2))
    assert len(pairs) == 21
    assert pairs[:2] == [(0, 1), (0, 2)]
    slow = 0.0
    for first, second in pairs:
        student, teacher = (fsp_matrix(side[first], side[second]) for side in sides)
        slow += float((student - teacher).square().sum(dim=(1, 2)).mean())
    assert dense_fsp_loss(*sides, pool=()).item() == pytest.approx(slow)


def test_pools_round_up() -> None:
    wide = torch.randn(2, 3, 21, 18, dtype=torch.float64)
    small = functional.max_pool2d(wide, 8, stride=8, ceil_mode=True)
    assert small.shape[2:] == (3, 3)
    other = torch.randn(2, 2, 3, 3, dtype=torch.float64)
    student, teacher = [wide, other], [wide.flip(3), other.flip(2)]
    pooled = [small, other], [functional.max_pool2d(teacher[0], 8, 8, ceil_mode=True), teacher[1]]
    torch.testing.assert_close(dense_fsp_loss(student, teacher, pool=(8,)), dense_fsp_loss(*pooled, pool=()))


def test_raw_products_without_normalisation() -> None:
    student, teacher = maps(3, 2, size=3)[1:] * 2, maps(3, 2, size=3, seed=1)[1:] * 2
    expected = [fsp_matrix(*side, instance_norm=False) for side in (student, teacher)]
    found = dense_fsp_loss(student, teacher, pool=(), instance_norm=False)
    torch.testing.assert_close(found, (expected[0] - expected[1]).square().sum(dim=(1, 2)).mean())


# ---- Both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [intra_layer_pattern_loss, dense_fsp_loss])
def test_the_same_maps_differ_by_nothing(loss) -> None:
    student = [value.requires_grad_() for value in maps(3, 5, 2)]
    options = {"pool": (2,)} if loss is dense_fsp_loss else {}
    found = loss(student, [value.detach().clone() for value in student], **options)
    gradients = torch.autograd.grad(found, student)
    assert abs(found.item()) < 1e-12
    for gradient in gradients:
        if loss is dense_fsp_loss:
            assert not gradient.any()
        assert gradient.abs().max() <= 1e-6


@few
@given(scale=st.floats(0.05, 20), seed=st.integers(0, 99), reduction=reductions)
def test_the_scale_of_a_map_does_not_matter(scale: float, seed: int, reduction: str) -> None:
    student, teacher = maps(3, 5, 2, seed=seed), maps(3, 5, 2, seed=seed + 1)
    scaled = [scale * student[0], *student[1:]]
    intra = [intra_layer_pattern_loss(side, teacher, reduction=reduction) for side in (student, scaled)]
    torch.testing.assert_close(*intra)
    inter = [dense_fsp_loss(side, teacher, pool=(2,), reduction=reduction) for side in (student, scaled)]
    torch.testing.assert_close(*inter, rtol=0.03, atol=0)  # up to the eps of the normalisation


def test_a_batch_is_the_mean_of_its_samples_and_a_repeated_sample_changes_nothing() -> None:
    student, teacher = maps(3, 5, batch=3), maps(3, 5, batch=3, seed=1)
    for loss in (intra_layer_pattern_loss, lambda *sides: dense_fsp_loss(*sides, pool=(2,))):
        alone = [loss(*([value[[row]] for value in side] for side in (student, teacher))) for row in range(3)]
        torch.testing.assert_close(loss(student, teacher), torch.stack(alone).mean())
        twice = [[value[[0, 0]] for value in side] for side in (student, teacher)]
        torch.testing.assert_close(loss(*twice), alone[0])


def test_gradients() -> None:
    student = [value.requires_grad_() for value in maps(2, 3, batch=2, size=2)]
    teacher = maps(2, 3, batch=2, size=2, seed=1)
    assert torch.autograd.gradcheck(lambda *values: intra_layer_pattern_loss(values, teacher), student)
    assert torch.autograd.gradcheck(lambda *values: dense_fsp_loss(values, teacher, pool=(2,)), student)


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = ([v.to(torch.bfloat16) for v in maps(3, 5, seed=seed)] for seed in (0, 1))
    for loss in (intra_layer_pattern_loss, lambda *sides: dense_fsp_loss(*sides, pool=(2,))):
        found = loss(student, teacher)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, loss([v.float() for v in student], [v.float() for v in teacher]))


# ---- The module ------------------------------------------------------------------------------------------------------


def densities(seed: int = 3) -> list[Tensor]:
    return list(torch.randn(3, 2, 1, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_total_is_the_weighted_sum_of_the_terms() -> None:
    transfer = StructuredKnowledgeTransfer((2, 3), (4, 5), intra_weight=0.25, inter_weight=2.0, pool=(2,)).double()
    student, teacher = maps(2, 3), [value.requires_grad_() for value in maps(4, 5, seed=1)]
    density, teacher_density, target = densities()
    losses = transfer(student, teacher, density, teacher_density.requires_grad_(), target)
    changed = [change(value) for change, value in zip(transfer.transforms, student, strict=True)]
    expected = {
        "hard": (density - target).square().sum() / 2,
        "soft": (density - teacher_density).square().sum() / 2,
        "intra": intra_layer_pattern_loss(changed, teacher),
        "inter": dense_fsp_loss([*changed, density], [*teacher, teacher_density], pool=(2,)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    weights = {"hard": 1, "soft": 1, "intra": 0.25, "inter": 2}
    torch.testing.assert_close(losses["total"], sum(weights[name] * value for name, value in expected.items()))
    losses["total"].backward()
    assert all(value.grad is None for value in [*teacher, teacher_density])
    assert all(parameter.grad is not None for parameter in transfer.parameters())


def test_a_weight_of_zero_still_reports_its_term_but_teaches_nothing() -> None:
    transfer = StructuredKnowledgeTransfer((2, 3), (4, 5), intra_weight=0.0, inter_weight=0.0, pool=(2,)).double()
    density, *others = densities()
    losses = transfer(maps(2, 3), maps(4, 5, seed=1), density.requires_grad_(), *others)
    assert losses["intra"] > 0
    assert losses["inter"] > 0
    assert not losses["intra"].requires_grad
    torch.testing.assert_close(losses["total"], losses["hard"] + losses["soft"])


def test_transforms_of_the_published_pair_and_a_student_that_does_not_notice_them() -> None:
    with torch.device("meta"):
        teacher, student = CSRNet(), CSRNet(4)
        transfer = StructuredKnowledgeTransfer(student.tap_channels, teacher.tap_channels)
    total = sum(p.numel() for module in (student, transfer) for p in module.parameters())
    assert total == 1_123_409
    student, teacher = CSRNet(32, in_channels=1), CSRNet(16, in_channels=1)
    transfer = StructuredKnowledgeTransfer(student.tap_channels, teacher.tap_channels)
    image, target = torch.randn(2, 1, 24, 17), torch.rand(2, 1, 3, 3)
    before = student(image)
    density, features = student(image, return_features=True)
    with torch.no_grad():
        teacher_density, teacher_features = teacher(image, return_features=True)
    losses = transfer(features, teacher_features, density, teacher_density, target)
    losses["total"].backward()
    del transfer, losses
    assert torch.equal(student(image), before)
    assert all(parameter.grad is not None for parameter in student.parameters())


# ---- The objective ---------------------------------------------------------------------------------------------------


def counted(number: int = 8, seed: int = 0) -> ArraySamples:
    generator = torch.Generator().manual_seed(seed)
    return ArraySamples(
        torch.rand(number, 1, 24, 24, generator=generator), torch.rand(number, 1, 3, 3, generator=generator)
    )


def test_with_the_output_terms_it_is_the_module() -> None:
    student, teacher = CSRNet(32, in_channels=1), CSRNet(16, in_channels=1).eval()
    objective = StructuredTransfer()
    terms = [Weighted(MeanSquaredError(), 9.0), Weighted(LogitMSE(), 9.0), objective]
    method = Distillation(teacher, student, terms)
    batch = counted().batch(torch.arange(8))
    method.setup(batch)
    found = sum(method.step(batch).values())
    module = StructuredKnowledgeTransfer(student.tap_channels, teacher.tap_channels)
    module.transforms = objective.transforms
    density, features = student(batch.inputs, return_features=True)
    with torch.no_grad():
        teacher_density, teacher_features = teacher(batch.inputs, return_features=True)
    losses = module(features, teacher_features, density, teacher_density, batch.target)
    torch.testing.assert_close(found, losses["total"])


def test_it_trains_with_the_student_and_stays_out_of_it() -> None:
    torch.manual_seed(0)
    student, teacher = CSRNet(32, in_channels=1), CSRNet(16, in_channels=1)
    untouched = copy.deepcopy(teacher.state_dict())
    objective = StructuredTransfer()
    names = set(student.state_dict())
    method = Distillation(teacher, student, [MeanSquaredError(), objective])
    settings = TrainingSettings(epochs=12, batch_size=4, learning_rate=5e-3)
    history = Trainer(method, counted(), settings=settings).run()
    losses = [record["loss/structured_transfer"] for record in history]
    assert losses[-1] < 0.9 * losses[0]
    assert set(student.state_dict()) == names
    assert all(torch.equal(value, untouched[name]) for name, value in teacher.state_dict().items())


def test_unused_terms_are_not_read() -> None:
    objective = StructuredTransfer(inter_weight=0.0)
    assert "student.logits" not in objective.reads
    assert objective.taps["teacher"] == dict(zip(CSRNET_TAPS, CSRNET_TAPS, strict=True))
    student, teacher = maps(2, 3), maps(2, 3, seed=1)
    assert StructuredTransfer(["a", "b"], ["a", "b"], intra_weight=0.0, inter_weight=0.0)(student, teacher) == 0


# ---- Bad input -------------------------------------------------------------------------------------------------------


def test_bad_input() -> None:
    one, two = maps(3, 5), maps(3, 5, seed=1)
    for call, message in [
        (lambda: intra_layer_pattern_loss(one, two[:1]), "`student` and `teacher` to have the same length.*2 and 1"),
        (lambda: intra_layer_pattern_loss(one, maps(3, 4)), r"`student\[1\]` and `teacher\[1\]`.*same shape"),
        (lambda: intra_layer_pattern_loss([], []), "at least one"),
        (lambda: intra_layer_pattern_loss(one, two, eps=0.0), "`eps` to be positive"),
        (lambda: dense_fsp_loss(one, two[:1]), "`student` and `teacher` to have the same length"),
        (lambda: dense_fsp_loss(one[:1], two[:1], pool=()), "at least 2 maps to relate, but got 1"),
        (lambda: dense_fsp_loss(one, two, pool=()), "of `student`.*height and width after pooling"),
        (lambda: dense_fsp_loss(one, maps(3, 4), pool=(2,)), r"`student\[1\]` and `teacher\[1\]`.*channels"),
        (lambda: dense_fsp_loss(one, two, pool=(0,)), "`pool` to be at least 1, but got 0"),
        (lambda: dense_fsp_loss(one, two), "`pool` to hold at most one number a map, but got 3 for 2 maps"),
        (lambda: StructuredKnowledgeTransfer((2,), (2, 3)), "same length, but got 1 and 2"),
        (lambda: StructuredKnowledgeTransfer((2,), (2,), intra_weight=-1.0), "`intra_weight` to be at least 0"),
        (lambda: StructuredKnowledgeTransfer((2,), (2,), inter_weight=-1.0), "`inter_weight` to be at least 0"),
        (lambda: StructuredTransfer(inter_weight=-1.0), "`inter_weight` to be at least 0"),
        (lambda: StructuredTransfer("a", ["a", "b"]), "same length, but got 1 and 2"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    transfer = StructuredKnowledgeTransfer((3, 5), (3, 5), pool=(2,)).double()
    density, other, target = densities()
    with pytest.raises(ValueError, match="`student_features` and `transforms`"):
        transfer(one[:1], two[:1], density, other, target)
    with pytest.raises(ValueError, match="`student_density` and `target_density`"):
        transfer(one, two, density, other, target[..., :2])
