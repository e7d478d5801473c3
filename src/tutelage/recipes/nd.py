"""ND (KD++): do a feature's direction and norm help beyond the logits?

Source: "Improving Knowledge Distillation via Regularizing Feature Norm and Direction", arXiv 2305.17007.

The question. KD++ adds one term to distillation: the student's embedding is pulled to the direction of the teacher's
class mean, and lengthened until it is as long as the teacher's. Does the term do that to the features (claims 1 and 2),
does it help accuracy (claim 3), is it better than either half of it (claim 4), and does it let a student profit from
larger teachers (claim 5)?

The comparison. 62 rendered letters and digits, few images a class, and multi-layer perceptrons with batch normalisation
whose last hidden layer has one width, so that features can be compared without a projector. Every arm has the same
data, initial weights, order of batches and budget, and the paper's optimiser and schedule: SGD with momentum, rate 0.1,
divided by 10 after 62.5, 75 and 87.5 % of the run, weight decay 5e-4, batches of 128. Every kind of loss has the same
number of candidates for its settings, and the one with the best mean validation accuracy is judged on the test part.
All losses are written as a user's config writes them: names, weights, schedules.

How the size was chosen, and what that is worth. Ten pilot settings with two to five seeds each were looked at, on test
accuracy and norms. Networks without batch normalisation under AdamW lengthened their features so much that every arm
with a norm term lost accuracy; with batch normalisation and AdamW students' features were about as long as the
teacher's unless the weight decay was high. Under the paper's optimiser the distilled student's features are shorter
than the teacher's, as in the paper. With 60 images a class the student came within two points of its teacher, and KD++
was ahead of KD only at four times the weight decay; with 30, where there is more to gain, it was ahead by up to a point
on three seeds, so 30 was taken. The choice thus leans towards KD++ over KD, and the lead still shrank with more seeds.

What holds and what does not (recorded at quick and full). The term does to features what it says: directions and norms
move as the paper describes, with margins far above the noise. KD++ is a little ahead of KD with every teacher of the
glyphs, within the noise; with a projector and on digits it changes nothing. The norm alone does better than both parts
together: the likely reason is that here the class means hold little that the label does not. The teacher fits 30 images
a class perfectly, so pulling features to the means of these images repeats the label and wipes out what sets images of
a class apart (the direction alone at factor 4 costs accuracy), while longer features mend the scale of the student's
logits, which distillation at weight 3 leaves too small. Our form of the norm alone, a hinge at the teacher's own norm,
is not the paper's baseline either. Larger teachers make both KD's and KD++'s students worse here, and alike: the sign
of the difference of their slopes (claim 5) is chance.

Departures from the paper: data, networks and epochs are ours at every scale but `paper`, and so is plain momentum in
place of Nesterov's. At `paper` the networks are this package's residual networks, the recipe trains the teacher, and
class means come from augmented training images, as the student sees them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage.data import Data, Samples, load_data
from tutelage.data.cifar import AugmentedImages
from tutelage.features import ObservedModel, class_conditional_mean
from tutelage.files import read_tensors, write_tensors
from tutelage.models import build_model, load_model, parameter_count, save_model
from tutelage.objectives import CrossEntropy, Objective
from tutelage.one_call import make_objectives
from tutelage.outputs import Outputs
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import CachedTeacher, FrozenTeacher, Teacher, build_cache
from tutelage.training import Distillation, Trainer, TrainingSettings
from tutelage.training.distillation import Objectives, named_terms

# ---- Scales ----------------------------------------------------------------------------------------------------------


def mlp(*hidden: int) -> dict[str, Any]:
    """A multi-layer perceptron with batch normalisation; the last width is that of the embedding."""
    return {"name": "mlp", "arguments": {"hidden": hidden, "normalization": "batch"}}


def residual(*depths: int) -> dict[str, Any]:
    """A residual network for images of 32 × 32: 3 stages, 6 · depth + 2 layers."""
    return {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": depths}}


SGD = {
    "optimizer": "sgd",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "scheduler": "step",
    "milestones": (150 / 240, 180 / 240, 210 / 240),
    "batch_size": 128,
}
GLYPHS = {
    "data": "glyphs",
    "options": {"train_per_class": 30, "validation_per_class": 40, "test_per_class": 120},
    "teacher": mlp(256, 128),
    "student": mlp(32, 128),
}
# The same data and student with a smaller and a larger teacher; `size` is the width that grows.
TEACHERS = {
    "teacher 128": {**GLYPHS, "teacher": mlp(128, 128), "size": 128},
    "teacher 512": {**GLYPHS, "teacher": mlp(512, 128), "size": 512},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "pairs": {
                "glyphs": {
                    "data": "glyphs",
                    "options": {"alphabet": "digits", "train_per_class": 30},
                    "teacher": mlp(32, 16),
                    "student": mlp(8, 16),
                    "size": 32,
                },
                "teacher 64": {
                    "data": "glyphs",
                    "options": {"alphabet": "digits", "train_per_class": 30},
                    "teacher": mlp(64, 16),
                    "student": mlp(8, 16),
                    "size": 64,
                },
            },
            "kd": ((3.0, 4.0),),
            "terms": ((3.0, 4.0),),
            "dkd": (8.0,),
            "dkd_terms": ((8.0, 4.0),),
            "ramp": 2,
            "teacher_training": {**SGD, "batch_size": 32, "epochs": 15},
            "student_training": {**SGD, "batch_size": 32, "epochs": 10},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=8,
        settings={
            "pairs": {"glyphs": {**GLYPHS, "size": 256}, **TEACHERS},
            "kd": ((1.0, 4.0), (3.0, 4.0)),  # weight and temperature
            "terms": ((3.0, 1.0), (3.0, 4.0)),  # weight of distillation and of the added term
            "dkd": (2.0, 8.0),
            "dkd_terms": ((8.0, 1.0), (8.0, 4.0)),
            "ramp": 10,
            "teacher_training": {**SGD, "epochs": 60},
            "student_training": {**SGD, "epochs": 80},
        },
    ),
    "full": Scale(
        "full",
        seeds=10,
        settings={
            "pairs": {
                "glyphs": {**GLYPHS, "size": 256},
                **TEACHERS,
                "projector": {**GLYPHS, "student": mlp(48)},
                "digits": {"data": "digits", "options": {}, "teacher": mlp(256, 128), "student": mlp(8, 128)},
            },
            "kd": ((1.0, 2.0), (1.0, 4.0), (3.0, 2.0), (3.0, 4.0)),
            "terms": ((3.0, 0.5), (3.0, 1.0), (3.0, 2.0), (3.0, 4.0)),
            "dkd": (1.0, 2.0, 4.0, 8.0),
            "dkd_terms": ((2.0, 1.0), (2.0, 4.0), (8.0, 1.0), (8.0, 4.0)),
            "few_kd": ((1.0, 4.0), (3.0, 4.0)),
            "few_terms": ((3.0, 1.0), (3.0, 4.0)),
            "ramp": 10,
            "teacher_training": {**SGD, "epochs": 60},
            "student_training": {**SGD, "epochs": 80},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=5,
        settings={
            # ResNet-56 and ResNet-20 on CIFAR-100, with the factors of the official script.
            "pairs": {
                "cifar100": {
                    "data": "tutelage.data.cifar:cifar100",
                    "options": {},
                    "teacher": residual(9, 9, 9),
                    "student": residual(3, 3, 3),
                    "size": 56,
                },
                "teacher 110": {
                    "data": "tutelage.data.cifar:cifar100",
                    "options": {},
                    "teacher": residual(18, 18, 18),
                    "student": residual(3, 3, 3),
                    "size": 110,
                },
            },
            "kd": ((1.0, 4.0),),
            "terms": ((1.0, 2.0),),
            "dkd": (4.0,),
            "dkd_terms": ((4.0, 3.5),),
            "dkd_alpha": 2.5,
            "ramp": 20,
            "augment": True,
            "teacher_training": {**SGD, "nesterov": True, "epochs": 240},
            "student_training": {**SGD, "nesterov": True, "epochs": 240},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

CROSS_ENTROPY = {"name": "cross_entropy"}


def distillation(weight: float, temperature: float, ramp: int) -> dict[str, Any]:
    """λ · τ² · KL, its weight ramped up over the first epochs (equation 3 with the ramp of the official code)."""
    return {
        "name": "knowledge_distillation",
        "arguments": {"alpha": 1.0, "temperature": temperature},
        "weight": {"schedule": "linear", "arguments": {"epochs": ramp, "end": weight}},
    }


def decoupled(beta: float, alpha: float, ramp: int) -> dict[str, Any]:
    """DKD at temperature 4, ramped up as well."""
    return {
        "name": "decoupled_distillation",
        "arguments": {"alpha": alpha, "beta": beta, "temperature": 4.0},
        "weight": {"schedule": "linear", "arguments": {"epochs": ramp}},
    }


# What is added to distillation, by the name of the arm.
ADDED = {
    "KD++": ("norm_direction_loss", "distillation and ND"),
    "KD + direction": ("direction_loss", "distillation and ND's direction alone"),
    "KD + norm": ("feature_norm_loss", "distillation and ND's norm alone"),
    "KD + feature": ("tutelage.recipes.nd:_FeatureMatching", "distillation and the teacher's own feature"),
}


def arms(scale: Scale) -> list[Arm]:
    """All arms on the first pair; CE, KD and KD++ on the others, whose arms' names begin with the pair's."""
    ramp, found = scale.settings["ramp"], []
    first, *others = scale.settings["pairs"]

    def add(pair: str, group: str, name: str, description: str, *objectives: dict[str, Any]) -> None:
        prefix = "" if pair == first else f"{pair}: "
        settings = {"pair": pair, "objectives": [CROSS_ENTROPY, *objectives]}
        found.append(Arm(f"{prefix}{name}", settings, f"{prefix}{group}", description))

    def add_terms(pair: str, names: list[str], terms: Any) -> None:
        for name in names:
            objective, description = ADDED[name]
            for weight, factor in terms:
                term = {"name": objective, "weight": factor}
                add(pair, name, f"{name} {weight:g}/{factor:g}", description, distillation(weight, 4.0, ramp), term)

    add(first, "CE", "CE", "labels alone")
    for weight, temperature in scale.settings["kd"]:
        name = f"KD {weight:g}/{temperature:g}"
        add(first, "KD", name, "distillation", distillation(weight, temperature, ramp))
    add_terms(first, list(ADDED), scale.settings["terms"])
    alpha = scale.settings.get("dkd_alpha", 1.0)
    for beta in scale.settings["dkd"]:
        add(first, "DKD", f"DKD {beta:g}", "decoupled distillation", decoupled(beta, alpha, ramp))
    for beta, factor in scale.settings["dkd_terms"]:
        term = {"name": "norm_direction_loss", "weight": factor}
        name = f"DKD++ {beta:g}/{factor:g}"
        add(first, "DKD++", name, "decoupled distillation and ND", decoupled(beta, alpha, ramp), term)
    for pair in others:
        for weight, temperature in scale.settings.get("few_kd", scale.settings["kd"]):
            name = f"KD {weight:g}/{temperature:g}"
            add(pair, "KD", name, "distillation", distillation(weight, temperature, ramp))
        add_terms(pair, ["KD++"], scale.settings.get("few_terms", scale.settings["terms"]))
    return found


class _FeatureMatching(Objective):
    """Mean squared difference to the teacher's feature of the same image: what ND is not."""

    reads = ("student.embedding", "teacher.embedding")

    def loss(self, student_features: Tensor, teacher_features: Tensor) -> Tensor:
        return F.mse_loss(student_features, teacher_features)


def without_term(arm: Arm) -> Arm:
    """An arm whose ND term is left out; other arms stay as they are."""
    return _with_term(arm, None)


def without_norm(arm: Arm) -> Arm:
    """An arm whose ND term forgets the teacher's norm: it only turns features."""
    return _with_term(arm, "direction_loss")


def _with_term(arm: Arm, instead: str | None) -> Arm:
    objectives = []
    for objective in arm.settings["objectives"]:
        if objective["name"] != "norm_direction_loss":
            objectives.append(objective)
        elif instead is not None:
            objectives.append({**objective, "name": instead})
    return replace(arm, settings={**arm.settings, "objectives": objectives})


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train a teacher for every pair; keep what it says about the training data, and its class means."""
    facts: dict[str, float] = {}
    first = next(iter(context["pairs"]))
    for name, pair in context["pairs"].items():
        data = _load(pair["data"], **pair["options"])
        model = _build(pair["teacher"], data)
        train = AugmentedImages(data.train) if context.scale.settings.get("augment") else data.train
        _train(model, None, train, CrossEntropy(), context["teacher_training"], seed=0)
        folder = context.folder / name
        model.cpu()
        save_model(folder / "teacher", model)
        teacher = FrozenTeacher(model, embedding=True)
        build_cache(teacher, data.train, folder / "train", signals=("logits", "embedding"), dtype="float32")
        logits, taught, target = _ask(model, data.train)
        class_means = class_conditional_mean(taught, target, num_classes=data.num_classes)
        write_tensors(folder / "features.safetensors", {"class_means": class_means, "norm": taught.norm(dim=1)})
        test_logits, test_features, test_target = _ask(model, data.test)
        prefix = "" if name == first else f"{name}: "
        facts |= {
            f"{prefix}teacher_accuracy": _accuracy(test_logits, test_target),
            f"{prefix}teacher_training_accuracy": _accuracy(logits, target),
            f"{prefix}teacher_norm": test_features.norm(dim=1).mean().item(),
            f"{prefix}teacher_cosine": F.cosine_similarity(test_features, class_means[test_target]).mean().item(),
        }
        if "size" in pair:
            facts[f"{prefix}teacher_size"] = pair["size"]
    return facts


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student; ask it about the validation and test parts, and look at its features."""
    pair = context["pairs"][arm.settings["pair"]]
    folder = context.folder / arm.settings["pair"]
    data = _load(pair["data"], **pair["options"])
    student = _build(pair["student"], data)
    lessons: Samples = data.train
    teacher: Teacher | nn.Module = CachedTeacher(folder / "train")
    if context.scale.settings.get("augment"):  # what is drawn anew every time cannot be cached
        lessons, teacher = AugmentedImages(data.train), load_model(folder / "teacher")
    objectives = named_terms(make_objectives(arm.settings["objectives"]))
    _train(student, teacher, lessons, objectives, context["student_training"], seed=seed)
    student.cpu()
    validation_logits, _, validation_target = _ask(student, data.validation)
    logits, features, target = _ask(student, data.test)
    metrics: Metrics = {
        "validation_accuracy": _accuracy(validation_logits, validation_target),
        "test_accuracy": _accuracy(logits, target),
        "norm": features.norm(dim=1).mean().item(),
    }
    stored = read_tensors(folder / "features.safetensors")
    if features.shape[1] == stored["class_means"].shape[1]:  # else the term speaks about projected features
        _, taught, _ = _ask(student, data.train)
        ratio = (taught.norm(dim=1) / stored["norm"]).mean().item()
        cosine = F.cosine_similarity(features, stored["class_means"][target]).mean().item()
        metrics |= {"cosine": cosine, "training_norm_ratio": ratio, "norm_gap": abs(ratio - 1)}
    return metrics


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without reading the data)."""
    described: dict[str, Any] = {}
    for name, pair in scale.settings["pairs"].items():
        for role in ("teacher", "student"):
            if scale.name == "paper":
                model = build_model(pair[role], num_classes=100, input_shape=(3, 32, 32))
            else:
                model = _build(pair[role], _load(pair["data"], **pair["options"]))
            described[f"{name}, {role}"] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def aligns_directions(results: Results) -> Judgement:
    """Claim 1."""
    ours, theirs = results.select("KD++"), results.select("KD")
    test = results.paired(ours, theirs, "cosine")
    detail = f"{ours} {results.mean(ours, 'cosine'):.3f}, {theirs} {results.mean(theirs, 'cosine'):.3f}"
    return Judgement(test.difference, test.difference > 0 and test.p_value < 0.05, test.p_value, detail)


def raises_norms(results: Results) -> Judgement:
    """Claim 2; without a gap to close there is nothing to judge, and the claim does not hold."""
    ours, theirs = results.select("KD++"), results.select("KD")
    turned = ours.replace("KD++", "KD + direction")  # with the same factors, so that the norm's own part is seen
    norm = results.paired(ours, theirs, "norm")
    gap = results.paired(theirs, ours, "norm_gap")
    own = results.paired(ours, turned, "norm")
    goal = results.facts["teacher_norm"]
    p_value = max(norm.p_value, gap.p_value, own.p_value)
    detail = (
        f"norm: {ours} {results.mean(ours, 'norm'):.2f}, {theirs} {results.mean(theirs, 'norm'):.2f}, "
        f"{turned} {results.mean(turned, 'norm'):.2f}, teacher {goal:.2f}; training ratio to the teacher: "
        f"{results.mean(ours, 'training_norm_ratio'):.3f} and {results.mean(theirs, 'training_norm_ratio'):.3f}"
    )
    raised = min(norm.difference, gap.difference, own.difference) > 0
    holds = results.mean(theirs, "norm") < goal and raised and p_value < 0.05
    return Judgement(norm.difference, holds, p_value, detail)


def beats_distillation(results: Results) -> Judgement:
    """Claim 3."""
    ours, theirs = results.select("KD++"), results.select("KD")
    test = results.paired(ours, theirs, "test_accuracy")
    detail = f"{ours} against {theirs}, 90 % interval [{test.ci_low:.4f}, {test.ci_high:.4f}]; KD++ by settings: "
    swept = [
        f"{name.removeprefix('KD++ ')} {results.mean(name, 'test_accuracy'):.4f}" for name in results.groups["KD++"]
    ]
    return Judgement(
        test.difference, test.difference > 0 and test.p_value < 0.1, test.p_value, detail + ", ".join(swept)
    )


def joint_loss_is_best(results: Results) -> Judgement:
    """Claim 4."""
    ours = results.select("KD++")
    halves = [results.select("KD + direction"), results.select("KD + norm")]
    other = max(halves, key=lambda arm: results.mean(arm, "test_accuracy"))
    test = results.paired(ours, other, "test_accuracy")
    detail = f"{ours} against {other}, 90 % interval [{test.ci_low:.4f}, {test.ci_high:.4f}]"
    return Judgement(test.difference, test.difference >= -0.003, detail=detail)


def profits_from_larger_teachers(results: Results) -> Judgement:
    """Claim 5: slopes of accuracy against log2 of the teacher's size, by seed."""
    sizes = {name.rpartition("teacher_size")[0]: size for name, size in results.facts.items() if "teacher_size" in name}
    slopes, shown = {}, []
    for group in ("KD++", "KD"):
        chosen = {size: results.select(f"{prefix}{group}") for prefix, size in sizes.items()}
        accuracy = np.stack([results.values(arm, "test_accuracy") for arm in chosen.values()])
        slopes[group] = float(np.polyfit(np.log2(list(chosen)), accuracy, 1)[0].mean())
        means = ", ".join(f"{size:g}: {results.mean(chosen[size], 'test_accuracy'):.4f}" for size in sorted(chosen))
        shown.append(f"{group} {slopes[group]:+.4f} a doubling ({means})")
    difference = slopes["KD++"] - slopes["KD"]
    return Judgement(difference, difference >= -1e-12, detail="; ".join(shown))  # equal slopes differ by rounding


CLAIMS = (
    Claim(
        "direction-aligned",
        "features of unseen images point closer to the teacher's class means with KD++ than with KD",
        "mean cosine on test data higher, one-sided paired t-test p < 0.05",
        aligns_directions,
    ),
    Claim(
        "norm-raised",
        "KD++ brings the norm of features to the teacher's",
        "KD's mean norm on test data is below the teacher's; KD++'s is larger than KD's and than that of the direction "
        "alone with the same factors, and its mean ratio to the teacher's on training data is closer to 1 than KD's, "
        "one-sided paired t-tests p < 0.05",
        raises_norms,
    ),
    Claim(
        "beats-kd",
        "KD++ beats KD",
        "mean difference of test accuracy > 0, one-sided paired t-test p < 0.1",
        beats_distillation,
        published="CIFAR-100 ResNet-56 to ResNet-20: +1.87 points",
    ),
    Claim(
        "joint-loss-best",
        "direction and norm together are at least on a par with the better one alone",
        "mean difference of test accuracy at least -0.003",
        joint_loss_is_best,
    ),
    Claim(
        "larger-teachers-help",
        "KD++ profits at least as much from larger teachers as KD",
        "mean slope of test accuracy against log2 of the teacher's size at least that of KD",
        profits_from_larger_teachers,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=2)
def _load(name: str, **options: Any) -> Data:
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
def _ask(model: nn.Module, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
    """Logits `[samples, classes]`, embeddings `[samples, width]` and labels `[samples]` of a model on the CPU."""
    observed = ObservedModel(model.eval(), embedding=True)
    parts: list[tuple[Outputs, Tensor | None]] = []
    for rows in torch.split(torch.arange(len(samples)), 512):
        batch = samples.batch(rows)
        parts.append((observed(batch.inputs), batch.target))
    return (
        torch.cat([outputs.logits for outputs, _ in parts if outputs.logits is not None]),
        torch.cat([outputs.embedding for outputs, _ in parts if outputs.embedding is not None]),
        torch.cat([target for _, target in parts if target is not None]),
    )


def _accuracy(logits: Tensor, target: Tensor) -> float:
    return (logits.argmax(dim=1) == target).double().mean().item()


recipe = Recipe(
    slug="nd",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"no-term": without_term, "no-norm": without_norm},
    describe=describe,
)
