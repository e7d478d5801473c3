"""Whether a student reasons like its teacher: how alike the texts are in which they work something out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tutelage._checks import check_option, check_same_length
from tutelage.models.sentence_encoder import sentence_embeddings

Metric = Literal["bleu", "chrf", "embedding", "step_overlap"]


def rationale_fidelity(
    student_texts: Sequence[str],
    teacher_texts: Sequence[str],
    *,
    metric: Metric = "bleu",
    encoder: Path | str | None = None,
) -> Tensor:
    """How much each student text is like the teacher's text about the same item.

    - `bleu`: sentence BLEU (international tokenisation, effective order for short texts), 0 to 100, teacher as
      reference. Not symmetric.
    - `chrf`: character n-gram F-score, 0 to 100.
    - `embedding`: cosine of sentence embeddings, −1 to 1; symmetric.
    - `step_overlap`: share of the teacher's steps (lines, or what `;` separates) that the student writes too, 0 to 1,
      each as often as the teacher does; symbols and spaces are compared as they are, but for spaces around.

    Args:
        student_texts: One a item.
        teacher_texts: Likewise.
        metric: Which.
        encoder: Of `embedding`: see `tutelage.models.sentence_embeddings`.

    Returns:
        `[items]`, float64.

    Raises:
        ValueError: Lengths differ, or an unknown metric.
        ImportError: The package of a metric is not installed; the text says which.

    >>> rationale_fidelity(["1+2=3; 3*2=6"], ["1+2=3; 2*3=6"], metric="step_overlap").tolist()
    [0.5]
    """
    check_option(metric, "metric", ("bleu", "chrf", "embedding", "step_overlap"))
    check_same_length(student_texts, teacher_texts, "student_texts", "teacher_texts")
    if metric == "step_overlap":
        values = [_step_overlap(one, other) for one, other in zip(student_texts, teacher_texts, strict=True)]
    elif metric == "embedding":
        return _embedding_cosine(student_texts, teacher_texts, encoder)
    else:
        values = _sacrebleu(student_texts, teacher_texts, metric)
    return torch.tensor(values, dtype=torch.float64)


def _step_overlap(student: str, teacher: str) -> float:
    taught, said = Counter(_steps(teacher)), Counter(_steps(student))
    total = sum(taught.values())
    return sum((taught & said).values()) / total if total else float(not said)


def _steps(text: str) -> list[str]:
    return [step for part in re.split(r"[\n;]", text) if (step := part.strip())]


def _sacrebleu(student_texts: Sequence[str], teacher_texts: Sequence[str], metric: str) -> list[float]:
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ImportError as error:
        raise ImportError(
            f"The metric {metric!r} needs the package `sacrebleu`: pip install 'tutelage[language]'"
        ) from error
    score = BLEU(tokenize="intl", effective_order=True) if metric == "bleu" else CHRF()
    pairs = zip(student_texts, teacher_texts, strict=True)
    return [float(score.sentence_score(student, [teacher]).score) for student, teacher in pairs]


def _embedding_cosine(student_texts: Sequence[str], teacher_texts: Sequence[str], encoder: Path | str | None) -> Tensor:
    student, teacher = (sentence_embeddings(texts, encoder=encoder) for texts in (student_texts, teacher_texts))
    return (student.double() * teacher.double()).sum(dim=1)
