"""ScaleKD: can a well pre-trained vision transformer teach a convolutional network and a Mixer through its features?

Source: "ScaleKD: Strong Vision Transformers Could Be Excellent Teachers", arXiv 2411.06786.

The question. ScaleKD projects a student's feature maps to the teacher's grid by cross-attention, compares them with the
teacher's last map in two views, and sends the student's last stage but one through the teacher's own frozen last stage.
Does that beat training on labels alone, for students of another kind than the teacher (claim 1)? Does it beat the plain
way of matching features, one convolution and a squared difference (claim 2)? Are its parts together at least as good as
the projector alone (claim 3)? Does it stand in for more data (claim 4), and does it profit from a larger teacher
(claim 5)?

The comparison. Rendered capital letters of 12 × 12 pixels. The teacher is a Swin transformer of two stages, trained
once on twelve times as many images as students see; students are a residual network of three stages and an MLP-Mixer.
Students are tested on fonts that nobody was trained on. Every arm has the same images, initial weights, order of
batches, optimiser and schedule (AdamW, a tenth of the run warming up, then a cosine); only the arm with three times the
images sees them in as many epochs, and so three times as often. All arms with a teacher weigh its logits and the labels
alike, by one half. ScaleKD has the paper's weights, and matching has weight 1.

How the size was chosen, and what that is worth. Pilots with seed 0 were looked at, on validation and test accuracy, and
quick was run once before it was recorded. Teachers learned too slowly on 36 characters with more noise, so letters were
taken. The learning rate is the better one of two for labels alone. The warm-up was added when ScaleKD gained little
without it (its projectors are transformers); labels alone changed by about a point. Of matching's weights 1 and 4 the
first did better; four times the paper's weights did no better for ScaleKD, and twelve times these ruined students.
Networks were then made as small as they are to save time.

What holds and what does not (recorded at quick and full). Both students gain five to ten points over labels alone,
beyond doubt (claim 1). The parts together beat the projector alone; most of that comes from the path through the
teacher; without it the second view adds half as much, and beside it nothing (claim 3). Against plain matching it is a
draw: a little ahead for the CNN, a little behind for the Mixer, both within the noise, so claim 2 does not hold. A
likely reason is the run's length: 150 steps from scratch for four projectors, where one convolution is learned at once.
Three times the images are worth far more than the teacher (claim 4): labels alone on these bring the CNN past the
teacher itself. The larger teacher teaches the Mixer as well as the small one, and the CNN a point worse (claim 5; quick
asks the Mixer alone, where it holds): it is only four points better itself, and its projectors are twice as wide at the
same weights and in as few steps.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.data import Data, Samples, load_data
from tutelage.data.subsets import subset
from tutelage.features import last_stage
from tutelage.models import build_model, call_model, load_model, parameter_count, save_model
from tutelage.objectives import CrossEntropy
from tutelage.one_call import make_objectives
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, build_cache
from tutelage.training import Distillation, Trainer, TrainingSettings
from tutelage.training.distillation import Objectives, named_terms

# ---- Scales ----------------------------------------------------------------------------------------------------------


def swin(width: int) -> dict[str, Any]:
    """A Swin transformer of two stages: 4 × 4 tokens of a width, then 2 × 2 of twice the width."""
    arguments = {"patch_size": 3, "hidden_size": width, "depths": (2, 2), "num_heads": (2, 4), "window_size": 2}
    return {"name": "swin", "arguments": arguments}


CNN = {"name": "resnet", "arguments": {"widths": (8, 16, 32), "depths": (1, 1, 1)}}
MIXER = {"name": "mlp_mixer", "arguments": {"patch_size": 3, "hidden_size": 24, "num_layers": 2}}
GLYPHS = {"alphabet": "uppercase", "size": 12, "fonts": "dejavu", "test_fonts": "stix"}
ADAMW = {"optimizer": "adamw", "scheduler": "cosine"}
LARGE = "large teacher"  # the name of the teacher of double width, and of what arms with it are called

_QUICK: dict[str, Any] = {
    "data": "glyphs",
    "options": {**GLYPHS, "validation_per_class": 40, "test_per_class": 80},
    "pretraining_per_class": 240,
    "per_class": 20,
    "teachers": {"teacher": swin(16), LARGE: swin(32)},
    "students": {"CNN": CNN, "Mixer": MIXER},
    "with_large": ("Mixer",),
    "components": {"CNN": ("CAP",)},
    "logits_alone": False,
    "kd_weight": 0.5,
    "num_heads": (2, 4),
    "matching_weights": (1.0,),
    "weights": ((0.08, 0.06),),  # α and β, the paper's
    "teacher_training": {**ADAMW, "learning_rate": 6e-3, "batch_size": 64, "epochs": 7},
    "student_training": {**ADAMW, "learning_rate": 1e-2, "batch_size": 52, "epochs": 15, "warmup": 0.1},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **_QUICK,
            "options": {**GLYPHS, "alphabet": "ABCD", "validation_per_class": 5, "test_per_class": 5},
            "pretraining_per_class": 20,
            "per_class": 5,
            "teachers": {"teacher": swin(8), LARGE: swin(16)},
            "students": {"CNN": {"name": "resnet", "arguments": {"widths": (4, 8), "depths": (1, 1)}}, "Mixer": MIXER},
            "teacher_training": {**ADAMW, "learning_rate": 6e-3, "batch_size": 40, "epochs": 2},
            "student_training": {**ADAMW, "learning_rate": 1e-2, "batch_size": 20, "epochs": 1, "warmup": 0.1},
        },
    ),
    "quick": Scale("quick", seeds=3, settings=_QUICK),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            **_QUICK,
            "with_large": ("CNN", "Mixer"),
            "components": {"CNN": ("CAP", "CAP + DFM", "CAP + TPP")},
            "logits_alone": True,
        },
    ),
    "paper": Scale(
        "paper",
        seeds=1,
        settings={
            "data": "tutelage.data.imagenet:imagenet",
            "options": {},
            # Already trained, on ImageNet-22K and then on ImageNet-1K.
            "teachers": {"teacher": {"name": "microsoft/swin-large-patch4-window7-224"}},
            "students": {
                "CNN": {
                    "name": "resnet",  # ResNet-50
                    "configuration": {
                        "model_type": "resnet",
                        "architectures": ["ResNetForImageClassification"],
                        "embedding_size": 64,
                        "hidden_sizes": [256, 512, 1024, 2048],
                        "depths": [3, 4, 6, 3],
                        "layer_type": "bottleneck",
                        "num_labels": 1000,
                    },
                },
                "Mixer": {  # Mixer-S/16
                    "name": "mlp_mixer",
                    "arguments": {"patch_size": 16, "hidden_size": 512, "num_layers": 8},
                },
            },
            "with_large": (),
            "components": {"CNN": ("CAP",)},
            "logits_alone": True,
            "kd_weight": 0.5,
            "num_heads": (16, 24),
            "matching_weights": (1.0,),
            "weights": ((0.08, 0.06),),
            "student_training": {
                **ADAMW,
                "learning_rate": 1e-3,
                "weight_decay": 0.05,
                "batch_size": 1024,
                "epochs": 300,
                "warmup": 20 / 300,
                "clip_norm": 5.0,
                "num_workers": 8,
            },
            "training_of": {
                "CNN": {
                    "optimizer": "sgd",
                    "learning_rate": 0.1,
                    "weight_decay": 1e-4,
                    "scheduler": "step",
                    "milestones": (0.3, 0.6, 0.9),
                    "batch_size": 256,
                    "epochs": 100,
                    "warmup": 0.0,
                    "clip_norm": None,
                }
            },
        },
        needs=Needs(gpus=8, packages=("datasets",), datasets=("ILSVRC/imagenet-1k",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

# Parts of ScaleKD: the projector (CAP), the second view (DFM), the path through the teacher's last stage (TPP).
PARTS: dict[str, dict[str, Any]] = {
    "CAP": {"beta": 0.0, "perceive_teacher": False},
    "CAP + DFM": {"perceive_teacher": False},
    "CAP + TPP": {"beta": 0.0},
}


def arms(scale: Scale) -> list[Arm]:
    """For each student: labels, logits, matched features and ScaleKD; more images, a larger teacher, parts alone."""
    settings = scale.settings
    found: list[Arm] = []
    logits = {"name": "knowledge_distillation", "arguments": {"alpha": settings["kd_weight"], "temperature": 1.0}}

    def add(name: str, group: str, description: str, *objectives: dict[str, Any], **more: Any) -> None:
        chosen = {"student": student, "teacher": "teacher", "images": 1, "objectives": list(objectives), **more}
        found.append(Arm(f"{student}: {name}", chosen, f"{student}: {group}", description))

    def method(weights: tuple[float, float], parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        chosen = {
            "alpha": weights[0],
            "beta": weights[1],
            **{name: settings[name] for name in ("kd_weight", "num_heads")},
        }
        return {"name": "scalekd", "arguments": {**chosen, **(parts or {})}}

    for student in settings["students"]:
        add("labels", "labels", "labels alone", {"name": "cross_entropy"}, teacher=None)
        if "per_class" in settings:
            more = {"teacher": None, "images": 3}
            add("labels, 3 × images", "labels, 3 × images", "labels alone", {"name": "cross_entropy"}, **more)
        if settings["logits_alone"]:
            add("logits", "logits", "the teacher's logits", logits)
        for weight in settings["matching_weights"]:
            matching = {"name": "feature_matching", "weight": weight, "arguments": {"resize": "bilinear"}}
            add(f"matching {weight:g}", "matching", "logits and the last map, by a 1 × 1 convolution", logits, matching)
        for weights in settings["weights"]:
            shown = f"{weights[0]:g}/{weights[1]:g}"
            add(f"ScaleKD {shown}", "ScaleKD", "all three parts", method(weights))
            for parts in settings["components"].get(student, ()):
                add(f"{parts} {shown}", parts, "parts of ScaleKD", method(weights, PARTS[parts]))
        if student in settings["with_large"]:
            name, objective = f"ScaleKD, {LARGE}", method(settings["weights"][0])
            add(name, name, "a teacher twice as wide", objective, teacher=LARGE)
    return found


def without_features(arm: Arm) -> Arm:
    """ScaleKD without its feature losses: the logits are left."""
    return _with(arm, alpha=0.0, beta=0.0)


def without_teacher(arm: Arm) -> Arm:
    """ScaleKD without anything of the teacher: labels are left."""
    return _with(arm, alpha=0.0, beta=0.0, kd_weight=0.0)


def without_teachers_stage(arm: Arm) -> Arm:
    """ScaleKD without the path through the teacher's last stage."""
    return _with(arm, perceive_teacher=False)


def _with(arm: Arm, **arguments: Any) -> Arm:
    objectives = [
        {**term, "arguments": {**term["arguments"], **arguments}} if term["name"] == "scalekd" else term
        for term in arm.settings["objectives"]
    ]
    return replace(arm, settings={**arm.settings, "objectives": objectives})


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train the teachers, once for all seeds; keep them and, where images repeat, what they say about them."""
    data = _load(context.scale)
    facts: dict[str, float] = {}
    for name, specification in context["teachers"].items():
        model = _build(specification, data)
        if "pretraining_per_class" in context.scale.settings:
            # The same fonts and transforms, other draws: what a teacher has seen before students begin.
            per_class = context["pretraining_per_class"]
            earlier = load_data("glyphs", **context["options"], train_per_class=per_class, seed=1).train
            _train(model, None, earlier, CrossEntropy(), context["teacher_training"], seed=0)
            model.cpu()
            tap = str(last_stage(model, freeze=True).tap)
            teacher = FrozenTeacher(model, taps={tap: tap})
            signals = ("logits", f"features.{tap}")
            build_cache(teacher, data.train, context.folder / name / "train", signals=signals, dtype="float32")
        save_model(context.folder / name / "model", model)
        prefix = "" if name == "teacher" else f"{name}: "
        facts |= {
            f"{prefix}teacher_accuracy": _accuracy(model, data.test),
            f"{prefix}teacher_validation_accuracy": _accuracy(model, data.validation),
            f"{prefix}teacher_parameters": parameter_count(model),
        }
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student; ask it about the images of the training fonts and of unseen ones."""
    data = _load(context.scale)
    student = _build(context["students"][arm.settings["student"]], data)
    lessons: Samples = data.train
    if "per_class" in context.scale.settings:  # the first rows hold equally many images of every class
        lessons = subset(data.train, torch.arange(arm.settings["images"] * context["per_class"] * data.num_classes))
    teacher: Teacher | nn.Module | None = None
    objectives = [dict(term) for term in arm.settings["objectives"]]
    if arm.settings["teacher"] is not None:
        folder = context.folder / arm.settings["teacher"]
        model = load_model(folder / "model")
        stage = last_stage(model, freeze=True)
        for term in objectives:
            if term["name"] == "scalekd":
                term["arguments"] = {**term["arguments"], "teacher_stage": stage}
            elif term["name"] == "feature_matching":
                term["arguments"] = {**term["arguments"], "teacher_taps": stage.tap}
        teacher = CachedTeacher(folder / "train") if (folder / "train").exists() else model
    own = context.scale.settings.get("training_of", {}).get(arm.settings["student"], {})
    settings = {**context["student_training"], **own}
    _train(student, teacher, lessons, named_terms(make_objectives(objectives)), settings, seed=seed)
    student.cpu()
    return {
        "validation_accuracy": _accuracy(student, data.validation),
        "test_accuracy": _accuracy(student, data.test),
        "images_viewed": float(settings["epochs"] * len(lessons)),
    }


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading weights or data)."""
    described: dict[str, Any] = {}
    networks = {**scale.settings["teachers"], **scale.settings["students"]}
    if scale.name == "paper":  # Swin-L, of which only the configuration is built
        networks["teacher"] = {
            "name": "swin",
            "configuration": {
                "model_type": "swin",
                "architectures": ["SwinForImageClassification"],
                "embed_dim": 192,
                "depths": [2, 2, 18, 2],
                "num_heads": [6, 12, 24, 48],
                "window_size": 7,
                "num_labels": 1000,
            },
        }
    for role, network in networks.items():
        if scale.name == "paper":
            with torch.device("meta"):
                model = build_model(network, num_classes=1000, input_shape=(3, 224, 224))
        else:
            model = _build(network, _load(scale))
        described[role] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------

STUDENTS = ("CNN", "Mixer")


def beats_labels(results: Results) -> Judgement:
    """Claim 1; where the teacher is not at least 3 points ahead of a student there is nothing to judge."""
    tests, shown, gaps = [], [], []
    for student in STUDENTS:
        ours, theirs = results.select(f"{student}: ScaleKD"), f"{student}: labels"
        tests.append(results.paired(ours, theirs, "test_accuracy"))
        gaps.append(results.facts["teacher_accuracy"] - results.mean(theirs, "test_accuracy"))
        shown.append(
            f"{ours} {results.mean(ours, 'test_accuracy'):.4f}, labels {results.mean(theirs, 'test_accuracy'):.4f} "
            f"(p {tests[-1].p_value:.3g}; the teacher is {100 * gaps[-1]:.1f} points ahead of labels)"
        )
    p_value = max(test.p_value for test in tests)
    smallest = min(test.difference for test in tests)
    holds = smallest > 0 and p_value < 0.1 and min(gaps) >= 0.03
    return Judgement(smallest, holds, p_value, "; ".join(shown))


def beats_matching(results: Results) -> Judgement:
    """Claim 2."""
    differences, shown = [], []
    for student in STUDENTS:
        ours, theirs = results.select(f"{student}: ScaleKD"), results.select(f"{student}: matching")
        test = results.paired(ours, theirs, "test_accuracy")
        differences.append(test.difference)
        shown.append(f"{ours} against {theirs}: {test.difference:+.4f}, 90 % [{test.ci_low:.4f}, {test.ci_high:.4f}]")
    return Judgement(min(differences), min(differences) >= 0, detail="; ".join(shown))


def parts_add_up(results: Results) -> Judgement:
    """Claim 3, for the convolutional student."""
    ours, theirs = results.select("CNN: ScaleKD"), results.select("CNN: CAP")
    difference = results.difference(ours, theirs, "test_accuracy")
    parts = [results.select(f"CNN: {name}") for name in PARTS if f"CNN: {name}" in results.groups]
    detail = ", ".join(f"{arm} {results.mean(arm, 'test_accuracy'):.4f}" for arm in [ours, *parts])
    return Judgement(difference, difference >= 0, detail=detail)


def stands_in_for_data(results: Results) -> Judgement:
    """Claim 4, for every student."""
    differences, shown = [], []
    for student in STUDENTS:
        ours, theirs = results.select(f"{student}: ScaleKD"), f"{student}: labels, 3 × images"
        if theirs not in results.arms:
            return Judgement(math.nan, False, detail="this scale trains on all images there are")
        differences.append(results.difference(ours, theirs, "test_accuracy"))
        viewed = results.mean(theirs, "images_viewed") / results.mean(ours, "images_viewed")
        shown.append(
            f"{ours} {results.mean(ours, 'test_accuracy'):.4f}, labels on 3 × images "
            f"{results.mean(theirs, 'test_accuracy'):.4f} with {viewed:.1f} × the images viewed"
        )
    return Judgement(min(differences), min(differences) >= 0, detail="; ".join(shown))


def profits_from_a_larger_teacher(results: Results) -> Judgement:
    """Claim 5, with the same weights for both teachers."""
    gains, shown = [], []
    for student in STUDENTS:
        large = f"{student}: ScaleKD, {LARGE}"
        if large not in results.arms:
            continue
        small = results.groups[f"{student}: ScaleKD"][0]
        gains.append(results.difference(large, small, "test_accuracy"))
        accuracies = [f"{results.mean(arm, 'test_accuracy'):.4f}" for arm in (small, large)]
        shown.append(f"{student}: {accuracies[0]} with the small teacher, {accuracies[1]} with the large one")
    if not gains:
        return Judgement(math.nan, False, detail="this scale has one teacher")
    facts = results.facts
    shown.append(f"teachers {facts['teacher_accuracy']:.4f} and {facts[f'{LARGE}: teacher_accuracy']:.4f}")
    return Judgement(float(np.min(gains)), min(gains) >= -0.005, detail="; ".join(shown))


CLAIMS = (
    Claim(
        "beats-labels",
        "a student taught by ScaleKD is better than one taught by labels alone, be it a CNN or a Mixer",
        "mean difference of test accuracy > 0 with a one-sided paired t-test p < 0.1 for each student, "
        "whose teacher is at least 3 points ahead of labels alone",
        beats_labels,
        published="ImageNet-1K from Swin-L: ResNet-50 +3.39 points, Mixer-S/16 +4.61 points",
    ),
    Claim(
        "beats-matching",
        "ScaleKD is at least as good as matching features through a convolution",
        "mean test accuracy at least that of matching, for both students",
        beats_matching,
    ),
    Claim(
        "parts-add-up",
        "all three parts together are at least as good as the cross-attention projector alone",
        "mean test accuracy of the CNN at least that of the projector alone",
        parts_add_up,
    ),
    Claim(
        "stands-in-for-data",
        "ScaleKD on some images is at least as good as labels alone on three times as many",
        "mean test accuracy at least that of labels alone on three times the images, for both students",
        stands_in_for_data,
        published="up to 195 times fewer viewed samples than pre-training the student",
    ),
    Claim(
        "larger-teacher-helps",
        "a teacher of double width teaches no worse",
        "mean test accuracy with the larger teacher at most 0.5 points below that with the smaller one",
        profits_from_a_larger_teacher,
        published="ResNet-50: 82.03 from Swin-L, 82.34 from BEiT-L/14",
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def _load(scale: Scale) -> Data:
    options = dict(scale.settings["options"])
    if "per_class" in scale.settings:
        options["train_per_class"] = 3 * scale.settings["per_class"]
    return _loaded(scale.settings["data"], **options)


@functools.lru_cache(maxsize=1)
def _loaded(name: str, **options: Any) -> Data:
    """`load_data`, which a worker that runs one arm after the other need not repeat; nobody writes into the data."""
    return load_data(name, **options)


def _build(specification: Mapping[str, Any], data: Data) -> nn.Module:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, Tensor)
    return build_model(specification, num_classes=data.num_classes, input_shape=tuple(inputs.shape[1:]))


def _train(
    model: nn.Module,
    teacher: Teacher | nn.Module | None,
    samples: Samples,
    objectives: Objectives,
    settings: Mapping[str, Any],
    *,
    seed: int,
) -> None:
    chosen = TrainingSettings(seed=seed, **settings)
    Trainer(Distillation(teacher, model, objectives), samples, settings=chosen).run()


@torch.no_grad()
def _accuracy(model: nn.Module, samples: Samples) -> float:
    model.eval()
    right = 0
    for rows in torch.split(torch.arange(len(samples)), 512):
        batch = samples.batch(rows)
        logits = call_model(model, batch.inputs).logits
        assert logits is not None
        assert batch.target is not None
        right += int((logits.argmax(dim=1) == batch.target).sum())
    return right / len(samples)


recipe = Recipe(
    slug="scalekd",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={
        "no-features": without_features,
        "no-teacher": without_teacher,
        "no-teacher-stage": without_teachers_stage,
    },
    describe=describe,
)
