"""PLD (Plackett–Luce distillation): does ranking the classes as the teacher does beat softened probabilities?

Source: "PLD: A Choice-Theoretic List-Wise Knowledge Distillation", NeurIPS 2025, arXiv 2506.12542.

The question. PLD replaces "cross-entropy + weight × distillation" by one ranking likelihood: the label first, the other
classes in the teacher's order, every rank weighted by the teacher's own confidence. Many classes are what sets a
ranking apart from plain cross-entropy, so the data are 62 rendered letters and digits. A residual network learns from
four times the images that the student gets; the student is a small multi-layer perceptron (`quick`) or a small
convolutional network (`full`, with two further data sets).

The comparison. Every arm has the same data, initial weights, order of batches and budget. Where an arm has a setting to
choose (KD: weight and temperature; DIST: two published settings; PLD: temperature), every candidate is run and the one
with the best mean validation accuracy is judged on the test part.

Departures from the paper: data, networks and schedule are ours at every scale but `paper`; there the networks are this
package's residual networks (projection shortcuts), and the recipe trains the teacher (by the schedule of Tian et al.
2020) in place of a downloaded one. The paper's weight decay for CIFAR-100 (0.5 with AdamW) is kept as printed, unusual
as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data import Data, Samples, SubsetSamples, load_data
from tutelage.data.cifar import AugmentedImages
from tutelage.models import build_model, load_model, parameter_count, save_model
from tutelage.objectives import (
    CrossEntropy,
    DistDistillation,
    KnowledgeDistillation,
    PlackettLuceDistillation,
    forward_kl,
    listmle,
)
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, build_cache
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted
from tutelage.training.distillation import Objectives

# ---- Scales ----------------------------------------------------------------------------------------------------------

RESNET = {"name": "resnet", "arguments": {"widths": (16, 32, 64)}}
WIDE_RESNET = {"name": "resnet", "arguments": {"widths": (32, 64, 128)}}
MLP = {"name": "mlp", "arguments": {"hidden": (64,)}}
CONVNET = {"name": "convnet", "arguments": {"channels": (8, 16, 32)}}

STUDENT_TRAINING = {"learning_rate": 1e-3, "batch_size": 128, "epochs": 60}
TEACHER_TRAINING = {"learning_rate": 3e-3, "batch_size": 128, "epochs": 5}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=3,
        settings={
            "data": {
                "glyphs": {
                    "options": {"alphabet": "digits", "train_per_class": 80},
                    "teacher": MLP,
                    "student": {"name": "mlp", "arguments": {"hidden": (16,)}},
                }
            },
            "student_share": 0.25,
            "student_training": {"learning_rate": 1e-2, "batch_size": 64, "epochs": 6},
            "teacher_training": {"learning_rate": 1e-2, "batch_size": 64, "epochs": 4},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=5,
        settings={
            "data": {"glyphs": {"options": {"train_per_class": 320}, "teacher": RESNET, "student": MLP}},
            "student_share": 0.25,
            "student_training": STUDENT_TRAINING,
            "teacher_training": TEACHER_TRAINING,
        },
    ),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            "data": {
                "glyphs": {"options": {"train_per_class": 320}, "teacher": WIDE_RESNET, "student": CONVNET},
                "digits": {
                    "options": {},
                    "teacher": RESNET,
                    "student": CONVNET,
                    "teacher_training": {"epochs": 30},
                    "student_training": {"epochs": 120},
                },
                "mnist1d": {
                    "options": {"channel": True},
                    "teacher": {"name": "convnet", "arguments": {"channels": (32, 64, 128)}},
                    "student": CONVNET,
                    "teacher_training": {"epochs": 30},
                    "student_training": {"epochs": 120},
                },
            },
            "student_share": 0.25,
            "student_training": STUDENT_TRAINING,
            "teacher_training": TEACHER_TRAINING,
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": {
                "tutelage.data.cifar:cifar100": {
                    "options": {},
                    # ResNet-56 and ResNet-20, one of the paper's four pairs.
                    "teacher": {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": (9, 9, 9)}},
                    "student": {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": (3, 3, 3)}},
                }
            },
            "student_share": 1.0,
            "augment": True,
            "student_training": {"learning_rate": 1e-3, "weight_decay": 0.5, "batch_size": 128, "epochs": 250},
            "teacher_training": {
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
    Arm("CE", {"loss": "ce"}, description="labels alone"),
    Arm("CE smoothed", {"loss": "ce", "label_smoothing": 0.1}, description="labels, smoothed by 0.1"),
    *(
        Arm(f"KD {weight}/{temperature}", {"loss": "kd", "ce_weight": weight, "temperature": temperature}, "KD")
        for weight in (0.1, 0.5)
        for temperature in (1.0, 2.0, 4.0)
    ),
    # The paper's two settings: CIFAR-100 (section 5.1) and ImageNet.
    Arm("DIST 2/2/4", {"loss": "dist", "ce_weight": 1.0, "beta": 2.0, "gamma": 2.0, "temperature": 4.0}, "DIST"),
    Arm("DIST .45/.45/1", {"loss": "dist", "ce_weight": 0.1, "beta": 0.45, "gamma": 0.45, "temperature": 1.0}, "DIST"),
    Arm("PLD 1", {"loss": "pld", "temperature": 1.0, "weights": "teacher"}, "PLD"),
    Arm("PLD 4", {"loss": "pld", "temperature": 4.0, "weights": "teacher"}, "PLD"),
    Arm("PLD uniform", {"loss": "pld", "weights": "uniform"}, description="the ranking without the weights (ListMLE)"),
    Arm("PLD position", {"loss": "pld", "weights": "position"}, description="weights by rank, not by confidence"),
]


def arms(scale: Scale) -> list[Arm]:
    """All arms on every data set; names on data sets after the first begin with the data set's."""
    return [
        replace(
            arm,
            name=_on(scale, data, arm.name),
            group=arm.group and _on(scale, data, arm.group),
            settings={"data": data, **arm.settings},
        )
        for data in scale.settings["data"]
        for arm in ARMS
    ]


def objectives_of(settings: Mapping[str, Any]) -> Objectives:
    """The loss of an arm."""
    match settings["loss"]:
        case "ce":
            return CrossEntropy(label_smoothing=settings.get("label_smoothing", 0.0))
        case "kd":  # our alpha is the weight of the teacher's term: one minus the paper's
            return KnowledgeDistillation(alpha=1 - settings["ce_weight"], temperature=settings["temperature"])
        case "dist":
            options = {name: settings[name] for name in ("beta", "gamma", "temperature")}
            return [Weighted(CrossEntropy(), settings["ce_weight"]), DistDistillation(**options)]
        case "pld":
            objective = PlackettLuceDistillation(
                temperature=settings.get("temperature", 1.0), weights=settings["weights"]
            )
            if settings.get("broken") == "unsorted":
                loss = functools.partial(unsorted_loss, temperature=objective.temperature)
                objective.loss = loss  # type: ignore[method-assign]
            return objective
    raise ValueError(f"Expected a loss of this recipe, but got {settings['loss']!r}.")


def unsorted_loss(student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, temperature: float) -> Tensor:
    """PLD that forgets to sort: the label first, then the other classes in the order of their numbers."""
    numbers = torch.arange(student_logits.shape[1]).expand_as(student_logits)
    label_first = numbers.scatter(1, target[:, None], -1).argsort(dim=1, stable=True)
    weights = (teacher_logits / temperature).softmax(dim=1).gather(1, label_first)
    return listmle(student_logits, label_first, weights=weights)


def without_sorting(arm: Arm) -> Arm:
    """An arm whose PLD forgets to sort; other arms stay as they are."""
    sorts = arm.settings["loss"] == "pld" and arm.settings["weights"] == "teacher"
    return replace(arm, settings={**arm.settings, "broken": "unsorted"}) if sorts else arm


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train one teacher a data set, on all of its training part, and note what it says about the student's samples."""
    facts: dict[str, float] = {}
    for name, choice in context["data"].items():
        data = _load(name, **choice["options"])
        model = _build(choice["teacher"], data)
        train = AugmentedImages(data.train) if context.scale.settings.get("augment") else data.train
        settings = {**context["teacher_training"], **choice.get("teacher_training", {})}
        _train(model, None, train, CrossEntropy(), settings, seed=0)
        folder = context.folder / name.rpartition(":")[2]
        teacher = FrozenTeacher(model.cpu())
        save_model(folder / "teacher", model)
        lessons = _student_part(context, data)
        build_cache(teacher, lessons, folder / "train", dtype="float32")
        build_cache(teacher, data.test, folder / "test", dtype="float32")
        facts |= {_on(context.scale, name, key): value for key, value in _teacher_facts(teacher, lessons, data).items()}
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student and ask it about the validation and test parts."""
    name = arm.settings["data"]
    choice = context["data"][name]
    folder = context.folder / name.rpartition(":")[2]
    data = _load(name, **choice["options"])
    lessons = _student_part(context, data)
    student = _build(choice["student"], data)
    teacher: Teacher = CachedTeacher(folder / "train")
    if context.scale.settings.get("augment"):  # what is drawn anew every time cannot be cached
        lessons, teacher = AugmentedImages(lessons), FrozenTeacher(load_model(folder / "teacher"))
    settings = {**context["student_training"], **choice.get("student_training", {})}
    _train(student, teacher, lessons, objectives_of(arm.settings), settings, seed=seed)
    taught = FrozenTeacher(student.cpu())  # from here on it is only asked
    logits, target = _ask(taught, data.test)
    teacher_logits, _ = _ask(CachedTeacher(folder / "test"), data.test)
    return {
        "validation_accuracy": _accuracy(*_ask(taught, data.validation)),
        "test_accuracy": _accuracy(logits, target),
        "kendall_tau": rank_correlation(logits, teacher_logits, target),
        "teacher_agreement": _accuracy(logits, teacher_logits.argmax(dim=1)),
        "teacher_kl": forward_kl(logits, teacher_logits).mean().item(),
        "confidence": logits.softmax(dim=1).amax(dim=1).mean().item(),
    }


def rank_correlation(student_logits: Tensor, teacher_logits: Tensor, target: Tensor) -> float:
    """Mean over samples of Kendall's τ-b between the two orders of the classes other than the label.

    Args:
        student_logits: `[batch, classes]`.
        teacher_logits: `[batch, classes]`.
        target: `[batch]` classes.

    Raises:
        ValueError: There are fewer than three classes, so that there is nothing to order.

    >>> logits = torch.tensor([[9.0, 1.0, 2.0, 3.0]])
    >>> rank_correlation(logits, torch.tensor([[0.0, 3.0, 2.0, 1.0]]), torch.tensor([0]))
    -1.0
    """
    classes = student_logits.shape[1]
    if classes < 3:
        raise ValueError(f"Expected at least 3 classes, but got {classes}.")
    others = torch.ones_like(student_logits, dtype=torch.bool).scatter_(1, target[:, None], False)
    first, second = torch.triu_indices(classes - 1, classes - 1, offset=1)
    total = 0.0
    for rows in torch.split(torch.arange(len(target)), 256):  # [256, 1830 pairs] of 62 classes at a time
        signs = []
        for logits in (student_logits, teacher_logits):
            ordered = logits[rows][others[rows]].view(len(rows), classes - 1)
            signs.append((ordered[:, first] - ordered[:, second]).sign())
        student, teacher = signs
        untied = (student.square().sum(dim=1) * teacher.square().sum(dim=1)).sqrt()
        total += ((student * teacher).sum(dim=1) / untied.clamp_min(1)).sum().item()
    return total / len(target)


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading the data)."""
    described: dict[str, Any] = {}
    for name, choice in scale.settings["data"].items():
        for role in ("teacher", "student"):
            if scale.name == "paper":
                model = build_model(choice[role], num_classes=100, input_shape=(3, 32, 32))
            else:
                model = _build(choice[role], _load(name, **choice["options"]))
            size = f"{type(model).__name__}, {parameter_count(model):,} parameters"
            described[_on(scale, name, role)] = size
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def beats_cross_entropy(results: Results) -> Judgement:
    """Claim 1."""
    chosen = results.select("PLD")
    test = results.paired(chosen, "CE", "test_accuracy")
    holds = test.difference > 0 and test.p_value < 0.1
    return Judgement(test.difference, holds, test.p_value, _interval(chosen, "CE", test.ci_low, test.ci_high))


def weighting_matters(results: Results) -> Judgement:
    """Claim 2."""
    test = results.paired("PLD 1", "PLD uniform", "test_accuracy")
    detail = _interval("PLD 1", "PLD uniform", test.ci_low, test.ci_high)
    return Judgement(test.difference, test.difference >= 0.01, detail=detail)


def on_a_par_with_tuned_distillation(results: Results) -> Judgement:
    """Claim 3."""
    chosen, other = results.select("PLD"), results.select("KD")
    test = results.paired(chosen, other, "test_accuracy")
    detail = _interval(chosen, other, test.ci_low, test.ci_high)
    return Judgement(test.difference, test.difference >= -0.005, detail=detail)


def ranking_is_transferred(results: Results) -> Judgement:
    """Claim 4, of every temperature: with a sure teacher, temperature 1 is too close to cross-entropy to tell alone."""
    candidates = results.groups["PLD"]
    tests = [results.paired(arm, "CE", "kendall_tau") for arm in candidates]
    difference, p_value = min(test.difference for test in tests), max(test.p_value for test in tests)
    detail = ", ".join(f"{arm} {results.mean(arm, 'kendall_tau'):.3f}" for arm in ("CE", *candidates))
    return Judgement(difference, difference > 0 and p_value < 0.05, p_value, detail)


CLAIMS = (
    Claim(
        "beats-cross-entropy",
        "PLD beats cross-entropy",
        "mean difference of test accuracy > 0, one-sided paired t-test p < 0.1",
        beats_cross_entropy,
        published="CIFAR-100 ResNet-56 to ResNet-20: +2.71 points",
    ),
    Claim(
        "weighting-matters",
        "the teacher's confidence as the weight of each rank matters: PLD beats uniform weights",
        "mean difference of test accuracy at least 0.01, both at temperature 1",
        weighting_matters,
        published="ImageNet-1K: +3.19 points",
    ),
    Claim(
        "par-with-tuned-kd",
        "PLD is at least on a par with tuned distillation",
        "mean difference of test accuracy at least -0.005",
        on_a_par_with_tuned_distillation,
        published="CIFAR-100 ResNet-56 to ResNet-20: +0.83 points",
    ),
    Claim(
        "ranking-transferred",
        "the teacher's ranking of the other classes is transferred",
        "at every temperature, mean Kendall tau-b over the other classes higher than for CE, paired t-test p < 0.05",
        ranking_is_transferred,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def _on(scale: Scale, data: str, name: str) -> str:
    return name if data == next(iter(scale.settings["data"])) else f"{data}: {name}"


def _interval(chosen: str, other: str, low: float, high: float) -> str:
    return f"{chosen} against {other}, 90 % interval [{low:.4f}, {high:.4f}]"


@functools.lru_cache(maxsize=1)
def _load(name: str, **options: Any) -> Data:
    """`load_data`, which a worker that runs one arm after the other need not repeat; nobody writes into the data."""
    return load_data(name, **options)


def _student_part(context: Context, data: Data) -> Samples:
    """The first share of the training part, in which every class of `glyphs` has the same number of samples."""
    return SubsetSamples(data.train, torch.arange(round(context["student_share"] * len(data.train))))


def _build(specification: Mapping[str, Any], data: Data) -> nn.Module:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, Tensor)
    return build_model(specification, num_classes=data.num_classes, input_shape=tuple(inputs.shape[1:]))


def _train(
    model: nn.Module,
    teacher: Teacher | None,
    samples: Samples,
    objectives: Objectives,
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> None:
    chosen = TrainingSettings(seed=seed, **settings)
    Trainer(Distillation(teacher, model, objectives), samples, settings=chosen).run()


def _ask(teacher: Teacher, samples: Samples) -> tuple[Tensor, Tensor]:
    """Logits `[samples, classes]` and labels `[samples]`, on the CPU."""
    logits, target = [], []
    for rows in torch.split(torch.arange(len(samples)), 512):
        batch = samples.batch(rows)
        said = teacher(batch).logits
        assert said is not None
        assert batch.target is not None
        logits.append(said)
        target.append(batch.target)
    return torch.cat(logits), torch.cat(target)


def _accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(dim=1) == target).double().mean().item()


def _teacher_facts(teacher: FrozenTeacher, lessons: Samples, data: Data) -> dict[str, float]:
    logits, target = _ask(teacher, data.test)
    taught, labels = _ask(teacher, lessons)
    sure = taught.softmax(dim=1).amax(dim=1) > 0.9
    return {
        "teacher_accuracy": _accuracy(logits, target),
        "teacher_confidence": logits.softmax(dim=1).amax(dim=1).mean().item(),
        # For these the label has hardly any weight in PLD.
        "teacher_wrong_and_sure": (sure & (taught.argmax(dim=1) != labels)).double().mean().item(),
    }


recipe = Recipe(
    slug="pld",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"unsorted": without_sorting},
    describe=describe,
)
