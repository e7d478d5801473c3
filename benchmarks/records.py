"""Which ratios the records in `benchmarks/results/` hold: what `benchmarks.check` measures again and the docs show.

A record has its own shape; `RATIOS` says where its ratios are. Read from here, every ratio is one of times, ours over
the peer's: below 1 ours is faster. Nothing is imported but the standard library, so that the docs can use it.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a measured quantity."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """The spread of some values."""
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def __str__(self) -> str:
        return f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def record(self) -> dict[str, float]:
        """The spread as it stands in a result file, to four digits."""
        return {part: float(f"{getattr(self, part):.4g}") for part in ("median", "low", "high")}

    @property
    def inverse(self) -> Spread:
        """The spread of the reciprocals."""
        return Spread(1 / self.median, 1 / self.high, 1 / self.low)


@dataclass(frozen=True)
class Ratio:
    """One ratio of a record.

    Attributes:
        subject: What of ours was timed.
        peer: What it was compared with.
        at: Where its median and quartiles are in the record: keys, separated by `/`. In a list, `key=value,key=value`
            picks the entry that has these values.
        inverted: Whether the record holds the peer's time over ours.
        gated: Whether a loss fails `make bench-check`. What is not gated takes too long or varies too much.
    """

    subject: str
    peer: str
    at: str
    inverted: bool = False
    gated: bool = True

    def __str__(self) -> str:
        return f"{self.subject} / {self.peer}"


def _sinkhorn(batch: int, classes: int, peer: str, *, gated: bool = False) -> Ratio:
    at = f"plans/batch={batch},classes={classes}/times_ours/{peer}"
    return Ratio(f"plan, batch {batch}, {classes} classes", peer, at, inverted=True, gated=gated)


RATIOS: Mapping[str, tuple[str, Sequence[Ratio]]] = {
    "peers": (
        "Trainers and losses of other toolkits",
        [
            Ratio(subject, peer, f"tasks/{task}/ours_over/{peer}", gated=task != "texts, large")
            for task, subject, peer_name in (
                ("classes, small", "Trainer, small networks", "torchdistill"),
                ("classes, large", "Trainer, large networks", "torchdistill"),
                ("texts, small", "Trainer, small language models", "TRL"),
                ("texts, large", "Trainer, larger language models", "TRL"),
                ("classic loss", "knowledge_distillation", "torchdistill"),
                ("DIST", "dist_distillation", "torchdistill"),
                ("Jensen–Shannon", "token_divergence, JSD", "TRL"),
            )
            for peer in (peer_name, "by hand")
        ],
    ),
    "training": (
        "Training step",
        [
            Ratio(f"trainer, {name.replace('_', ' ')}", "plain loop", f"{name}/trainer_over_loop")
            for name in ("tiny", "tiny_with_teacher", "large_with_teacher")
        ],
    ),
    "objectives": (
        "Losses of distillation",
        [
            Ratio("plackett_luce_distillation", "3 cross-entropies + 1 sort", "pld_over_bound"),
            *(
                Ratio(name, "F.cross_entropy", f"losses/{name}/over_cross_entropy")
                for name in (
                    "knowledge_distillation", "decoupled_distillation", "dist_distillation", "forward_kl", "reverse_kl",
                    "jensen_shannon", "logit_mse",
                )
            ),
        ],
    ),
    "cross_entropy_family": (
        "Losses for labels",
        [
            Ratio(name, "F.cross_entropy", f"losses/{name}/over_cross_entropy")
            for name in (
                "comp_sum_loss, tau 0.5", "generalized_cross_entropy", "symmetric_cross_entropy_loss",
                "label_distributionally_robust_loss", "dice_loss", "focal_loss", "hl_gauss_loss", "c51_loss",
                "DirectCoverageLoss",
            )
        ],
    ),
    "sinkhorn": (
        "Sinkhorn",
        [
            *(_sinkhorn(64, 100, peer, gated=True) for peer in ("POT", "POT, logarithms")),
            _sinkhorn(64, 100, "GeomLoss, ε as it is"),
            *(_sinkhorn(256, 100, peer, gated=True) for peer in ("POT", "POT, logarithms")),
            _sinkhorn(256, 100, "GeomLoss, ε as it is"),
            *(_sinkhorn(512, 1000, peer) for peer in ("POT", "POT, logarithms", "GeomLoss, ε as it is")),
            Ratio("whole loss, batch 64, 1000 classes", "all differences at once",
                  "whole_loss/batch=64,classes=1000/naive_over_ours", inverted=True),
            Ratio("whole loss, batch 512, 1000 classes", "all differences at once",
                  "whole_loss/batch=512,classes=1000/naive_over_ours", inverted=True, gated=False),
        ],
    ),
    "cache": (
        "Teacher caches",
        [
            Ratio(f"an epoch, {name}", "no teacher", f"epoch_over_no_teacher/{name}")
            for name in ("cached, in memory", "cached, mapped", "cached, top 8")
        ],
    ),
    "diffusion_entropy": (
        "Diffusion spectral entropy",
        [
            Ratio(f"estimate, {form}", "all eigenvalues",
                  f"cases/bandwidth_over_median=1.0,time=2/dense_over_estimate/{form}", inverted=True)
            for form in ("kept", "computed anew")
        ],
    ),
    "alignment": (
        "Alignment of tokens",
        [
            Ratio(f"align_tokens, {first} to {second}, {texts}", "np.intersect1d, unchecked",
                  f"rows/teacher={first},student={second},texts={texts}/times_ours", inverted=True,
                  gated=second == "512 pairs")
            for first, second in (("1024 pairs", "512 pairs"), ("1024 pairs", "bytes"), ("4096 pairs", "1024 pairs"))
            for texts in ("documents", "windows")
        ],
    ),
    "linear_cross_entropy": (
        "Linear losses (kernels), by CPU seconds",
        [
            Ratio("linear_cross_entropy", "3 matrix products",
                  "cross_entropy/peaked/ratios/fused over three products/cpu"),
            Ratio("linear_cross_entropy", "F.linear_cross_entropy",
                  "cross_entropy/peaked/ratios/fused over pytorch/cpu"),
            Ratio("linear_cross_entropy", "logits and F.cross_entropy",
                  "cross_entropy/peaked/ratios/fused over dense/cpu", gated=False),
            Ratio("linear_cross_entropy, filtered", "3 matrix products",
                  "cross_entropy/peaked/ratios/filtered over three products/cpu"),
            Ratio("linear_distillation, forward KL", "4 matrix products",
                  "distillation/ratios/forward_kl over four products/cpu"),
            Ratio("linear_distillation, forward KL", "TRL", "distillation/ratios/TRL forward_kl over ours/cpu",
                  inverted=True),
            Ratio("linear_distillation, JSD", "TRL", "distillation/ratios/TRL jsd over ours/cpu", inverted=True,
                  gated=False),
            Ratio("linear_distillation, JSD", "Liger-Kernel", "distillation/ratios/Liger jsd over ours/cpu",
                  inverted=True, gated=False),
        ],
    ),
    "features": (
        "Features",
        [
            Ratio(name.replace("_", " "), "loop over samples", f"{name}/batched_over_loop")
            for name in (
                "fsp_matrix", "dense_fsp_loss", "student_teacher_cross_attention_4x4", "cross_attention_projector_4x4",
                "student_teacher_cross_attention_8x8", "cross_attention_projector_8x8",
            )
        ],
    ),
    "feature_taps": (
        "Taps",
        [
            Ratio(f"step with taps, {name.replace('_', ' ')}", "without", f"{name}/step_with_taps_over_without")
            for name in ("resnet_8_cifar_batch_32", "vit_4_blocks_batch_16", "gpt2_4_layers_batch_8")
        ],
    ),
}  # fmt: skip
"""For each benchmark with ratios: the hot path that it measures, and its ratios."""


def read_record(benchmark: str, folder: Path = RESULTS) -> dict[str, Any] | None:
    """A benchmark's record, or None when there is none."""
    path = folder / f"{benchmark}.json"
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def find(record: Any, ratio: Ratio) -> Spread | None:
    """A ratio of times, ours over the peer's, from a record or what a benchmark has just measured; None without it.

    >>> record = {"rows": [{"batch": 8, "times_ours": {"median": 2.0, "low": 1.0, "high": 4.0}}]}
    >>> find(record, Ratio("plan", "POT", "rows/batch=8/times_ours", inverted=True))
    Spread(median=0.5, low=0.25, high=1.0)
    """
    for step in ratio.at.split("/"):
        if isinstance(record, list):
            wanted = dict(part.split("=", 1) for part in step.split(","))
            record = next((row for row in record if all(str(row.get(key)) == wanted[key] for key in wanted)), None)
        else:
            record = record.get(step) if isinstance(record, Mapping) else None
    if not isinstance(record, Mapping):
        return None
    found = Spread(record["median"], record["low"], record["high"])
    return found.inverse if ratio.inverted else found
