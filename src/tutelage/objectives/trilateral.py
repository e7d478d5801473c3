"""The triangles between student, teacher and label, as features of a sample: what a fusion ratio can be read from.

Source: "Less or More From Teacher: Exploiting Trilateral Geometry For Knowledge Distillation" (TGeo-KD), ICLR 2024,
arXiv 2312.15112; the order of the blocks is that of the authors' code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_option, check_probabilities, check_same_shape, check_target
from tutelage.objectives.precision import at_least_float32

TrilateralFeature = Literal["vertices", "edges", "angles", "lengths"]
"""A kind of feature: the points themselves, squared differences by class, products of differences, squared lengths."""

_KINDS = ("vertices", "edges", "angles", "lengths")


def trilateral_features(
    student_probs: Float[Tensor, "batch classes"],
    teacher_probs: Float[Tensor, "..."],
    target: Int[Tensor, "batch"],
    class_means: Float[Tensor, "_ _"],
    *,
    features: Sequence[TrilateralFeature] = ("vertices", "edges"),
    inter_sample: bool = True,
    student_teacher_edge: bool = True,
) -> Float[Tensor, "batch width"]:
    """Where a sample's student S, teacher T, label G (one-hot) and class average T̄ stand to each other.

    Two triangles: S, T, G within the sample, and S, T̄, G across samples. The blocks, always in this order and each as
    wide as there are classes C, unless said otherwise:

    - `"vertices"`: S, T, G, T̄;
    - `"edges"`: (T̄−S)², (G−S)², (T−S)², (T−G)², (T̄−G)², element by element;
    - `"angles"`: (T̄−S)⊙(G−S), (T−S)⊙(G−S);
    - `"lengths"`: those of `trilateral_edge_lengths`, one number each.

    The default is the state of the paper's code, 9C wide. For many classes `("lengths",)` is 5 wide. No gradient passes
    through.

    Args:
        student_probs: `[batch, classes]`, S.
        teacher_probs: `[batch, classes]`, T.
        target: `[batch]` classes.
        class_means: `[classes, classes]`, row c the teacher's mean prediction over the training samples of class c (see
            `tutelage.features.class_conditional_mean`, with `missing="uniform"`).
        features: The kinds of features.
        inter_sample: Whether T̄ takes part; without it, the vertex T̄, both its edges and its angle are left out.
        student_teacher_edge: Whether (T−S)² takes part; without it, the angle at S towards T is left out too.

    Returns:
        `[batch, width]`, in float32 or wider, detached.

    Raises:
        ValueError: Probabilities that do not sum to 1 within 1e-4 (in half precision within its rounding), a class of
            `target` that `class_means` does not have, no kind of features or an unknown one, or shapes that differ.

    Source: section 3 of the paper; the authors' code, "option 3" (default) and "options 4 to 7" (angles).

    >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.75, 0.25]])
    >>> trilateral_features(student, teacher, torch.tensor([0]), torch.eye(2), features=("edges",))
    tensor([[0.2500, 0.2500, 0.2500, 0.2500, 0.0625, 0.0625, 0.0625, 0.0625, 0.0000,
             0.0000]])
    """
    for kind in features:
        check_option(kind, "features", _KINDS)
    if not features:
        raise ValueError("Expected argument `features` to hold at least one kind of features, but it is empty.")
    student, teacher, label, mean = _vertices(student_probs, teacher_probs, target, class_means)
    blocks: list[Tensor] = []
    if "vertices" in features:
        blocks += [student, teacher, label]
        if inter_sample:
            blocks.append(mean)
    if "edges" in features:
        if inter_sample:
            blocks.append((mean - student).square())
        blocks.append((label - student).square())
        if student_teacher_edge:
            blocks.append((teacher - student).square())
        blocks.append((teacher - label).square())
        if inter_sample:
            blocks.append((mean - label).square())
    if "angles" in features:
        if inter_sample:
            blocks.append((mean - student) * (label - student))
        if student_teacher_edge:
            blocks.append((teacher - student) * (label - student))
    if "lengths" in features:
        there = (True, True, student_teacher_edge, inter_sample, inter_sample)
        lengths = _lengths(student, teacher, label, mean)
        blocks.append(torch.stack([length for length, kept in zip(lengths, there, strict=True) if kept], dim=1))
    if not blocks:
        raise ValueError(
            "Expected at least one feature to be left, but `angles` need `inter_sample` or `student_teacher_edge`."
        )
    return torch.cat(blocks, dim=1)


def trilateral_edge_lengths(
    student_probs: Float[Tensor, "batch classes"],
    teacher_probs: Float[Tensor, "..."],
    target: Int[Tensor, "batch"],
    class_means: Float[Tensor, "_ _"],
) -> Float[Tensor, "batch 5"]:
    """Squared Euclidean lengths of the edges SG, TG, ST, ST̄ and T̄G of both triangles.

    Arguments and errors are those of `trilateral_features`; no gradient passes through.

    Returns:
        `[batch, 5]`, each value in [0, 2], in float32 or wider.

    >>> student, teacher = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    >>> trilateral_edge_lengths(student, teacher, torch.tensor([0]), torch.eye(2))
    tensor([[0.5000, 0.0000, 0.5000, 0.5000, 0.0000]])
    """
    return torch.stack(_lengths(*_vertices(student_probs, teacher_probs, target, class_means)), dim=1)


def _vertices(student_probs: Tensor, teacher_probs: Tensor, target: Tensor, class_means: Tensor) -> tuple[Tensor, ...]:
    """S, T, G and T̄ of each sample, checked and detached."""
    check_same_shape(student_probs, teacher_probs, "student_probs", "teacher_probs")
    classes = student_probs.shape[1]
    check_target(target, classes, shape=student_probs.shape[:1])
    for probs, name in ((student_probs, "student_probs"), (teacher_probs, "teacher_probs")):
        check_probabilities(probs, name, tolerance=_tolerance(probs))
    if class_means.shape[1] != classes:
        raise ValueError(
            f"Expected argument `class_means` to have {classes} columns like `student_probs`, "
            f"but got {class_means.shape[1]}."
        )
    target = target.long()
    known = target < len(class_means)
    if known.all():
        mean = at_least_float32(class_means.detach())[target]
        known = torch.isfinite(mean).all(dim=1)
    if not known.all():
        raise ValueError(
            f"Expected argument `class_means` to hold the mean of every class in `target`, "
            f"but class {int(target[~known][0])} has none."
        )
    check_probabilities(mean, "class_means", tolerance=_tolerance(class_means))
    student, teacher = at_least_float32(student_probs.detach()), at_least_float32(teacher_probs.detach())
    return student, teacher, F.one_hot(target, classes).to(student.dtype), mean


def _tolerance(probs: Tensor) -> float:
    """How far a sum may be from 1: 1e-4, or what rounding each probability to half precision can add up to."""
    return max(1e-4, torch.finfo(probs.dtype).eps)


def _lengths(student: Tensor, teacher: Tensor, label: Tensor, mean: Tensor) -> list[Tensor]:
    edges = (student - label, teacher - label, student - teacher, student - mean, mean - label)
    return [edge.square().sum(dim=1) for edge in edges]
