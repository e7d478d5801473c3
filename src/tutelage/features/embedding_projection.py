"""LELP: the geometry of a teacher's embeddings as soft subclasses of each class, for tasks of few classes.

Source: "Linear Projections of Teacher Embeddings for Few-Class Distillation", arXiv 2409.20449, section 3.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_option, check_positive
from tutelage.batch import Batch
from tutelage.features.embedding_moments import EmbeddingMoments
from tutelage.features.subclass_targets import SubclassTargets, check_width, class_members
from tutelage.features.subclasses import subclass_distillation
from tutelage.objectives.objective import Objective
from tutelage.objectives.precision import at_least_float32
from tutelage.outputs import Outputs

Directions = Literal["pca", "random"]


class EmbeddingLinearProjection(SubclassTargets):
    """Soft subclass targets from linear projections of a teacher's embeddings.

    For each class c, with h̃ the embedding without what the teacher's head reads (P h, P = I − W⁺W):

        a_c = U_cᵀ (h̃ − μ_c) / s_c,    r_c = softmax(a_c / β),    q = softmax(logits / τ)_c · r_c

    μ_c is the mean of h̃ over the samples of the class, U_c its S leading principal directions, turned by a random
    rotation so that no direction takes nearly all the variance. s_c is the root of the mean variance along them
    (ours): β then has no unit. All is found once, by `fit`, and kept in buffers; no gradient passes through.

    Args:
        num_subclasses: S.
        subclass_temperature: β; large makes subclasses alike, small makes them hard.
        project_out_head: Leave out what the head reads, which is in the logits already.
        rotate: Turn the directions of each class at random (Haar).
        standardize: Divide by s_c; without it β has the unit of the embedding.
        directions: `"pca"`, or `"random"` orthonormal ones (an ablation).
        generator: Where rotations and random directions come from; by default PyTorch's own.

    Attributes:
        means: `[classes, width]`, μ_c.
        directions: `[classes, width, S]`, U_c.
        scales: `[classes]`, s_c, or ones; 1 as well where nothing varies along the directions.
        null_projector: `[width, width]`, P.

    Raises:
        ValueError: No subclass, a temperature that is not positive, or an unknown kind of directions.

    >>> embeddings, labels = torch.randn(40, 8), torch.arange(40) % 2
    >>> projection = EmbeddingLinearProjection(3).fit(embeddings, torch.randn(2, 8), labels)
    >>> targets = projection.targets(embeddings[:5], torch.randn(5, 2), temperature=2.0)
    >>> targets.shape, targets.sum(dim=(1, 2)).allclose(torch.ones(5))
    (torch.Size([5, 2, 3]), True)
    """

    means: Tensor | None
    directions: Tensor | None
    scales: Tensor | None
    null_projector: Tensor | None

    def __init__(
        self,
        num_subclasses: int = 5,
        *,
        subclass_temperature: float = 1.0,
        project_out_head: bool = True,
        rotate: bool = True,
        standardize: bool = True,
        directions: Directions = "pca",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(num_subclasses)
        check_positive(subclass_temperature, "subclass_temperature")
        check_option(directions, "directions", ("pca", "random"))
        self.subclass_temperature = subclass_temperature
        self.project_out_head = project_out_head
        self.rotate = rotate
        self.standardize = standardize
        self.kind_of_directions = directions
        self.generator = generator
        for name in ("means", "directions", "scales", "null_projector"):
            self.register_buffer(name, None)

    def fit(
        self,
        embeddings: Float[Tensor, "samples width"],
        head_weight: Float[Tensor, "classes head_width"] | None = None,
        labels: Int[Tensor, "labelled"] | None = None,
        logits: Float[Tensor, "asked outputs"] | None = None,
    ) -> EmbeddingLinearProjection:
        """Find means, directions and scales; in float64, and kept in the embeddings' own precision or float32.

        Args:
            embeddings: `[samples, width]` of the teacher: what its last layer reads.
            head_weight: `[classes, width]` of that layer; without it nothing is projected out.
            labels: `[samples]` classes; without them the teacher's likeliest class counts.
            logits: `[samples, classes]` of the teacher; needed without labels.

        Returns:
            Itself.

        Raises:
            ValueError: Neither labels nor logits, shapes that do not go together, embeddings that are not finite, a
                class with fewer than S + 1 samples, or fewer than S dimensions beside those that the head reads.
        """
        members, classes = class_members(embeddings, head_weight, labels, logits)
        moments = EmbeddingMoments(classes, embeddings.shape[1], embeddings.device)
        moments.update(embeddings, members)
        return self.fit_moments(moments, head_weight, dtype=at_least_float32(embeddings[:0]).dtype)

    def fit_moments(
        self,
        moments: EmbeddingMoments,
        head_weight: Float[Tensor, "classes head_width"] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> EmbeddingLinearProjection:
        """`fit` from sums that were taken batch by batch.

        Args:
            moments: What there is to know of the embeddings.
            head_weight: `[classes, width]`; without it nothing is projected out.
            dtype: Of the buffers.
        """
        width = moments.sums.shape[1]
        projector = torch.eye(width, dtype=torch.float64, device=moments.sums.device)
        if self.project_out_head and head_weight is not None:
            projector = projector - _row_space(head_weight, width)
        self._check_rank(moments.counts, round(projector.trace().item()))
        means = moments.means() @ projector
        covariances = projector @ moments.covariances() @ projector
        directions = self._directions(covariances, projector)
        variances = torch.einsum("cds,cde,ces->c", directions, covariances, directions) / self.num_subclasses
        scales = variances.clamp_min(0).sqrt()
        if not self.standardize:
            scales = torch.ones_like(scales)
        self.means, self.directions = means.to(dtype), directions.to(dtype)
        self.scales = torch.where(scales > 0, scales, 1).to(dtype)
        self.null_projector = projector.to(dtype)
        return self

    def coordinates(self, embeddings: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes subclasses"]:
        """Where samples lie along the directions of every class: a_c, divided by s_c.

        Args:
            embeddings: `[batch, width]` of the teacher.

        Returns:
            `[batch, classes, S]`, in the buffers' dtype.

        Raises:
            ValueError: Another width, embeddings that are not finite, or `fit` was not called.
        """
        if self.means is None or self.directions is None or self.scales is None or self.null_projector is None:
            raise ValueError("Expected `fit` to be called first, since there are no directions yet.")
        check_width(embeddings, self.means.shape[1])
        with torch.autocast(embeddings.device.type, enabled=False):
            turned = self.null_projector @ self.directions  # P is symmetric: Uᵀ P h = (P U)ᵀ h
            along = torch.einsum("bd,cds->bcs", embeddings.detach().to(self.means.dtype), turned)
            centre = torch.einsum("cd,cds->cs", self.means, turned)
            scaled: Tensor = (along - centre) / self.scales[:, None]
        return scaled

    def conditional(self, embeddings: Float[Tensor, "batch width"]) -> Float[Tensor, "batch classes subclasses"]:
        """r_c = softmax(a_c / β): `[batch, classes, S]`, sums to 1 over the subclasses of every class."""
        return (self.coordinates(embeddings) / self.subclass_temperature).softmax(dim=2)

    def allocate(self, num_classes: int, width: int, *, device: torch.device | str = "cpu") -> None:
        """Make the buffers in their shapes, filled with NaN, for a checkpoint to fill."""
        shapes = {
            "means": (num_classes, width),
            "directions": (num_classes, width, self.num_subclasses),
            "scales": (num_classes,),
            "null_projector": (width, width),
        }
        for name, shape in shapes.items():
            setattr(self, name, torch.full(shape, torch.nan, device=device))

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        if self.means is None and f"{prefix}means" in state_dict:
            means = state_dict[f"{prefix}means"]
            self.allocate(*means.shape)
            self.to(means.dtype)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_rank(self, counts: Tensor, dimensions: int) -> None:
        for label, count in enumerate(counts.tolist()):
            if min(count - 1, dimensions) < self.num_subclasses:
                raise ValueError(
                    f"Expected class {label} to have at least {self.num_subclasses + 1} samples and as many free "
                    f"dimensions as the {self.num_subclasses} subclasses, but it has {count} samples and {dimensions} "
                    "dimensions beside those that the head reads."
                )

    def _directions(self, covariances: Tensor, projector: Tensor) -> Tensor:
        classes, width, _ = covariances.shape
        size = self.num_subclasses
        if self.kind_of_directions == "random":
            return _orthonormal(projector @ self._normal(classes, width, size, like=projector))
        leading: Tensor = torch.linalg.eigh(covariances).eigenvectors[..., -size:].flip(dims=(2,))
        if self.rotate:
            leading = leading @ _orthonormal(self._normal(classes, size, size, like=projector))
        return leading

    def _normal(self, *shape: int, like: Tensor) -> Tensor:
        device = "cpu" if self.generator is None else self.generator.device
        drawn = torch.randn(*shape, dtype=torch.float64, device=device, generator=self.generator)
        return drawn.to(like.device)


class LinearProjectionDistillation(Objective, name="lelp"):
    """LELP: `subclass_distillation` towards targets that `EmbeddingLinearProjection` makes from the teacher.

    The student is a `SubclassClassifier` with as many subclasses. Before the first step the teacher is asked about all
    training samples; what is found is a buffer. The head's weight is found from embeddings and logits (see
    `EmbeddingMoments.head_weight`), so cached signals will do. It is the whole lesson of the paper, which uses no
    labels; for a term on labels add `cross_entropy`, which reads the class scores.

    Args:
        num_subclasses: S.
        temperature: τ, of teacher and student.
        subclass_temperature: β.
        project_out_head: Leave out what the teacher's head reads.
        rotate: Turn the directions of each class at random.
        standardize: Measure in standard deviations of each class, so that β has no unit.
        directions: `"pca"` or `"random"`.
        members: Whose word says which class a sample of the statistics belongs to: the `"teacher"`, or the `"label"`.
        seed: Of rotations and random directions.

    Raises:
        ValueError: As `EmbeddingLinearProjection`; when it is built, also if the student has no subclasses or another
            number of them.

    >>> objective = LinearProjectionDistillation(num_subclasses=2, temperature=2.0)
    >>> embeddings, logits = torch.randn(20, 6), torch.randn(20, 2)
    >>> _ = objective.projection.fit(embeddings, logits=logits)
    >>> objective(torch.zeros(20, 4), embeddings, logits)  # τ² log 4
    tensor(5.5452)
    """

    reads = ("student.features.subclasses", "teacher.embedding", "teacher.logits")

    def __init__(
        self,
        num_subclasses: int = 5,
        *,
        temperature: float = 1.0,
        subclass_temperature: float = 1.0,
        project_out_head: bool = True,
        rotate: bool = True,
        standardize: bool = True,
        directions: Directions = "pca",
        members: Literal["teacher", "label"] = "teacher",
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_positive(temperature, "temperature")
        check_option(members, "members", ("teacher", "label"))
        self.temperature = temperature
        self.members = members
        self.projection = EmbeddingLinearProjection(
            num_subclasses,
            subclass_temperature=subclass_temperature,
            project_out_head=project_out_head,
            rotate=rotate,
            standardize=standardize,
            directions=directions,
            generator=torch.Generator().manual_seed(seed),
        )

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make room for the statistics, once it is sure that the student has the subclasses."""
        embedding, logits = self._signals(teacher)
        subclasses = student.features.get("subclasses")
        if subclasses is None:
            raise ValueError(
                "Expected the student to have subclasses: describe it as `tutelage.features:subclass_classifier` with "
                f"the arguments `model` and `num_subclasses: {self.projection.num_subclasses}`."
            )
        expected = logits.shape[1] * self.projection.num_subclasses
        if subclasses.shape[-1] != expected:
            raise ValueError(
                f"Expected the student to have {self.projection.num_subclasses} subclasses for each of "
                f"{logits.shape[1]} classes, so {expected} outputs, but it has {subclasses.shape[-1]}."
            )
        if self.projection.means is None:
            self.projection.allocate(logits.shape[1], embedding.shape[1], device=embedding.device)

    def prepare(self, lessons: Iterable[tuple[Outputs | None, Batch]]) -> None:
        """Take the statistics from what the teacher says about the training data."""
        moments: EmbeddingMoments | None = None
        dtype = torch.float32
        for teacher, batch in lessons:
            embedding, logits = self._signals(teacher)
            if self.members == "label" and batch.target is None:
                raise ValueError(f"{type(self).__name__} reads `batch.target`, but the batch gives none.")
            labels = batch.target if self.members == "label" else None
            members, classes = class_members(embedding, None, labels, logits)
            if moments is None:
                moments = EmbeddingMoments(classes, embedding.shape[1], embedding.device)
                dtype = at_least_float32(embedding[:0]).dtype
            moments.update(embedding, members, logits)
        if moments is None:
            raise ValueError("Expected at least one batch of training data, but there was none.")
        self.projection.fit_moments(moments, moments.head_weight().to(dtype), dtype=dtype)

    def loss(self, student_logits: Tensor, embeddings: Tensor, logits: Tensor) -> Tensor:
        """The mean over the batch."""
        targets = self.projection.targets(embeddings, logits, temperature=self.temperature)
        return subclass_distillation(student_logits, targets, temperature=self.temperature)

    def _signals(self, teacher: Outputs | None) -> tuple[Tensor, Tensor]:
        if teacher is None or teacher.embedding is None or teacher.logits is None:
            raise ValueError(
                f"{type(self).__name__} reads `teacher.embedding` and `teacher.logits`, but the teacher gives not both."
            )
        return teacher.embedding, teacher.logits


def _row_space(head_weight: Tensor, width: int) -> Tensor:
    """W⁺W, the projector onto what the head reads; 0 with a warning when that is everything."""
    tolerance = max(head_weight.shape) * torch.finfo(at_least_float32(head_weight[:0]).dtype).eps  # numpy's default
    _, values, rows = torch.linalg.svd(head_weight.detach().double(), full_matrices=False)
    rows = rows[values > tolerance * values.max()]
    if len(rows) >= width:
        warnings.warn(
            f"The head reads all {width} dimensions of the embedding, so none of them is projected out.", stacklevel=4
        )
        return torch.zeros(width, width, dtype=torch.float64, device=head_weight.device)
    space: Tensor = rows.T @ rows
    return space


def _orthonormal(matrices: Tensor) -> Tensor:
    """Orthonormal columns; of Gaussian matrices, Haar-distributed (the signs of diag R are made positive)."""
    columns, upper = torch.linalg.qr(matrices)
    signs = torch.where(upper.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    turned: Tensor = columns * signs.unsqueeze(-2)
    return turned
