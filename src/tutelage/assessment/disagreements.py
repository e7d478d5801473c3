"""Where student and teacher part: which classes they exchange, and samples that only one of them gets right."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least
from tutelage.assessment.pictures import is_image, png_data_uri
from tutelage.data.samples import Samples

MOST_PARTINGS = 100


def partings(
    student: Int[Tensor, "samples"], teacher: Int[Tensor, "samples"], target: Int[Tensor, "samples"]
) -> list[dict[str, Any]]:
    """The pairs of different classes that teacher and student predict, most frequent first, at most 100.

    Args:
        student: Predicted classes.
        teacher: Predicted classes.
        target: True classes.

    Returns:
        `{"teacher": class, "student": class, "count": n, "student_right": n, "teacher_right": n}` for each pair.

    >>> partings(torch.tensor([0, 1, 1]), torch.tensor([0, 2, 2]), torch.tensor([0, 1, 2]))
    [{'teacher': 2, 'student': 1, 'count': 2, 'student_right': 1, 'teacher_right': 1}]
    """
    apart = student != teacher
    pairs = torch.stack([teacher[apart], student[apart]], dim=1)
    found, place, counts = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    right = torch.stack([student[apart] == target[apart], teacher[apart] == target[apart]], dim=1).long()
    rights = torch.zeros(len(found), 2, dtype=torch.int64, device=right.device).index_add_(0, place, right)
    order = counts.argsort(descending=True, stable=True)[:MOST_PARTINGS]
    keys = ("teacher", "student", "count", "student_right", "teacher_right")
    rows = torch.cat([found.long(), counts[:, None], rights], dim=1)[order].tolist()
    return [dict(zip(keys, row, strict=True)) for row in rows]


def one_sided_examples(
    samples: Samples,
    student_probs: Float[Tensor, "samples classes"],
    teacher_probs: Float[Tensor, "samples classes"],
    target: Int[Tensor, "samples"],
    num_examples: int,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Samples that only one of student and teacher gets right, half of either kind where there are enough.

    They are drawn at random, not by how striking they are.

    Args:
        samples: What was asked, in the order of the other arguments.
        student_probs: The student's probabilities.
        teacher_probs: The teacher's.
        target: True classes.
        num_examples: How many at most.
        seed: Of the draw.

    Returns:
        The entries that `ReportCard.examples` describes, in the order of the samples. Image inputs come as PNG data
        URIs, at their own size.

    >>> from tutelage.data.arrays import ArraySamples
    >>> samples = ArraySamples(torch.zeros(2, 1), torch.tensor([0, 1]))
    >>> student, teacher = torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([[0.3, 0.7], [0.8, 0.2]])
    >>> examples = one_sided_examples(samples, student, teacher, torch.tensor([0, 1]), 4)
    >>> [(example["index"], example["right"]) for example in examples]
    [(0, 'student')]
    """
    check_at_least(num_examples, "num_examples", 0)
    student_confidence, student = student_probs.max(dim=1)
    teacher_confidence, teacher = teacher_probs.max(dim=1)
    generator = torch.Generator().manual_seed(seed)
    kinds = []
    for right, wrong in ((student, teacher), (teacher, student)):
        rows = ((right == target) & (wrong != target)).nonzero().squeeze(1).cpu()
        kinds.append(rows[torch.randperm(len(rows), generator=generator)])
    fewer, more = sorted(kinds, key=len)
    fewer = fewer[: num_examples // 2]
    rows = torch.cat([fewer, more[: num_examples - len(fewer)]]).sort().values
    if not len(rows):
        return []
    batch = samples.batch(rows)
    inputs = list(batch.inputs.values()) if isinstance(batch.inputs, dict) else [batch.inputs]
    pictures = next((value for value in inputs if is_image(value[0])), None)
    return [
        {
            "index": int(batch.index[place]),
            "target": int(target[row]),
            "student": int(student[row]),
            "teacher": int(teacher[row]),
            "student_confidence": float(student_confidence[row]),
            "teacher_confidence": float(teacher_confidence[row]),
            "right": "student" if student[row] == target[row] else "teacher",
            "image": None if pictures is None else png_data_uri(pictures[place]),
            "text": None,
        }
        for place, row in enumerate(rows.tolist())
    ]
