"""On-policy distillation: what it learns from, how often, and that it teaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.data import load_data
from tutelage.models import causal_lm
from tutelage.objectives import ForwardKL, TokenDivergence
from tutelage.outputs import Outputs
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import GeneralizedKD, Monitor, Trainer, TrainingSettings


def _data() -> Any:
    return load_data("arithmetic", train=60, validation=10, test=10)


def _model(seed: int, vocabulary: int, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    return causal_lm(
        vocabulary,
        **{"hidden_size": 16, "num_layers": 1, "num_heads": 2, "eos_token_id": 2, "pad_token_id": 0} | options,
    )


class Seen:
    """Notes the batches that a method teaches."""

    def __init__(self, method: GeneralizedKD) -> None:
        self.batches: list[Batch] = []
        method.observers.append(self.note)

    def note(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        self.batches.append(batch)


@pytest.mark.parametrize(("lmbda", "share"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_the_share_of_fresh_batches_is_lmbda(lmbda: float, share: float) -> None:
    data = _data()
    method = GeneralizedKD(_model(0, data.num_classes), _model(1, data.num_classes), lmbda=lmbda, max_new_tokens=2)
    seen, batch = Seen(method), data.train.batch(torch.arange(4))
    torch.manual_seed(0)
    for _ in range(40):
        method.step(batch)
    fresh = sum(one is not batch for one in seen.batches) / 40
    assert fresh == pytest.approx(share, abs=0.2 if 0 < share < 1 else 0)
    assert (method.generated_tokens > 0) == (lmbda > 0)


def test_fresh_responses_follow_the_same_prompts() -> None:
    data = _data()
    student = _model(1, data.num_classes)
    method = GeneralizedKD(_model(0, data.num_classes), student, lmbda=1.0, max_new_tokens=5)
    batch = data.train.batch(torch.arange(6))
    fresh = method.respond(batch)
    assert isinstance(fresh.inputs, dict)
    assert fresh.target is not None
    for row, length in enumerate(batch.extras["prompt_length"].tolist()):
        assert torch.equal(fresh.inputs["input_ids"][row, :length], batch.inputs["input_ids"][row, :length])
        assert bool((fresh.target[row, : length - 1] == -100).all())
        assert 1 <= int((fresh.target[row] != -100).sum()) <= 5
    assert torch.equal(fresh.index, batch.index)


def test_the_policy_says_who_writes() -> None:
    data = _data()
    teacher, student = _model(0, data.num_classes), _model(1, data.num_classes)
    assert GeneralizedKD(teacher, student, policy="teacher").writer is teacher
    assert GeneralizedKD(teacher, student).writer is student
    with pytest.raises(ValueError, match="policy 'teacher'"):
        GeneralizedKD(lambda batch: Outputs(logits=torch.zeros(1)), student, policy="teacher")


def test_the_loss_is_the_objective_on_the_fresh_batch() -> None:
    data = _data()
    teacher, student = _model(0, data.num_classes), _model(1, data.num_classes)
    objective = TokenDivergence(kind="reverse_kl")
    method = GeneralizedKD(teacher, student, objective, lmbda=1.0, max_new_tokens=3)
    seen = Seen(method)
    (loss,) = method.step(data.train.batch(torch.arange(4))).values()
    (batch,) = seen.batches
    expected = objective(Outputs(logits=student(**batch.inputs).logits), FrozenTeacher(teacher)(batch), batch)
    torch.testing.assert_close(loss, expected)


def test_it_teaches_the_student_the_teacher() -> None:
    """The student's own texts are enough: it comes close to a teacher whose data it never sees."""
    data = _data()
    teacher, student = _model(0, data.num_classes), _model(1, data.num_classes)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(3)
    method = GeneralizedKD(teacher, student, ForwardKL(), lmbda=1.0, max_new_tokens=6)
    settings = TrainingSettings(max_steps=120, batch_size=16, learning_rate=0.02, log_every=20)
    history = Trainer(method, data.train, settings=settings).run()
    assert history[-1]["loss"] < 0.35 * history[0]["loss"]


class StopAt(Monitor):
    """Ends a run in the middle."""

    def on_step(self, progress: Any, losses: Any) -> None:
        if progress.step == 5:
            raise RuntimeError("cut")


def test_a_resumed_run_writes_the_same_responses(tmp_path: Path) -> None:
    data = _data()

    def run(folder: Path, *monitors: Monitor, resume: bool = False) -> nn.Module:
        student = _model(1, data.num_classes)
        method = GeneralizedKD(_model(0, data.num_classes), student, max_new_tokens=3)
        settings = TrainingSettings(max_steps=7, batch_size=16, checkpoint_every=2)
        Trainer(method, data.train, settings=settings, folder=folder, monitors=monitors).run(resume=resume)
        return student

    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="cut"):
        run(tmp_path / "cut", StopAt())
    resumed = run(tmp_path / "cut", resume=True)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_cached_teacher_can_not_judge_fresh_responses(tmp_path: Path) -> None:
    data = _data()
    teacher, student = _model(0, data.num_classes), _model(1, data.num_classes)
    cached = CachedTeacher(build_cache(FrozenTeacher(teacher), data.train, tmp_path, top_k=3))
    with pytest.raises(ValueError, match="cache only knows"):
        GeneralizedKD(cached, student)
    assert GeneralizedKD(cached, student, ForwardKL(), lmbda=0.0).step(data.train.batch(torch.arange(2)))


def test_bad_arguments_are_named() -> None:
    model = _model(0, 9)
    with pytest.raises(ValueError, match=r"`lmbda` to be in \[0, 1\]"):
        GeneralizedKD(model, model, lmbda=1.5)
    batch = Batch({"input_ids": torch.ones(1, 3, dtype=torch.int64)}, None, torch.arange(1))
    with pytest.raises(ValueError, match="prompt_length"):
        GeneralizedKD(model, _model(1, 9), lmbda=1.0).step(batch)
