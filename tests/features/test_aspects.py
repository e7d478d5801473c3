"""MaKD's loss: classes and soft answers beside each other, each with its own gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.features import (
    AspectDistillation,
    ObservedModel,
    aspect_distillation,
    expand_classifier,
    yes_no_probability,
)
from tutelage.models import mlp
from tutelage.training import Distillation, Trainer, TrainingSettings, evaluate_model


def example(batch=6, classes=4, questions=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    outputs = 2 * torch.randn(batch, classes + questions, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (batch,), generator=generator)
    answers = torch.rand(batch, questions, generator=generator, dtype=torch.float64)
    return outputs, labels, answers


def slow_loss(outputs, labels, answers, classes, mask):
    """The definition, number by number."""
    cross_entropy = entropies = 0.0
    answered = 0
    for sample in range(len(outputs)):
        row = [math.exp(value) for value in outputs[sample, :classes].tolist()]
        cross_entropy -= math.log(row[labels[sample]] / sum(row)) / len(outputs)
        for question in range(answers.shape[1]):
            if mask is not None and not mask[sample, question]:
                continue
            yes = 1 / (1 + math.exp(-outputs[sample, classes + question].item()))
            answer = answers[sample, question].item()
            entropies -= answer * math.log(yes) + (1 - answer) * math.log(1 - yes)
            answered += 1
    return cross_entropy, entropies / max(1, answered)


# ---- The loss --------------------------------------------------------------------------------------------------------


def test_hand_case():
    losses = aspect_distillation(torch.zeros(1, 3), torch.tensor([0]), torch.ones(1, 1), num_classes=2)
    assert losses["total"].item() == pytest.approx(3.465736, abs=1e-6)
    assert losses["classification"].item() == pytest.approx(0.693147, abs=1e-6)
    assert 4 * losses["aspect"].item() == pytest.approx(2.772589, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 999))
def test_agrees_with_the_definition(batch, classes, questions, masked, seed):
    outputs, labels, answers = example(batch, classes, questions, seed)
    mask = torch.rand(batch, questions, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    losses = aspect_distillation(
        outputs, labels, answers, num_classes=classes, aspect_weight=3.0, class_weight=0.5, mask=mask
    )
    classification, aspect = slow_loss(outputs, labels, answers, classes, mask)
    assert losses["classification"].item() == pytest.approx(classification)
    assert losses["aspect"].item() == pytest.approx(aspect)
    assert losses["total"].item() == pytest.approx(0.5 * classification + 3.0 * aspect)


def test_gradient_of_the_answers_is_known_and_vanishes_at_their_logits():
    outputs, labels, answers = example()
    outputs.requires_grad_()
    aspect_distillation(outputs, labels, answers, num_classes=4, aspect_weight=5.0)["total"].backward()
    expected = 5.0 * (torch.sigmoid(outputs[:, 4:]) - answers) / answers.numel()
    torch.testing.assert_close(outputs.grad[:, 4:], expected.detach())
    solved = torch.cat([outputs.detach()[:, :4], answers.logit()], dim=1).requires_grad_()
    aspect_distillation(solved, labels, answers, num_classes=4)["total"].backward()
    assert solved.grad[:, 4:].abs().max() < 1e-12


def test_weight_zero_leaves_cross_entropy_of_the_classes():
    outputs, labels, answers = example()
    outputs.requires_grad_()
    total = aspect_distillation(outputs, labels, answers, num_classes=4, aspect_weight=0.0)["total"]
    total.backward()
    torch.testing.assert_close(total, F.cross_entropy(outputs[:, :4], labels))
    assert not outputs.grad[:, 4:].any()


def test_classes_and_answers_do_not_see_each_other():
    outputs, labels, answers = example()

    def gradient(outputs):
        outputs = outputs.clone().requires_grad_()
        aspect_distillation(outputs, labels, answers, num_classes=4)["total"].backward()
        return outputs.grad

    before = gradient(outputs)
    other_answers, other_classes = outputs.clone(), outputs.clone()
    other_answers[:, 4:] += 3
    other_classes[:, :4] *= 2
    torch.testing.assert_close(gradient(other_answers)[:, :4], before[:, :4])
    torch.testing.assert_close(gradient(other_classes)[:, 4:], before[:, 4:])


def test_the_best_value_is_the_entropy_of_the_answers():
    answers = torch.full((3, 2), 0.5)
    losses = aspect_distillation(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64), answers, num_classes=2)
    assert losses["aspect"].item() == pytest.approx(math.log(2))
    assert (losses["total"] - losses["classification"]).item() == pytest.approx(4 * math.log(2))


def test_masking_an_answer_is_deleting_it_from_the_mean():
    outputs, labels, answers = example()
    mask = torch.ones_like(answers, dtype=torch.bool)
    mask[2, 1] = False
    masked = answers.clone()
    masked[2, 1] = float("nan")
    outputs.requires_grad_()
    losses = aspect_distillation(outputs, labels, masked, num_classes=4, mask=mask)
    each = F.binary_cross_entropy_with_logits(outputs[:, 4:], answers, reduction="none")
    torch.testing.assert_close(losses["aspect"], each[mask].mean())
    losses["total"].backward()
    assert outputs.grad.isfinite().all()
    assert outputs.grad[2, 5] == 0


def test_a_batch_without_answers_teaches_the_classes_only():
    outputs, labels, answers = example()
    outputs.requires_grad_()
    nothing = torch.full_like(answers, float("nan"))
    losses = aspect_distillation(
        outputs, labels, nothing, num_classes=4, mask=torch.zeros_like(answers, dtype=torch.bool)
    )
    assert losses["aspect"] == 0
    losses["total"].backward()
    assert outputs.grad.isfinite().all()
    assert not outputs.grad[:, 4:].any()


def test_reductions():
    outputs, labels, answers = example()
    mask = torch.rand(answers.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    for chosen in (None, mask):
        each = aspect_distillation(outputs, labels, answers, num_classes=4, mask=chosen, reduction="none")
        summed = aspect_distillation(outputs, labels, answers, num_classes=4, mask=chosen, reduction="sum")
        for name, values in each.items():
            assert values.shape == (6,)
            torch.testing.assert_close(values.sum(), summed[name])
    mean = aspect_distillation(outputs, labels, answers, num_classes=4)
    torch.testing.assert_close(
        aspect_distillation(outputs, labels, answers, num_classes=4, reduction="none")["total"].mean(), mean["total"]
    )


def test_gradient_matches_finite_differences():
    outputs, labels, answers = example(3, 3, 2)
    mask = torch.tensor([[True, False], [True, True], [False, False]])

    def total(outputs):
        return aspect_distillation(outputs, labels, answers, num_classes=3, mask=mask)["total"]

    assert torch.autograd.gradcheck(total, outputs.requires_grad_())


def test_half_precision_is_computed_in_float32_and_huge_outputs_stay_finite():
    outputs, labels, answers = example(32)
    half = outputs.bfloat16().requires_grad_()
    losses = aspect_distillation(half, labels, answers.bfloat16(), num_classes=4)
    exact = aspect_distillation(half.detach().double(), labels, answers.bfloat16().double(), num_classes=4)
    assert losses["total"].dtype == torch.float32
    torch.testing.assert_close(losses["total"].double(), exact["total"], rtol=1e-5, atol=1e-6)
    huge = aspect_distillation(1e4 * outputs.float(), labels, answers.float(), num_classes=4)
    assert all(value.isfinite() for value in huge.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 3}, r"`outputs` to have shape \(6, 6\) for 3 classes and 3 questions, but got \(6, 7\)"),
        ({"answers": torch.full((6, 3), 1.5)}, r"`aspect_targets` to hold values in \[0, 1\], but got 1.5"),
        ({"answers": torch.full((6, 3), float("nan"))}, r"`aspect_targets` to hold values in \[0, 1\], but got nan"),
        ({"answers": torch.zeros(6, 0)}, "at least 1 question"),
        ({"labels": torch.full((6,), 4)}, r"`labels` to hold classes in \[0, 4\), but got 4"),
        ({"aspect_weight": -1.0}, "`aspect_weight` to be at least 0, but got -1.0"),
        ({"class_weight": -1.0}, "`class_weight` to be at least 0, but got -1.0"),
        ({"mask": torch.ones(6, 2, dtype=torch.bool)}, "`mask` and `aspect_targets`"),
    ],
)
def test_bad_input_is_named(change, message):
    outputs, labels, answers = example()
    arguments = {"num_classes": 4, **change}
    labels, answers = arguments.pop("labels", labels), arguments.pop("answers", answers)
    with pytest.raises(ValueError, match=message):
        aspect_distillation(outputs, labels, answers, **arguments)


# ---- Yes and no ------------------------------------------------------------------------------------------------------


def test_yes_no_probability_known_answer():
    assert yes_no_probability(torch.tensor([2.0, 0.0]), 0, 1).item() == pytest.approx(0.880797, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-30, 30))
def test_yes_no_probability_sees_only_the_difference_of_two_logits(yes, no, shift):
    logits = torch.tensor([yes, 7.0, no, -3.0], dtype=torch.float64)
    before = yes_no_probability(logits, 0, 2)
    other = torch.tensor([yes + shift, 90.0, no + shift, 0.0], dtype=torch.float64)
    torch.testing.assert_close(yes_no_probability(other, 0, 2), before)
    torch.testing.assert_close(before + yes_no_probability(logits, 2, 0), torch.ones((), dtype=torch.float64))


def test_spellings_add_up():
    logits = torch.randn(5, 2, 9, dtype=torch.float64)
    probs = logits.softmax(dim=-1)
    yes, no = probs[..., [0, 3]].sum(dim=-1), probs[..., [5, 6, 8]].sum(dim=-1)
    torch.testing.assert_close(yes_no_probability(logits, [0, 3], [5, 6, 8]), yes / (yes + no))


def test_yes_no_probability_of_half_precision_is_float32():
    logits = torch.randn(8, 20).bfloat16()
    answer = yes_no_probability(logits, 1, 2)
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer, yes_no_probability(logits.float(), 1, 2))


@pytest.mark.parametrize(
    ("yes", "no", "message"),
    [(1, 1, "different tokens"), ([0, 1], [1, 2], "different tokens"), (9, 1, "`yes_id`"), (0, [], "`no_id`")],
)
def test_bad_tokens_are_named(yes, no, message):
    with pytest.raises(ValueError, match=message):
        yes_no_probability(torch.zeros(3), yes, no)


# ---- In a run --------------------------------------------------------------------------------------------------------


def lessons(samples=24, classes=3, questions=4, width=5):
    generator = torch.Generator().manual_seed(0)
    aspects = torch.rand(samples, questions, generator=generator)
    aspects[0, 1] = float("nan")
    inputs = torch.randn(samples, width, generator=generator)
    return ArraySamples(inputs, torch.arange(samples) % classes, extras={"aspects": aspects})


def test_two_layers_train_as_one_that_is_widened():
    """The student's C classes and the objective's Q answers are the paper's layer of C + Q outputs."""
    samples = lessons()
    student = mlp(5, 3, hidden=(6,))
    objective = AspectDistillation(aspect_weight=4.0)
    method = Distillation(None, student, objective)
    method.setup(samples.batch(slice(0, 2)))
    wide = mlp(5, 3, hidden=(6,))
    wide.load_state_dict(student.state_dict())
    wide.head = objective.widened(student.head)
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2}
    ours = [torch.optim.SGD(module.parameters(), **settings) for module in method.trainable().values()]
    theirs = torch.optim.SGD(wide.parameters(), **settings)
    assert len(ours) == 2
    for step in range(6):
        batch = samples.batch(slice(4 * step, 4 * step + 4))
        (total,) = method.step(batch).values()
        aspects = batch.extras["aspects"]
        expected = aspect_distillation(wide(batch.inputs), batch.target, aspects, num_classes=3, mask=~aspects.isnan())[
            "total"
        ]
        torch.testing.assert_close(total, expected)
        for optimizer, loss in ((ours, total), ([theirs], expected)):
            for one in optimizer:
                one.zero_grad()
            loss.backward()
            for one in optimizer:
                one.step()
    torch.testing.assert_close(objective.widened(student.head).weight, wide.head.weight)
    torch.testing.assert_close(student.linear1.weight, wide.linear1.weight)
    embedding = ObservedModel(student, embedding=True)(samples.inputs).embedding
    torch.testing.assert_close(objective.answers(embedding), wide(samples.inputs)[:, 3:].sigmoid())
    torch.testing.assert_close(objective.widened(student.head)(embedding)[:, :3], student(samples.inputs))


def test_a_trained_student_is_a_classifier_of_its_classes():
    samples = lessons()
    student = mlp(5, 3, hidden=(32,))
    objective = AspectDistillation(aspect_weight=1.0)
    method = Distillation(None, student, objective)
    Trainer(method, samples, settings=TrainingSettings(epochs=150, batch_size=8, learning_rate=0.02)).run()
    assert evaluate_model(student, samples, prefix="")["accuracy"] > 0.9
    said = objective.answers(ObservedModel(student, embedding=True)(samples.inputs).embedding)
    known = ~samples.extras["aspects"].isnan()
    assert torch.corrcoef(torch.stack([said[known], samples.extras["aspects"][known]]))[0, 1] > 0.5


def test_the_objective_says_what_it_misses():
    objective = AspectDistillation()
    with pytest.raises(ValueError, match="no layer yet"):
        objective.widened(nn.Linear(2, 3))
    method = Distillation(None, mlp(5, 3, hidden=(6,)), objective)
    with pytest.raises(ValueError, match=r"reads `batch.extras.aspects`"):
        method.setup(Batch(torch.zeros(2, 5), torch.zeros(2, dtype=torch.int64), torch.arange(2)))
    method.setup(lessons().batch(slice(0, 2)))
    with pytest.raises(ValueError, match="to read 6 features"):
        objective.widened(nn.Linear(5, 3))
    with pytest.raises(ValueError, match="`aspect_weight`"):
        AspectDistillation(aspect_weight=-1.0)


def test_a_widened_classifier_keeps_its_classes_to_the_bit():
    linear = nn.Linear(6, 4)
    wider = expand_classifier(linear, 3)
    inputs = torch.randn(5, 6)
    torch.testing.assert_close(wider(inputs)[:, :4], linear(inputs), rtol=0, atol=1e-6)
    assert sum(parameter.numel() for parameter in wider.parameters()) == 4 * 7 + 3 * 7
