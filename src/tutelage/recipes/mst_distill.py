"""MST-Distill: do specialised teachers and a router help a student of one modality?

Source: "MST-Distill: Mixture of Specialized Teachers for Cross-Modal Knowledge Distillation", arXiv 2507.07015.

The question. A student that sees one modality can learn from a network that sees all of them, or from one that sees
another; which of the two helps depends on data and direction, and either may attend to what the student cannot see.
MST-Distill bends both towards the student by masks on their features, and lets a router pick one for every sample. Is
its student better than one that learns from labels alone (claim 1), and as good as that of the better single teacher
without having to know which it is (claim 2)? Do the masks lower what the student cannot follow (claim 3), and does the
router use its teachers (claim 4)?

The comparison. The handwritten digits in two views (`tutelage.data.two_views`). "scene": the image with pixels dropped,
and noisy projections of the very same image. "class": an image and a signal of the same class, otherwise unrelated, as
in AV-MNIST. Students see the signal; "image", at full scale only, is "scene" with the student on the image. Every arm
has the same data, the same student from the same weights and as many passes over the data: MST-Distill's first stage
counts. Single teachers are trained on labels beforehand, with as many passes again, and teach as in the authors' code:
half cross-entropy, half distillation at temperature 4. No arm is tuned; MST-Distill has the authors' weights.

How the size was chosen. Specialised teachers need stages 1 and 2 only once a seed, which all arms share. Batches of 32
at Adam's rate 1e-3 (one seed looked at, on test accuracy of all arms) and batches of 128 at 4e-3 gave much the same, so
the faster was taken; masks learn at 1e-3, since at 4e-3 they ran into 0 or 1 and stayed there. The noise of the
projections was set so that the student reaches about 80 % by labels alone.

Which epoch's student counts. The authors take the lowest validation loss in all arms. That rule is unkind to students
whose loss and accuracy part ways: on "class" the loss of a student of a single teacher at temperature 4 is lowest
before it has learned anything. So claims about accuracy are judged by that rule and by the last epoch's student too,
and must hold by both.

The router. As released its choice carries no gradient: it only learns to spread samples evenly ("MST-Distill" has that
too). "as released" also has the authors' hooks, which pile up: the second mask of a network works on top of the first,
though it was trained alone. "repaired router" is our extension: two teachers a sample, weighted by the router, which so
learns which of them the student can follow; with one teacher that weight would always be 1. "top 2" is the same without
that gradient (full scale only).

What holds, and what it says (recorded at quick and full). All four claims hold. The student gains 0.8 points over
labels where both views are of one scene (p just below 0.1 with 7 seeds: near the noise), 1.3 to 1.6 in the other
direction, 1.3 (last epoch) on views of one class; no single teacher has to be picked for that. But the parts that give
the system its name are not what helps: without masks, with random routing, with mixed teachers, with masks that pile up
and with the repaired router the student is as good within the noise. The masks do lower the drift, by half or more on
"class" and by a few per cent on "scene", and the student does not mind either way. What all these variants share is
teachers that learned beside the student for a few epochs only, and a weight of distillation that falls from 1 to 1/4
beside a full cross-entropy; single teachers teach at half and half, so the lead over them may be one of weights. With
that weight at 0 (`--break no-distillation`) claims 1 and 2 fail. Routing is alive in every variant, which is what the
balancing term asks for and no sign that the choices are good.

Departures from the paper at every scale but `paper`: data, networks, epochs and learning rate are ours.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data import Data, Samples, load_data
from tutelage.files import read_tensors, write_tensors
from tutelage.models import FusionNetwork, mlp, parameter_count
from tutelage.models.av_mnist import lenet, sound_branch, sound_network
from tutelage.objectives import CrossEntropy
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.reproduction.several_data_sets import arms_on, name_on, on_every_data_set
from tutelage.training import (
    Distillation,
    Method,
    Monitor,
    MSTDistill,
    MutualDistillation,
    RoutedDistillation,
    TeacherGroup,
    Trainer,
    TrainingSettings,
    evaluate_model,
)
from tutelage.training.monitors import Record
from tutelage.training.routed import logits_of, routing_entropy

# ---- Scales ----------------------------------------------------------------------------------------------------------

ADAM = {"optimizer": "adam", "weight_decay": 0.0, "scheduler": "constant"}
TWO_VIEWS = {
    "scene": {"data": "two_views", "options": {"kind": "same_scene"}, "student": "signal"},
    "class": {"data": "two_views", "options": {"kind": "same_class"}, "student": "signal"},
}
OTHER_DIRECTION = {
    "image": {"data": "two_views", "options": {"kind": "same_scene", "student": "image"}, "student": "image"}
}
SMALL = {
    "networks": "perceptrons",
    "widths": (64, 32),
    "branch": 64,
    "initialization": {**ADAM, "learning_rate": 4e-3, "batch_size": 128, "epochs": 5},
    "specialization": {**ADAM, "learning_rate": 1e-3, "batch_size": 128, "epochs": 5},
    "distillation": {**ADAM, "learning_rate": 4e-3, "batch_size": 128, "epochs": 40},
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **SMALL,
            "data": TWO_VIEWS,
            "widths": (12, 8),
            "branch": 12,
            "initialization": {**ADAM, "learning_rate": 4e-3, "batch_size": 512, "epochs": 1},
            "specialization": {**ADAM, "learning_rate": 1e-3, "batch_size": 512, "epochs": 1},
            "distillation": {**ADAM, "learning_rate": 4e-3, "batch_size": 512, "epochs": 2},
            "ablations": ("scene",),
        },
    ),
    "quick": Scale("quick", seeds=5, settings={**SMALL, "data": TWO_VIEWS, "ablations": ("scene",)}),
    "full": Scale(
        "full",
        seeds=7,
        settings={**SMALL, "data": {**TWO_VIEWS, **OTHER_DIRECTION}, "ablations": ("scene", "class"), "top_2": True},
    ),
    "paper": Scale(
        "paper",
        seeds=5,
        settings={
            # AV-MNIST in both directions with the authors' networks, layers, batches, epochs and rate.
            "data": {
                name: {"data": "tutelage.data.two_views:av_mnist", "options": {"student": name}, "student": name}
                for name in ("image", "sound")
            },
            "networks": "av_mnist",
            "initialization": {**ADAM, "learning_rate": 1e-4, "batch_size": 512, "epochs": 1},
            "specialization": {**ADAM, "learning_rate": 1e-4, "batch_size": 512, "epochs": 1},
            "distillation": {**ADAM, "learning_rate": 1e-4, "batch_size": 512, "epochs": 100},
            "ablations": ("image", "sound"),
            "top_2": True,
        },
        needs=Needs(gpus=1),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

CORE = (
    Arm("labels", {"lesson": "labels"}, description="the student learns from labels alone"),
    Arm("KD teacher", {"lesson": "kd", "from": ("teacher",)}, description="from the teacher that sees both views"),
    Arm("KD auxiliary", {"lesson": "kd", "from": ("auxiliary",)}, description="from a network on the other view"),
    Arm("KD both", {"lesson": "kd", "from": ("teacher", "auxiliary")}, description="from both, equally weighted"),
    Arm("MST-Distill", {"lesson": "mst"}, description="specialised teachers, one picked for every sample"),
)
ABLATIONS = (
    Arm("no masks", {"lesson": "mst", "masked": False}, description="the router picks teacher or auxiliary as it is"),
    Arm("random routing", {"lesson": "mst", "routing": "random"}, description="another specialised teacher each time"),
    Arm("aggregated", {"lesson": "mst", "routing": "aggregated"}, description="the router mixes all teachers' logits"),
    Arm("as released", {"lesson": "mst", "cumulative": True}, description="masks of a network pile up"),
    Arm(
        "repaired router",
        {"lesson": "mst", "k": 2, "routing_gradient": "weighted"},
        description="two teachers a sample, weighted by a router that learns from it",
    ),
)
TOP_2 = Arm("top 2", {"lesson": "mst", "k": 2}, description="two teachers a sample, equally weighted")


def arms(scale: Scale) -> list[Arm]:
    """The core arms on every data set, and variants of MST-Distill on those that `ablations` names."""
    data_sets = scale.settings["data"]
    variants = (*ABLATIONS, TOP_2) if scale.settings.get("top_2") else ABLATIONS
    chosen = arms_on(data_sets, (*CORE, *variants))
    names = {arm.name for arm in variants}
    return [
        arm
        for arm in chosen
        if arm.settings["data"] in scale.settings["ablations"] or arm.name.rpartition(": ")[2] not in names
    ]


def without_distillation(arm: Arm) -> Arm:
    """An MST-Distill arm whose students are told nothing by their teachers."""
    return _changed(arm, distillation_weight=0.0)


def without_masks(arm: Arm) -> Arm:
    """An MST-Distill arm whose teachers are not specialised."""
    return _changed(arm, masked=False, cumulative=False, k=1, routing_gradient="none")


def with_one_teacher(arm: Arm) -> Arm:
    """An MST-Distill arm whose router always picks the first teacher."""
    return _changed(arm, collapsed=True)


def _changed(arm: Arm, **settings: Any) -> Arm:
    return replace(arm, settings={**arm.settings, **settings}) if arm.settings["lesson"] == "mst" else arm


class _Collapsed(nn.Module):
    """A router that leaves all teachers but the first out."""

    def __init__(self, num_teachers: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.eye(num_teachers)[0] * 10)

    def forward(self, student_logits: Tensor) -> Tensor:
        return self.logits.softmax(dim=0).expand(len(student_logits), -1)


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """For every data set and seed: teachers trained on labels, and stages 1 and 2 of MST-Distill."""
    facts: dict[str, list[float]] = {}
    for name in context["data"]:
        for seed in range(context.scale.seeds):
            found, accuracy = _teach_teachers(context, name, seed)
            write_tensors(_file(context, name, seed), found)
            for role, value in accuracy.items():
                facts.setdefault(name_on(context["data"], name, f"{role}_accuracy"), []).append(value)
    return {name: sum(values) / len(values) for name, values in facts.items()}


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, and ask the one of its best epoch and the one of its last."""
    name, options = arm.settings["data"], {**arm.settings}
    lesson = options.pop("lesson")
    data, stored = _lessons(context, name, seed)
    method = _method(context, name, data, seed)
    for role, network in method.networks.items():
        prefix = "labels." if lesson != "mst" else "mutual."
        if role != "student" or lesson == "mst":
            network.load_state_dict(_under(stored, f"{prefix}{role}."))
    student, last = method.student, _LastEpoch(method.student, data.test)
    if lesson == "mst":
        del options["data"]
        method.make_masks(data.train)
        for number, teacher in enumerate(method.specialized.values()):
            teacher.mask.load_state_dict(_under(stored, f"mask{number}."))
        if options.pop("collapsed", False):
            options["router"] = _Collapsed(2 if options.get("masked") is False else len(method.specialized))
        settings = _settings(context["distillation"], seed)
        history = method.distill(data.train, data.validation, settings, monitors=[last], **options)
    else:
        learn: Method = Distillation(None, student, CrossEntropy())
        if lesson == "kd":
            group = TeacherGroup({role: method.networks[role] for role in options["from"]}, {"auxiliary": "auxiliary"})
            learn = RoutedDistillation(
                group.remember(data.train),
                student,
                k=len(group),
                routing="random",  # all of them
                task_weight=0.5,
                distillation_weight=0.5,
            )
        epochs = context["initialization"]["epochs"] + context["distillation"]["epochs"]
        settings = _settings({**context["distillation"], "epochs": epochs}, seed)
        history = Trainer(
            learn,
            data.train,
            settings=settings,
            evaluate=lambda: evaluate_model(student, data.validation),
            monitors=[last],
        ).run()
    metrics: Metrics = {
        **evaluate_model(student, data.validation),
        "test_accuracy": evaluate_model(student, data.test, prefix="")["accuracy"],
        "last_test_accuracy": last.accuracy,
        "best_epoch": float(min(history, key=lambda record: record["validation_loss"])["epoch"]),
    }
    if lesson == "mst":
        metrics |= _routing(history) | _drift(stored, masked=options.get("masked", True))
    return metrics


def _teach_teachers(context: Context, name: str, seed: int) -> tuple[dict[str, Tensor], dict[str, float]]:
    data = _load(context, name, seed)
    method = _method(context, name, data, seed)
    taught = {role: copy.deepcopy(method.networks[role]) for role in ("teacher", "auxiliary")}
    total = context["initialization"]["epochs"] + context["distillation"]["epochs"]
    labels_alone = MutualDistillation(taught, {})
    on_labels = TrainingSettings(seed=seed, **{**context["distillation"], "epochs": total})
    Trainer(labels_alone, data.train, settings=on_labels).run()
    method.initialize(data.train, TrainingSettings(seed=seed, **context["initialization"]))
    method.specialize(data.train, data.validation, _settings(context["specialization"], seed))
    found: dict[str, Tensor] = {}
    for prefix, module in (
        *((f"labels.{role}.", network) for role, network in taught.items()),
        *((f"mutual.{role}.", network) for role, network in method.networks.items()),
        *((f"mask{number}.", teacher.mask) for number, teacher in enumerate(method.specialized.values())),
    ):
        found |= {f"{prefix}{key}": value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    drift = method.drift(data.validation)
    found["drift.before"] = torch.tensor([drift[mask.partition("/")[0]] for mask in method.specialized])
    found["drift.after"] = torch.tensor([drift[mask] for mask in method.specialized])
    roles = {**taught, **{f"initialized_{role}": method.networks[role] for role in taught}}
    return found, {role: _accuracy(network, role.rpartition("_")[2], data.test) for role, network in roles.items()}


def _routing(history: list[Record]) -> Metrics:
    """How the last epoch's samples were spread over the teachers."""
    shares = [value for name, value in history[-1].items() if name.startswith("routing/")]
    return {"routing_shares": shares, "routing_entropy": routing_entropy(shares) / math.log(len(shares))}


def _drift(stored: Mapping[str, Tensor], *, masked: bool) -> Metrics:
    """Validation KL of every specialised teacher after stage 2, and of its network without the mask."""
    before = stored["drift.before"].tolist()
    return {"drift_before": before, "drift_after": stored["drift.after"].tolist() if masked else before}


class _LastEpoch(Monitor):
    """Asks the student after every epoch, so that the last one's answer is there when the best weights are back."""

    def __init__(self, student: nn.Module, samples: Samples) -> None:
        self.student, self.samples = student, samples
        self.accuracy = 0.0

    def on_record(self, record: Record) -> None:
        self.accuracy = evaluate_model(self.student, self.samples, prefix="")["accuracy"]


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks and masks of a scale and count their parameters (at `paper` without reading the data)."""
    described: dict[str, Any] = {}
    for name in scale.settings["data"]:
        with torch.device("meta"):
            method = _build(scale.settings, scale.settings["data"][name]["student"], SHAPES[scale.settings["networks"]])
            described |= {
                f"{name}, {role}": f"{parameter_count(network):,} parameters"
                for role, network in method.networks.items()
            }
            layers = ", ".join(f"{role}/{layer}" for role, paths in method.layers.items() for layer in paths)
            described[f"{name}, masks"] = layers
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


RULES = ("test_accuracy", "last_test_accuracy")


def beats_labels(results: Results, prefix: str) -> Judgement:
    """Claim 1: better on the first data set, not worse than by half a point on the others."""
    ours, theirs = f"{prefix}MST-Distill", f"{prefix}labels"
    tests = [results.paired(ours, theirs, metric) for metric in RULES]
    difference, p_value = min(test.difference for test in tests), max(test.p_value for test in tests)
    detail = "; ".join(
        f"{rule}: {results.mean(ours, metric):.4f} against {results.mean(theirs, metric):.4f}, "
        f"90 % interval [{test.ci_low:.4f}, {test.ci_high:.4f}]"
        for rule, metric, test in zip(("best epoch", "last epoch"), RULES, tests, strict=True)
    )
    if prefix:
        return Judgement(difference, difference >= -0.005, detail=detail)
    return Judgement(difference, difference > 0 and p_value < 0.1, p_value, detail)


def no_path_by_hand(results: Results, prefix: str) -> Judgement:
    """Claim 2."""
    margins, shown = [], []
    for metric in RULES:
        means = {arm.name: results.mean(prefix + arm.name, metric) for arm in CORE if arm.name != "labels"}
        margins.append(means["MST-Distill"] - max(means["KD teacher"], means["KD auxiliary"]))
        shown.append(", ".join(f"{arm} {value:.4f}" for arm, value in means.items()))
    detail = f"best epoch: {shown[0]}; last epoch: {shown[1]}"
    return Judgement(min(margins), min(margins) >= -0.005, detail=detail)


def drift_falls(results: Results, prefix: str) -> Judgement:
    """Claim 3: the smallest relative fall over masks and seeds."""
    before = results.values(f"{prefix}MST-Distill", "drift_before")
    after = results.values(f"{prefix}MST-Distill", "drift_after")
    falls = 1 - after / before
    detail = f"mean fall by mask {', '.join(f'{100 * value:.1f} %' for value in falls.mean(axis=0))}"
    return Judgement(float(falls.min()), bool((after < before).all()), detail=detail)


def routing_is_alive(results: Results, prefix: str) -> Judgement:
    """Claim 4: the smallest entropy over seeds, as a share of ln N."""
    entropy = results.values(f"{prefix}MST-Distill", "routing_entropy")
    others = [name for name in ("as released", "repaired router") if prefix + name in results.arms]
    detail = "; ".join(
        f"{name} mean {results.mean(prefix + name, 'routing_entropy'):.3f}" for name in ("MST-Distill", *others)
    )
    return Judgement(float(entropy.min()), bool(entropy.min() >= 0.5), detail=detail)


CLAIMS = (
    Claim(
        "beats-labels",
        "MST-Distill beats a student that learns from labels alone",
        "views of one scene, student on the projections: mean difference of test accuracy above 0, one-sided paired "
        "t-test p < 0.1; elsewhere at least -0.005; by the best epoch's student and by the last one's",
        on_every_data_set(beats_labels, "MST-Distill"),
        published="better than earlier distillation on five multimodal data sets (no figure verified)",
    ),
    Claim(
        "no-path-by-hand",
        "MST-Distill is as good as distillation from the better single teacher, without knowing which it is",
        "mean test accuracy at least that of the better of the two minus 0.005, by the best epoch's student and by the "
        "last one's",
        on_every_data_set(no_path_by_hand, "MST-Distill"),
    ),
    Claim(
        "drift-falls",
        "every mask brings its teacher closer to the student",
        "validation KL(student ‖ teacher) after stage 2 lower than without the mask, for every mask and seed",
        on_every_data_set(drift_falls, "MST-Distill"),
    ),
    Claim(
        "routing-alive",
        "the router uses its teachers",
        "entropy of the last epoch's routing frequencies at least half of ln N, in every seed",
        on_every_data_set(routing_is_alive, "MST-Distill"),
    ),
)

# ---- Networks --------------------------------------------------------------------------------------------------------

SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "perceptrons": {"image": (64,), "signal": (12,)},
    "av_mnist": {"image": (1, 28, 28), "sound": (1, 112, 112)},
}


def _build(settings: Mapping[str, Any], student: str, shapes: Mapping[str, tuple[int, ...]]) -> MSTDistill:
    """The three networks with the layers to mask; `student` is the view that the student sees."""
    (other,) = (view for view in shapes if view != student)
    if settings["networks"] == "av_mnist":
        single = {"image": (lenet, ["conv2", "conv3"]), "sound": (sound_network, ["conv2", "conv3"])}
        body = nn.Sequential()
        body.add_module("fc1", nn.Linear(84 + 512, 298))  # no activation between the two, as in the authors' code
        body.add_module("fc2", nn.Linear(298, 10))
        fusion = FusionNetwork({"image": lenet(head=False), "sound": sound_branch()}, body)
        return MSTDistill(
            fusion,
            single[other][0](),
            single[student][0](),
            teacher_layers=["concatenated", "body.fc1"],
            auxiliary_layers=single[other][1],
        )
    branch, widths = settings["branch"], settings["widths"]
    branches = {view: nn.Sequential(nn.Linear(shape[0], branch), nn.ReLU()) for view, shape in shapes.items()}
    return MSTDistill(
        FusionNetwork(branches, mlp(branch * len(branches), 10, hidden=widths)),
        mlp(shapes[other], 10, hidden=widths),
        mlp(shapes[student], 10, hidden=widths),
        teacher_layers=["body.linear1", "body.linear2"],
        auxiliary_layers=["linear1", "linear2"],
    )


# ---- Small pieces ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=4)
def _load_data(name: str, seed: int, **options: Any) -> Data:
    return load_data(name, seed=seed, **options)


def _load(context: Context, name: str, seed: int) -> Data:
    """The data, split by the seed; a worker keeps what it used last, and nobody writes into it."""
    choice = context["data"][name]
    return _load_data(choice["data"], seed, **choice["options"])


def _lessons(context: Context, name: str, seed: int) -> tuple[Data, Mapping[str, Tensor]]:
    """The data, and what `prepare` made for this seed (made here where more seeds are asked for)."""
    path = _file(context, name, seed)
    stored = read_tensors(path) if path.exists() else _teach_teachers(context, name, seed)[0]
    return _load(context, name, seed), stored


def _file(context: Context, name: str, seed: int) -> Path:
    return context.folder / f"{name}-{seed}.safetensors"


def _method(context: Context, name: str, data: Data, seed: int) -> MSTDistill:
    """The networks as they are before anyone has learned: the same for all arms of a seed."""
    views = data.train.batch(torch.arange(1)).inputs_for("teacher")
    assert isinstance(views, dict)
    torch.manual_seed(seed)
    shapes = {view: tuple(value.shape[1:]) for view, value in views.items()}
    return _build(context.scale.settings, context["data"][name]["student"], shapes)


def _settings(settings: Mapping[str, Any], seed: int) -> TrainingSettings:
    return TrainingSettings(seed=seed, keep_best="validation_loss", **settings)


def _under(stored: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


@torch.no_grad()
def _accuracy(network: nn.Module, reader: str, samples: Samples) -> float:
    """Of a network that sees its own view."""
    device, hits = next(network.parameters()).device, 0
    network.eval()
    for rows in torch.split(torch.arange(len(samples)), 512):
        batch: Batch = samples.batch(rows).to(device)
        assert batch.target is not None
        hits += int((logits_of(network, batch, reader).argmax(dim=1) == batch.target).sum())
    return hits / len(samples)


recipe = Recipe(
    slug="mst-distill",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={
        "no-distillation": without_distillation,
        "no-masks": without_masks,
        "one-teacher": with_one_teacher,
    },
    describe=describe,
)
