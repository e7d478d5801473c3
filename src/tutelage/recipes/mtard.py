"""MTARD: can one student be accurate on clean inputs and robust to attacks, with a teacher for each?

Source: "Mitigating the Accuracy-Robustness Trade-off via Multi-Teacher Adversarial Distillation", TPAMI 2024, arXiv
2306.16170; the conference form (ECCV 2022) is the one whose temperatures stay at 1.

The question. A clean teacher is asked about clean inputs, a robust teacher about attacked ones. Does the entropy
balance bring their uncertainties together (claim 1)? Does the loss balance keep the two terms falling at one speed
(claim 2)? Is the mean of clean and robust accuracy at least that of adversarial training and of clean distillation
(claim 3), and does each teacher give what it is there for (claim 4)?

The comparison. Handwritten digits in [0, 1], convolutional networks. The attack's radius is the smallest of four at
which a network trained on labels alone falls below 30 % on validation; it is found once and used by all. Teachers are
trained once a seed: the clean one on labels, the robust one by adversarial training. Every student has the same data,
epochs, optimiser and attack (5 steps in training, 20 from a random start in the test), the last epoch's student is
judged, and no arm is tuned. "fixed" measures what the balances would, and moves nothing.

What holds at quick scale (five seeds). Both balances do what they are for: the teachers' entropies meet within 1 % (48
% apart without), and the two terms fall more alike. Each teacher gives what it is there for: 5.6 points of clean
accuracy over the robust teacher alone, 25 points of robust accuracy over the clean one alone. The trade-off fails:
plain adversarial training has the better mean of both (0.590 against 0.563). The likely reason: a student of this size
is far from either teacher (75 % of clean digits after 20 epochs), and on ten easy classes a robust teacher's soft
answers on attacked inputs say less than the label does. The entropy balance helps the mean, the loss balance does not.
At `full` (twice the epochs, seven seeds) it is the same: 0.672 against 0.691, and 0.681 with the entropy balance alone.

Departures from the paper: data, networks, Adam in place of SGD, and faster rates of both balances for fewer steps, at
every scale but `paper`. The paper's code keeps the checkpoint that is best on the test set; here there is no choice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.assessment import pgd_attack, weighted_robust_accuracy
from tutelage.data import Data, Samples, load_data
from tutelage.files import read_tensors, write_tensors
from tutelage.models import call_model, convnet, parameter_count, resnet
from tutelage.objectives import CrossEntropy, ForwardKL, Objective, PGDAdversarialTrainingLoss, forward_kl
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.training import (
    AdversarialDistillation,
    Distillation,
    Method,
    MultiTeacherAdversarialDistillation,
    Trainer,
    TrainingSettings,
    evaluate_model,
)

# ---- Scales ----------------------------------------------------------------------------------------------------------

LAPTOP: dict[str, Any] = {
    "data": "digits",
    "split": (1000, 297, 500),
    "teacher": {"channels": (16, 32)},
    "student": {"channels": (8, 16)},
    "training": {"optimizer": "adam", "weight_decay": 0.0, "learning_rate": 2e-3, "batch_size": 64, "epochs": 20},
    "teacher_epochs": 20,
    "attack_steps": 5,
    "test_steps": 20,
    "radii": (0.05, 0.1, 0.15, 0.2),
    "temperature_rate": 0.02,
    "weight_rate": 0.1,
}
SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **LAPTOP,
            "teacher": {"channels": (4, 4)},
            "student": {"channels": (4, 4)},
            "training": {**LAPTOP["training"], "epochs": 1, "batch_size": 250},
            "teacher_epochs": 1,
            "attack_steps": 1,
            "test_steps": 2,
        },
    ),
    "quick": Scale("quick", seeds=5, settings=LAPTOP),
    "full": Scale(
        "full",
        seeds=7,
        settings={**LAPTOP, "training": {**LAPTOP["training"], "epochs": 40}},
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": "tutelage.data.cifar:cifar100",
            "split": None,
            "network": "resnet",
            "teacher": {"widths": (160, 320, 640), "depths": (5, 5, 5)},
            "student": {"widths": (64, 128, 256, 512), "depths": (2, 2, 2, 2)},
            "training": {
                "optimizer": "sgd",
                "weight_decay": 2e-4,
                "learning_rate": 0.1,
                "batch_size": 128,
                "epochs": 300,
                "scheduler": "step",
                "milestones": (0.717, 0.867, 0.95),
            },
            "teacher_epochs": 100,
            "attack_steps": 10,
            "test_steps": 20,
            "radii": (8 / 255,),
            "temperature_rate": 0.001,
            "weight_rate": 0.025,
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: what the student learns from ------------------------------------------------------------------------------

ARMS = (
    Arm("MTARD", {"lesson": "mtard", "balance_entropy": True, "balance_losses": True}, description="both balances"),
    Arm(
        "fixed", {"lesson": "mtard", "balance_entropy": False, "balance_losses": False}, description="weights 0.5, τ 1"
    ),
    Arm("entropy balance", {"lesson": "mtard", "balance_entropy": True, "balance_losses": False}),
    Arm("loss balance", {"lesson": "mtard", "balance_entropy": False, "balance_losses": True}),
    Arm("adversarial training", {"lesson": "pgd"}, description="labels of attacked inputs"),
    Arm("robust teacher", {"lesson": "robust"}, description="the robust teacher alone, on attacked inputs"),
    Arm("clean teacher", {"lesson": "clean"}, description="the clean teacher alone, on clean inputs"),
    Arm("labels", {"lesson": "labels"}, description="labels of clean inputs"),
)


def arms(scale: Scale) -> list[Arm]:
    """The same at every scale."""
    return list(ARMS)


def without_balances(arm: Arm) -> Arm:
    """An arm whose balances do not move."""
    if arm.settings["lesson"] != "mtard":
        return arm
    return replace(arm, settings={**arm.settings, "balance_entropy": False, "balance_losses": False})


class RobustTeacherAlone(Objective):
    """KL from the robust teacher on attacked inputs, temperature 1."""

    reads = ("student.features.adversarial_logits", "teacher.features.adversarial_logits")
    attack = "cross_entropy"

    def loss(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Mean over the batch."""
        return forward_kl(student_logits, teacher_logits, reduction="mean")


class Measured(MultiTeacherAdversarialDistillation):
    """MTARD's lesson, which keeps the state of every step."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.steps: list[dict[str, float]] = []

    def loss(self, *logits: Tensor) -> Tensor:
        """The lesson's loss."""
        found = super().loss(*logits)
        if self.training:
            self.steps.append(self.state())
        return found


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Find the radius, and train both teachers for every seed."""
    data, network = _data(context.scale.settings, 0), _network(context.scale.settings, "student", 0)
    _train(context, Distillation(None, network, CrossEntropy()), data, 0, context["training"]["epochs"])
    radius = context["radii"][-1]
    for candidate in context["radii"]:
        if _robust_accuracy(network, data.validation, candidate, context["test_steps"], 0) < 0.3:
            radius = candidate
            break
    facts: dict[str, list[float]] = {}
    for seed in range(context.scale.seeds):
        data = _data(context.scale.settings, seed)
        for role in ("clean", "robust"):
            teacher = _network(context.scale.settings, "teacher", seed)
            method: Method = Distillation(None, teacher, CrossEntropy())
            if role == "robust":
                method = _attacked(context, None, teacher, PGDAdversarialTrainingLoss(), radius)
            _train(context, method, data, seed, context["teacher_epochs"])
            teacher.eval().cpu()
            write_tensors(context.folder / f"{role}-{seed}.safetensors", dict(teacher.state_dict()))
            accuracy = evaluate_model(teacher, data.test, prefix="")["accuracy"]
            robust = _robust_accuracy(teacher, data.test, radius, context["test_steps"], seed)
            facts.setdefault(f"{role}_teacher_clean_accuracy", []).append(accuracy)
            facts.setdefault(f"{role}_teacher_robust_accuracy", []).append(robust)
    return {"radius": radius, **{name: sum(values) / len(values) for name, values in facts.items()}}


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, and attack it."""
    settings, choice = context.scale.settings, dict(arm.settings)
    data, radius = _data(settings, seed), _radius(context)
    student = _network(settings, "student", seed)
    lesson = choice.pop("lesson")
    clean, robust = (_teacher(context, role, seed) for role in ("clean", "robust"))
    measured: Measured | None = None
    if lesson == "labels":
        method: Method = Distillation(None, student, CrossEntropy())
    elif lesson == "clean":
        method = Distillation(clean, student, ForwardKL())
    elif lesson == "pgd":
        method = _attacked(context, None, student, PGDAdversarialTrainingLoss(), radius)
    elif lesson == "robust":
        method = _attacked(context, robust, student, RobustTeacherAlone(), radius)
    else:
        measured = Measured(
            temperature_rate=settings["temperature_rate"],
            weight_rate=settings["weight_rate"],
            reduction="elementwise_mean",
            **choice,
        )
        method = _attacked(context, clean, student, measured, radius, robust_teacher=robust)
    _train(context, method, data, seed, context["training"]["epochs"])
    student.eval().cpu()
    accuracy = evaluate_model(student, data.test, prefix="")["accuracy"]
    attacked = _robust_accuracy(student, data.test, radius, context["test_steps"], seed)
    metrics: Metrics = {
        "accuracy": accuracy,
        "robust_accuracy": attacked,
        "weighted_accuracy": weighted_robust_accuracy(accuracy, attacked),
    }
    if measured is not None:
        steps = measured.steps
        late = steps[-max(1, len(steps) // 4) :]
        gaps = [abs(step["entropy/robust"] / max(step["entropy/clean"], 1e-12) - 1) for step in late]
        speeds = [
            abs(math.log(max(step["relative_loss/robust"], 1e-12) / max(step["relative_loss/clean"], 1e-12)))
            for step in steps
        ]
        metrics |= {
            "entropy_gap": sum(gaps) / len(gaps),
            "speed_gap": sum(speeds) / len(speeds),
            "clean_temperature": steps[-1]["temperature/clean"],
            "robust_temperature": steps[-1]["temperature/robust"],
            "clean_weight": steps[-1]["weight/clean"],
        }
    return metrics


# ---- Claims ----------------------------------------------------------------------------------------------------------


def entropies_meet(results: Results) -> Judgement:
    """Claim 1."""
    ours, fixed = results.values("MTARD", "entropy_gap"), results.values("fixed", "entropy_gap")
    detail = (
        f"gap {ours.mean():.3f} against {fixed.mean():.3f}; temperatures at the end: clean "
        f"{results.mean('MTARD', 'clean_temperature'):.2f}, robust {results.mean('MTARD', 'robust_temperature'):.2f}"
    )
    return Judgement(float((ours / fixed).max()), bool((ours <= fixed / 2).all()), detail=detail)


def speeds_meet(results: Results) -> Judgement:
    """Claim 2."""
    ours, fixed = results.values("loss balance", "speed_gap"), results.values("fixed", "speed_gap")
    wins = float((ours <= fixed).mean())
    detail = f"mean |ln ratio| {ours.mean():.3f} against {fixed.mean():.3f}"
    return Judgement(wins, bool(wins >= 0.8 and ours.mean() < fixed.mean()), detail=detail)


def trade_off(results: Results) -> Judgement:
    """Claim 3."""
    rivals = ("adversarial training", "clean teacher")
    margins = {name: results.difference("MTARD", name, "weighted_accuracy") for name in rivals}
    tests = {name: results.paired("MTARD", name, "weighted_accuracy").p_value for name in rivals}
    shown = ", ".join(f"{arm.name} {results.mean(arm.name, 'weighted_accuracy'):.4f}" for arm in ARMS)
    detail = f"{shown}; one-sided p against " + ", ".join(f"{name} {value:.3g}" for name, value in tests.items())
    return Judgement(min(margins.values()), min(margins.values()) >= 0, detail=detail)


def both_teachers_count(results: Results) -> Judgement:
    """Claim 4."""
    clean = results.difference("MTARD", "robust teacher", "accuracy")
    robust = results.difference("MTARD", "clean teacher", "robust_accuracy")
    detail = f"clean {100 * clean:+.1f} points over the robust teacher, robust {100 * robust:+.1f} over the clean one"
    return Judgement(robust, clean > 0 and robust >= 0.2, detail=detail)


CLAIMS = (
    Claim(
        "entropy-balance",
        "The entropy balance brings the teachers' uncertainties together",
        "over the last quarter of training, mean |H_robust / H_clean − 1| at most half of that of fixed weights, "
        "in every seed",
        entropies_meet,
    ),
    Claim(
        "loss-balance",
        "The loss balance keeps both terms falling at one speed",
        "mean over training of |ln(relative losses' ratio)| at most that of fixed weights in at least 4 of 5 seeds, "
        "and lower in the mean",
        speeds_meet,
    ),
    Claim(
        "trade-off",
        "The mean of clean and robust accuracy is at least that of adversarial training and of clean distillation",
        "mean weighted robust accuracy at least each of theirs",
        trade_off,
        published="better on CIFAR-10, CIFAR-100 and Tiny-ImageNet (no figure verified)",
    ),
    Claim(
        "both-teachers",
        "Each teacher gives what it is there for",
        "mean clean accuracy above that with the robust teacher alone; mean robust accuracy at least 20 points above "
        "that with the clean teacher alone",
        both_teachers_count,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _loaded(name: str, split: tuple[int, ...] | None, seed: int) -> Data:
    return load_data(name) if split is None else load_data(name, fractions=split, seed=seed)


def _data(settings: Mapping[str, Any], seed: int) -> Data:
    split = settings["split"]
    return _loaded(settings["data"], None if split is None else tuple(split), seed)


def _network(settings: Mapping[str, Any], role: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if settings.get("network") == "resnet":
        return resnet((3, 32, 32), 100, **settings[role])
    return convnet((1, 8, 8), 10, **settings[role])


def _teacher(context: Context, role: str, seed: int) -> nn.Module:
    teacher = _network(context.scale.settings, "teacher", seed)
    teacher.load_state_dict(read_tensors(context.folder / f"{role}-{seed}.safetensors"))
    return teacher.eval()


def _radius(context: Context) -> float:
    from tutelage.files import read_json

    return float(read_json(context.folder.parent / "prepared.json")["radius"])


def _attacked(
    context: Context,
    teacher: nn.Module | None,
    student: nn.Module,
    objective: Objective,
    radius: float,
    *,
    robust_teacher: nn.Module | None = None,
) -> Method:
    return AdversarialDistillation(
        teacher, student, objective, radius=radius, steps=context["attack_steps"], robust_teacher=robust_teacher
    )


def _train(context: Context, method: Method, data: Data, seed: int, epochs: int) -> None:
    settings = TrainingSettings(seed=seed, **{**context["training"], "epochs": epochs})
    Trainer(method, data.train, settings=settings).run()


def _robust_accuracy(model: nn.Module, samples: Samples, radius: float, steps: int, seed: int) -> float:
    """Under projected gradient ascent from a random start, a tenth of the radius a step."""
    generator = torch.Generator().manual_seed(seed)
    right = count = 0
    for rows in torch.arange(len(samples)).split(500):  # type: ignore[no-untyped-call]
        batch = samples.batch(rows)
        assert isinstance(batch.inputs, Tensor)
        assert batch.target is not None
        attacked = pgd_attack(
            model,
            batch.inputs,
            batch.target,
            radius=radius,
            step_size=radius / 10,
            steps=steps,
            start="uniform",
            generator=generator,
        )
        with torch.no_grad():
            logits = call_model(model.eval(), attacked).logits
        assert logits is not None
        right += int((logits.argmax(dim=1) == batch.target).sum())
        count += len(rows)
    return right / count


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters."""
    with torch.device("meta"):
        sizes = {role: parameter_count(_network(scale.settings, role, 0)) for role in ("teacher", "student")}
    return {**{role: f"{size:,} parameters" for role, size in sizes.items()}, "data": scale.settings["data"]}


recipe = Recipe(
    slug="mtard",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"no-balances": without_balances},
    describe=describe,
)
