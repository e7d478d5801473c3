from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import tutelage
from tutelage.objectives import CrossEntropy
from tutelage.training import Weighted


def data(count: int = 120) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, (inputs[:, 0] > inputs[:, 1]).long()


def network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


def test_one_call_teaches_and_reports() -> None:
    teacher, student = network(32), network(8)
    tutelage.distill(None, teacher, data(), objectives="cross_entropy", epochs=60, learning_rate=0.01, monitors=[])
    result = tutelage.distill(
        teacher,
        student,
        data(),
        data(),
        objectives=["cross_entropy", "pld"],
        epochs=60,
        learning_rate=0.01,
        monitors=[],
    )
    assert result.student is student
    assert not student.training
    assert result.report_card is not None
    assert result.report_card.metrics["accuracy"] > 0.9
    assert result.report_card.metrics["teacher_agreement"] > 0.9
    assert result.history[-1]["loss"] < result.history[0]["loss"]
    assert all(not value.requires_grad for value in teacher.parameters())


@pytest.mark.parametrize("form", ["tensors", "arrays", "dataset"])
def test_data_in_any_form_gives_the_same_student(form: str) -> None:
    inputs, target = data()
    given = {
        "tensors": (inputs, target),
        "arrays": (inputs.numpy(), target.numpy().astype(np.int64)),
        "dataset": torch.utils.data.TensorDataset(inputs, target),
    }[form]
    torch.manual_seed(0)
    student = network(8)
    tutelage.distill(None, student, given, objectives="cross_entropy", epochs=2, monitors=[])
    torch.manual_seed(0)
    twin = network(8)
    tutelage.distill(None, twin, (inputs, target), objectives=CrossEntropy(), epochs=2, monitors=[])
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), twin.parameters(), strict=True))


def test_several_teachers_are_an_ensemble_and_weights_count() -> None:
    result = tutelage.distill(
        [network(4), network(5)],
        network(3),
        data(),
        objectives=[Weighted(CrossEntropy(), 2.0), {"name": "forward_kl", "weight": 0.5}],
        epochs=1,
        monitors=[],
    )
    assert result.report_card is None
    assert set(result.history[0]) >= {"loss/cross_entropy", "loss/forward_kl"}


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        tutelage.distill(None, network(3), data(), objectives="cross_entropy", epoch=3)
    with pytest.raises(ValueError, match="objective `forward_kl` reads one, but got None"):
        tutelage.distill(None, network(3), data(), objectives="forward_kl", epochs=1)
    wide = nn.Linear(6, 3)
    with pytest.raises(ValueError, match="same number of classes, but got 2 and 3"):
        tutelage.distill(wide, network(3), data(), objectives="forward_kl", epochs=1, monitors=[])
    inputs, target = data()
    with pytest.raises(ValueError, match=r"classes in \[0, 2\).*but got 5"):
        tutelage.distill(None, network(3), (inputs, target + 4), objectives="cross_entropy", epochs=1, monitors=[])
    with pytest.raises(ValueError, match="empty"):
        tutelage.distill(None, network(3), (torch.zeros(0, 6), torch.zeros(0).long()), objectives="cross_entropy")
