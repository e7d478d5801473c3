"""N2N: can two policies find, inside a teacher, a student a tenth its size that is nearly as accurate?

Source: "N2N Learning: Network to Network Compression via Policy Gradient Reinforcement Learning", ICLR 2018, arXiv
1709.06030.

The question. A policy deletes layers of a trained network, a second one shrinks what is left; a student is worth its
accuracy after a short lesson from the teacher, times a function of its size. Does the reward rise as the policies
learn, does learning beat drawing at random, and does a policy help with a larger teacher? The teacher is a VGG-like
network on 8 × 8 digits.

The comparison. Random search has the same stages, students, lessons and budget, and draws every decision evenly. Every
seed has teachers of its own, shared by the arms. Rewards come from the validation part; the test part is read once,
after the final training. The student that N2N found is also taught by labels alone, and a network of its size (or the
smallest there is) with all widths scaled alike is taught as the student is. "Patterns" is a test of the policy
gradient without any training: twelve layers, and a reward that is the share of decisions equal to a hidden pattern.

What to expect. In a chain with padded convolutions and pools, most decisions drawn evenly make no smaller network: a
pool that goes makes the linear layer's input four times as large; a padding of 1 shrinks to 0, and the map vanishes.
Much of what the policies can learn is to keep out of there, and the 40 students a stage of `quick` are few for that.

What holds at quick scale (three seeds). The policies learn a hidden pattern (0.92 and 1.00 of the decisions), search
finds better students than chance (best reward 0.18 ahead), and a policy that was moved to a larger teacher starts a
little better. But policies that do not learn (`--break unlearned`) are as far ahead of chance (0.18), so that lead
comes from where they start, and not from what they learn; what they learn shows in the pattern and in the final
student, which is 2.3 times smaller without it. The student loses 0.3 points, but has only 4.1 times fewer parameters
where 10 are asked; a network of its size with all widths scaled alike is as accurate as the teacher. Mean rewards rise
while layers shrink and fall while they are removed: the likely reason for both is the budget of 40 students a stage,
most of them invalid.

`full` has some twice the iterations, a second data set (`mnist1d`, the same network in one dimension) and further arms.
Three of five claims hold. N2N's best reward is 0.02 ahead of chance on both; policies that do not learn (0.68 beside
0.72 for N2N and 0.69 for chance on digits) and the official code's mean credit (0.67) are a little behind, which three
seeds cannot tell apart. Removal alone does as well as both stages (0.72), shrinkage alone far worse (0.27). Without a
limit the digits student loses 0.4 points and is 3.2 to 7.7 times smaller; with a limit of a tenth it keeps to it in all
seeds (12 times smaller) and still loses 0.4 points, but uniform width loses 0.2. On `mnist1d` the student is 16 points
below its teacher after the final training, in two seeds of three badly, and uniform width is level with the teacher:
lessons of a dozen steps say little there. Rewards rise in every seed and stage of `mnist1d`, in three of six of digits.
An earlier `full` with 40 iterations and digits alone had them rise everywhere (there are 18 now for the sake of time);
a trial of two seeds with 100 found nothing better than after 24: by then the policies are sure, and few of their
students are new.

Departures from the paper: data, networks and budget are ours at every scale but `paper`; descriptions are divided by
the teacher's largest entries; each student is credited with its own reward (see `NetworkCompressor`). For the sake of
seconds, `quick` and `full` use half the widths that a teacher of 300 000 parameters would have and far fewer than the
paper's 500 students a stage. "Patterns" chooses among three multipliers and has 20 rollouts an iteration: with the five
of the searches, the removal policy was sure of a wrong decision or two before it had seen enough (rewards of 0.75 to
0.92), which is no fault of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.data import Data, load_data
from tutelage.data.subsets import subset
from tutelage.models import build_model, load_model, parameter_count, save_model
from tutelage.objectives import CrossEntropy, LogitMSE
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.reproduction.several_data_sets import arms_on, name_on, on_every_data_set
from tutelage.students import (
    NetworkCompressor,
    RemovalPolicy,
    RunningBaseline,
    ShortDistillation,
    ShrinkagePolicy,
    layered_student,
    random_architecture_search,
    reinforce_loss,
    uniform_width_architecture,
)
from tutelage.students.compressor import Stage
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted, evaluate_model
from tutelage.training.distillation import Objectives

# ---- Scales ----------------------------------------------------------------------------------------------------------

TEACHER_TRAINING = {"learning_rate": 3e-3, "batch_size": 128, "epochs": 12}
LESSON = {"optimizer": "adam", "learning_rate": 5e-3, "weight_decay": 0.0, "batch_size": 128, "epochs": 3}
FINAL_TRAINING = {"learning_rate": 5e-3, "batch_size": 128, "epochs": 30}
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4, "batch_size": 128}
STAGES: tuple[Stage, ...] = ("removal", "shrinkage")
RESNET_WIDTHS = (64, 128, 256, 512)
CLASSES = 10  # of both data sets
SMALL, MIDDLE, LARGE = (16, 16, 32, 32), (16, 16, 32, 32, 64, 64), (16, 16, 32, 32, 32, 32, 64, 64)


DIGITS = {"options": {}, "lesson_samples": 512}
SIGNALS = {"options": {"channel": True, "train": 1000, "validation": 400}, "lesson_samples": 512}


def _settings(**changes: Any) -> dict[str, Any]:
    common = {
        "data": {"digits": DIGITS},
        "further_arms": False,
        "teacher": MIDDLE,
        "small_teacher": SMALL,
        "large_teacher": LARGE,
        "iterations": 8,
        "learning_rate": 0.01,
        "pattern_iterations": 300,
        "lesson": LESSON,
        "teacher_training": TEACHER_TRAINING,
        "final_training": FINAL_TRAINING,
    }
    return {**common, **changes}


SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=1,
        settings=_settings(
            data={
                "digits": {"options": {"fractions": (200, 100, 1497)}, "lesson_samples": 128},
                "mnist1d": {"options": {"channel": True, "train": 200, "validation": 100}, "lesson_samples": 128},
            },
            further_arms=True,
            teacher=SMALL,
            small_teacher=(16, 16),
            large_teacher=SMALL,
            iterations=1,
            pattern_iterations=3,
            lesson={**LESSON, "epochs": 1},
            teacher_training={**TEACHER_TRAINING, "epochs": 2},
            final_training={**FINAL_TRAINING, "epochs": 2},
        ),
    ),
    "quick": Scale("quick", seeds=3, settings=_settings()),
    "full": Scale(
        "full",
        seeds=3,
        settings=_settings(data={"digits": DIGITS, "mnist1d": SIGNALS}, further_arms=True, iterations=18),
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": {"tutelage.data.cifar:cifar100": {"options": {}, "lesson_samples": None}},
            "further_arms": True,
            # ResNet-34, and ResNet-18 for the transfer.
            "teacher": {"name": "resnet", "arguments": {"widths": RESNET_WIDTHS, "depths": (3, 4, 6, 3)}},
            "small_teacher": {"name": "resnet", "arguments": {"widths": RESNET_WIDTHS, "depths": (2, 2, 2, 2)}},
            "large_teacher": {"name": "resnet", "arguments": {"widths": RESNET_WIDTHS, "depths": (3, 4, 6, 3)}},
            "iterations": 100,
            "learning_rate": 0.003,
            "pattern_iterations": 300,
            "lesson": {
                "optimizer": "adam",
                "learning_rate": 5e-4,
                "weight_decay": 5e-4,
                "batch_size": 200,
                "epochs": 5,
            },
            "teacher_training": {**SGD, "epochs": 200},
            "final_training": {**SGD, "epochs": 200},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

CORE = [
    Arm("N2N", {"search": "n2n", "final": True}, description="both stages, then the final training"),
    Arm("random search", {"search": "random"}, description="the same stages and budget, decisions drawn evenly"),
]
ON_DIGITS = [
    Arm("transfer", {"search": "transfer"}, description="first iterations on a larger teacher, with and without"),
    Arm("patterns", {"search": "patterns"}, description="the policies alone, with a hidden pattern for a reward"),
]
FURTHER = [
    Arm("removal only", {"search": "n2n", "stages": (2, 0)}, description="stage 1 with the budget of both"),
    Arm("shrinkage only", {"search": "n2n", "stages": (0, 2)}, description="stage 2 with the budget of both"),
    Arm("mean credit", {"search": "n2n", "credit": "mean"}, description="credit as in the official code"),
    Arm("unlearned", {"search": "n2n", "learning_rate": 0.0}, description="policies stay as they were drawn"),
    Arm("size limit", {"search": "n2n", "final": True, "limit": 0.1}, description="at most a tenth of the parameters"),
]


def arms(scale: Scale) -> list[Arm]:
    """Search and chance on every data set; on the first one the policies by themselves, and the further arms."""
    data_sets = scale.settings["data"]
    first = [*ON_DIGITS, *(FURTHER if scale.settings["further_arms"] else [])]
    return arms_on(data_sets, CORE) + arms_on([next(iter(data_sets))], first)


def without_learning(arm: Arm) -> Arm:
    """An arm whose policies stay as they were drawn."""
    return Arm(arm.name, {**arm.settings, "learning_rate": 0.0}, arm.group, arm.description)


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Train every seed's teachers: one a data set, and on the first one those of the transfer."""
    facts: dict[str, float] = {}
    for place, name in enumerate(context["data"]):
        data = _data(context, name)
        for seed in range(context.scale.seeds):
            for role in ("teacher", "small_teacher", "large_teacher")[: 1 if place else 3]:
                torch.manual_seed(seed)
                model = _network(context[role], data)
                settings = TrainingSettings(seed=seed, **context["teacher_training"])
                Trainer(Distillation(None, model, CrossEntropy()), data.train, settings=settings).run()
                save_model(_folder(context, name, role, seed), model.cpu())
        teacher = load_model(_folder(context, name, "teacher", 0))
        facts[name_on(context["data"], name, "parameters")] = float(parameter_count(teacher))
    return facts


def vgg(channels: Sequence[int], input_shape: tuple[int, ...] = (1, 8, 8), *, hidden: int = 64) -> nn.Sequential:
    """Convolutions of 3 with batch norm and ReLU, a max pool after every second where it fits, two linear layers.

    >>> parameter_count(vgg((16, 16))), parameter_count(vgg((16, 16), (1, 40)))
    (19610, 22074)
    """
    layers: list[dict[str, Any]] = []
    side, dimensions = input_shape[-1], f"{len(input_shape) - 1}d"
    for number, width in enumerate(channels, start=1):
        convolution = {"kernel": 3, "stride": 1, "width": width, "padding": 1, "bias": False}
        layers.append({"kind": f"Conv{dimensions}", **convolution})
        layers += [{"kind": f"BatchNorm{dimensions}", "width": width}, {"kind": "ReLU"}]
        if number % 2 == 0 and side > 1:
            layers.append({"kind": f"MaxPool{dimensions}", "kernel": 2, "stride": 2})
            side //= 2
    layers += [{"kind": "Linear", "width": hidden}, {"kind": "ReLU"}, {"kind": "Linear", "width": CLASSES}]
    return layered_student(layers, input_shape)


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Run one arm."""
    rate = arm.settings.get("learning_rate", context["learning_rate"])
    match arm.settings["search"]:
        case "patterns":
            iterations = context["pattern_iterations"]
            rate = arm.settings.get("learning_rate", 0.003)
            return {
                "removal": learn_pattern("removal", iterations, seed, rate),
                "shrinkage": learn_pattern("shrinkage", iterations, seed, rate),
            }
        case "transfer":
            return _transfer(context, arm, seed, rate)
    data = _data(context, arm.settings["data"])
    search = _search(context, arm, data, "teacher", seed, rate)
    best = search.best()
    found: Metrics = {"best_reward": best.reward, "size": float(best.size)}
    for stage in STAGES:
        if len(rewards := search.rewards(stage)):
            found[f"{stage}_rewards"] = rewards.mean(dim=1).tolist()
    if not arm.settings.get("final"):
        return found
    teacher = load_model(_folder(context, arm.settings["data"], "teacher", seed))
    uniform = uniform_width_architecture(search.teacher_layers, search.input_shape, best.size)
    distilled = [Weighted(CrossEntropy(), 1.0), Weighted(LogitMSE(), 0.1)]
    students: dict[str, tuple[nn.Module, Objectives]] = {
        "student": (search.build(best.architecture), distilled),
        "labels_alone": (search.build(best.architecture), [CrossEntropy()]),
        "uniform_width": (search.build(uniform), distilled),
    }
    settings = TrainingSettings(seed=seed, **context["final_training"])
    for name, (student, objectives) in students.items():
        lesson = ShortDistillation(teacher, data.train, data.test, settings=settings, objectives=objectives)
        found[f"{name}_accuracy"] = lesson.accuracy(lesson.train(student))
    found["uniform_width_size"] = float(parameter_count(students["uniform_width"][0]))
    found["teacher_accuracy"] = evaluate_model(teacher, data.test, prefix="")["accuracy"]
    return {**found, "compression": search.teacher_size / best.size}


def _transfer(context: Context, arm: Arm, seed: int, rate: float) -> Metrics:
    """Mean rewards of the first five iterations of stage 1 on the large teacher."""
    data = _data(context, arm.settings["data"])
    number = context["iterations"]
    taught = _search(context, arm, data, "small_teacher", seed, rate, iterations=(number, 0)).removal_policy
    rewards = {}
    for name, policy in (("from_scratch", None), ("transferred", taught)):
        search = _search(context, arm, data, "large_teacher", seed, rate, policy=policy, iterations=(5, 0))
        rewards[name] = search.rewards("removal").mean().item()
    return {**rewards}


def _search(
    context: Context,
    arm: Arm,
    data: Data,
    role: str,
    seed: int,
    rate: float,
    *,
    policy: RemovalPolicy | None = None,
    iterations: tuple[int, int] | None = None,
) -> NetworkCompressor:
    """A finished search in a teacher."""
    name = arm.settings["data"]
    teacher = load_model(_folder(context, name, role, seed))
    count = context["data"][name]["lesson_samples"]
    samples = data.train if count is None else subset(data.train, torch.arange(count))
    settings = TrainingSettings(seed=seed, **context["lesson"])
    lesson = ShortDistillation(teacher, samples, data.validation, settings=settings)
    removals, shrinkages = (context["iterations"] * share for share in arm.settings.get("stages", (1, 1)))
    limit = arm.settings.get("limit")
    options: dict[str, Any] = {
        "input_shape": _input_shape(data),
        "iterations": iterations or (removals, shrinkages),
        "learning_rate": rate,
        "credit": arm.settings.get("credit", "rollout"),
        "size_limit": None if limit is None else int(limit * parameter_count(teacher)),
        "seed": seed,
    }
    if arm.settings["search"] == "random":
        return random_architecture_search(teacher, lesson.train, lesson.accuracy, **options)
    search = NetworkCompressor(teacher, lesson.train, lesson.accuracy, removal_policy=policy, **options)
    search.remove_layers()
    search.shrink_layers()
    return search


def learn_pattern(stage: str, iterations: int, seed: int, learning_rate: float, *, rollouts: int = 20) -> float:
    """Mean reward of the last 20 iterations where the reward is the share of decisions equal to a hidden pattern."""
    torch.manual_seed(seed)
    x, multipliers = 3 * torch.randn(12, 5), (0.25, 0.5, 1.0)
    policy: RemovalPolicy | ShrinkagePolicy
    if stage == "removal":
        policy, forced, pattern = RemovalPolicy(5), torch.zeros(12, dtype=torch.bool), torch.rand(12) < 0.5
    else:
        policy, forced = ShrinkagePolicy(5, multipliers), torch.ones(12, 5, dtype=torch.bool)
        forced[:, 3] = False
        pattern = policy.multipliers[torch.randint(3, (12,))]
    optimizer = torch.optim.Adam(policy.parameters(), lr=learning_rate)
    baseline, rewards = RunningBaseline("ema"), []
    for _ in range(iterations):
        decisions, log_probs, _ = policy.sample(x.expand(rollouts, 12, 5), forced)
        hits = decisions if stage == "removal" else decisions[..., 3]
        reward = (hits == pattern).float().mean(dim=1)
        optimizer.zero_grad()
        reinforce_loss(log_probs, reward, baseline=baseline.value).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rewards.append(reward.mean().item())
        baseline.update(rewards[-1])
    return sum(rewards[-20:]) / len(rewards[-20:])


def describe(scale: Scale) -> dict[str, Any]:
    """Build the teachers of a scale and count their parameters (at `paper` without reading the data)."""
    if scale.name == "paper":
        model = build_model(scale.settings["teacher"], num_classes=100, input_shape=(3, 32, 32))
        return {"teacher": f"{type(model).__name__}, {parameter_count(model):,} parameters"}
    roles = ("teacher", "small_teacher", "large_teacher")
    return {role: f"VGG-like, {parameter_count(vgg(scale.settings[role])):,} parameters" for role in roles}


# ---- Claims ----------------------------------------------------------------------------------------------------------


def policies_learn(results: Results) -> Judgement:
    """Claim 0."""
    values = {stage: results.mean("patterns", stage) for stage in ("removal", "shrinkage")}
    detail = ", ".join(f"{stage} {value:.3f}" for stage, value in values.items())
    return Judgement(min(values.values()), min(values.values()) >= 0.9, detail=detail)


def small_and_accurate(results: Results, prefix: str = "") -> Judgement:
    """Claim 1."""
    compression, loss, detail = _final(results, f"{prefix}N2N")
    if f"{prefix}size limit" in results.arms:
        limited, _, further = _final(results, f"{prefix}size limit")
        detail += f"; with a size limit {limited:.2f} times smaller, {further}"
    return Judgement(compression, compression >= 10 and loss <= 0.02, detail=detail)


def rewards_rise(results: Results, prefix: str = "") -> Judgement:
    """Claim 2."""
    rises = []
    for stage in STAGES:
        curve = results.values(f"{prefix}N2N", f"{stage}_rewards")
        quarter = max(1, curve.shape[1] // 4)
        rises += (curve[:, -quarter:].mean(axis=1) - curve[:, :quarter].mean(axis=1)).tolist()
    detail = "removal, then shrinkage, by seed: " + ", ".join(f"{rise:+.3f}" for rise in rises)
    return Judgement(min(rises), min(rises) > 0, detail=detail)


def beats_random_search(results: Results, prefix: str = "") -> Judgement:
    """Claim 3."""
    ours, chance = f"{prefix}N2N", f"{prefix}random search"
    difference = results.difference(ours, chance, "best_reward")
    curves = [
        (results.values(ours, metric) - results.values(chance, metric)).mean()
        for metric in ("removal_rewards", "shrinkage_rewards")
    ]
    detail = f"mean reward of all students ahead by {curves[0]:+.3f} (removal) and {curves[1]:+.3f} (shrinkage)"
    names = [name for name in (ours, chance, *(prefix + arm.name for arm in FURTHER[:-1])) if name in results.arms]
    detail += "; best rewards: " + ", ".join(f"{name} {results.mean(name, 'best_reward'):.3f}" for name in names)
    return Judgement(difference, difference >= -0.01, detail=detail)


def _final(results: Results, arm: str) -> tuple[float, float, str]:
    """Compression, loss of accuracy, and the accuracies after final training."""
    names = ("teacher", "student", "labels_alone", "uniform_width")
    accuracies = {name: results.mean(arm, f"{name}_accuracy") for name in names}
    loss = accuracies["teacher"] - accuracies["student"]
    detail = f"loss of accuracy {loss:.4f}; " + ", ".join(f"{name} {value:.4f}" for name, value in accuracies.items())
    return results.mean(arm, "compression"), loss, detail


def policies_transfer(results: Results) -> Judgement:
    """Claim 4."""
    values = {name: results.mean("transfer", name) for name in ("from_scratch", "transferred")}
    difference = values["transferred"] - values["from_scratch"]
    detail = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    return Judgement(difference, difference > 0, detail=detail)


CLAIMS = (
    Claim(
        "policies-learn",
        "both policies find a hidden pattern from its rewards alone",
        "mean reward of the last 20 of 300 iterations at least 0.9 for both, in the seed mean",
        policies_learn,
    ),
    Claim(
        "small-and-accurate",
        "the best student is a tenth of the teacher or less, and about as accurate",
        "compression at least 10, and test accuracy at least the teacher's minus 0.02 after final training, seed mean, "
        "on every data set",
        on_every_data_set(small_and_accurate, "N2N"),
        published="more than 10 times smaller (such as ResNet-34) at similar accuracy",
    ),
    Claim(
        "rewards-rise",
        "the policies learn while they search",
        "mean reward of the last quarter of iterations above that of the first, in every seed, stage and data set",
        on_every_data_set(rewards_rise, "N2N"),
    ),
    Claim(
        "beats-random-search",
        "learning finds at least as good a student as drawing at random",
        "best reward at least that of random search minus 0.01, seed mean, on every data set",
        on_every_data_set(beats_random_search, "N2N"),
    ),
    Claim(
        "policies-transfer",
        "a policy from a small teacher starts better on a larger one",
        "mean reward over the first 5 iterations above that from scratch, seed mean",
        policies_transfer,
    ),
)


def _data(context: Context, name: str) -> Data:
    return load_data(name, **context["data"][name]["options"])


def _network(specification: Any, data: Data) -> nn.Module:
    """A VGG-like network by its channels, or one by its specification."""
    if isinstance(specification, tuple):
        return vgg(specification, _input_shape(data))
    return build_model(specification, num_classes=data.num_classes, input_shape=_input_shape(data))


def _input_shape(data: Data) -> tuple[int, ...]:
    inputs = data.train.batch(torch.arange(1)).inputs
    assert isinstance(inputs, torch.Tensor)
    return tuple(inputs.shape[1:])


def _folder(context: Context, data: str, role: str, seed: int) -> Path:
    return context.folder / f"{data.rpartition(':')[2]}-{role}-{seed}"


recipe = Recipe(
    slug="n2n",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"unlearned": without_learning},
    describe=describe,
)
