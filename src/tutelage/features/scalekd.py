"""ScaleKD: a pre-trained vision transformer teaches any backbone through three coupled parts.

Source: "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", arXiv 2411.06786, and its official code. The
parts are the projector (`CrossAttentionProjector`), two views of the feature loss (`DualViewFeatureMimicking`), and a
path through the teacher's own last stage (`TeacherStage`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage._checks import check_in_range, check_non_negative, check_positive
from tutelage.batch import Batch
from tutelage.features.cross_attention_projector import CrossAttentionProjector
from tutelage.features.dual_view import alternative_feature_loss, direct_feature_loss
from tutelage.features.layouts import as_map, as_tokens
from tutelage.features.teacher_stage import TeacherStage, TokensToMap, as_grid, check_frozen, last_stage
from tutelage.objectives.divergences import soft_cross_entropy
from tutelage.objectives.objective import Objective
from tutelage.outputs import Outputs

_LOSSES = {"direct": direct_feature_loss, "alternative": alternative_feature_loss}


class ScaleKD(nn.Module):
    """All of ScaleKD: its four projectors, and its losses from the features and logits of a batch.

    In each view, *direct* and *alternative*, the student's last stage but one is projected to what the teacher's last
    stage takes, and goes through that stage (s3). What comes out is compared with the teacher's last map; it also is
    the query by which the student's last stage is projected, which is compared with the same map (s4). Gradients flow
    through the teacher's frozen stage and through the queries. Both views pass the teacher's stage as one batch, which
    is the same where, as in evaluation mode, samples do not see each other.

    Every pair is (last stage but one, last stage). Projectors are dropped after training.

    Args:
        student_dims: Channels of the student's maps.
        teacher_dims: Width of the tokens that the teacher's last stage takes, and channels of its last map.
        student_hw: Heights and widths of the student's maps.
        teacher_hw: Heights and widths of the teacher's grids, the first one before down-sampling.
        teacher_last_stage: Maps tokens to the teacher's last map, as a `TeacherStage` does; a module must be frozen.
            None leaves the path through the teacher out (an ablation): then the last stage has queries of its own.
        alpha: Weight of the direct view; a pair gives each stage its own. 0 leaves the view out.
        beta: Weight of the alternative view, alike.
        kd_weight: λ, of the logits: the task loss is multiplied by 1 − λ.
        temperature: Of the logits.
        num_heads: Attention heads of the projectors; they divide `teacher_dims`.
        softmax_scale: Multiplies the attention's logits.
        norm: Normalisation of the student's maps in projectors: `"batch"` or `"layer"` (for ConvNeXt students).

    Raises:
        ValueError: Values out of range, heads that do not divide the widths, features of other shapes, maps of one
            position in the alternative view, or a teacher's stage with parameters that learn.

    >>> merge = nn.Linear(8, 8).requires_grad_(False)
    >>> def last(tokens):  # 4 × 4 tokens of 8 channels → 2 × 2 of 8
    ...     return F.avg_pool2d(merge(tokens).mT.unflatten(2, (4, 4)), 2)
    >>> method = ScaleKD((6, 12), (8, 8), ((4, 4), (2, 2)), ((4, 4), (2, 2)), last, num_heads=(2, 2))
    >>> features, logits = (torch.randn(5, 6, 4, 4), torch.randn(5, 12, 2, 2)), torch.randn(5, 3)
    >>> losses = method(features, torch.randn(5, 8, 2, 2), logits, logits, task_loss=torch.tensor(1.0))
    >>> list(losses)
    ['task', 'kd', 's3_direct', 's3_alternative', 's4_direct', 's4_alternative', 'total']
    """

    def __init__(
        self,
        student_dims: Sequence[int],
        teacher_dims: Sequence[int],
        student_hw: Sequence[tuple[int, int]],
        teacher_hw: Sequence[tuple[int, int]],
        teacher_last_stage: TokensToMap | None,
        *,
        alpha: float | Sequence[float] = 0.08,
        beta: float | Sequence[float] = 0.06,
        kd_weight: float = 0.5,
        temperature: float = 1.0,
        num_heads: Sequence[int] = (8, 8),
        softmax_scale: float = 5.0,
        norm: Literal["batch", "layer"] = "batch",
    ) -> None:
        super().__init__()
        check_in_range(kd_weight, "kd_weight", 0.0, 1.0)
        check_positive(temperature, "temperature")
        self.kd_weight, self.temperature = kd_weight, temperature
        self.weights = {"direct": _both(alpha, "alpha"), "alternative": _both(beta, "beta")}
        if isinstance(teacher_last_stage, nn.Module):
            check_frozen(teacher_last_stage)
        self._stage = (teacher_last_stage,)  # in a tuple: a stage that is a module is not registered, so not trained
        self.teacher_shape = (teacher_dims[1], *teacher_hw[1])
        proxied = teacher_last_stage is not None
        self.projectors = nn.ModuleDict()
        for view, (third, fourth) in self.weights.items():
            if view == "alternative" and math.prod(teacher_hw[1]) == 1 and (fourth > 0 or (proxied and third > 0)):
                raise ValueError(
                    f"Expected argument `teacher_hw` to have more than one position in the last stage, where the "
                    f"alternative view has nothing to say, but got {teacher_hw[1]}; `beta=0` leaves it out."
                )
            needed = {3: proxied and (third > 0 or fourth > 0), 4: fourth > 0}
            for index, stage in enumerate((3, 4)):
                if needed[stage]:
                    self.projectors[f"s{stage}_{view}"] = CrossAttentionProjector(
                        student_dims[index],
                        teacher_dims[index],
                        query_hw=teacher_hw[index],
                        student_hw=student_hw[index],
                        num_heads=num_heads[index],
                        softmax_scale=softmax_scale,
                        trainable_query=stage == 3 or not proxied,
                        norm=norm,
                    )

    def forward(
        self,
        student_features: tuple[Tensor, Tensor],
        teacher_last: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        task_loss: Tensor,
    ) -> dict[str, Tensor]:
        """The losses of a batch, each with its weight in it, and their `total`; a part that is left out is 0.

        Args:
            student_features: Maps `[batch, channels, height, width]` of the last stage but one and the last.
            teacher_last: The teacher's last map; detached.
            student_logits: `[batch, classes]`.
            teacher_logits: `[batch, classes]`; detached.
            task_loss: The loss of the student's own task, a scalar.
        """
        if teacher_last.ndim != 4 or teacher_last.shape[1:] != self.teacher_shape:
            raise ValueError(
                f"Expected argument `teacher_last` to have shape [batch, {', '.join(map(str, self.teacher_shape))}], "
                f"but got {tuple(teacher_last.shape)}."
            )
        imitation = soft_cross_entropy(
            student_logits,
            teacher_logits.detach(),
            teacher_temperature=self.temperature,
            student_temperature=self.temperature,
        )
        losses = {
            "task": (1 - self.kd_weight) * task_loss,
            "kd": self.kd_weight * self.temperature**2 * imitation,
            **dict.fromkeys(
                ("s3_direct", "s3_alternative", "s4_direct", "s4_alternative"), student_logits.new_zeros(())
            ),
        }
        proxies = self._proxies(student_features[0])
        for view, (third, fourth) in self.weights.items():
            proxy = proxies.get(view)
            if proxy is not None and third > 0:
                losses[f"s3_{view}"] = _LOSSES[view](proxy, teacher_last, weight=third)
            if fourth > 0:
                query = None if proxy is None else as_tokens(proxy)
                tokens = self.projectors[f"s4_{view}"](student_features[1], query)
                projected = as_grid(tokens, (self.teacher_shape[1], self.teacher_shape[2]))
                losses[f"s4_{view}"] = _LOSSES[view](projected, teacher_last, weight=fourth)
        losses["total"] = torch.stack([value.to(imitation.dtype) for value in losses.values()]).sum()
        return losses

    def _proxies(self, penultimate: Tensor) -> dict[str, Tensor]:
        """By view, what the teacher's last stage makes of the student's last stage but one."""
        stage = self._stage[0]
        tokens = {
            view: self.projectors[f"s3_{view}"](penultimate) for view in self.weights if f"s3_{view}" in self.projectors
        }
        if stage is None or not tokens:
            return {}
        proxy = stage(torch.cat(list(tokens.values())))
        if proxy.ndim != 4 or proxy.shape[1:] != self.teacher_shape:
            raise ValueError(
                f"Expected argument `teacher_last_stage` to give shape [batch, "
                f"{', '.join(map(str, self.teacher_shape))}], but got {tuple(proxy.shape)}."
            )
        return dict(zip(tokens, proxy.chunk(len(tokens)), strict=True))


class ScaleKDObjective(Objective, name="scalekd"):
    """`ScaleKD` in a run, with cross-entropy as the task: a whole objective, made from the models themselves.

    It finds the teacher's last stage (`last_stage`: Swin, ViT, DeiT and BEiT of `transformers`) and its last map, and
    takes all sizes from a first batch. It needs the teacher itself, not only its signals from a cache.

    Args:
        student_taps: Places of the student's last stage but one and its last: module paths or `stage:N`.
        teacher_stage: The teacher's last stage with `dim`, `hw` and `tap`, for other teachers; None finds it.
        num_blocks: Of a teacher without stages, see `vit_last_stage`.
        perceive_teacher: Go through the teacher's last stage; otherwise (an ablation) the last stage alone is matched.
        alpha: Weight of the direct view, see `ScaleKD`.
        beta: Weight of the alternative view.
        kd_weight: Weight λ of the teacher's logits against 1 − λ of the labels.
        temperature: Of the logits.
        num_heads: Attention heads for both stages; by default the greatest number up to 8 that divides each width
            and 8.
        softmax_scale: Multiplies the attention's logits.
        norm: Of the student's maps: `"batch"` or `"layer"`.
        aspect_ratio: Height over width of the image, where tokens become a map.

    Raises:
        ValueError: No teacher to go through, features that are no maps, or as `ScaleKD`.

    >>> ScaleKDObjective(num_heads=(3, 6)).needs_teacher
    True
    """

    def __init__(
        self,
        student_taps: Sequence[str] = ("stage:-2", "stage:-1"),
        *,
        teacher_stage: TeacherStage | None = None,
        num_blocks: int | None = None,
        perceive_teacher: bool = True,
        alpha: float | Sequence[float] = 0.08,
        beta: float | Sequence[float] = 0.06,
        kd_weight: float = 0.5,
        temperature: float = 1.0,
        num_heads: Sequence[int] | None = None,
        softmax_scale: float = 5.0,
        norm: Literal["batch", "layer"] = "batch",
        aspect_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        if len(student_taps) != 2:
            raise ValueError(f"Expected argument `student_taps` to name two places, but got {student_taps!r}.")
        check_in_range(kd_weight, "kd_weight", 0.0, 1.0)
        check_positive(temperature, "temperature")
        check_positive(softmax_scale, "softmax_scale")
        self.num_blocks, self.perceive_teacher = num_blocks, perceive_teacher
        self.aspect_ratio, self.num_heads = aspect_ratio, num_heads
        self.settings = {
            "alpha": _both(alpha, "alpha"),
            "beta": _both(beta, "beta"),
            "kd_weight": kd_weight,
            "temperature": temperature,
            "softmax_scale": softmax_scale,
            "norm": norm,
        }
        self.reads = _reads(student_taps, "stage:-1")  # until the teacher is there
        self.taps["student"] = {place: place for place in student_taps}
        self._teacher_stage: TeacherStage | None = None
        self.scalekd: ScaleKD | None = None
        if teacher_stage is not None:
            self._take(teacher_stage)

    def attach(self, student: nn.Module, teacher: nn.Module | None) -> None:
        """Find the teacher's last stage, unless it was given."""
        if self._teacher_stage is None:
            if teacher is None:
                raise ValueError(
                    f"{type(self).__name__} goes through the teacher's last stage, so it needs the teacher itself and "
                    "not its signals alone; leave the cache out, or give `teacher_stage`."
                )
            self._take(last_stage(teacher, num_blocks=self.num_blocks, freeze=True))

    def build(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        """Make the projectors from the sizes of a first batch."""
        if self.scalekd is not None:
            return
        if self._teacher_stage is None:
            raise ValueError(f"{type(self).__name__} needs the teacher's last stage: give `teacher_stage`.")
        first, second, last, *_ = self.read(student, teacher, batch)
        maps = [as_map(features, aspect_ratio=self.aspect_ratio) for features in (first, second, last)]
        dims = [found.shape[1] for found in maps]
        grids = [(found.shape[2], found.shape[3]) for found in maps]
        stage_dim, stage_hw = self._teacher_stage.dim, self._teacher_stage.hw
        if stage_dim is None or stage_hw is None:
            raise ValueError("Expected argument `teacher_stage` to have `dim` and `hw`, but got None.")
        teacher_dims = stage_dim, dims[2]
        self.scalekd = ScaleKD(
            (dims[0], dims[1]),
            teacher_dims,
            (grids[0], grids[1]),
            (stage_hw, grids[2]),
            self._teacher_stage if self.perceive_teacher else None,
            num_heads=self.num_heads or (math.gcd(teacher_dims[0], 8), math.gcd(teacher_dims[1], 8)),
            **self.settings,  # type: ignore[arg-type]
        ).to(first.device)

    def loss(
        self,
        penultimate: Tensor,
        last: Tensor,
        teacher_last: Tensor,
        student_logits: Tensor,
        teacher_logits: Tensor,
        target: Tensor,
    ) -> Tensor:
        """The total of `ScaleKD`, the mean over the batch."""
        if self.scalekd is None:
            raise ValueError(f"{type(self).__name__} has no projectors yet: call `build` with a first batch.")
        first, second, third = (
            as_map(value, aspect_ratio=self.aspect_ratio) for value in (penultimate, last, teacher_last)
        )
        task = F.cross_entropy(student_logits.float(), target)
        losses: dict[str, Tensor] = self.scalekd((first, second), third, student_logits, teacher_logits, task)
        return losses["total"]

    def _take(self, stage: TeacherStage) -> None:
        if stage.tap is None:
            raise ValueError(
                "Expected argument `teacher_stage` to have `tap`, the place of the last map, but got None."
            )
        self._teacher_stage = stage
        self.taps["teacher"] = {stage.tap: stage.tap}
        self.reads = _reads(tuple(self.taps["student"]), stage.tap)


def _reads(student_taps: Sequence[str], teacher_tap: str) -> tuple[str, ...]:
    features = (*(f"student.features.{place}" for place in student_taps), f"teacher.features.{teacher_tap}")
    return (*features, "student.logits", "teacher.logits", "batch.target")


def _both(weight: float | Sequence[float], name: str) -> tuple[float, float]:
    """A weight for each of the two stages."""
    pair = tuple(weight) if isinstance(weight, Sequence) else (weight, weight)
    if len(pair) != 2:
        raise ValueError(f"Expected argument `{name}` to be a number or a pair of them, but got {weight!r}.")
    for value in pair:
        check_non_negative(value, name)
    return pair[0], pair[1]
