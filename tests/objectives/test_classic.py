from __future__ import annotations

from inspect import unwrap

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.objectives import (
    DecoupledDistillation,
    DistDistillation,
    KnowledgeDistillation,
    UniversalLogitDistance,
    decoupled_distillation,
    dist_distillation,
    forward_kl,
    knowledge_distillation,
    logit_mse,
    universal_logit_distance,
)


def case(batch: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    student, teacher = 2 * torch.randn(2, batch, classes, dtype=torch.float64)
    return student, teacher, torch.randint(classes, (batch,))


def test_knowledge_distillation_is_its_two_terms() -> None:
    student, teacher, target = case()
    hard = F.cross_entropy(student, target)
    soft = F.kl_div((student / 3).log_softmax(1), (teacher / 3).softmax(1), reduction="batchmean")
    value = knowledge_distillation(student, teacher, target, alpha=0.7, temperature=3.0)
    torch.testing.assert_close(value, 0.3 * hard + 0.7 * 9 * soft)
    torch.testing.assert_close(knowledge_distillation(student, teacher, target, alpha=0.0), hard)
    torch.testing.assert_close(KnowledgeDistillation(alpha=0.7, temperature=3.0)(student, teacher, target), value)


def test_knowledge_distillation_of_sequences_skips_positions_in_both_terms() -> None:
    student, teacher, target = case()
    target[2] = -100
    kept = target != -100
    expected = knowledge_distillation(student[kept], teacher[kept], target[kept], reduction="none")
    shaped = (student.reshape(3, 2, 5), teacher.reshape(3, 2, 5), target.reshape(3, 2))
    torch.testing.assert_close(knowledge_distillation(*shaped), expected.mean())
    values = knowledge_distillation(*shaped, reduction="none").flatten()
    torch.testing.assert_close(values[kept], expected)
    assert values[2] == 0


def test_decoupled_distillation_by_hand() -> None:
    # Teacher (.5, .3, .2), student (.7, .2, .1), label 0: two-way (.5, .5) and (.7, .3); others (.6, .4), (2/3, 1/3).
    teacher, student = torch.tensor([[0.5, 0.3, 0.2]]).double().log(), torch.tensor([[0.7, 0.2, 0.1]]).double().log()
    of_label = torch.tensor([0.5, 0.5]).double() @ torch.tensor([0.5 / 0.7, 0.5 / 0.3]).double().log()
    of_others = torch.tensor([0.6, 0.4]).double() @ torch.tensor([0.6 * 3 / 2, 0.4 * 3]).double().log()
    value = decoupled_distillation(student, teacher, torch.tensor([0]), alpha=2.0, beta=3.0, temperature=1.0)
    torch.testing.assert_close(value, 2 * of_label + 3 * of_others)


def test_decoupled_distillation_with_the_coupled_weight_is_kl() -> None:
    student, teacher, target = case()
    for row in range(len(target)):
        one = slice(row, row + 1)
        coupled = 1 - (teacher[one] / 2).softmax(1)[0, target[row]].item()
        value = decoupled_distillation(
            student[one], teacher[one], target[one], alpha=1.0, beta=coupled, temperature=2.0
        )
        torch.testing.assert_close(value, 4 * forward_kl(student[one], teacher[one], temperature=2.0).mean())


def test_decoupled_distillation_of_two_classes_has_only_the_label_part() -> None:
    student, teacher, target = case(4, 2)
    expected = forward_kl(student, teacher, temperature=4.0).mean() * 16
    torch.testing.assert_close(decoupled_distillation(student, teacher, target, beta=123.0), expected)
    assert torch.autograd.gradcheck(
        lambda logits: DecoupledDistillation()(logits, teacher, target), student.requires_grad_()
    )


def test_dist_is_one_minus_pearson() -> None:
    student, teacher, _ = case()
    p_student, p_teacher = (student / 2).softmax(1), (teacher / 2).softmax(1)
    inter = torch.stack([torch.corrcoef(torch.stack(rows))[0, 1] for rows in zip(p_student, p_teacher, strict=True)])
    intra = torch.stack([torch.corrcoef(torch.stack(r))[0, 1] for r in zip(p_student.T, p_teacher.T, strict=True)])
    expected = 4 * (2 * (1 - inter).mean() + 3 * (1 - intra).mean())
    value = dist_distillation(student, teacher, beta=2.0, gamma=3.0, temperature=2.0)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(DistDistillation(beta=2.0, gamma=3.0, temperature=2.0)(student, teacher), expected)


def test_dist_of_a_batch_of_one_and_of_constant_predictions_is_defined() -> None:
    student, teacher, _ = case(1)
    student.requires_grad_()
    loss = dist_distillation(student, teacher)
    (gradient,) = torch.autograd.grad(loss, student)
    assert 1 <= loss.item() <= 3  # what does not vary counts as uncorrelated: intra is 1
    assert torch.isfinite(gradient).all()
    flat = torch.zeros(3, 4, requires_grad=True)
    loss = dist_distillation(flat, torch.zeros(3, 4))
    assert loss.item() == pytest.approx(2.0)
    assert not torch.autograd.grad(loss, flat)[0].any()


def test_logit_mse_is_that_of_torch() -> None:
    student, teacher, _ = case()
    torch.testing.assert_close(logit_mse(student, teacher), F.mse_loss(student, teacher))
    values = logit_mse(student, teacher, reduction="none")
    torch.testing.assert_close(values, (student - teacher).square().mean(1))


def test_logit_mse_is_the_hot_limit_of_knowledge_distillation() -> None:
    student, teacher, target = case()
    student -= student.mean(1, keepdim=True)
    teacher -= teacher.mean(1, keepdim=True)
    hot = knowledge_distillation(student, teacher, target, alpha=1.0, temperature=1e4)
    torch.testing.assert_close(hot, logit_mse(student, teacher) / 2, rtol=1e-3, atol=0)


def test_universal_logit_distance() -> None:
    student, teacher = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.1, 0.6, 0.3]]).log()
    assert universal_logit_distance(student, teacher).item() == pytest.approx(0.2 + 0.1 + 0.1)
    assert universal_logit_distance(teacher, student).item() == pytest.approx(0.4)
    student, teacher, _ = case()
    shuffled = teacher[:, torch.randperm(5)]
    torch.testing.assert_close(universal_logit_distance(student, shuffled), universal_logit_distance(student, teacher))
    assert universal_logit_distance(teacher, shuffled).item() == pytest.approx(0)
    torch.testing.assert_close(
        universal_logit_distance(student, teacher, temperature=2.0), universal_logit_distance(student / 2, teacher / 2)
    )


def test_universal_logit_distance_of_sequences_with_unlike_vocabularies() -> None:
    student, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 7)
    target = torch.tensor([[1, 2, -100], [-100, -100, 3]])
    kept = target != -100
    expected = universal_logit_distance(student[kept], teacher[kept])
    torch.testing.assert_close(UniversalLogitDistance()(student, teacher, target), expected)
    with pytest.raises(ValueError, match="same shape"):
        UniversalLogitDistance()(student, teacher[:, :2], target)
    with pytest.raises(ValueError, match="`target` to have the same shape"):
        UniversalLogitDistance()(student, teacher, target[:, :2])


@pytest.mark.parametrize("function", [knowledge_distillation, decoupled_distillation])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher_logits": torch.zeros(2, 4)}, "same number of classes, but got 3 and 4"),
        ({"teacher_logits": torch.zeros(1, 3)}, "same shape"),
        ({"target": torch.tensor([0, 3])}, r"classes in \[0, 3\) or be -100, but got 3"),
        ({"target": torch.tensor([0])}, "`target` to have shape"),
        ({"temperature": 0.0}, "`temperature` to be positive, but got 0.0"),
        ({"alpha": -0.5}, "`alpha` to be .*, but got -0.5"),
        ({"reduction": "average"}, "`reduction`"),
    ],
)
def test_bad_input_is_named(function: object, change: dict[str, object], message: str) -> None:
    arguments = {
        "student_logits": torch.zeros(2, 3),
        "teacher_logits": torch.zeros(2, 3),
        "target": torch.zeros(2).long(),
    }
    with pytest.raises(ValueError, match=message):
        unwrap(function)(**{**arguments, **change})  # type: ignore[arg-type]


def test_bad_numbers_are_named() -> None:
    logits, target = torch.zeros(2, 3), torch.zeros(2).long()
    with pytest.raises(ValueError, match=r"`alpha` to be in \[0, 1\], but got 1.5"):
        knowledge_distillation(logits, logits, target, alpha=1.5)
    with pytest.raises(ValueError, match="at least 2, but got 1"):
        decoupled_distillation(logits[:, :1], logits[:, :1], target)
    with pytest.raises(ValueError, match="`beta` to be at least 0"):
        DecoupledDistillation(beta=-1.0)
    with pytest.raises(ValueError, match="`gamma` to be at least 0"):
        dist_distillation(logits, logits, gamma=-1.0)
    with pytest.raises(ValueError, match="same number of classes"):
        logit_mse(logits, logits[:, :2])
