"""Dice loss for NLP: does training for F1 beat cross-entropy where positives are rare, or only move the threshold?

Source: "Dice Loss for Data-imbalanced NLP Tasks", ACL 2020, arXiv 1911.02855.

The question. Where few items are positive, tasks are judged by F1, and cross-entropy trains for something else. The
Dice loss of a whole batch is a smooth 1 − F1; the self-adjusting form also mutes what is already well classified. There
is a simple rival: leave the training as it is, and move the threshold of a cross-entropy model to where F1 is best on
validation data. It is an arm of its own, and every arm reports F1 at its tuned threshold beside F1 at ½.

The data. A table of two overlapping Gaussians with 2 % positives and a logistic model on quadratic features, where the
best possible F1 is known; the same with the Gaussians far apart, for the sweep of α. And real text with real tags: the
passages of Python's language reference, whose authors marked terms and code. A small BERT, from scratch, reads it
without the marks and finds where a term begins (1 % of the words), where code begins (4 %), which words are marked
(12 %), and all tags. Every loss is applied to each head, and the losses of the heads are added.

The comparison. Arms of a seed have the same data, initial weights, order of batches and budget; each seed draws data
(or their parts) anew. At `full` every arm of the text has two learning rates, of which validation F1 picks one.

What holds. On the table the set-level losses reach at ½ the F1 that known probabilities reach at their best threshold,
which is also what tuned cross-entropy reaches: there the gain is one of the threshold alone. On the text F1 at ½ of
rare tags rises by five points over cross-entropy, at `full` with the better of two rates for each; a tuned threshold
gives cross-entropy the same, and with both tuned there is no difference to see. Accuracy falls a little. Item by item,
Dice is worse than cross-entropy, and the deeper network then finds no positives at all.

What does not hold. Muting caps the confidence in positives for α up to 0.1, and α = 1 has the lowest F1, but not for
the stated reason alone. From the usual start about half of all predictions are above the cap of α = 1, which is ½;
there the gradient of negatives has the wrong sign, and it takes the positives among them beyond the cap (near table:
a mean of 0.55, seeds between 0.27 and 0.73), or leaves nearly all positives at 0 or 1 (far table, four of five seeds).

Departures from the paper: data and networks are ours at every scale but `paper`, which fine-tunes BERT on MRPC with the
published settings, one logit and the set-level loss. The other tasks of the paper are not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.assessment import best_f1_threshold, span_f1, spans_from_tags
from tutelage.assessment.statistics import PairedComparison
from tutelage.data import ArraySamples, Data, Samples, assemble, load_data, targets_of
from tutelage.data.topics_tags import TAGS
from tutelage.models import build_model, parameter_count
from tutelage.models.pretrained import new_model
from tutelage.objectives import FocalLoss, Objective, SelfAdjustingDiceLoss
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import FrozenTeacher
from tutelage.training import Distillation, Trainer, TrainingSettings

# ---- Scales ----------------------------------------------------------------------------------------------------------

TABLE = {
    "positives": 0.02,
    "places": {"near": (1.5, 1.5), "far": (5.0, 5.0)},  # the mean of the positives; negatives are around 0
    "deviation": 0.7,  # of the positives; negatives have 1
    "sizes": {"train": 16_384, "validation": 16_384, "test": 50_000},
    "training": {"learning_rate": 0.2, "weight_decay": 0.0, "batch_size": 4096, "max_steps": 300},
    "sweep_training": {"learning_rate": 0.2, "weight_decay": 0.0, "batch_size": 4096, "max_steps": 600},
}
TEXT = {
    "options": {"length": 64},
    "model": {
        "hidden_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 128,
        "attention_probs_dropout_prob": 0.0,
    },
    "rates": (3e-3,),
    "training": {"weight_decay": 0.01, "batch_size": 16, "epochs": 8, "warmup": 0.1, "clip_norm": 1.0},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            "table": {
                **TABLE,
                "sizes": {"train": 2048, "validation": 2048, "test": 4096},
                "training": {**TABLE["training"], "batch_size": 1024, "max_steps": 20},  # type: ignore[dict-item]
                "sweep_training": {**TABLE["training"], "batch_size": 1024, "max_steps": 20},  # type: ignore[dict-item]
            },
            "text": {
                **TEXT,
                "options": {"length": 32, "fractions": (0.1, 0.1, 0.8)},
                "model": {**TEXT["model"], "hidden_size": 16, "intermediate_size": 16},  # type: ignore[dict-item]
                "training": {**TEXT["training"], "epochs": 1},  # type: ignore[dict-item]
            },
        },
    ),
    "quick": Scale("quick", seeds=5, settings={"table": TABLE, "text": TEXT}),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            "table": TABLE,
            "text": {
                **TEXT,
                "model": {**TEXT["model"], "num_hidden_layers": 2},  # type: ignore[dict-item]
                "rates": (1e-3, 3e-3),
            },
        },
    ),
    "paper": Scale(
        "paper",
        seeds=5,
        settings={
            "table": TABLE,
            "text": {
                "glue": {"task": "mrpc", "columns": ("sentence1", "sentence2"), "source": "nyu-mll/glue"},
                "model": {
                    "name": "google-bert/bert-base-uncased",
                    "arguments": {"hidden_dropout_prob": 0.2, "task": "sequence-classification"},
                },
                "rates": (3e-5,),
                "training": {
                    "weight_decay": 0.003,
                    "batch_size": 20,
                    "epochs": 5,
                    "scheduler": "linear",
                    "warmup": 0.002,
                    "clip_norm": 1.0,
                },
            },
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("nyu-mll/glue",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

ARMS = [
    Arm("CE", {"loss": "ce"}, description="cross-entropy"),
    Arm(
        "CE tuned", {"loss": "ce", "tuned": True}, description="the same, at the threshold with the best validation F1"
    ),
    Arm("CE weighted", {"loss": "ce", "balanced": True}, description="cross-entropy, every class with equal weight"),
    Arm("focal", {"loss": "focal"}, description="γ = 2"),
    Arm("dice", {"loss": "dice", "alpha": 0.0, "aggregation": "set"}, description="a smooth 1 − F1 of the batch"),
    Arm("DSC", {"loss": "dice", "alpha": 0.01, "aggregation": "set"}, description="self-adjusting, α = 0.01"),
    Arm("dice by example", {"loss": "dice", "alpha": 0.0, "aggregation": "example"}, description="item by item"),
]
ALPHAS = (0.0, 0.01, 0.1, 1.0)


def arms(scale: Scale) -> list[Arm]:
    """All arms on the table and on the text (with every learning rate), and the sweep of α on both tables."""
    table = [replace(arm, name=f"table: {arm.name}", settings={"place": "near", **arm.settings}) for arm in ARMS]
    sweep = [
        Arm(
            f"{place}: α = {alpha:g}",
            {"place": place, "sweep": True, "loss": "dice", "alpha": alpha, "aggregation": "example"},
            description="self-adjusting, item by item, to convergence",
        )
        for place in scale.settings["table"]["places"]
        for alpha in ALPHAS
    ]
    text = [
        replace(
            arm,
            name=f"text: {arm.name}" + (f", rate {rate:g}" if len(scale.settings["text"]["rates"]) > 1 else ""),
            group=f"text: {arm.name}",
            settings={"rate": rate, **arm.settings},
        )
        for arm in ARMS
        for rate in scale.settings["text"]["rates"]
    ]
    return [*table, *sweep, *text]


def objective_of(settings: Mapping[str, Any], target: Tensor, classes: int) -> Objective:
    """The loss of an arm for one head; `target` is all of its training labels (2 classes: one logit)."""
    if settings["loss"] == "dice":
        return SelfAdjustingDiceLoss(alpha=settings["alpha"], aggregation=settings["aggregation"])
    weight = None
    if settings.get("balanced"):
        counts = torch.bincount(target[target >= 0].flatten(), minlength=classes)
        weight = counts.sum() / (classes * counts.clamp(min=1))
    return FocalLoss(gamma=2.0 if settings["loss"] == "focal" else 0.0, class_weight=weight)  # γ = 0: cross-entropy


def by_example(arm: Arm) -> Arm:
    """An arm whose Dice loss forgets the set; other arms stay as they are."""
    return _changed(arm, aggregation="example")


def without_muting(arm: Arm) -> Arm:
    """An arm whose Dice loss does not adjust itself; other arms stay as they are."""
    return _changed(arm, alpha=0.0)


def _changed(arm: Arm, **settings: Any) -> Arm:
    return replace(arm, settings={**arm.settings, **settings}) if arm.settings["loss"] == "dice" else arm


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """What the best possible classifier of the near table reaches, for whom all probabilities are known."""
    table = context["table"]
    _, target, probs = gaussians(table, "near", 500_000, torch.Generator().manual_seed(10_000))
    threshold = best_f1_threshold(probs, target)
    return {
        "bayes: f1": scores(probs, target, 0.5)["f1"],
        "bayes: tuned f1": scores(probs, target, threshold)["f1"],
        "bayes: threshold": threshold,
        "bayes: accuracy": scores(probs, target, 0.5)["accuracy"],
    }


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Train one model on the table or the text, and score it on the test part."""
    return run_table(context, arm, seed) if "place" in arm.settings else run_text(context, arm, seed)


def run_table(context: Context, arm: Arm, seed: int) -> Metrics:
    """A logistic model on quadratic features of a fresh sample."""
    settings, table = arm.settings, context["table"]
    draw = torch.Generator().manual_seed(seed)
    parts: dict[str, ArraySamples] = {}
    for part, size in table["sizes"].items():
        points, target, _ = gaussians(table, settings["place"], size, draw)
        parts[part] = ArraySamples(quadratic_features(points), target)
    model = nn.Linear(5, 1)
    objective = objective_of(settings, targets_of(parts["train"]), 2)
    _train(model, parts["train"], objective, table["sweep_training" if settings.get("sweep") else "training"], seed)
    validation, test = (_ask(model, parts[part])[:, 0].sigmoid() for part in ("validation", "test"))
    target = targets_of(parts["test"])
    measured = measures(validation, targets_of(parts["validation"]), test, target, tuned=settings.get("tuned", False))
    return {**measured, "mean_positive": test[target == 1].mean().item()}


def gaussians(table: Mapping[str, Any], place: str, size: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Points `[size, 2]`, labels, and the true probabilities of being positive."""
    target = (torch.rand(size, generator=draw) < table["positives"]).long()
    mean, deviation = torch.tensor(table["places"][place]), table["deviation"]
    normal = torch.randn(size, 2, generator=draw)
    points = torch.where(target[:, None] == 1, mean + deviation * normal, normal)
    from_negatives, from_positives = points.square().sum(dim=1), ((points - mean) / deviation).square().sum(dim=1)
    prior = torch.logit(torch.tensor(table["positives"]))
    odds = prior + (from_negatives - from_positives) / 2 - 2 * math.log(deviation)
    return points, target, odds.sigmoid()


def quadratic_features(points: Tensor) -> Tensor:
    """x, y, x², y² and xy, shifted and divided so that negatives have mean 0 and variance 1 in each.

    Without the shift the first steps push positives, which are farthest out, to 0; item by item none comes back.
    """
    x, y = points.unbind(dim=1)
    return torch.stack([x, y, (x * x - 1) / 2**0.5, (y * y - 1) / 2**0.5, x * y], dim=1)


def run_text(context: Context, arm: Arm, seed: int) -> Metrics:
    """A BERT with a head for each question about a word (or, at `paper`, about a pair of sentences).

    Scores without a question's name are means over the two questions with the rarest positives.
    """
    settings, text = arm.settings, context["text"]
    data = glue_data(text) if "glue" in text else load_data("topics_tags", seed=seed, **text["options"])
    heads = heads_of(data)
    width = sum(1 if classes == 2 else classes for classes in heads.values())
    model = text_model(text, data, width)
    target = targets_of(data.train)
    objective = _Heads({name: objective_of(settings, labels_of(name, target), heads[name]) for name in heads}, heads)
    _train(model, data.train, objective, {"learning_rate": settings["rate"], **text["training"]}, seed)
    said = {part: objective.by_head(_ask(model, getattr(data, part))) for part in ("validation", "test")}
    targets = {part: targets_of(getattr(data, part)) for part in said}
    levels: dict[str, dict[str, float]] = {}
    for name in heads:
        if name == "tags":
            continue
        probs_and_labels: list[Tensor] = []
        for part, of_part in targets.items():
            kept = of_part >= 0
            probs_and_labels += [said[part][name][..., 0][kept].sigmoid(), labels_of(name, of_part)[kept]]
        levels[name] = measures(*probs_and_labels, tuned=settings.get("tuned", False))
    rarest = list(levels.values())[:2]
    measured: Metrics = {metric: float(np.mean([level[metric] for level in rarest])) for metric in rarest[0]}
    for name, level in levels.items():
        measured |= {f"{name}: {metric}": level[metric] for metric in ("f1", "tuned f1", "accuracy")}
    if "tags" in heads:
        measured |= tag_measures(said["test"]["tags"], targets["test"])
    return measured


def heads_of(data: Data) -> dict[str, int]:
    """The questions and their classes, the rarest positives first; a question of two classes has one logit."""
    if data.class_names != TAGS:
        return {"paraphrase": 2}
    return {"term": 2, "code": 2, "marked": 2, "tags": len(TAGS)}


def labels_of(head: str, target: Tensor) -> Tensor:
    """The labels of a head, with -100 where there is none."""
    match head:
        case "term":
            labels = (target == TAGS.index("B-term")).long()
        case "code":
            labels = (target == TAGS.index("B-code")).long()
        case "marked":
            labels = (target > 0).long()
        case _:
            labels = target
    return labels.where(target >= 0, target)


class _Heads(Objective):
    """The sum of each head's own loss."""

    reads = ("student.logits", "batch.target")

    def __init__(self, objectives: Mapping[str, Objective], classes: Mapping[str, int]) -> None:
        super().__init__()
        self.objectives = nn.ModuleDict(objectives)
        self.sizes = [1 if classes[name] == 2 else classes[name] for name in objectives]

    def by_head(self, logits: Tensor) -> dict[str, Tensor]:
        """The logits of each head."""
        return dict(zip(self.objectives, torch.split(logits, self.sizes, dim=-1), strict=True))

    def loss(self, student_logits: Tensor, target: Tensor) -> Tensor:
        said = self.by_head(student_logits)
        losses = [loss(said[name], labels_of(name, target)) for name, loss in self.objectives.items()]
        return torch.stack(losses).sum()


# ---- Scores ----------------------------------------------------------------------------------------------------------


def scores(probs: Tensor, target: Tensor, threshold: float) -> dict[str, float]:
    """F1, precision, recall and accuracy of `probs >= threshold`.

    >>> scores(torch.tensor([0.9, 0.6, 0.2]), torch.tensor([1, 0, 1]), 0.5)["f1"]
    0.5
    """
    predicted, actual = probs >= threshold, target == 1
    hits = (predicted & actual).sum().item()
    return {
        "f1": 2 * hits / max(1, predicted.sum().item() + actual.sum().item()),
        "precision": hits / max(1, predicted.sum().item()),
        "recall": hits / max(1, actual.sum().item()),
        "accuracy": (predicted == actual).double().mean().item(),
    }


def measures(
    validation: Tensor, validation_target: Tensor, test: Tensor, target: Tensor, *, tuned: bool
) -> dict[str, float]:
    """Test scores at ½ (or, when `tuned`, at the threshold with the best validation F1), and always at that one too."""
    best = best_f1_threshold(validation, validation_target)
    threshold = best if tuned else 0.5
    return {
        **scores(test, target, threshold),
        **{f"tuned {name}": value for name, value in scores(test, target, best).items()},
        "threshold": best,
        "validation_f1": scores(validation, validation_target, threshold)["f1"],
    }


def tag_measures(logits: Tensor, target: Tensor) -> dict[str, float]:
    """Span F1 and accuracy of the likeliest tags; separators are in no span."""
    predicted, kept = logits.argmax(dim=-1), target >= 0
    found, true = (
        [spans_from_tags(TAGS[tag] for tag in row) for row in tags.where(kept, 0).tolist()]
        for tags in (predicted, target)
    )
    accuracy = (predicted == target)[kept].double().mean().item()
    return {"span_f1": float(span_f1(found, true)["f1"]), "tag_accuracy": accuracy}


# ---- Claims ----------------------------------------------------------------------------------------------------------


def follows_f1(results: Results) -> Judgement:
    """Claim 1."""
    gain = results.difference("table: DSC", "table: CE", "f1")
    behind = results.difference("table: CE tuned", "table: DSC", "f1")
    facts = results.facts
    means = ", ".join(f"{arm.name} {results.mean(f'table: {arm.name}', 'f1'):.3f}" for arm in ARMS)
    detail = (
        f"tuned CE is ahead by {behind:+.4f}; F1: {means}; with known probabilities {facts['bayes: f1']:.3f} at ½ and "
        f"{facts['bayes: tuned f1']:.3f} at {facts['bayes: threshold']:.2f}"
    )
    return Judgement(gain, gain >= 0.05 and behind <= 0.02, detail=detail)


def helps_rare_tags(results: Results) -> Judgement:
    """Claim 2. The figures tell a better ranking (also with both thresholds tuned) from a better threshold."""
    of_ce, of_focal = compared(results, "DSC", "CE", "f1"), compared(results, "DSC", "focal", "f1")
    holds = of_ce.difference >= 0 and of_ce.p_value < 0.1 and of_focal.difference >= -0.01
    shown = []
    for metric in ("f1", "precision", "recall", "tuned f1", "tuned precision", "tuned recall"):
        means = (f"{arm} {results.mean(chosen(results, arm), metric):.3f}" for arm in ("CE", "focal", "dice", "DSC"))
        shown.append(f"{metric} {', '.join(means)}")
    detail = (
        f"minus CE {_interval(of_ce)}; minus focal {_interval(of_focal)}; "
        f"minus CE at its tuned threshold {_interval(compared(results, 'DSC', 'CE tuned', 'f1'))}; "
        f"with both tuned {_interval(compared(results, 'DSC', 'CE', 'tuned f1'))}; {'; '.join(shown)}"
    )
    return Judgement(of_ce.difference, holds, of_ce.p_value, detail)


def leaves_accuracy(results: Results) -> Judgement:
    """Claim 3."""
    gains = {}
    for arm in ("dice", "DSC"):
        gains[f"table, {arm}"] = results.difference(f"table: {arm}", "table: CE", "accuracy")
        for metric in results.arms[chosen(results, arm)]:
            if metric.endswith(": accuracy"):
                gain = results.difference(chosen(results, arm), chosen(results, "CE"), metric)
                gains[f"{metric.removesuffix(': accuracy')}, {arm}"] = gain
    largest = max(gains.values())
    detail = ", ".join(f"{name} {gain:+.4f}" for name, gain in gains.items())
    return Judgement(largest, largest <= 0.005, detail=detail)


def muting_caps_confidence(results: Results) -> Judgement:
    """Claim 4."""
    excess, worst, details = -1.0, True, []
    for place in dict.fromkeys(name.split(":")[0] for name in results.arms if ": α = " in name):
        names = [f"{place}: α = {alpha:g}" for alpha in ALPHAS]
        confidence = [results.mean(name, "mean_positive") for name in names]
        f1 = [results.mean(name, "f1") for name in names]
        excess = max(excess, *(mean - 1 / (1 + alpha) for mean, alpha in zip(confidence, ALPHAS, strict=True)))
        worst = worst and f1[-1] <= min(f1) + 1e-3
        details.append(
            f"{place}: "
            + ", ".join(
                f"α = {alpha:g} mean {mean:.3f}, F1 {score:.3f}"
                for alpha, mean, score in zip(ALPHAS, confidence, f1, strict=True)
            )
        )
    return Judgement(excess, excess <= 0.02 and worst, detail="; ".join(details))


CLAIMS = (
    Claim(
        "follows-f1",
        "table: the Dice loss of a set trains for F1 and needs no other threshold",
        "mean F1 at ½ of DSC at least that of CE + 0.05, and at least that of CE at its tuned threshold - 0.02",
        follows_f1,
    ),
    Claim(
        "helps-rare-tags",
        "text: F1 of rare positives is at least that of cross-entropy and about that of focal loss",
        "F1 at ½, mean of the two rarest questions: DSC at least CE with one-sided paired t-test over seeds p < 0.1, "
        "and at least focal - 0.01",
        helps_rare_tags,
        published="CoNLL-2003 span F1: dice 93.21, focal 93.08; MRPC F1: dice 88.23, focal 88.06, CE 87.36",
    ),
    Claim(
        "leaves-accuracy",
        "accuracy is not improved",
        "accuracy of both set-level losses at most that of CE + 0.005, on the table and for every question on the text",
        leaves_accuracy,
    ),
    Claim(
        "muting-caps-confidence",
        "muting caps the confidence in positives, so that a large α ruins F1",
        "both tables, α of 0, 0.01, 0.1 and 1: mean probability of positives at most 1 / (1 + α) + 0.02; F1 at α = 1 "
        "the lowest or tied with it",
        muting_caps_confidence,
        published="F1 about 29 with α = 1 on CoNLL-2003 (a user's report)",
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def chosen(results: Results, arm: str) -> str:
    """An arm on the text, with the learning rate that validation picks."""
    return results.select(f"text: {arm}", "validation_f1")


def compared(results: Results, arm: str, other: str, metric: str) -> PairedComparison:
    """Two arms on the text, seed by seed."""
    return results.paired(chosen(results, arm), chosen(results, other), metric)


def _interval(comparison: PairedComparison) -> str:
    return f"{comparison.difference:+.4f} [{comparison.ci_low:+.4f}, {comparison.ci_high:+.4f}]"


def glue_data(text: Mapping[str, Any]) -> Data:
    """A task of GLUE with two classes."""
    from transformers import AutoTokenizer

    from tutelage.data.glue import glue_parts

    tokenizer = AutoTokenizer.from_pretrained(text["model"]["name"])
    parts = glue_parts(text["glue"]["task"], text["glue"]["columns"], tokenizer, source=text["glue"]["source"])
    samples = {name: _of_tokens(part) for name, part in parts.items()}
    return assemble(text["glue"]["task"], samples, num_classes=2)


def _of_tokens(part: Mapping[str, Tensor]) -> ArraySamples:
    return ArraySamples({name: tensor for name, tensor in part.items() if name != "target"}, part["target"])


def text_model(text: Mapping[str, Any], data: Data, width: int) -> nn.Module:
    """BERT with so many logits: a new one that tags words, or a pretrained one that reads pairs."""
    if "glue" in text:
        return build_model(text["model"], num_classes=width)
    return new_model(
        "BertForTokenClassification",
        vocab_size=len(data.extras["vocabulary"]),
        max_position_embeddings=text["options"]["length"],
        num_labels=width,
        **text["model"],
    )


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without the pretrained weights)."""
    text = scale.settings["text"]
    if "glue" in text:
        bert = {"hidden_size": 768, "num_heads": 12, "num_layers": 12, "max_length": 512, "vocab_size": 30_522}
        model = build_model({"name": "encoder_lm", "arguments": bert}, num_classes=2)
        name, data = text["model"]["name"], text["glue"]["task"]
    else:
        read = load_data("topics_tags", **text["options"])
        model = text_model(text, read, 8)
        name, data = "BERT", read.description
    return {
        "table": "logistic model, 6 parameters",
        "text": data,
        "tagger": f"{name}: {type(model).__name__}, {parameter_count(model):,} parameters",
    }


def _train(model: nn.Module, samples: Samples, objective: Objective, settings: Mapping[str, Any], seed: int) -> None:
    chosen = TrainingSettings(seed=seed, **settings)
    Trainer(Distillation(None, model, objective), samples, settings=chosen).run()


def _ask(model: nn.Module, samples: Samples) -> Tensor:
    teacher = FrozenTeacher(model.cpu())
    logits = [teacher(samples.batch(rows)).logits for rows in torch.split(torch.arange(len(samples)), 8192)]
    return torch.cat([said for said in logits if said is not None])


recipe = Recipe(
    slug="dice",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"by-example": by_example, "without-muting": without_muting},
    describe=describe,
)
