from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.features import ClassConditionalMean, class_conditional_mean
from tutelage.teachers import FrozenTeacher


def slow_means(features: Tensor, target: Tensor, num_classes: int) -> list[list[float]]:
    means = []
    for label in range(num_classes):
        rows = [features[i].tolist() for i in range(len(target)) if target[i] == label]
        means.append([sum(column) / len(rows) for column in zip(*rows, strict=True)])
    return means


def samples(count: int = 40, width: int = 3, classes: int = 4) -> tuple[Tensor, Tensor]:
    return torch.randn(count, width), torch.arange(count) % classes


def test_agrees_with_a_loop_over_classes_and_samples() -> None:
    features, target = samples()
    means = class_conditional_mean(features, target, num_classes=4)
    torch.testing.assert_close(means, torch.tensor(slow_means(features, target, 4)))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 10_000))
def test_batches_of_any_size_in_any_order_give_the_same_means(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    count = sum(sizes)
    features = torch.randn(count, 3, generator=generator)
    target = torch.randint(3, (count,), generator=generator)
    whole = class_conditional_mean(features, target, num_classes=3, missing="nan")
    order = torch.randperm(count, generator=generator)
    streamed = ClassConditionalMean(3)
    for rows in torch.split(order, sizes):
        streamed.update(features[rows], target[rows])
    torch.testing.assert_close(streamed.compute(missing="nan"), whole, equal_nan=True)
    assert streamed.counts.tolist() == torch.bincount(target, minlength=3).tolist()


def test_sums_do_not_lose_small_features_beside_large_ones() -> None:
    features = torch.tensor([[1e8], [1.0], [-1e8], [1.0]])  # in float32, 1e8 + 1 = 1e8
    assert class_conditional_mean(features, torch.zeros(4, dtype=torch.int64), num_classes=1).item() == 0.5


@pytest.mark.parametrize(
    ("given_type", "returned"),
    [(torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.float64, torch.float64)],
)
def test_results_are_in_float32_or_wider(given_type: torch.dtype, returned: torch.dtype) -> None:
    means = class_conditional_mean(torch.ones(2, 3, dtype=given_type), torch.tensor([0, 1]), num_classes=2)
    assert means.dtype == returned


def test_no_gradient_passes_through() -> None:
    features, target = samples()
    assert not class_conditional_mean(features.requires_grad_(), target, num_classes=4).requires_grad


def test_absent_classes() -> None:
    features, target = torch.ones(2, 4), torch.tensor([0, 2])
    with pytest.raises(ValueError, match=r"^Expected every class to have samples, but there are none of 1, 3\.$"):
        class_conditional_mean(features, target, num_classes=4)
    marked = class_conditional_mean(features, target, num_classes=4, missing="nan")
    assert marked.isnan().all(dim=1).tolist() == [False, True, False, True]
    filled = class_conditional_mean(features, target, num_classes=4, missing="uniform")
    assert filled[1].tolist() == [0.25] * 4
    assert filled[0].tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("features", "target", "options", "problem"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 2]), {"num_classes": 2}, r"classes in \[0, 2\), but got 2"),
        (torch.zeros(2, 3), torch.tensor([0, -1]), {"num_classes": 2}, "but got -1"),
        (torch.full((2, 3), torch.nan), torch.tensor([0, 1]), {"num_classes": 2}, "`features` to be finite"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), {"num_classes": 0}, "`num_classes` to be at least 1"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), {"num_classes": 2, "missing": "zero"}, "`missing`|missing"),
    ],
)
def test_bad_input_is_named(features: Tensor, target: Tensor, options: dict, problem: str) -> None:
    with pytest.raises(Exception, match=problem):
        class_conditional_mean(features, target, **options)


def test_streams_need_a_batch_and_keep_their_width() -> None:
    means = ClassConditionalMean(2)
    with pytest.raises(ValueError, match="at least one batch"):
        means.compute()
    means.update(torch.zeros(1, 3), torch.tensor([0]))
    with pytest.raises(ValueError, match="width 3 as before, but got 4"):
        means.update(torch.zeros(1, 4), torch.tensor([0]))


def test_a_frozen_teacher_with_batch_norm_gives_the_same_means_for_any_batches() -> None:
    """Evaluation mode is what makes class means a property of the teacher, and not of how it was asked."""
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
    inputs, target = 3 + torch.randn(24, 4), torch.arange(24) % 2

    def means(teacher: object, size: int) -> Tensor:
        streamed = ClassConditionalMean(2)
        for rows in torch.split(torch.arange(24), size):
            streamed.update(teacher(Batch(inputs[rows], None, rows)), target[rows])  # type: ignore[operator]
        return streamed.compute()

    teacher = FrozenTeacher(model, embedding=True).train()
    frozen = [means(lambda batch: teacher(batch).embedding, size) for size in (24, 5)]
    torch.testing.assert_close(*frozen)
    model.train()
    training = [means(lambda batch: model[1](model[0](batch.inputs)), size) for size in (24, 5)]
    assert not torch.allclose(*training, atol=1e-2)
