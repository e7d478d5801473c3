"""Our objectives inside TRL's own trainers, really run: same losses as ours, and a student that learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tutelage.data import train_bpe
from tutelage.models import causal_lm
from tutelage.objectives import ForwardKL, KnowledgeDistillation, Objective
from tutelage.training.trl import aligned_batch, use_objectives

trl = pytest.importorskip("trl")
datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")

TEXTS = [{"prompt": f"say {number}:", "completion": f" {number} and {number}"} for number in range(24)]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_bpe([row["prompt"] + row["completion"] for row in TEXTS], 280)


def _model(seed: int, tokenizer: Any) -> nn.Module:
    torch.manual_seed(seed)
    return causal_lm(
        len(tokenizer), hidden_size=16, num_layers=1, num_heads=2, eos_token_id=2, bos_token_id=1, pad_token_id=0
    )


def _arguments(kind: Any, folder: Path, *, size: int = 8, **options: Any) -> Any:
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=size,
        learning_rate=5e-3,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        seed=0,
        **options,
    )


def _supervised(folder: Path, tokenizer: Any, student: nn.Module, **options: Any) -> Any:
    arguments = _arguments(trl.SFTConfig, folder, **{"max_steps": 12, "gradient_checkpointing": False, **options})
    return trl.SFTTrainer(
        student, args=arguments, train_dataset=datasets.Dataset.from_list(TEXTS), processing_class=tokenizer
    )


def test_a_supervised_trainer_distils(tokenizer: Any, tmp_path: Path) -> None:
    teacher, student = _model(0, tokenizer), _model(1, tokenizer)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(2)
    trainer = use_objectives(_supervised(tmp_path, tokenizer, student), teacher, ForwardKL())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_accumulated_batches_give_the_loss_of_the_whole(tokenizer: Any, tmp_path: Path) -> None:
    """Texts differ in length, so the mean of the parts' means would be another number."""
    first_losses = []
    for accumulation, size in ((1, 8), (4, 2)):
        student = _model(1, tokenizer)
        trainer = _supervised(
            tmp_path, tokenizer, student, size=size, max_steps=1, gradient_accumulation_steps=accumulation
        )
        use_objectives(trainer, _model(0, tokenizer), KnowledgeDistillation(alpha=0.5, temperature=2.0)).train()
        first_losses.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert first_losses[0] == pytest.approx(first_losses[1], rel=1e-4)


def test_an_on_policy_trainer_takes_our_objective(tokenizer: Any, tmp_path: Path) -> None:
    teacher, student = _model(0, tokenizer), _model(1, tokenizer)
    arguments = _arguments(trl.DistillationConfig, tmp_path, max_steps=2, max_completion_length=6)
    trainer = trl.DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=arguments,
        train_dataset=datasets.Dataset.from_list([{"prompt": row["prompt"]} for row in TEXTS]),
        processing_class=tokenizer,
    )
    before = [parameter.detach().clone() for parameter in student.parameters()]
    use_objectives(trainer, teacher, ForwardKL()).train()
    assert any(not torch.equal(one, other) for one, other in zip(before, student.parameters(), strict=True))


def test_batches_of_both_forms_are_aligned() -> None:
    completed = {
        "prompt_ids": torch.tensor([[0, 5], [6, 7]]),
        "prompt_mask": torch.tensor([[0, 1], [1, 1]]),
        "completion_ids": torch.tensor([[8, 2, 0], [9, 9, 2]]),
        "completion_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]),
        "tool_mask": torch.tensor([[1, 1, 1], [1, 0, 1]]),
    }
    batch = aligned_batch(completed)
    assert batch.target is not None
    assert batch.target.tolist() == [[-100, 8, 2, -100, -100], [-100, 9, -100, 2, -100]]
    with pytest.raises(ValueError, match="`labels` or with `completion_ids`"):
        aligned_batch({"input_ids": torch.zeros(1, 2)})


def test_objectives_that_do_not_fit_are_refused(tokenizer: Any, tmp_path: Path) -> None:
    class Projected(Objective):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def loss(self, *tensors: Any) -> torch.Tensor:
            return tensors[0].sum()

    class Indexed(Objective):
        reads = ("student.logits", "batch.index")

    trainer = _supervised(tmp_path, tokenizer, _model(1, tokenizer))
    with pytest.raises(ValueError, match="parameters of their own, but `projected`"):
        use_objectives(trainer, _model(0, tokenizer), Projected())
    with pytest.raises(ValueError, match=r"`batch.index`, but `indexed`"):
        use_objectives(trainer, _model(0, tokenizer), Indexed())
