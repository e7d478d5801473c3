"""DisWOT: does an untrained network show how well it would learn from a teacher?

Source: Dong et al., "DisWOT: Student Architecture Search for Distillation WithOut Training", CVPR 2023, arXiv
2303.15678. Part A ranks the 64 residual networks of the paper's space S0, whose accuracies with and without a teacher
its repository publishes; they are shipped with this package as a CSV file (see the README beside it).

The question. Student and teacher get new random weights, see one batch, and are compared: how alike they find the
samples (relation), and how alike they weigh channels for the classes (semantic). Does the sum rank architectures by
their accuracy after distillation (A), so cheaply that it can search (B), and is what it finds better than chance? And
do the same distances teach, beside the logits?

The comparison. A needs no data: images are Gaussian noise and labels random, 32 images a draw, one draw of images and
weights a score. Beside the score stand what knows no teacher: parameters, multiply-adds, NASWOT, SynFlow and the
gradient norm, each with its partial rank correlation given the number of parameters. B is 54 convolutional networks for
rendered capitals. A sample of them is trained with and without a teacher; so are the networks that a search by the
score, chance, and the number of parameters pick within the same budget (the median of the space). Every network has the
same images, epochs, optimiser and rate.

Departures from the paper: images are noise in A; B's space and data are ours, and students learn for 15 epochs, not
240. Scores use the definitions of the paper and of its README; every candidate meets the same batch and the same
teacher gradient, which is not so in the released loops. Classes whose gradient is next to nothing are damped by the
release's guard of 1e-12 in normalisation, and so are they here; without it the semantic score ranked clearly worse.
At `full` every teacher has five draws of images and weights.

What was seen before recording. Two draws with 32 images gave Spearman's rho of 0.70 and 0.74 for the sum, and partial
rank correlations given the number of parameters of -0.24 and -0.35: on S0 the score does not add to the number of
parameters, which alone has 0.97. With Gaussian noise in place of what the teacher says, the semantic part ranked as
well (0.72, 0.75), so most of the score is no comparison; the relation part did not (-0.92). That is the reason for the
arm "noise for a teacher" at `full`, and for `--break noise`, which part A's claim is likely to survive; it does not
survive `--break chance`. For part B the smallest and the largest network were
trained once at batches of 64 and of 32, with and without a teacher (28 to 79 % right); 32 was taken, and the teacher's
epochs were raised from 25 to 40. No pick or lesson was looked at before recording.

What holds, and what it says (four of five claims, at `quick` and at `full`). The best networks differ; the score ranks
the published networks (rho 0.73 and 0.75), costs a 290th of a short distillation, and the distances teach beside the
logits (channels: +2.1 and +2.5 points over KD). But it cannot search here: its picks (51 % and 51 % right) are behind
random ones (55 and 57 %), and the largest network within the budget is far ahead (71 %). Within this space the score
does not rank at all (rho -0.60 and -0.02) where parameters rank almost perfectly (0.98 and more), as does plain
training. On S0 too the score says less than the number of parameters and nothing beyond it (-0.20, -0.08), and ranks
nearly as well against noise in place of the teacher (0.72). The likely reason: what it measures of an untrained network
is how alike samples and channels become with depth, which in S0 goes with accuracy and here does not.
"""

from __future__ import annotations

import functools
import math
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tutelage.data import Data, load_data
from tutelage.data.cifar import AugmentedImages
from tutelage.features import ChannelRelationDistance, SampleRelationDistance
from tutelage.models import build_model, load_model, multiply_adds, parameter_count, resnet, save_model
from tutelage.objectives import CrossEntropy, KnowledgeDistillation
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.reproduction.depths_table import PublishedDepths, published_depths
from tutelage.students import (
    DepthSpace,
    DisWOT,
    SearchSpace,
    StageSpace,
    evolutionary_search,
    gradient_norm,
    naswot,
    partial_rank_correlation,
    random_search,
    rank_correlation,
    synflow,
)
from tutelage.teachers import FrozenTeacher, Teacher
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted, evaluate_model

# ---- Scales ----------------------------------------------------------------------------------------------------------

CAPITALS = {"alphabet": "uppercase", "train_per_class": 24, "validation_per_class": 20, "test_per_class": 60}
TRAINING = {"learning_rate": 5e-3, "weight_decay": 0.01, "scheduler": "cosine", "batch_size": 32, "epochs": 15}
STAGES = {"depths": (1, 2, 3), "widths": (8, 16, 32), "kernels": (3, 5)}
SMALL = {
    "data": "glyphs",
    "options": CAPITALS,
    "space": "stages",
    "teacher": {"name": "convnet", "arguments": {"channels": (32, 64, 64)}},
    "teacher_training": {**TRAINING, "epochs": 40},
    "training": TRAINING,
    "images": 32,
    "search": {"population": 12, "tournament": 4, "evaluations": 54},
    "lesson": (2, 2, 16, 3),
}

SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **SMALL,
            "options": {**CAPITALS, "alphabet": "ABCD", "train_per_class": 16, "test_per_class": 20},
            "teachers": {"ResNet-56": (2, 2, 2)},
            "depths": 6,
            "draws": 1,
            "score_images": 4,
            "proxy_images": 2,
            "truth": 2,
            "teacher_training": {**TRAINING, "epochs": 3},
            "training": {**TRAINING, "epochs": 2},
            "search": {"population": 3, "tournament": 2, "evaluations": 4},
            "weights": {"relation": (100.0,), "channel": (1.0,)},
        },
    ),
    "quick": Scale(
        "quick",
        seeds=3,
        settings={
            **SMALL,
            "teachers": {"ResNet-56": (9, 9, 9)},
            "depths": 64,
            "draws": 1,
            "score_images": 32,
            "proxy_images": 8,
            "truth": 6,
            "weights": {"relation": (10.0, 1000.0), "channel": (0.1, 1.0)},
        },
    ),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            **SMALL,
            "teachers": {"ResNet-56": (9, 9, 9), "ResNet-110": (18, 18, 18)},
            "depths": 64,
            "draws": 1,
            "control": True,
            "score_images": 32,
            "proxy_images": 8,
            "truth": 8,
            "weights": {"relation": (10.0, 1000.0), "channel": (0.1, 1.0)},
        },
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": "tutelage.data.cifar:cifar100",
            "options": {},
            "space": "depths",
            "teacher": {"name": "resnet", "arguments": {"widths": (16, 32, 64), "depths": (9, 9, 9)}},
            "teachers": {"ResNet-56": (9, 9, 9), "ResNet-110": (18, 18, 18)},
            "depths": 64,
            "draws": 4,
            "control": True,
            "score_images": 64,
            "proxy_images": 64,
            "images": 64,
            "truth": 64,
            "augment": True,
            "teacher_training": {
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "weight_decay": 5e-4,
                "batch_size": 64,
                "epochs": 240,
                "scheduler": "step",
                "milestones": (150 / 240, 180 / 240, 210 / 240),
            },
            "training": {
                "optimizer": "sgd",
                "learning_rate": 0.05,
                "weight_decay": 5e-4,
                "batch_size": 64,
                "epochs": 240,
                "scheduler": "step",
                "milestones": (150 / 240, 180 / 240, 210 / 240),
            },
            "search": {"population": 36, "tournament": 8, "evaluations": 1000},
            "lesson": (5, 5, 7),
            "weights": {"relation": (3000.0,), "channel": (1.0,)},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("uoft-cs/cifar100",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

PICKS = ("DisWOT", "random", "largest")


def arms(scale: Scale) -> list[Arm]:
    """The published space against every teacher, a sample of ours, what searches pick, and lessons by relations."""
    settings = scale.settings
    teachers = settings["teachers"]
    found = [Arm(f"S0, {name}", {"depths": depths}) for name, depths in teachers.items()]
    if settings.get("control"):
        noise = {"depths": next(iter(teachers.values())), "broken": "noise"}
        found.append(Arm("noise for a teacher", noise, description="students of S0 compared with noise"))
    found += [
        Arm(_name(arch), {"arch": arch}, group="sample") for arch in sampled(make_space(scale), settings["truth"])
    ]
    found += [Arm(f"{pick} pick", {"pick": pick}) for pick in PICKS]
    found += [Arm("CE", {"lesson": None}), Arm("KD", {"lesson": "KD"})]
    for lesson, weights in settings["weights"].items():
        for weight in weights:
            name, group = f"KD + {lesson} {weight:g}", f"KD + {lesson}"
            found.append(Arm(name, {"lesson": lesson, "weight": weight}, group=group))
    return found


def against_noise(arm: Arm) -> Arm:
    """A score that compares the student with Gaussian noise in place of what the teacher says."""
    scored = {"depths", "arch"} & set(arm.settings) or arm.settings.get("pick") == "DisWOT"
    return replace(arm, settings={**arm.settings, "broken": "noise"}) if scored else arm


def by_chance(arm: Arm) -> Arm:
    """A score that is a random number, the same for an architecture whenever it is asked."""
    scored = {"depths", "arch"} & set(arm.settings) or arm.settings.get("pick") == "DisWOT"
    return replace(arm, settings={**arm.settings, "broken": "chance"}) if scored else arm


# ---- A space of small convolutional networks -------------------------------------------------------------------------


def make_space(scale: Scale) -> SearchSpace:
    """The space of part B; the paper's own at `paper`."""
    if scale.settings["space"] == "depths":
        return DepthSpace((1, 3, 5, 7))
    alphabet = scale.settings["options"]["alphabet"]
    classes = 26 if alphabet == "uppercase" else len(alphabet)
    return StageSpace(**STAGES, num_classes=classes, input_shape=(1, 12, 12))


def sampled(space: SearchSpace, count: int) -> list[Any]:
    """Distinct architectures of a space, the same ones every time."""
    rng = random.Random(0)
    found: dict[Any, None] = {}
    while len(found) < count:
        found[space.sample(rng)] = None
    return list(found)


def budget_of(space: SearchSpace) -> float:
    """The median cost of architectures of the space."""
    rng = random.Random(0)
    return statistics.median(space.cost(space.sample(rng)) for _ in range(200))


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> Mapping[str, float]:
    """Recompute the table's statistics, score S0 by what knows no teacher, and train the teacher of part B."""
    table = published_depths(context["depths"])
    torch.manual_seed(0)
    data = _load(context)
    teacher = build_model(context["teacher"], num_classes=data.num_classes, input_shape=_shape(data))
    settings = TrainingSettings(seed=0, **context["teacher_training"])
    Trainer(Distillation(None, teacher, CrossEntropy()), _lessons(context, data), settings=settings).run()
    save_model(context.folder / "teacher", teacher)
    accuracy = evaluate_model(teacher, data.test, task=data.task)["validation_accuracy"]
    return {
        **table_statistics(published_depths()),
        **proxy_statistics(table, context["proxy_images"]),
        "teacher_accuracy": accuracy,
        "budget": budget_of(make_space(context.scale)),
    }


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Score the published space, or train one network of ours."""
    settings = arm.settings
    if "depths" in settings:
        return score_published(context, settings, seed)
    data = _load(context)
    teacher = load_model(context.folder / "teacher").eval()
    space = make_space(context.scale)
    kd = {"kd": KnowledgeDistillation(alpha=0.9, temperature=4.0)}
    if "lesson" in settings:
        return {**_train(context, data, *_lesson(context, settings, teacher), space.build, context["lesson"], seed)}
    score = _scorer(context, data, teacher, space, settings.get("broken"), seed)
    if "pick" in settings:
        arch = pick(settings["pick"], context, space, score, seed)
        learned = _train(context, data, FrozenTeacher(teacher), kd, space.build, arch, seed)
        return {**learned, "parameters": float(space.cost(arch))}
    arch = settings["arch"]
    value, seconds = _timed_score(score, arch)
    learned = _train(context, data, FrozenTeacher(teacher), kd, space.build, arch, seed)
    plain = _train(context, data, None, {"ce": CrossEntropy()}, space.build, arch, seed)
    own = {f"plain_{name}": plain[name] for name in ("validation_accuracy", "test_accuracy")}
    return {**learned, **own, "score": value, "score_seconds": seconds, "parameters": float(space.cost(arch))}


def score_published(context: Context, settings: Mapping[str, Any], seed: int) -> Metrics:
    """How well scores from random images rank the published accuracies: one value a draw of images and weights."""
    table, space = published_depths(context["depths"]), DepthSpace((1, 3, 5, 7))
    costs = [space.cost(arch) for arch in table.depths]
    found: dict[str, list[float]] = {}
    for draw in range(context["draws"]):
        generator = torch.Generator().manual_seed(1000 * draw + seed)
        x, y = _noise(context["score_images"], generator)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            teacher = resnet((3, 32, 32), 100, widths=(16, 32, 64), depths=settings["depths"])
            scorer = _broken(DisWOT(teacher, x, y, generator=generator), settings.get("broken"))
            scores = [scorer(space.build(arch)) for arch in table.depths]
        if settings.get("broken") == "chance":
            scores = [type(score)(*torch.rand(3, generator=generator).tolist()) for score in scores]
        for part in ("total", "semantic", "relation"):
            values = [getattr(score, part) for score in scores]
            found.setdefault(f"{part}_spearman", []).append(rank_correlation(values, table.distilled, kind="spearman"))
            found.setdefault(f"{part}_kendall", []).append(rank_correlation(values, table.distilled))
            beyond = _beyond_size(values, table, costs)
            found.setdefault(f"{part}_beyond_size", []).append(beyond)
    return dict(found)


def table_statistics(table: PublishedDepths) -> dict[str, float]:
    """Claim 1's figures, from the published table alone."""
    distilled, plain = (max(range(len(column)), key=column.__getitem__) for column in (table.distilled, table.plain))
    return {
        "best_distilled": float("".join(map(str, table.depths[distilled]))),
        "best_plain": float("".join(map(str, table.depths[plain]))),
        "plain_kendall": rank_correlation(table.plain, table.distilled),
    }


def proxy_statistics(table: PublishedDepths, images: int) -> dict[str, float]:
    """How well scores without a teacher rank the published accuracies, alone and beyond the number of parameters."""
    space = DepthSpace((1, 3, 5, 7))
    generator = torch.Generator().manual_seed(0)
    x, y = _noise(images, generator)
    scores: dict[str, list[float]] = {}
    torch.manual_seed(0)
    for arch in table.depths:
        model = space.build(arch)
        for name, value in {
            "parameters": float(space.cost(arch)),
            "multiply_adds": float(multiply_adds(model, x[:1])),
            "naswot": naswot(model, x),
            "synflow": synflow(model, (3, 32, 32)),
            "gradient_norm": gradient_norm(model, x, y),
        }.items():
            scores.setdefault(name, []).append(value)
    facts = {}
    for name, values in scores.items():
        facts[f"{name}_spearman"] = rank_correlation(values, table.distilled, kind="spearman")
        facts[f"{name}_kendall"] = rank_correlation(values, table.distilled)
        if name != "parameters":
            facts[f"{name}_beyond_size"] = _beyond_size(values, table, scores["parameters"])
    return facts


def pick(kind: str, context: Context, space: SearchSpace, score: Any, seed: int) -> Any:
    """What a search takes within the budget: by the score, by chance, or by the number of parameters."""
    budget, settings = budget_of(space), context["search"]
    if kind == "random":
        return random_search(space, lambda arch: 0.0, evaluations=1, budget=budget, seed=seed)[1]
    chosen = space.cost if kind == "largest" else score
    return evolutionary_search(space, chosen, **settings, budget=budget, seed=seed)[1]


def describe(scale: Scale) -> dict[str, Any]:
    """Build the teachers and the student of the lessons, and say how large they are and what may be picked."""
    space = make_space(scale)
    described: dict[str, Any] = {"data": scale.settings["data"], "budget": f"{budget_of(space):,.0f} parameters"}
    with torch.device("meta"):
        for name, depths in scale.settings["teachers"].items():
            model = resnet((3, 32, 32), 100, widths=(16, 32, 64), depths=depths)
            described[name] = f"{type(model).__name__}, {parameter_count(model):,} parameters"
    described["student of the lessons"] = (
        f"{scale.settings['lesson']}, {space.cost(scale.settings['lesson']):,} parameters"
    )
    return described


# ---- Claims ----------------------------------------------------------------------------------------------------------


def distillation_prefers_another(results: Results) -> Judgement:
    """Claim 1."""
    facts = results.facts
    distilled, plain, kendall = facts["best_distilled"], facts["best_plain"], facts["plain_kendall"]
    detail = f"depths {distilled:.0f} distilled, {plain:.0f} plain"
    return Judgement(kendall, distilled != plain and kendall < 0.9, detail=detail)


def score_ranks_published(results: Results) -> Judgement:
    """Claim 2, for every teacher."""
    spaces = [arm for arm in results.arms if arm.startswith("S0")]
    total, semantic, relation = (
        torch.cat([torch.from_numpy(results.values(arm, f"{part}_spearman")).flatten() for arm in spaces])
        for part in ("total", "semantic", "relation")
    )
    behind = float((semantic - relation).min())
    beyond = statistics.fmean(float(results.values(arm, "total_beyond_size").mean()) for arm in spaces)
    facts = results.facts
    others = ", ".join(
        f"{name.replace('_', ' ')} {facts[f'{name}_spearman']:.3f}"
        for name in ("parameters", "multiply_adds", "naswot", "synflow", "gradient_norm")
    )
    if "noise for a teacher" in results.arms:
        others += f", the same sum against noise {results.mean('noise for a teacher', 'total_spearman'):.3f}"
    detail = (
        f"means: sum {total.mean():.3f}, semantic {semantic.mean():.3f}, relation {relation.mean():.3f}; semantic - "
        f"relation at least {behind:.3f}; sum beyond parameters {beyond:.3f}. Without a teacher: {others}"
    )
    return Judgement(float(total.min()), bool(total.min() >= 0.6) and behind >= -0.05, detail=detail)


def scoring_is_cheap(results: Results) -> Judgement:
    """Claim 3."""
    ratios = [
        float((results.values(arm, "distil_seconds") / results.values(arm, "score_seconds")).mean())
        for arm in results.groups["sample"]
    ]
    ratio, epochs = statistics.median(ratios), statistics.fmean(results.values(results.groups["sample"][0], "epochs"))
    detail = f"smallest {min(ratios):.0f}; extrapolated from {epochs:.0f} to 240 epochs {ratio * 240 / epochs:.0f}"
    return Judgement(ratio, ratio >= 50, detail=detail)


def search_beats_chance(results: Results) -> Judgement:
    """Claim 4, and beside it the largest, and the best by plain training."""
    sample = results.groups["sample"]
    within = [arm for arm in sample if results.mean(arm, "parameters") <= results.facts["budget"]] or list(sample)
    plain = max(within, key=lambda arm: results.mean(arm, "plain_validation_accuracy"))
    gain = results.difference("DisWOT pick", "random pick", "test_accuracy")
    distilled = [results.mean(arm, "test_accuracy") for arm in sample]
    ranks = {
        name: rank_correlation([results.mean(arm, metric) for arm in sample], distilled, kind="spearman")
        for name, metric in {"score": "score", "parameters": "parameters", "plain": "plain_validation_accuracy"}.items()
    }
    tests = {name: results.mean(f"{name} pick", "test_accuracy") for name in PICKS}
    tests["best of the sample by plain training"] = results.mean(plain, "test_accuracy")
    detail = ", ".join(f"{name} {value:.3f}" for name, value in tests.items())
    detail += "; Spearman with distilled accuracy: " + ", ".join(f"{name} {value:.2f}" for name, value in ranks.items())
    return Judgement(gain, gain >= 0, detail=detail)


def relations_teach(results: Results) -> Judgement:
    """The metrics as distillers: the one that is better on validation."""
    chosen = {group: results.select(group) for group in results.groups if group.startswith("KD + ")}
    best = max(chosen.values(), key=lambda arm: results.mean(arm, "validation_accuracy"))
    test = results.paired(best, "KD", "test_accuracy")
    names = ("CE", "KD", *chosen.values())
    detail = f"{best}; " + ", ".join(f"{name} {results.mean(name, 'test_accuracy'):.3f}" for name in names)
    return Judgement(test.difference, test.difference > 0 and test.p_value < 0.1, test.p_value, detail)


CLAIMS = (
    Claim(
        "another-best",
        "the best architecture under plain training is not the best under distillation (published accuracies)",
        "the best of 64 networks differ, and Kendall's tau of plain and distilled accuracy is below 0.9",
        distillation_prefers_another,
        published="5-5-7 distilled, 7-7-7 plain; tau 0.836",
    ),
    Claim(
        "ranks-students",
        "similarity of untrained networks ranks the accuracy of distilled ones",
        "Spearman(sum, distilled accuracy) on S0 at least 0.6 in every draw, and semantic at least relation - 0.05",
        score_ranks_published,
    ),
    Claim(
        "cheap",
        "scoring a candidate costs a fraction of distilling it",
        "median over the sample: distilling takes at least 50 times as long as scoring (wall clock)",
        scoring_is_cheap,
        published="at least 180 times (240 epochs)",
    ),
    Claim(
        "search",
        "a search by the score finds a better student than chance",
        "mean test accuracy of what is picked by the score at least that of random picks within the budget",
        search_beats_chance,
    ),
    Claim(
        "distiller",
        "the distances teach: with one of them a student learns more than by KD alone",
        "the distance and weight picked on validation: mean test difference to KD > 0, one-sided paired p < 0.1",
        relations_teach,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _data(name: str, options: tuple[tuple[str, Any], ...]) -> Data:
    return load_data(name, **dict(options))


def _load(context: Context) -> Data:
    return _data(context["data"], tuple(context["options"].items()))


def _lessons(context: Context, data: Data) -> Any:
    return AugmentedImages(data.train) if context.scale.settings.get("augment") else data.train


def _shape(data: Data) -> tuple[int, ...]:
    first = data.train.batch(torch.tensor([0])).inputs
    assert isinstance(first, Tensor)
    return tuple(first.shape[1:])


def _noise(images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(images, 3, 32, 32, generator=generator), torch.randint(100, (images,), generator=generator)


def _beyond_size(values: Sequence[float], table: PublishedDepths, costs: Sequence[float]) -> float:
    """The partial rank correlation given the number of parameters; 0 where that leaves nothing to explain."""
    left = partial_rank_correlation(values, table.distilled, costs)
    return left if math.isfinite(left) else 0.0


def _name(arch: Sequence[int]) -> str:
    return "net " + "-".join(map(str, arch))


def _last_map(context: Context) -> str:
    return "features" if context["space"] == "stages" else "stage:-1"


def _broken(scorer: DisWOT, how: str | None) -> DisWOT:
    if how == "noise":
        chance = scorer.generator
        scorer.teacher = [
            (torch.randn(features.shape, generator=chance), torch.randn(gradient.shape, generator=chance))
            for features, gradient in scorer.teacher
        ]
    return scorer


def _scorer(context: Context, data: Data, teacher: nn.Module, space: SearchSpace, broken: str | None, seed: int) -> Any:
    """Scores by architecture, on one batch, with the same random numbers for every candidate."""
    generator = torch.Generator().manual_seed(seed)
    batch = data.train.batch(torch.randperm(len(data.train), generator=generator)[: context["images"]])
    assert isinstance(batch.inputs, Tensor)
    assert batch.target is not None
    scorer = DisWOT(
        teacher.cpu(), batch.inputs, batch.target, feature=("stage:-1", _last_map(context)), generator=generator
    )
    _broken(scorer, broken)

    def score(arch: Any) -> float:
        if broken == "chance":
            return random.Random(f"{arch} {seed}").random()
        generator.manual_seed(seed + 1)
        return scorer(space.build(arch)).total

    return score


def _timed_score(score: Any, arch: Any, repeats: int = 5) -> tuple[float, float]:
    """A score, and the median seconds that it takes to build a network and score it."""
    value, seconds = score(arch), []
    for _ in range(repeats):
        begun = time.perf_counter()
        score(arch)
        seconds.append(time.perf_counter() - begun)
    return value, statistics.median(seconds)


def _lesson(context: Context, settings: Mapping[str, Any], teacher: nn.Module) -> tuple[Teacher | None, dict[str, Any]]:
    if settings["lesson"] is None:
        return None, {"ce": CrossEntropy()}
    objectives: dict[str, Any] = {"kd": KnowledgeDistillation(alpha=0.9, temperature=4.0)}
    places = _last_map(context), "stage:-1"
    if settings["lesson"] == "relation":
        objectives["relation"] = Weighted(SampleRelationDistance(*places), settings["weight"])
    elif settings["lesson"] == "channel":
        objectives["channel"] = Weighted(ChannelRelationDistance(*places), settings["weight"])
    taps = {"stage:-1": "stage:-1"} if len(objectives) > 1 else {}
    return FrozenTeacher(teacher, taps=taps), objectives


def _train(
    context: Context, data: Data, teacher: Teacher | None, objectives: Any, build: Any, arch: Any, seed: int
) -> dict[str, float]:
    """Train a network from the seed's weights and in the seed's order."""
    torch.manual_seed(seed)
    student = build(arch)
    settings = TrainingSettings(seed=seed, **context["training"])
    begun = time.perf_counter()
    Trainer(Distillation(teacher, student, objectives), _lessons(context, data), settings=settings).run()
    seconds = time.perf_counter() - begun
    student.cpu().eval()
    parts = {"validation": data.validation, "test": data.test}
    accuracies = {
        f"{name}_accuracy": evaluate_model(student, part, task=data.task)["validation_accuracy"]
        for name, part in parts.items()
    }
    return {**accuracies, "distil_seconds": seconds, "epochs": float(settings.epochs)}


recipe = Recipe(
    slug="diswot",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"noise": against_noise, "chance": by_chance},
    describe=describe,
)
