from __future__ import annotations

import pytest
import torch
from torch import nn

from tutelage.data import ArraySamples
from tutelage.outputs import Outputs
from tutelage.teachers import FrozenTeacher, RecordedTeacher, record_logits


def test_a_record_says_what_the_teacher_said_whatever_the_batch() -> None:
    teacher = FrozenTeacher(nn.Linear(2, 3))
    samples = ArraySamples(torch.randn(10, 2), torch.arange(10) % 3, extras={"mark": torch.arange(10)})
    told = record_logits(teacher, samples, batch_size=4)
    assert torch.equal(told.extras["mark"], samples.extras["mark"])
    batch = told.batch(torch.tensor([7, 0, 7]))
    said = RecordedTeacher()(batch).logits
    assert said is not None
    torch.testing.assert_close(said, teacher(batch).logits)
    assert not said.requires_grad


def test_bad_input_is_refused() -> None:
    samples = ArraySamples(torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"carry `extras\['teacher_logits'\]`"):
        RecordedTeacher()(samples.batch(torch.arange(3)))
    with pytest.raises(ValueError, match="`teacher` to give logits"):
        record_logits(lambda batch: Outputs(embedding=batch.inputs), samples)
