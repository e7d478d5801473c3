"""A report with plausible figures, made from simulated students on scikit-learn's digits."""

from __future__ import annotations

import base64
import io
import sys
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from tutelage.assessment.report_card import ReportCard
from tutelage.reporting.report import ArmResult, Report

NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONFIG = """\
data: digits
teacher: {model: convnet, width: 64, epochs: 40}
student: {model: mlp, width: 16}
objectives:
  - {name: knowledge_distillation, temperature: 4.0, alpha: 0.9}
train:
  epochs: 20
  batch_size: 64
  optimizer: {name: adamw, learning_rate: 0.002, weight_decay: 0.01}
  seed: 0
"""


def data_uri(image: np.ndarray) -> str:
    """A greyscale image of values in [0, 16] as a PNG in a data URI."""
    stream = io.BytesIO()
    Image.fromarray((255 - image * (255 / 16)).astype(np.uint8)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def answers(
    rng: np.random.Generator, target: np.ndarray, skill: float, sharpness: float, hard: np.ndarray
) -> tuple[Any, Any]:
    """Classes and confidences of a simulated model: right on what is easy for its skill."""
    margin = skill - hard + 0.25 * rng.standard_normal(len(target))
    wrong = (target + rng.choice([1, 3, 5, 7], len(target), p=[0.2, 0.3, 0.4, 0.1])) % 10
    answer = np.where(margin > 0, target, wrong)
    return answer, np.clip(0.45 + sharpness * np.abs(margin) + 0.05 * rng.standard_normal(len(target)), 0.2, 0.999)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> tuple[dict[str, list[float]], float]:
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    curve: dict[str, list[float]] = {"confidence": [], "accuracy": [], "count": []}
    error = 0.0
    for place in range(bins):
        inside = places == place
        if not (count := int(inside.sum())):
            continue
        mean, right = float(confidence[inside].mean()), float(correct[inside].mean())
        curve["confidence"].append(mean)
        curve["accuracy"].append(right)
        curve["count"].append(count)
        error += abs(mean - right) * count / len(confidence)
    return curve, error


def card(
    name: str,
    rng: np.random.Generator,
    skill: float,
    sharpness: float,
    size: tuple[int, int, float],
    teacher: Any = None,
) -> Any:
    """A report card and the answers that it was made from."""
    digits = load_digits()
    target = digits.target[-600:]
    hard = np.random.default_rng(1).gamma(2.0, 0.25, len(target))
    answer, confidence = answers(rng, target, skill, sharpness, hard)
    correct = answer == target
    curve, error = reliability(confidence, correct)
    parameters, multiply_adds, latency = size
    probability = np.where(correct, confidence, (1 - confidence) / 9)
    made = ReportCard(
        name,
        "classification",
        len(target),
        metrics={
            "accuracy": float(correct.mean()),
            "negative_log_likelihood": float(-np.log(probability).mean()),
            "brier_score": float(((1 - probability) ** 2).mean()),
            "expected_calibration_error": error,
            "parameters": parameters,
            "multiply_adds": multiply_adds,
            "latency_ms": latency,
        },
        reliability=curve,
        robustness={
            "epsilon": [0.0, 0.02, 0.04, 0.08, 0.12],
            "accuracy": [float(correct.mean() * np.exp(-9 * e / skill)) for e in (0.0, 0.02, 0.04, 0.08, 0.12)],
            "attacks": {
                **{"radius": 8 / 255, "num_samples": 256, "auto_attack": None, "auto_attack_samples": 0},
                **{
                    name: float(correct.mean() * np.exp(-e / skill))
                    for name, e in zip(("clean", "fgsm", "pgd20"), (0, 0.2, 0.3), strict=True)
                },
                "note": "AutoAttack: not measured, install tutelage[robustness].",
            },
            "range": [0.0, 1.0],
        },
        latency={"milliseconds": (latency * (1 + 0.12 * rng.gamma(1.2, 0.6, 50))).tolist(), "batch_size": 64},
        class_names=NAMES,
    )
    if teacher is not None:
        taught, sure = teacher
        made.metrics["teacher_agreement"] = float((answer == taught).mean())
        made.metrics["teacher_kl"] = float(0.4 * (1 - (answer == taught).mean()) + 0.02)
        parting: dict[tuple[int, int], Counter[str]] = {}
        for row in np.flatnonzero(answer != taught):
            counts = parting.setdefault((int(taught[row]), int(answer[row])), Counter())
            counts.update(
                {"count": 1, "student_right": int(correct[row]), "teacher_right": int(taught[row] == target[row])}
            )
            if correct[row] or taught[row] == target[row]:
                made.examples.append(
                    {
                        "index": int(row),
                        "target": int(target[row]),
                        "student": int(answer[row]),
                        "teacher": int(taught[row]),
                        "student_confidence": float(confidence[row]),
                        "teacher_confidence": float(sure[row]),
                        "right": "student" if correct[row] else "teacher",
                        "image": data_uri(digits.images[-600:][row]),
                        "text": None,
                    }
                )
        made.partings = [
            {"teacher": pair[0], "student": pair[1], "student_right": 0, "teacher_right": 0, **counts}
            for pair, counts in sorted(parting.items(), key=lambda item: -item[1]["count"])
        ]
    return made, (answer, confidence)


def history(rng: np.random.Generator, reached: float, speed: float, epochs: int = 20) -> list[dict[str, Any]]:
    return [
        {
            "step": 19 * epoch,
            "epoch": epoch,
            "train_loss": float(2.3 * np.exp(-speed * epoch) + 0.08 + 0.02 * rng.standard_normal()),
            "validation_accuracy": float(
                min(reached * (1 - 0.85 * np.exp(-speed * epoch)) + 0.008 * rng.standard_normal(), 1.0)
            ),
        }
        for epoch in range(1, epochs + 1)
    ]


def example_report(*, seeds: int = 3, with_teacher: bool = True) -> Report:
    """Three ways to teach a small student, with their teacher."""
    teacher, taught = card("convnet", np.random.default_rng(7), 1.75, 0.62, (391_754, 4_812_800, 2.31))
    arms = []
    for place, (name, about, skill, sharpness, speed) in enumerate(
        (
            ("cross-entropy", "labels only", 1.16, 0.78, 0.22),
            ("knowledge distillation", "soft targets at temperature 4", 1.42, 0.52, 0.30),
            ("PLD", "Plackett–Luce over the teacher's ranking", 1.50, 0.60, 0.36),
        )
    ):
        arm = ArmResult(name, about)
        for seed in range(seeds):
            rng = np.random.default_rng(100 * place + seed)
            made, _ = card(
                f"{name}, seed {seed}",
                rng,
                skill + 0.03 * rng.standard_normal(),
                sharpness,
                (18_026, 17_920, 0.34 + 0.01 * place),
                taught,
            )
            arm.cards.append(made)
            arm.history.append(history(rng, made.metrics["accuracy"] - 0.004, speed))
        arms.append(arm)
    comparisons = []
    for first, second, spread, p_value in ((2, 0, 0.012, 0.002), (1, 0, 0.014, 0.004), (2, 1, 0.021, 0.31)):
        difference = float(np.mean(arms[first].values("accuracy")) - np.mean(arms[second].values("accuracy")))
        comparisons.append(
            {
                "arm": arms[first].name,
                "baseline": arms[second].name,
                "metric": "accuracy",
                "difference": difference,
                "ci_low": difference - spread,
                "ci_high": difference + spread,
                "p_value": p_value,
                "method": "paired t-test over seeds, Holm-corrected",
            }
        )
    environment = {
        "tutelage": "0.1.0",
        "python": "3.12.4",
        "platform": "Linux x86_64",
        "device": "cpu (2 cores)",
        "packages": {"torch": "2.9.0", "transformers": "5.0.0", "numpy": "2.3.1"},
    }
    return Report(
        "Digits: three ways to teach a small network",
        arms=arms,
        teacher=teacher if with_teacher else None,
        config_text=CONFIG,
        environment=environment,
        comparisons=comparisons,
        created="2025-06-01T12:00:00+00:00",
    )


if __name__ == "__main__":
    from tutelage.reporting import write_report

    print(write_report(sys.argv[1], example_report()))
