"""What batching buys: attention and FSP parts against plain loops over samples (and heads) of the same arithmetic.

The loops are ours, in the form in which such parts are often published: one sample at a time, a head at a time, the
attention matrix built. Both sides have the same weights and inputs, give the same result and the same gradients, and
are timed forward and backward on a batch of 32, on one thread. Bound: the batched form takes at most a fifth of the
loop's time, at the median over turns. What a loop wastes is the start of many small operations; the larger the maps,
the more the arithmetic itself, the same on both sides, hides it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.allocator import keep_freed_memory
from benchmarks.harness import record, side_by_side
from tutelage.features import CrossAttentionProjector, StudentTeacherCrossAttention, dense_fsp_loss, fsp_matrix

BATCH, THREADS, BOUND = 32, 1, 0.2

MAPS = ((16, 32), (16, 16), (32, 8), (32, 4), (32, 4), (32, 4))
"""Channels and side of the six maps that SKT relates, for an image of 32 pixels."""

Pair = tuple[Callable[[], Tensor], Callable[[], Tensor], Sequence[Tensor]]
"""The batched form, the loop, and what the gradient is taken of."""


def fsp_loop(x: Tensor, y: Tensor) -> Tensor:
    """`fsp_matrix`, sample by sample."""
    matrices = []
    for sample in range(len(x)):
        first = F.instance_norm(x[sample : sample + 1]).flatten(2)[0]
        second = F.instance_norm(y[sample : sample + 1]).flatten(2)[0]
        matrices.append(first @ second.T / first.shape[1])
    return torch.stack(matrices)


def dense_fsp_loop(student: Sequence[Tensor], teacher: Sequence[Tensor], pool: Sequence[int]) -> Tensor:
    """`dense_fsp_loss`, pair by pair of maps and sample by sample."""
    sides = []
    for maps in (student, teacher):
        pooled = [F.max_pool2d(one, size, ceil_mode=True) for one, size in zip(maps, pool, strict=False)]
        sides.append([*pooled, *maps[len(pool) :]])
    total = student[0].new_zeros(())
    for first in range(len(student)):
        for second in range(first + 1, len(student)):
            mine, theirs = (fsp_loop(side[first], side[second]) for side in sides)
            for sample in range(len(mine)):
                total = total + (mine[sample] - theirs[sample]).square().sum() / len(mine)
    return total


def fusion_loop(fusion: StudentTeacherCrossAttention, teacher: Tensor, student: Tensor) -> Tensor:
    """`StudentTeacherCrossAttention`, sample by sample with the attention matrix built."""
    fused = []
    for sample in range(len(teacher)):
        query = fusion.query(teacher[sample : sample + 1]).flatten(2)[0].T
        key = fusion.key(student[sample : sample + 1]).flatten(2)[0].T
        value = fusion.value(student[sample : sample + 1]).flatten(2)[0].T
        attention = torch.softmax(query @ key.T / query.shape[1] ** 0.5, dim=1)
        fused.append((attention @ value).T.reshape(student.shape[1:]))
    return torch.stack(fused)


def projector_loop(projector: CrossAttentionProjector, maps: Tensor) -> Tensor:
    """`CrossAttentionProjector`, sample by sample and head by head; only batch normalisation sees the batch."""
    tokens = F.relu(projector.norm(projector.conv(maps))) + projector.position
    assert projector.queries is not None
    height, width = projector.query_hw
    projected = []
    for sample in range(len(maps)):
        rows = tokens[sample].flatten(1).T
        grid = projector.queries.T.reshape(1, -1, height, width)
        query = projector.query(F.relu(projector.query_conv(grid)).flatten(2)[0].T)
        key, value = projector.key(rows), projector.value(rows)
        heads = []
        for asked, seen, given in zip(
            *(part.chunk(projector.num_heads, dim=1) for part in (query, key, value)), strict=True
        ):
            scale = projector.softmax_scale / asked.shape[1] ** 0.5
            heads.append(torch.softmax(asked @ seen.T * scale, dim=1) @ given)
        normalised = projector.output_norm(projector.output(torch.cat(heads, dim=1)))
        projected.append(normalised + projector.mlp(normalised))
    return torch.stack(projected)


def cases() -> dict[str, Pair]:
    """Every part at the sizes of small images; attention on the grids of a last stage and of the one before it."""
    torch.manual_seed(0)
    student = [torch.randn(BATCH, width, side, side, requires_grad=True) for width, side in MAPS]
    teacher = [torch.randn(BATCH, width, side, side) for width, side in MAPS]
    first, second = student[2], torch.randn(BATCH, 32, 8, 8, requires_grad=True)
    pool = (8, 4, 2)
    found: dict[str, Pair] = {
        "fsp_matrix": (lambda: fsp_matrix(first, second), lambda: fsp_loop(first, second), (first, second)),
        "dense_fsp_loss": (
            lambda: dense_fsp_loss(student, teacher, pool=pool),
            lambda: dense_fsp_loop(student, teacher, pool),
            student,
        ),
    }
    for side in (4, 8):
        found |= attention_cases(side)
    return found


def attention_cases(side: int) -> dict[str, Pair]:
    """Both attention modules on maps of a given side."""
    maps, others = torch.randn(2, BATCH, 32, side, side).unbind()
    maps.requires_grad_()
    fusion = StudentTeacherCrossAttention(32)
    projector = CrossAttentionProjector(32, 48, query_hw=(side, side), student_hw=(side, side), num_heads=8)
    return {
        f"student_teacher_cross_attention_{side}x{side}": (
            lambda: fusion(others, maps),
            lambda: fusion_loop(fusion, others, maps),
            (maps, *fusion.parameters()),
        ),
        f"cross_attention_projector_{side}x{side}": (
            lambda: projector(maps),
            lambda: projector_loop(projector, maps),
            (maps, *projector.parameters()),
        ),
    }


def both_ways(form: Callable[[], Tensor], of: Sequence[Tensor]) -> Callable[[], tuple[Tensor, ...]]:
    """Forward and backward, from a gradient that is not the same everywhere."""
    shape = form().shape
    weights = torch.linspace(-1, 1, shape.numel()).view(shape) if shape else torch.ones(())
    return lambda: torch.autograd.grad(form(), of, weights)


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The record, once both sides agree; quickly, in fewer turns."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    results: dict[str, Any] = {"batch": BATCH, "bound": BOUND}
    for name, (batched, loop, of) in cases().items():
        subjects = {"batched": both_ways(batched, of), "loop": both_ways(loop, of)}
        torch.testing.assert_close(batched(), loop(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(subjects["batched"](), subjects["loop"](), rtol=1e-3, atol=1e-2)
        timings = side_by_side(subjects, turns=7 if quick else 21, clock=time.process_time)
        ratio = timings.ratio("batched", "loop")
        times = {subject: float(f"{1000 * timings.of(subject).median:.4g}") for subject in subjects}
        results[name] = {
            "batched_over_loop": ratio.record(),
            "times_as_fast": float(f"{1 / ratio.median:.3g}"),
            "milliseconds": times,
            "holds": ratio.median <= BOUND,
        }
        print(f"{name}: {1 / ratio.median:.1f} times as fast as the loop ({times}; holds: {ratio.median <= BOUND})")
    return results


def main() -> None:
    """Measure, print, and write the result."""
    print(record("features", measure()))


if __name__ == "__main__":
    main()
