"""The report card: what was learned, in numbers and examples, as plain data that JSON can hold."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class ReportCard:
    """What one model knows, on one set of samples.

    Attributes:
        name: The model's name in tables ("pld, seed 0").
        task: The data's task.
        num_samples: How many samples were asked.
        metrics: Headline figures by metric name (`accuracy`, `top5_accuracy`, `negative_log_likelihood`, `brier_score`,
            `expected_calibration_error`, `teacher_agreement`, `teacher_error_agreement` (on samples that the teacher
            gets wrong), `teacher_kl`, `robust_accuracy` (at the largest attack radius), `fgsm_accuracy`,
            `pgd20_accuracy` and `auto_attack_accuracy` (at the one radius of named attacks), `parameters`,
            `multiply_adds`, `latency_ms`, `latency_p95_ms`, …). Fractions, not per cent; nats; milliseconds. Whatever
            does not apply is absent.
        reliability: `{"confidence": [...], "accuracy": [...], "count": [...]}`, one entry a bin that holds samples;
            empty if not asked.
        robustness: `{"epsilon": [...], "accuracy": [...], "attacks": {...}, "range": [low, high]}`: accuracy under
            attack by attack radius, what `tutelage.assessment.AttackAccuracies` holds, and the range of the inputs;
            `{"absent": reason}` where attacks make no sense; empty if not asked.
        latency: `{"milliseconds": [...], "batch_size": n}`: single measurements; empty if not asked.
        fidelity: How the student answers compared with its teacher: `agreement` with its interval, `kappa`, shares of
            answers by who was right (see `tutelage.assessment.FidelityTally.section`); empty without a teacher.
        partings: Where student and teacher part, most frequent first:
            `{"teacher": class, "student": class, "count": n, "student_right": n, "teacher_right": n}`.
        examples: Samples that only one of them gets right: `{"index", "target", "student", "teacher",
            "student_confidence", "teacher_confidence", "right": "student" | "teacher", "image": data URI | None,
            "text": str | None}`.
        class_names: A name a class.
    """

    name: str
    task: str
    num_samples: int
    metrics: dict[str, float] = field(default_factory=dict)
    reliability: dict[str, list[float]] = field(default_factory=dict)
    robustness: dict[str, Any] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    fidelity: dict[str, float] = field(default_factory=dict)
    partings: list[dict[str, Any]] = field(default_factory=list)
    examples: list[dict[str, Any]] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for `report.json`."""
        return asdict(self)
