"""BD-KD: does a student that balances both divergences end up better calibrated than one that sees a single direction?

Source: "BD-KD: Balancing the Divergences for Online Knowledge Distillation", arXiv 2212.12965 (2022, revised 2024).

The question. Teacher and student learn from scratch on the same batches. In deep mutual learning (DML) the student
reads the forward divergence KL(teacher ‖ student) and the teacher the reverse one. BD-KD adds the reverse divergence to
the student's loss and gives, sample by sample, the weight ν to the direction that the student needs: forward where it
is surer of itself than the teacher, reverse where it is less sure. The claim is a student that is accurate and
calibrated. Few training samples make networks over-confident, which is what is under study: 1 000 one-dimensional
digits (`quick`), or 1 240 rendered letters and digits in 62 classes (`full`).

The comparison. Within a seed every arm starts its student (and its teacher) from the same weights and sees the same
batches in the same order, with the same optimiser and budget; nothing is tuned for any arm. A second divergence doubles
the strength of the teaching, so ν = 1 (both, unbalanced) and the reverse direction alone are arms, and so is BD-KD with
the two weights exchanged. Temperature scaling of the cross-entropy student, fitted on validation data, is the post-hoc
reference for calibration. Calibration errors have 15 bins of equal width, at temperature 1.

Departures from the paper: there is no public code, and the weights are our reading of it (see `divergence_weights`);
data, networks and schedule are ours at every scale but `paper`. The learning rate of `full` was set by looking at the
cross-entropy student alone: at 1e-3 it ends under-confident, and the effect under study is absent. The teacher that
learns from labels alone is that of the one-way arm: what its student reads does not reach it.

What does not hold, and why, as far as we can tell. Balancing does not narrow the entropy gap: once the teacher listens,
the two meet halfway, and every such arm ends with about the gap of DML, below the one-way arm's. Whether
our reading of the weights is right stays open: the control with swapped weights is a little worse than BD-KD at `quick`
and a little better at `full`, so most of the gain over DML is that of a second divergence. At `full` the calibration
errors of BD-KD and DML are level, within noise. Where the student is far too small for what its teacher learns alone
(`quick`), reading it harms the teacher, in DML more than in BD-KD; where it is not (`full`), the teacher gains.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

from tutelage.assessment import (
    accuracy,
    brier_score,
    expected_calibration_error,
    maximum_calibration_error,
    negative_log_likelihood,
)
from tutelage.batch import Batch
from tutelage.data import Data, Samples, SubsetSamples, load_data
from tutelage.data.cifar import AugmentedImages
from tutelage.models import build_model, call_model, load_model, parameter_count, save_model
from tutelage.objectives import (
    BalancedDivergence,
    CrossEntropy,
    ForwardKL,
    KnowledgeDistillation,
    Objective,
    ReverseKL,
    divergence_weights,
    forward_kl,
    predictive_confidence,
    predictive_entropy,
    reverse_kl,
)
from tutelage.outputs import Outputs
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import Distillation, Method, MutualDistillation, Trainer, TrainingSettings, Weighted

# ---- Scales ----------------------------------------------------------------------------------------------------------

TRAINING = {
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "scheduler": "constant",
    "batch_size": 64,
    "epochs": 80,
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "data": {"name": "mnist1d", "channel": True, "train": 200, "validation": 100, "test": 200},
            "samples": 200,
            "teacher": {"name": "convnet", "arguments": {"channels": (16, 16)}},
            "student": {"name": "mlp", "arguments": {"hidden": (16,)}},
            "training": {**TRAINING, "learning_rate": 1e-2, "epochs": 3},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=5,
        settings={
            "data": {"name": "mnist1d", "channel": True},
            "samples": 1000,
            "teacher": {"name": "convnet", "arguments": {"channels": (64, 64, 64)}},
            "student": {"name": "mlp", "arguments": {"hidden": (64,)}},
            "training": TRAINING,
        },
    ),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            "data": {"name": "glyphs", "train_per_class": 20},
            "samples": 1240,
            "teacher": {"name": "convnet", "arguments": {"channels": (16, 32, 64)}},
            "student": {"name": "convnet", "arguments": {"channels": (8, 16, 32)}},
            "training": {**TRAINING, "learning_rate": 3e-3},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": {"name": "tutelage.data.cifar:cifar100"},
            "samples": 45_000,
            "augment": True,
            # ResNet-56 and ResNet-20, one of the usual pairs.
            "teacher": {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": (9, 9, 9)}},
            "student": {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": (3, 3, 3)}},
            "training": {
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "momentum": 0.9,
                "weight_decay": 5e-4,
                "scheduler": "step",
                "milestones": (150 / 240, 180 / 240, 210 / 240),
                "batch_size": 64,
                "epochs": 240,
            },
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

ARMS = [
    Arm("CE", {"method": "ce"}, description="labels alone"),
    Arm("CE scaled", {"method": "ce", "scaled": True}, description="CE, then a temperature fitted on validation data"),
    Arm("KD offline", {"method": "kd"}, description="a teacher trained beforehand (temperature 4, weight 0.9)"),
    Arm("DML", {"method": "dml"}, description="deep mutual learning: the student reads the forward divergence"),
    Arm("one-way", {"method": "one_way"}, description="as DML, but the teacher learns from labels alone"),
    Arm("both", {"method": "bd_kd", "nu": 1.0}, description="both divergences, not balanced (ν = 1)"),
    Arm("reverse", {"method": "reverse"}, description="the student reads the reverse divergence only"),
    Arm("BD-KD", {"method": "bd_kd", "nu": 2.0}, description="both divergences, balanced (ν = 2)"),
    Arm("BD-KD swapped", {"method": "swapped", "nu": 2.0}, description="ν for the other direction (a control)"),
]
SWEEP = [
    Arm("BD-KD nu=4", {"method": "bd_kd", "nu": 4.0}, description="balanced more strongly"),
    Arm("DML t=2", {"method": "dml", "temperature": 2.0}, description="DML at temperature 2"),
    Arm("BD-KD t=2", {"method": "bd_kd", "nu": 2.0, "temperature": 2.0}, description="BD-KD at temperature 2"),
]


def arms(scale: Scale) -> list[Arm]:
    """The arms that claims are about; at `full` and `paper` other ν and another temperature besides."""
    return ARMS + SWEEP if scale.name in ("full", "paper") else ARMS


class _SwappedDivergence(BalancedDivergence):
    """BD-KD's term with its two weights exchanged: sure students are sharpened, unsure ones are spread."""

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        teacher, temperature = teacher_logits.detach(), self.temperature
        of_reverse, of_forward = divergence_weights(student_logits, teacher, nu=self.nu, temperature=temperature)
        forward = forward_kl(student_logits, teacher, temperature=temperature)
        reverse = reverse_kl(student_logits, teacher, temperature=temperature)
        return temperature**2 * (of_forward * forward + of_reverse * reverse).mean()


def online(settings: Mapping[str, Any], teacher: nn.Module, student: nn.Module) -> MutualDistillation:
    """How the two networks of an arm learn together."""
    temperature = settings.get("temperature", 1.0)
    options = {"temperature": temperature, "scale_by_temperature_squared": True}

    def student_reads(objective: Objective, weight: float = 1.0) -> MutualDistillation:
        return MutualDistillation.online(
            teacher,
            student,
            [CrossEntropy(), Weighted(objective, weight)],
            teacher_objectives=[CrossEntropy(), ForwardKL(**options)],  # its own "forward" is KL(student ‖ teacher)
        )

    match settings["method"]:
        case "dml":
            networks = {"teacher": teacher, "student": student}
            return MutualDistillation.deep_mutual_learning(networks, temperature=temperature)
        case "one_way":
            return MutualDistillation.one_way(teacher, student, temperature=temperature)
        case "bd_kd":
            return MutualDistillation.bd_kd(teacher, student, nu=settings["nu"], temperature=temperature)
        case "reverse":
            return student_reads(ReverseKL(**options))
        case "swapped":
            return student_reads(_SwappedDivergence(nu=settings["nu"], temperature=temperature))
        case "unread":  # what is left of BD-KD when its term is taken out of the student's loss
            return student_reads(BalancedDivergence(nu=settings["nu"], temperature=temperature), weight=0.0)
    raise ValueError(f"Expected a method of this recipe, but got {settings['method']!r}.")


def broken(arm: Arm, *, method: str) -> Arm:
    """The arm BD-KD by another method, which does not read the teacher or stresses the wrong direction; others stay."""
    return replace(arm, settings={**arm.settings, "method": method}) if arm.name == "BD-KD" else arm


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train the teacher that the offline arm reads, by the settings of all arms, and ask it about the samples once."""
    data, lessons = _load(context)
    teacher = _build(context["teacher"], data)
    _run(context, Distillation(None, teacher, CrossEntropy()), lessons, seed=0)
    save_model(context.folder / "teacher", teacher.cpu().eval())
    build_cache(FrozenTeacher(teacher), lessons, context.folder / "cache", dtype="float32")
    return {f"teacher_{name}": value for name, value in measure(*_ask(teacher, data.test)).items()}


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, with its teacher beside it in the online arms, and measure both on the test part."""
    data, lessons = _load(context)
    student = _build(context["student"], data)  # first: every arm's student of a seed starts from the same weights
    metrics: Metrics = {}
    if arm.settings["method"] == "ce":
        _run(context, Distillation(None, student, CrossEntropy()), lessons, seed)
    elif arm.settings["method"] == "kd":
        augmented = "augment" in context.scale.settings  # what is drawn anew every time cannot be cached
        read = (
            FrozenTeacher(load_model(context.folder / "teacher"))
            if augmented
            else CachedTeacher(context.folder / "cache")
        )
        _run(context, Distillation(read, student, KnowledgeDistillation(alpha=0.9, temperature=4.0)), lessons, seed)
    else:
        teacher = _build(context["teacher"], data)
        method = online(arm.settings, teacher, student)
        gap = EntropyGap(arm.settings.get("temperature", 1.0))
        method.observers.append(gap)
        _run(context, method, lessons, seed)
        metrics["entropy_gap"] = gap.mean(last=len(lessons))
        metrics |= {f"teacher_{name}": value for name, value in measure(*_ask(teacher, data.test)).items()}
    temperature = fitted_temperature(*_ask(student, data.validation)) if arm.settings.get("scaled") else 1.0
    logits, target = _ask(student, data.test)
    metrics["validation_accuracy"] = accuracy(*_ask(student, data.validation))
    return metrics | measure(logits / temperature, target)


@dataclass
class EntropyGap:
    """Collects |H(student) − H(teacher)| of every sample of every training batch, in nats."""

    temperature: float
    values: list[Tensor] = field(default_factory=list)

    def __call__(self, said: Mapping[str, Outputs], batch: Batch) -> None:
        """Look at one batch."""
        entropies = []
        for name in ("student", "teacher"):
            logits = said[name].logits
            assert logits is not None
            entropies.append(predictive_entropy(logits.detach(), temperature=self.temperature))
        self.values.append((entropies[0] - entropies[1]).abs())

    def mean(self, last: int) -> float:
        """The mean over the last so many samples: an epoch's."""
        return torch.cat(self.values)[-last:].mean().item()


def measure(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Accuracy and calibration of predictions `[samples, classes]`."""
    probabilities = logits.double().softmax(dim=1)
    confidence, correct = predictive_confidence(logits.double()), logits.argmax(dim=1) == target
    return {
        "accuracy": accuracy(logits, target),
        "ece": expected_calibration_error(confidence, correct),
        "mce": maximum_calibration_error(confidence, correct),
        "nll": negative_log_likelihood(logits, target),
        "brier": brier_score(probabilities, target),
        "confidence": confidence.mean().item(),
    }


def fitted_temperature(logits: Tensor, target: Tensor) -> float:
    """The temperature with the least negative log-likelihood (Guo et al. 2017, section 4.2).

    >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    >>> round(fitted_temperature(logits, torch.tensor([0, 0, 0, 1])), 2)  # 3 of 4 right: 2 / ln 3
    1.82
    """
    found = minimize_scalar(
        lambda log_temperature: negative_log_likelihood(logits / math.exp(log_temperature), target),
        bounds=(-4.0, 4.0),
        method="bounded",
    )
    return math.exp(found.x)


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading the data)."""
    described = {}
    for role in ("teacher", "student"):
        if scale.name == "paper":
            model = build_model(scale.settings[role], num_classes=100, input_shape=(3, 32, 32))
        else:
            model = _build(scale.settings[role], _read(**scale.settings["data"]))
        described[role] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def calibrates_better_than_labels(results: Results) -> Judgement:
    """Claim 1."""
    test = results.paired("BD-KD", "CE", "ece", alternative="less")
    return Judgement(
        test.difference, test.p_value < 0.05, test.p_value, _means(results, "ece", "BD-KD", "CE", "CE scaled")
    )


def calibrates_as_well_as_mutual_learning(results: Results) -> Judgement:
    """Claim 2."""
    test = results.paired("BD-KD", "DML", "ece", alternative="less")
    interval = f"90 % interval of the difference [{test.ci_low:.4f}, {test.ci_high:.4f}]"
    detail = f"{_means(results, 'ece', 'BD-KD', 'DML', 'both')}; {interval}"
    return Judgement(test.difference, test.difference <= 0, detail=detail)


def is_as_accurate(results: Results) -> Judgement:
    """Claim 3."""
    against_labels = results.paired("BD-KD", "CE", "accuracy")
    behind = results.difference("BD-KD", "DML", "accuracy")
    holds = behind >= -0.005 and against_labels.p_value < 0.1
    detail = f"{_means(results, 'accuracy', 'BD-KD', 'CE', 'DML')}; against DML {behind:+.4f}"
    return Judgement(against_labels.difference, holds, against_labels.p_value, detail)


def closes_the_entropy_gap(results: Results) -> Judgement:
    """Claim 4."""
    test = results.paired("BD-KD", "DML", "entropy_gap", alternative="less")
    detail = _means(results, "entropy_gap", "BD-KD", "DML", "both", "BD-KD swapped")
    if results.difference("BD-KD swapped", "BD-KD", "entropy_gap") < 0:
        detail += "; the control has the smaller gap, which puts our reading of the weights in doubt"
    return Judgement(test.difference, test.p_value < 0.05, test.p_value, detail)


def leaves_the_teacher_unharmed(results: Results) -> Judgement:
    """Claim 5."""
    difference = results.difference("BD-KD", "one-way", "teacher_accuracy")
    detail = _means(results, "teacher_accuracy", "BD-KD", "one-way", "DML")
    return Judgement(difference, difference >= -0.005, detail=f"{detail} (one-way: labels alone)")


CLAIMS = (
    Claim(
        "calibration-against-labels",
        "BD-KD's student is better calibrated than one taught by labels alone",
        "expected calibration error (15 bins) lower than CE's, one-sided paired t-test p < 0.05",
        calibrates_better_than_labels,
    ),
    Claim(
        "calibration-against-mutual-learning",
        "BD-KD's student is at least as well calibrated as deep mutual learning's",
        "mean expected calibration error at most DML's",
        calibrates_as_well_as_mutual_learning,
    ),
    Claim(
        "accuracy",
        "BD-KD's student is as accurate as deep mutual learning's and more accurate than one taught by labels alone",
        "mean accuracy at least DML's − 0.005, and above CE's with one-sided paired t-test p < 0.1",
        is_as_accurate,
    ),
    Claim(
        "entropy-gap",
        "balancing brings the student's certainty closer to the teacher's, sample by sample",
        "mean |H(student) − H(teacher)| on the last epoch's batches below DML's, one-sided paired t-test p < 0.05",
        closes_the_entropy_gap,
    ),
    Claim(
        "teacher-unharmed",
        "learning beside the student does not harm the teacher",
        "mean teacher accuracy at least that of the teacher taught by labels alone − 0.005",
        leaves_the_teacher_unharmed,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def _means(results: Results, metric: str, *names: str) -> str:
    return metric.replace("_", " ") + " " + ", ".join(f"{name} {results.mean(name, metric):.4f}" for name in names)


@functools.lru_cache(maxsize=1)
def _read(name: str, **options: Any) -> Data:
    """`load_data`, which a worker that runs one arm after the other need not repeat; nobody writes into the data."""
    return load_data(name, **options)


def _load(context: Context) -> tuple[Data, Samples]:
    """The data, and the samples that are learned from."""
    data = _read(**context["data"])
    lessons = SubsetSamples(data.train, torch.arange(context["samples"]))
    return data, AugmentedImages(lessons) if "augment" in context.scale.settings else lessons


def _build(specification: Mapping[str, Any], data: Data) -> nn.Module:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, Tensor)
    return build_model(specification, num_classes=data.num_classes, input_shape=tuple(inputs.shape[1:]))


def _run(context: Context, method: Method, lessons: Samples, seed: int) -> None:
    Trainer(method, lessons, settings=TrainingSettings(seed=seed, **context["training"])).run()


@torch.no_grad()
def _ask(network: nn.Module, samples: Samples) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` of a network in evaluation mode and labels `[samples]`, on the CPU."""
    network.cpu().eval()
    logits, target = [], []
    for rows in torch.split(torch.arange(len(samples)), 512):
        batch = samples.batch(rows)
        said = call_model(network, batch.inputs).logits
        assert said is not None
        assert batch.target is not None
        logits.append(said)
        target.append(batch.target)
    return torch.cat(logits), torch.cat(target)


recipe = Recipe(
    slug="bd-kd",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={name: functools.partial(broken, method=name) for name in ("unread", "swapped")},
    describe=describe,
)
