"""LELP's targets: null space, principal directions, rotations, and the objective that makes them in a run."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.features import (
    EmbeddingLinearProjection,
    EmbeddingMoments,
    LinearProjectionDistillation,
    SubclassClassifier,
    subclass_distillation,
)
from tutelage.models import mlp
from tutelage.outputs import Outputs
from tutelage.teachers import FrozenTeacher
from tutelage.training import Distillation, Trainer, TrainingSettings


def embedded(samples=200, width=8, classes=2, dtype=torch.float64):
    """Embeddings with a spectrum, a head, labels and logits."""
    spectrum = torch.linspace(3, 0.5, width, dtype=dtype)
    basis = torch.linalg.qr(torch.randn(width, width, dtype=dtype))[0]
    labels = torch.arange(samples) % classes
    offset = torch.randn(classes, width, dtype=dtype)[labels]
    embeddings = (torch.randn(samples, width, dtype=dtype) * spectrum) @ basis + offset
    weight = torch.randn(classes, width, dtype=dtype)
    return embeddings, weight, labels, embeddings @ weight.T


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- Targets ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(
    st.integers(2, 4), st.integers(1, 4), st.floats(0.3, 5.0), st.floats(0.05, 10.0), st.sampled_from(["pca", "random"])
)
def test_targets_sum_to_the_teachers_probabilities(classes, subclasses, temperature, subclass_temperature, directions):
    embeddings, weight, labels, logits = embedded(classes=classes, dtype=torch.float32)
    projection = EmbeddingLinearProjection(
        subclasses, subclass_temperature=subclass_temperature, directions=directions
    ).fit(embeddings, weight, labels)
    targets = projection.targets(10 * torch.randn(6, 8), logits[:6], temperature=temperature)
    assert targets.shape == (6, classes, subclasses)
    assert (targets >= 0).all()
    torch.testing.assert_close(targets.sum(dim=2), (logits[:6] / temperature).softmax(dim=1), atol=1e-6, rtol=0)
    torch.testing.assert_close(targets.sum(dim=(1, 2)), torch.ones(6), atol=1e-6, rtol=0)


def test_agrees_with_a_slow_reference():
    embeddings, weight, labels, logits = embedded()
    projection = EmbeddingLinearProjection(3, subclass_temperature=0.7, generator=seeded()).fit(
        embeddings, weight, labels
    )
    projector = torch.eye(8, dtype=torch.float64) - torch.linalg.pinv(weight) @ weight
    targets = projection.targets(embeddings[:4], logits[:4], temperature=2.0)
    for row in range(4):
        for label in range(2):
            free = torch.stack([projector @ one for one in embeddings[labels == label]])
            mean = free.mean(dim=0)
            values = torch.linalg.eigvalsh((free - mean).T @ (free - mean) / len(free))
            scale = values[-3:].mean().sqrt()
            along = [projection.directions[label][:, s] @ (projector @ embeddings[row] - mean) for s in range(3)]
            shares = torch.stack([(value / scale / 0.7).exp() for value in along])
            expected = (logits[row] / 2).softmax(dim=0)[label] * shares / shares.sum()
            torch.testing.assert_close(targets[row, label], expected)
            torch.testing.assert_close(projection.scales[label], scale)
            torch.testing.assert_close(projection.means[label], mean)


def test_the_limits_of_the_subclass_temperature():
    embeddings, weight, labels, _ = embedded()

    def told(beta):
        projection = EmbeddingLinearProjection(3, subclass_temperature=beta, generator=seeded())
        return projection.fit(embeddings, weight, labels)

    torch.testing.assert_close(
        told(1e9).conditional(embeddings), torch.full((200, 2, 3), 1 / 3, dtype=torch.float64), atol=1e-7, rtol=0
    )
    hard = told(1e-6).conditional(embeddings)
    largest = told(1.0).coordinates(embeddings).argmax(dim=2)
    torch.testing.assert_close(hard, nn.functional.one_hot(largest, 3).double(), atol=1e-4, rtol=0)
    assert torch.equal(hard.argmax(dim=2), largest)


def test_one_subclass_leaves_only_the_teachers_probabilities():
    embeddings, weight, labels, logits = embedded()
    targets = EmbeddingLinearProjection(1).fit(embeddings, weight, labels).targets(embeddings, logits)
    torch.testing.assert_close(targets.squeeze(2), logits.softmax(dim=1))


# ---- Null space ------------------------------------------------------------------------------------------------------


def test_the_null_projector():
    embeddings, weight, labels, _ = embedded(width=10, classes=3)
    projection = EmbeddingLinearProjection(2).fit(embeddings, weight, labels)
    projector = projection.null_projector
    torch.testing.assert_close(projector, projector.T)
    torch.testing.assert_close(projector @ projector, projector)
    torch.testing.assert_close(weight @ projector, torch.zeros_like(weight), atol=1e-12, rtol=0)
    assert projector.trace().item() == pytest.approx(7)
    moved = embeddings + torch.randn(200, 3, dtype=torch.float64) @ weight
    torch.testing.assert_close(projection.coordinates(moved), projection.coordinates(embeddings))
    plain = EmbeddingLinearProjection(2, project_out_head=False).fit(embeddings, weight, labels)
    torch.testing.assert_close(plain.null_projector, torch.eye(10, dtype=torch.float64))
    assert not torch.allclose(plain.coordinates(moved), plain.coordinates(embeddings))


def test_a_head_of_low_rank_takes_no_more_than_its_rank():
    embeddings, _, labels, _ = embedded(width=6)
    row = torch.randn(6, dtype=torch.float64)
    projection = EmbeddingLinearProjection(2).fit(embeddings, torch.stack([row, -2 * row]), labels)
    assert projection.null_projector.trace().item() == pytest.approx(5)


def test_a_head_that_reads_everything_is_not_projected_out():
    embeddings, weight, labels, _ = embedded(width=3, classes=3)
    with pytest.warns(UserWarning, match="reads all 3 dimensions"):
        projection = EmbeddingLinearProjection(2).fit(embeddings, weight, labels)
    torch.testing.assert_close(projection.null_projector, torch.eye(3, dtype=torch.float64))


# ---- Directions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rotate", [True, False])
def test_directions_are_orthonormal_and_span_the_leading_ones(rotate):
    embeddings, weight, labels, _ = embedded()
    projection = EmbeddingLinearProjection(3, rotate=rotate).fit(embeddings, weight, labels)
    for label, directions in enumerate(projection.directions):
        torch.testing.assert_close(directions.T @ directions, torch.eye(3, dtype=torch.float64))
        free = embeddings[labels == label] @ projection.null_projector
        leading = torch.linalg.svd(free - free.mean(dim=0), full_matrices=False).Vh[:3]
        torch.testing.assert_close(directions @ directions.T, leading.T @ leading)


def test_without_rotation_variances_are_the_eigenvalues_and_with_it_they_are_even_on_average():
    embeddings, weight, labels, _ = embedded()
    options = {"rotate": False, "standardize": False}
    plain = EmbeddingLinearProjection(3, **options).fit(embeddings, weight, labels)
    torch.testing.assert_close(plain.scales, torch.ones(2, dtype=torch.float64))
    own = embeddings[labels == 0]
    free = own @ plain.null_projector
    values = torch.linalg.eigvalsh((free - free.mean(dim=0)).T @ (free - free.mean(dim=0)) / len(free)).flip(0)[:3]
    torch.testing.assert_close(plain.coordinates(own)[:, 0].var(dim=0, correction=0), values)
    moments = EmbeddingMoments(2, 8)
    moments.update(embeddings, labels)
    generator = seeded()
    total = torch.zeros(3, dtype=torch.float64)
    covariance = torch.cov(free.T, correction=0)
    for _ in range(2000):
        rotated = EmbeddingLinearProjection(3, standardize=False, generator=generator).fit_moments(
            moments, weight, dtype=torch.float64
        )
        total += torch.einsum("ds,de,es->s", rotated.directions[0], covariance, rotated.directions[0])
    torch.testing.assert_close(total / 2000, values.mean().expand(3), rtol=0.05, atol=0)


def test_standardised_coordinates_have_mean_variance_one():
    embeddings, weight, labels, _ = embedded()
    for directions in ("pca", "random"):
        projection = EmbeddingLinearProjection(4, directions=directions).fit(100 * embeddings, weight, labels)
        for label in range(2):
            spread = projection.coordinates(100 * embeddings[labels == label])[:, label].var(dim=0, correction=0)
            assert spread.mean().item() == pytest.approx(1)


def test_random_directions_lie_in_the_null_space():
    embeddings, weight, labels, _ = embedded()
    projection = EmbeddingLinearProjection(4, directions="random", generator=seeded()).fit(embeddings, weight, labels)
    for directions in projection.directions:
        torch.testing.assert_close(directions.T @ directions, torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(weight @ directions, torch.zeros(2, 4, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not torch.allclose(projection.directions[0], projection.directions[1])


def test_the_same_seed_gives_the_same_directions():
    embeddings, weight, labels, _ = embedded()
    one, same, other = (
        EmbeddingLinearProjection(3, generator=seeded(seed)).fit(embeddings, weight, labels) for seed in (1, 1, 2)
    )
    assert torch.equal(one.directions, same.directions)
    assert not torch.allclose(one.directions, other.directions)


def test_an_orthogonal_change_of_basis_changes_nothing_but_the_basis():
    embeddings, weight, labels, _ = embedded()
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    one = EmbeddingLinearProjection(3, rotate=False).fit(embeddings, weight, labels)
    other = EmbeddingLinearProjection(3, rotate=False).fit(embeddings @ turn.T, weight @ turn.T, labels)
    for before, after in zip(one.directions, other.directions, strict=True):
        torch.testing.assert_close(after @ after.T, turn @ before @ before.T @ turn.T)
    torch.testing.assert_close(other.scales, one.scales)
    torch.testing.assert_close(other.coordinates(embeddings @ turn.T).abs(), one.coordinates(embeddings).abs())


def test_overwritten_directions_take_effect_and_all_is_kept_in_the_state():
    embeddings, weight, labels, _ = embedded(dtype=torch.float32)
    projection = EmbeddingLinearProjection(2).fit(embeddings, weight, labels)
    before = projection.coordinates(embeddings)
    assert set(projection.state_dict()) == {"means", "directions", "scales", "null_projector"}
    restored = EmbeddingLinearProjection(2)
    restored.load_state_dict(projection.state_dict())
    assert torch.equal(restored.coordinates(embeddings), before)
    projection.directions.copy_(projection.directions.flip(dims=(2,)))
    torch.testing.assert_close(projection.coordinates(embeddings), before.flip(dims=(2,)))


def test_membership_is_by_label_or_else_by_the_teacher():
    embeddings, weight, _, logits = embedded()
    guessed = logits.argmax(dim=1)
    by_label = EmbeddingLinearProjection(2, generator=seeded()).fit(embeddings, weight, guessed)
    by_teacher = EmbeddingLinearProjection(2, generator=seeded()).fit(embeddings, weight, logits=logits)
    both = EmbeddingLinearProjection(2, generator=seeded()).fit(embeddings, weight, guessed, -logits)
    assert torch.equal(by_label.directions, by_teacher.directions)
    assert torch.equal(by_label.directions, both.directions)
    assert EmbeddingLinearProjection(2).fit(embeddings, labels=guessed).means.shape == (2, 8)


def test_half_precision_and_gradients():
    embeddings, weight, labels, logits = embedded(dtype=torch.float32)
    projection = EmbeddingLinearProjection(2, generator=seeded()).fit(embeddings.half(), weight.half(), labels)
    assert projection.directions.dtype == torch.float32
    inputs = embeddings.clone().requires_grad_()
    told = projection.targets(inputs, logits.requires_grad_())
    assert not told.requires_grad
    assert not any(True for _ in projection.parameters())


def test_a_class_that_never_varies_has_even_subclasses():
    embeddings = torch.cat([torch.zeros(10, 4), torch.randn(10, 4)])
    labels = torch.arange(20) // 10
    conditional = EmbeddingLinearProjection(2).fit(embeddings, labels=labels).conditional(torch.zeros(1, 4))
    torch.testing.assert_close(conditional[0, 0], torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0] * 197 + [1] * 3)}, "class 1 to have at least 4 samples .* has 3 samples"),
        ({"num_subclasses": 7}, "class 0 .* 6 dimensions beside"),
        ({"num_subclasses": 0}, "`num_subclasses` to be at least 1, but got 0"),
        ({"subclass_temperature": 0.0}, "`subclass_temperature` to be positive, but got 0.0"),
        ({"head_weight": torch.zeros(2, 5)}, "`head_weight` to have width 8"),
        ({"labels": None}, "`labels` or `logits` to be given"),
        ({"labels": torch.full((200,), 2)}, r"classes in \[0, 2\), but got 2"),
        ({"logits": torch.zeros(200, 3)}, "`logits` to hold 2 classes, but got 3"),
        ({"embeddings": torch.full((200, 8), math.nan)}, "`embeddings` to be finite"),
    ],
)
def test_bad_input(change, message):
    embeddings, weight, labels, _ = embedded(dtype=torch.float32)
    given = {"embeddings": embeddings, "head_weight": weight, "labels": labels, **change}
    options = {name: given.pop(name) for name in ("num_subclasses", "subclass_temperature") if name in given}
    with pytest.raises(ValueError, match=message):
        EmbeddingLinearProjection(**{"num_subclasses": 3, **options}).fit(**given)


def test_bad_use():
    embeddings, weight, labels, logits = embedded()
    projection = EmbeddingLinearProjection(2)
    with pytest.raises(ValueError, match="`fit` to be called first"):
        projection.coordinates(embeddings)
    projection.fit(embeddings, weight, labels)
    with pytest.raises(ValueError, match=r"shape \[batch, 8\], but got \(200, 7\)"):
        projection.coordinates(embeddings[:, :7])
    with pytest.raises(ValueError, match="`temperature` to be positive"):
        projection.targets(embeddings, logits, temperature=0.0)
    with pytest.raises(ValueError, match=r"`logits` to have shape \(200, 2\)"):
        projection.targets(embeddings, logits[:, :1])


# ---- Moments ---------------------------------------------------------------------------------------------------------


def test_moments_do_not_depend_on_the_batches_and_find_the_head():
    embeddings, weight, labels, logits = embedded(classes=3)
    logits = logits + torch.tensor([1.0, -2.0, 5.0])  # a bias
    whole, parts = EmbeddingMoments(3, 8), EmbeddingMoments(3, 8)
    whole.update(embeddings, labels, logits)
    for rows in torch.randperm(200).split(17):
        parts.update(embeddings[rows], labels[rows], logits[rows])
    for name in ("counts", "sums", "products", "logit_sums", "logit_products"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))
    own = embeddings[labels == 1]
    torch.testing.assert_close(whole.covariances()[1], torch.cov(own.T, correction=0))
    torch.testing.assert_close(whole.means()[1], own.mean(dim=0))
    torch.testing.assert_close(whole.head_weight(), weight)


def test_the_head_is_found_within_the_span_of_embeddings_with_dead_units():
    embeddings, weight, labels, _ = embedded(dtype=torch.float32)
    embeddings[:, 2] = 0
    moments = EmbeddingMoments(2, 8)
    moments.update(embeddings, labels, embeddings @ weight.T)
    expected = weight.clone()
    expected[:, 2] = 0
    torch.testing.assert_close(moments.head_weight().float(), expected, atol=1e-4, rtol=1e-4)


# ---- The objective ---------------------------------------------------------------------------------------------------


def lesson(samples=240):
    inputs = torch.randn(samples, 6)
    target = (inputs[:, 0] + 0.3 * inputs[:, 1] > 0).long()
    return ArraySamples(inputs, target)


def test_in_training_the_objective_finds_what_fit_finds_with_the_teachers_head():
    torch.manual_seed(0)
    data, teacher = lesson(), mlp(6, 2, hidden=(12,))
    student = SubclassClassifier(mlp(6, 2, hidden=(8,)), num_subclasses=3)
    objective = LinearProjectionDistillation(3, temperature=2.0, seed=4)
    method = Distillation(teacher, student, objective)
    history = Trainer(method, data, settings=TrainingSettings(epochs=15, learning_rate=1e-2)).run()
    losses = [
        record["loss/linear_projection_distillation"]
        for record in history
        if "loss/linear_projection_distillation" in record
    ]
    assert losses[-1] < losses[0]
    whole = data.batch(torch.arange(240))
    outputs = FrozenTeacher(teacher, embedding=True)(whole)
    expected = EmbeddingLinearProjection(3, generator=seeded(4)).fit(
        outputs.embedding, teacher.head.weight.detach(), logits=outputs.logits
    )
    torch.testing.assert_close(objective.projection.null_projector, expected.null_projector, atol=1e-3, rtol=0)
    torch.testing.assert_close(objective.projection.means, expected.means, atol=1e-3, rtol=0)
    torch.testing.assert_close(objective.projection.scales, expected.scales, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(
        objective.projection.targets(outputs.embedding, outputs.logits),
        expected.targets(outputs.embedding, outputs.logits),
        atol=5e-3,
        rtol=0,
    )
    answer = student(whole.inputs)
    loss = objective(answer, outputs, whole)
    targets = objective.projection.targets(outputs.embedding, outputs.logits, temperature=2.0)
    torch.testing.assert_close(loss, subclass_distillation(answer.features["subclasses"], targets, temperature=2.0))


def test_members_by_label_count_labels():
    torch.manual_seed(0)
    data, teacher = lesson(), mlp(6, 2, hidden=(12,))
    outputs = FrozenTeacher(teacher, embedding=True)(data.batch(torch.arange(240)))
    found = {}
    for members in ("teacher", "label"):
        objective = LinearProjectionDistillation(3, members=members)
        objective.prepare([(outputs, data.batch(torch.arange(240)))])
        found[members] = objective.projection.means
    labels = data.target
    free = outputs.embedding @ objective.projection.null_projector
    torch.testing.assert_close(found["label"][1], free[labels == 1].mean(dim=0), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found["label"], found["teacher"])
    with pytest.raises(ValueError, match=r"reads `batch.target`"):
        objective.prepare([(outputs, Batch(torch.zeros(240, 6), None, torch.arange(240)))])
    with pytest.raises(ValueError, match="at least one batch"):
        objective.prepare([])


def test_a_student_without_the_subclasses_is_told_how_to_get_them():
    teacher, batch = mlp(6, 2), lesson(8).batch(torch.arange(8))
    method = Distillation(teacher, mlp(6, 2), LinearProjectionDistillation(3))
    with pytest.raises(ValueError, match=r"`tutelage.features:subclass_classifier`.*num_subclasses: 3"):
        method.setup(batch)
    method = Distillation(teacher, SubclassClassifier(mlp(6, 2), 4), LinearProjectionDistillation(3))
    with pytest.raises(ValueError, match="3 subclasses for each of 2 classes, so 6 outputs, but it has 8"):
        method.setup(batch)
    with pytest.raises(ValueError, match="the teacher gives not both"):
        LinearProjectionDistillation(3).build(Outputs(), Outputs(logits=torch.zeros(2, 2)), batch)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_no_gradient_reaches_the_teacher_also_in_mixed_precision(precision):
    torch.manual_seed(0)
    teacher = mlp(6, 2, hidden=(12,))
    before = [value.clone() for value in teacher.parameters()]
    student = SubclassClassifier(mlp(6, 2, hidden=(8,)), num_subclasses=3)
    method = Distillation(teacher, student, LinearProjectionDistillation(3))
    Trainer(method, lesson(64), settings=TrainingSettings(epochs=1, precision=precision)).run()
    assert all(torch.equal(one, other) for one, other in zip(before, teacher.parameters(), strict=True))
