import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.features import (
    ACAMDistillation,
    AdaptiveMaskDistillation,
    channel_masked_mse,
    mask_diversity_loss,
    spatial_masked_mse,
)
from tutelage.objectives import CrossEntropy, registered_objectives
from tutelage.training import Distillation, Trainer, TrainingSettings
from tutelage.training.optimizers import make_optimizer


def maps(*channels: int, size: int = 4) -> list[Tensor]:
    return [torch.randn(2, width, size, size) for width in channels]


def test_terms_are_those_of_the_pieces() -> None:
    acam = ACAMDistillation(3, 4, 5, alpha=0.7, diversity_weight=0.3)
    student, teacher = maps(3, 4)
    terms = acam(student, teacher)
    aligned = acam.align[0](student)
    channel_masks, spatial_masks = acam.masks[0](acam.fusion[0](teacher, aligned))
    torch.testing.assert_close(terms["channel_masks"], channel_masks)
    torch.testing.assert_close(terms["spatial_masks"], spatial_masks)
    torch.testing.assert_close(terms["channel"], channel_masked_mse(teacher, aligned, channel_masks))
    torch.testing.assert_close(terms["spatial"], spatial_masked_mse(teacher, aligned, spatial_masks))
    diversity = mask_diversity_loss(channel_masks) + mask_diversity_loss(spatial_masks)
    torch.testing.assert_close(terms["diversity"], diversity)
    torch.testing.assert_close(terms["total"], 0.7 * (terms["channel"] + terms["spatial"]) + 0.3 * terms["diversity"])


def test_a_student_like_its_teacher_has_only_diversity_left() -> None:
    acam = ACAMDistillation(4, 4, 3)
    (teacher,) = maps(4)
    terms = acam(teacher, teacher)
    assert terms["channel"] == terms["spatial"] == 0
    torch.testing.assert_close(terms["total"], terms["diversity"])
    assert not list(acam.align.parameters())  # the alignment exists only where widths differ
    assert [tuple(value.shape) for value in ACAMDistillation(3, 4, 2).align.parameters()] == [(4, 3, 1, 1), (4,)]


def test_several_taps_are_summed_and_give_lists() -> None:
    acam = ACAMDistillation([3, 6], [4, 6], 2)
    students, teachers = maps(3) + maps(6, size=2), maps(4) + maps(6, size=2)
    terms = acam(students, teachers)
    assert [tuple(masks.shape) for masks in terms["channel_masks"]] == [(2, 2, 4), (2, 2, 6)]
    assert [tuple(masks.shape) for masks in terms["spatial_masks"]] == [(2, 2, 16), (2, 2, 4)]
    each = [acam._tap(tap, *pair) for tap, pair in enumerate(zip(students, teachers, strict=True))]
    for name in ("channel", "spatial", "diversity"):
        torch.testing.assert_close(terms[name], each[0][name] + each[1][name])


def test_a_mask_set_that_is_off_adds_nothing_and_learns_nothing() -> None:
    student, teacher = maps(4, 4)
    for option, term, units in (
        ("use_channel", "channel", "channel_units"),
        ("use_spatial", "spatial", "spatial_units"),
    ):
        acam = ACAMDistillation(4, 4, 3, **{option: False})
        terms = acam(student, teacher)
        assert terms[term] == 0
        other = "spatial_masks" if term == "channel" else "channel_masks"
        torch.testing.assert_close(terms["diversity"], mask_diversity_loss(terms[other]))
        assert not getattr(acam.masks[0], units).requires_grad
    with pytest.raises(ValueError, match="at least one of `use_channel` and `use_spatial`"):
        ACAMDistillation(4, 4, 3, use_channel=False, use_spatial=False)


def test_where_gradients_go() -> None:
    student, teacher = (features.requires_grad_() for features in maps(4, 4))
    acam = ACAMDistillation(4, 4, 3)
    acam(student, teacher)["total"].backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in acam.parameters())

    student.grad = None
    acam(student, teacher)["diversity"].backward()  # reaches the student through the fused maps alone
    assert student.grad.abs().sum() > 0


def test_detached_masks_are_taught_by_the_diversity_alone() -> None:
    student, teacher = maps(4, 4)
    acam = ACAMDistillation(4, 4, 3, detach_masks=True)
    terms = acam(student.requires_grad_(), teacher)
    errors = terms["channel"] + terms["spatial"]
    assert torch.autograd.grad(errors, list(acam.parameters()), allow_unused=True, retain_graph=True) == (None,) * 5
    assert all(value.abs().sum() > 0 for value in torch.autograd.grad(terms["diversity"], list(acam.parameters())))
    torch.autograd.grad(acam(student, teacher)["channel"], student)


def test_masks_from_the_teacher_alone_do_not_see_the_student() -> None:
    acam = ACAMDistillation(4, 4, 3, mask_source="teacher")
    student, teacher = maps(4, 4)
    first, second = acam(student, teacher), acam(2 * student, teacher)
    torch.testing.assert_close(first["spatial_masks"], second["spatial_masks"])
    assert not torch.equal(first["spatial"], second["spatial"])
    cooperative = ACAMDistillation(4, 4, 3)
    masks = [cooperative(features, teacher)["spatial_masks"] for features in (student, 2 * student)]
    assert (masks[0] - masks[1]).abs().max() > 1e-3


def test_masks_that_do_not_learn_have_no_parameters_that_do() -> None:
    acam = ACAMDistillation(3, 4, 2, learn_masks=False)
    assert {name for name, value in acam.named_parameters() if value.requires_grad} == {
        "align.0.weight",
        "align.0.bias",
    }


def test_odd_widths_and_other_options_reach_the_pieces() -> None:
    assert ACAMDistillation(19, 19, 2).fusion[0].query.out_channels == 9
    assert ACAMDistillation(1, 1, 2).fusion[0].query.out_channels == 1
    acam = ACAMDistillation(4, 4, 3, query_channels=3, query_from="student", max_tokens=20)
    assert (acam.fusion[0].query.out_channels, acam.fusion[0].query_from, acam.fusion[0].max_tokens) == (
        3,
        "student",
        20,
    )
    student, teacher = maps(4, 4)
    scaled = ACAMDistillation(4, 4, 3, mask_normalization="sum_of_squares", dice="pairwise_mean")
    terms = scaled(student, teacher)
    expected = channel_masked_mse(teacher, student, terms["channel_masks"], normalization="sum_of_squares")
    torch.testing.assert_close(terms["channel"], expected)
    expected = sum(mask_diversity_loss(terms[f"{name}_masks"], dice="pairwise_mean") for name in ("channel", "spatial"))
    torch.testing.assert_close(terms["diversity"], expected)


def test_shrinking_all_masks_lowers_the_papers_loss_and_not_the_scale_invariant_one() -> None:
    """The weakness that the mean-mask figures are there for."""
    student, teacher = maps(4, 4)

    def terms(normalization: str, shift: float) -> tuple[float, float]:
        torch.manual_seed(0)
        acam = ACAMDistillation(4, 4, 2, mask_normalization=normalization)
        nn.init.constant_(acam.masks[0].channel_units, 0.0)
        masks = acam.make_masks(0, student, teacher)[0] * shift
        return channel_masked_mse(teacher, student, masks, normalization=normalization).item(), masks.mean().item()

    whole, shrunk = terms("sum", 1.0), terms("sum", 0.01)
    assert shrunk[0] == pytest.approx(0.01 * whole[0], rel=1e-4)
    whole, shrunk = terms("sum_of_squares", 1.0), terms("sum_of_squares", 0.01)
    assert shrunk[0] == pytest.approx(whole[0], rel=1e-4)


def test_bad_input_is_refused_in_one_line() -> None:
    acam = ACAMDistillation(4, 4, 2)
    with pytest.raises(ValueError, match=r'same height and width.*\(2, 2\) and \(4, 4\).*resize="bilinear"'):
        acam(maps(4, size=2)[0], maps(4)[0])
    resized = ACAMDistillation(4, 4, 2, resize="bilinear")
    assert resized(maps(4, size=2)[0], maps(4)[0])["spatial_masks"].shape == (2, 2, 16)
    with pytest.raises(ValueError, match="`student_features` to hold a map for each of 1 taps, but got 2"):
        acam(maps(4, 4), maps(4))
    with pytest.raises(ValueError, match="`student_channels` and `teacher_channels` to have the same length"):
        ACAMDistillation([4, 4], [4], 2)
    with pytest.raises(ValueError, match="`num_masks` to be at least 1"):
        ACAMDistillation(4, 4, 0)
    with pytest.raises(ValueError, match="`alpha` to be at least 0"):
        ACAMDistillation(4, 4, 2, alpha=-1.0)
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        ACAMDistillation(4, 4, 2, mask_source="student")
    with pytest.warns(UserWarning, match="`diversity_weight` has no effect"):
        single = ACAMDistillation(4, 4, 1)
    assert single(*maps(4, 4))["diversity"] == 0


# ---- In training -----------------------------------------------------------------------------------------------------


class Segmenter(nn.Module):
    """Logits `[batch, H · W, classes]`; the score map is a module of its own, to be tapped."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU())
        self.score = nn.Conv2d(width, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.body(images)).flatten(2).mT


def scenes() -> ArraySamples:
    images = torch.randn(24, 1, 6, 6)
    target = (images > 0).long() + (images > 1).long()
    return ArraySamples(images, target.flatten(1))


def test_the_twin_learns_with_the_student_and_logs_its_masks() -> None:
    assert registered_objectives()["acam_kd"] is AdaptiveMaskDistillation
    objective = AdaptiveMaskDistillation("score", "score", num_masks=3)
    student, teacher, samples = Segmenter(2), Segmenter(5), scenes()
    method = Distillation(teacher, student, [CrossEntropy(), objective])
    history = Trainer(method, samples, settings=TrainingSettings(epochs=2, batch_size=8)).run()
    assert objective.acam is not None
    for record in history:
        figures = {name: value for name, value in record.items() if name.startswith("adaptive_mask_distillation/")}
        assert set(figures) == {
            f"adaptive_mask_distillation/{name}"
            for name in ("channel", "spatial", "diversity", "channel_mask", "spatial_mask")
        }
        assert 0 < record["adaptive_mask_distillation/spatial_mask"] < 1
    assert history[0] != history[1]
    assert any(name.startswith("acam_kd") for name in registered_objectives())


def test_attaching_the_module_changes_nothing_that_the_student_says() -> None:
    student, teacher, samples = Segmenter(2), Segmenter(5), scenes()
    images = samples.batch(slice(0, 8)).inputs
    before, keys = student(images), set(student.state_dict())
    method = Distillation(teacher, student, AdaptiveMaskDistillation("score", "score", num_masks=2))
    method.setup(samples.batch(torch.arange(8)))
    method.step(samples.batch(torch.arange(8)))
    assert torch.equal(student(images), before)
    assert set(student.state_dict()) == keys
    assert set(method.trainable()) == {"student", "objectives"}


def test_units_are_not_decayed() -> None:
    objective = AdaptiveMaskDistillation("score", "score", num_masks=2)
    features = [torch.randn(2, 4, 3, 3)]
    objective.make_modules(features, features)
    settings = TrainingSettings(optimizer="sgd", weight_decay=0.5, learning_rate=0.1)
    optimizer = make_optimizer(objective.parameters(), settings)
    decays = {id(value): group["weight_decay"] for group in optimizer.param_groups for value in group["params"]}
    for name, value in objective.named_parameters():
        assert decays[id(value)] == (0.0 if name.endswith("_units") else 0.5), name
    assert len(decays) == 5
    free = [value for name, value in objective.named_parameters() if name.endswith("_units")]
    assert make_optimizer(free, settings).param_groups[0]["weight_decay"] == 0
    assert make_optimizer([nn.Parameter(torch.zeros(2))], settings).param_groups[0]["weight_decay"] == 0.5


def test_a_wrong_setting_is_told_when_the_objective_is_made() -> None:
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        AdaptiveMaskDistillation("score", "score", mask_normalization="squares")
    with pytest.raises(ValueError, match="`student_taps` and `teacher_taps` to have the same length"):
        AdaptiveMaskDistillation(["score", "body"], "score")
    objective = AdaptiveMaskDistillation("score", "score")
    with pytest.raises(ValueError, match="`make_modules` to be called"):
        objective([torch.zeros(1, 2, 2, 2)], [torch.zeros(1, 2, 2, 2)])
    batch = Batch(torch.zeros(1, 1, 6, 6), torch.zeros(1, 36, dtype=torch.int64), torch.arange(1))
    method = Distillation(Segmenter(2), Segmenter(2), AdaptiveMaskDistillation("score", "body", num_masks=2))
    method.setup(batch)
    assert isinstance(method.terms["adaptive_mask_distillation"].objective.acam.align[0], nn.Conv2d)
