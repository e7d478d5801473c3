"""The fidelity section: the same figures as the functions on whole lists, in any number of parts."""

from __future__ import annotations

import pytest
import torch

from tutelage.assessment import FidelityTally, answer_agreement, assess, cohen_kappa, disagreement_breakdown
from tutelage.data import ArraySamples
from tutelage.models import mlp


@pytest.mark.parametrize("parts", [1, 7])
def test_it_is_what_the_functions_on_lists_say(parts: int) -> None:
    student, teacher, target = torch.randint(4, (3, 200))
    tally = FidelityTally()
    for part in zip(student.chunk(parts), teacher.chunk(parts), target.chunk(parts), strict=True):
        tally.add(*part)
    section = tally.section()
    lists = [value.tolist() for value in (student, teacher, target)]
    rate, (low, high) = answer_agreement(lists[0], lists[1])
    assert (section["agreement"], section["agreement_low"], section["agreement_high"]) == pytest.approx(
        (rate, low, high)
    )
    assert section["kappa"] == pytest.approx(cohen_kappa(lists[0], lists[1]).kappa)
    shares = disagreement_breakdown(*lists)
    assert {kind: section[kind] for kind in shares} == pytest.approx(shares)
    wrong = teacher != target
    assert section["teacher_wrong"] == int(wrong.sum())
    assert section["agreement_where_teacher_wrong"] == pytest.approx(float((student == teacher)[wrong].float().mean()))


def test_what_can_not_be_said_is_left_out() -> None:
    assert FidelityTally().section() == {}
    tally = FidelityTally()
    tally.add(torch.zeros(5, dtype=torch.int64), torch.zeros(5, dtype=torch.int64), None)
    assert set(tally.section()) == {"answers", "agreement", "agreement_low", "agreement_high"}
    tally.add(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    assert "agreement_where_teacher_wrong" not in tally.section()
    five = torch.zeros(5, dtype=torch.int64)
    with pytest.raises((ValueError, TypeError), match="target"):
        FidelityTally().add(five, five, five[:3])


def test_every_card_with_a_teacher_has_the_section() -> None:
    samples = ArraySamples(torch.randn(30, 4), torch.arange(30) % 3)
    card = assess(mlp(4, 3), samples, teacher=mlp(4, 3), robustness=False, latency=False)
    assert card.fidelity["agreement"] == card.metrics["teacher_agreement"]
    assert card.fidelity["kappa"] == card.metrics["teacher_kappa"]
    assert card.to_dict()["fidelity"]["answers"] == 30
    assert assess(mlp(4, 3), samples, robustness=False, latency=False).fidelity == {}
