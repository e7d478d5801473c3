from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.outputs import Outputs
from tutelage.teachers import EnsembleTeacher, FrozenTeacher

BATCH = Batch(torch.zeros(1, 2), None, torch.arange(1))


class Says:
    def __init__(self, logits: Tensor | None) -> None:
        self.logits = logits

    def __call__(self, batch: Batch) -> Outputs:
        return Outputs(logits=self.logits)

    def fingerprint(self) -> str:
        return str(self.logits)


def test_averages_by_hand() -> None:
    one, two = Says(torch.tensor([[0.8, 0.2]]).log()), Says(torch.tensor([[0.5, 0.5]]).log())
    mean = EnsembleTeacher([one, two], average="probabilities")(BATCH).logits
    assert torch.allclose(mean.exp(), torch.tensor([[0.65, 0.35]]))
    weighted = EnsembleTeacher([one, two], average="probabilities", weights=[1.0, 3.0])(BATCH).logits
    assert torch.allclose(weighted.exp(), torch.tensor([[0.575, 0.425]]))
    logits = EnsembleTeacher([one, two], weights=[1.0, 3.0])(BATCH).logits
    expected = [0.25 * math.log(0.8) + 0.75 * math.log(0.5), 0.25 * math.log(0.2) + 0.75 * math.log(0.5)]
    assert torch.allclose(logits, torch.tensor([expected]))


def test_probabilities_are_valid_and_finite_for_extreme_logits() -> None:
    one, two = Says(torch.tensor([[1e4, -1e4, 0.0]])), Says(torch.tensor([[-1e4, -1e4, 0.0]]))
    logits = EnsembleTeacher([one, two], average="probabilities")(BATCH).logits
    assert torch.isfinite(logits).all()
    assert torch.allclose(logits.exp(), torch.tensor([[0.5, 0.0, 0.5]]))
    alone = EnsembleTeacher([one, two], average="probabilities", weights=[0.0, 1.0])(BATCH).logits
    assert torch.allclose(alone, two.logits.log_softmax(-1))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=4), st.sampled_from(["logits", "probabilities"]))
def test_equal_teachers_say_the_same_together_and_order_does_not_matter(weights: list[float], average: str) -> None:
    logits = torch.randn(3, 4).log_softmax(-1)
    together = EnsembleTeacher([Says(logits)] * len(weights), average=average, weights=weights)
    assert torch.allclose(together(BATCH).logits, logits, atol=1e-5)
    others = [Says(torch.randn(3, 4)) for _ in weights]
    forward = EnsembleTeacher(others, average=average, weights=weights)(BATCH).logits
    backward = EnsembleTeacher(others[::-1], average=average, weights=weights[::-1])(BATCH).logits
    assert torch.allclose(forward, backward, atol=1e-5)


def test_holds_modules_as_modules_and_gives_no_gradient() -> None:
    ensemble = EnsembleTeacher([FrozenTeacher(nn.Linear(2, 3)), Says(torch.zeros(1, 3))]).train()
    assert len(list(ensemble.parameters())) == 2
    assert not ensemble(BATCH).logits.requires_grad
    assert not any(module.training for module in ensemble.modules())


def test_half_precision_members_are_averaged_in_float32() -> None:
    assert EnsembleTeacher([Says(torch.zeros(1, 3).half())])(BATCH).logits.dtype == torch.float32


def test_the_fingerprint_knows_members_weights_and_what_is_averaged() -> None:
    one, two = Says(torch.zeros(1, 2)), Says(torch.ones(1, 2))
    found = [
        EnsembleTeacher([one, two]).fingerprint(),
        EnsembleTeacher([two, one]).fingerprint(),
        EnsembleTeacher([one, two], weights=[1.0, 2.0]).fingerprint(),
        EnsembleTeacher([one, two], average="probabilities").fingerprint(),
    ]
    assert len(set(found)) == 4
    assert EnsembleTeacher([one, two], weights=[2.0, 2.0]).fingerprint() == found[0]


def test_refusals() -> None:
    one, other = Says(torch.zeros(1, 2)), Says(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"same number of classes.* \(1, 2\) and teacher 1 gives \(1, 3\)"):
        EnsembleTeacher([one, other])(BATCH)
    with pytest.raises(ValueError, match="teacher 1 gives none"):
        EnsembleTeacher([one, Says(None)])(BATCH)
    with pytest.raises(ValueError, match="at least one teacher"):
        EnsembleTeacher([])
    with pytest.raises(ValueError, match=r"one weight a teacher \(1\), but got 2"):
        EnsembleTeacher([one], weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="`weights` to be at least 0"):
        EnsembleTeacher([one, one], weights=[1.0, -1.0])
    with pytest.raises(ValueError, match="positive sum"):
        EnsembleTeacher([one], weights=[0.0])
