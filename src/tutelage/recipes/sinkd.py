"""SinKD: does matching the predictions of a whole batch by optimal transport help where row-by-row divergences fail?

Source: "Sinkhorn Distance Minimization for Knowledge Distillation", LREC-COLING 2024, arXiv 2402.17110.

The question. SinKD adds a term that looks at a batch: how much probability must move to turn all of the student's
predictions into the teacher's. The recipe looks at the argument for it without training (distributions that move apart;
one bump fitted to two), at the plan in training, and at the scores of students of four small tasks, after RTE, CoLA,
MRPC and a real one, the language of a word. All arms but cross-entropy are the published total: 0.1 · cross-entropy +
0.9 · soft cross-entropy at the temperature T, plus one more term with the published weight 0.8 · 0.001 · batch size (as
a mean), softened by 2. T is picked for KD alone, on validation data, with runs of the arms' budget, and reused by all.

What to expect. The term is small, at most 0.05 beside a cross-entropy of about 0.5, so the claim only asks for no loss
from it. Where it fails, the likely reason is the plan: at ε = 0.1 and temperature 2 it is all but uniform (31 / 32 of
its mass is off the diagonal when every sample goes everywhere), and then the term pulls each prediction to the middle
of the batch, the more so the larger its weight; the sweep of the weight shows it.

Departures from the paper. At every scale but `paper` the networks are perceptrons over one-hot characters: in the
minutes that a laptop has, they learn these tasks where a one-layer BERT hardly leaves chance. `paper` trains BERT on
GLUE with the settings of the released scripts; T0 and GPT-Neo are not there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from sklearn.metrics import f1_score, matthews_corrcoef
from torch import Tensor, nn

from tutelage.assessment.statistics import PairedComparison, paired_t_test
from tutelage.batch import Batch
from tutelage.data import ArraySamples, CharacterTokenizer, toy_texts
from tutelage.data.characters import pad_sequences
from tutelage.data.glue import glue_parts
from tutelage.files import read_tensors, write_tensors
from tutelage.models import build_model, parameter_count
from tutelage.objectives import (
    CrossEntropy,
    JensenShannon,
    LinearTemperatureAnnealing,
    Objective,
    Progress,
    ReverseKL,
    SinkhornDistillation,
    SoftCrossEntropy,
    TotalVariation,
    forward_kl,
    jensen_shannon,
    pairwise_l1_distance,
    reverse_kl,
    sinkhorn_plan,
    total_variation,
)
from tutelage.outputs import Outputs
from tutelage.reproduction import Arm, Claim, Context, Judgement, Metrics, Needs, Recipe, Results, Scale
from tutelage.teachers import FrozenTeacher
from tutelage.training import Distillation, Trainer, TrainingSettings, Weighted
from tutelage.training.distillation import Objectives

# ---- Scales ----------------------------------------------------------------------------------------------------------

TOY_TASKS = {
    "entailment": {"texts": "entailment_pairs", "metric": "accuracy"},
    "grammar": {"texts": "grammatical_strings", "metric": "matthews"},
    "paraphrase": {"texts": "expression_paraphrases", "metric": "accuracy_and_f1"},
    "language": {"texts": "words_by_language", "metric": "accuracy"},
}
LINEAR = {"scheduler": "linear", "clip_norm": 1.0}
TOY = {
    "tasks": TOY_TASKS,
    "alpha": 0.9,
    "temperatures": (1.0, 2.0, 4.0),
    "temperature_seeds": 2,
    "sizes": {"teacher": 10_000, "train": 2000, "validation": 1000, "test": 1000},
    "teacher": {"name": "mlp", "arguments": {"hidden": (256, 256), "dropout": 0.2}},
    "student": {"name": "mlp", "arguments": {"hidden": (64,)}},
    "teacher_training": {**LINEAR, "learning_rate": 1e-3, "batch_size": 128, "epochs": 10},
    "student_training": {**LINEAR, "learning_rate": 2e-3, "batch_size": 32, "epochs": 10},
}
BERT = {"hidden_size": 768, "num_heads": 12, "max_length": 512}


def _glue(columns: str, metric: str, temperature: float, alpha: float, *training: float, annealed: bool = False) -> Any:
    """A task of GLUE with the settings of its released script; training: epochs, learning rate, batch size."""
    student_training = {**LINEAR, **dict(zip(("epochs", "learning_rate", "batch_size"), training, strict=True))}
    settings = {"metric": metric, "alpha": alpha, "temperature": temperature, "annealed": annealed}
    return {**settings, "columns": columns.split(), "student_training": student_training}


SCALES = {
    "smoke": Scale(
        "smoke",
        seeds=2,
        settings={
            **TOY,
            "tasks": {name: TOY_TASKS[name] for name in ("grammar", "language")},
            "temperature_seeds": 1,
            "sizes": {"teacher": 640, "train": 320, "validation": 100, "test": 200},
            "teacher": {"name": "mlp", "arguments": {"hidden": (64,)}},
            "teacher_training": {**TOY["teacher_training"], "epochs": 4},  # type: ignore[dict-item]
            "student_training": {**TOY["student_training"], "epochs": 2},  # type: ignore[dict-item]
        },
        needs=Needs(packages=("wordfreq",)),
    ),
    "quick": Scale("quick", seeds=5, settings=TOY, needs=Needs(packages=("wordfreq",))),
    "full": Scale(
        "full",
        seeds=5,
        settings={
            **TOY,
            "teacher_training": {**TOY["teacher_training"], "epochs": 20},  # type: ignore[dict-item]
            "student_training": {**TOY["student_training"], "epochs": 20},  # type: ignore[dict-item]
        },
        needs=Needs(packages=("wordfreq",)),
    ),
    "paper": Scale(
        "paper",
        seeds=3,
        settings={
            "data": "nyu-mll/glue",
            "tasks": {
                "cola": _glue("sentence", "matthews", 1.0, 0.9, 20, 5e-5, 16),
                "mnli": _glue("premise hypothesis", "accuracy", 3.0, 0.8, 10, 4e-5, 16, annealed=True),
                "mrpc": _glue("sentence1 sentence2", "accuracy_and_f1", 4.0, 1.0, 3, 3e-5, 16, annealed=True),
                "rte": _glue("sentence1 sentence2", "accuracy", 3.5, 0.9, 5, 2e-5, 16),
                "sst2": _glue("sentence", "accuracy", 2.0, 0.9, 2, 4e-5, 32),
                "qnli": _glue("question sentence", "accuracy", 3.0, 0.8, 6, 3e-5, 16),
                "qqp": _glue("question1 question2", "accuracy_and_f1", 4.0, 1.0, 8, 4e-5, 32, annealed=True),
            },
            "teacher": {"name": "google-bert/bert-base-uncased"},
            "student": {"name": "google/bert_uncased_L-6_H-768_A-12"},
            "teacher_training": {**LINEAR, "learning_rate": 2e-5, "batch_size": 32, "epochs": 3},
        },
        needs=Needs(gpus=1, packages=("datasets",), datasets=("nyu-mll/glue",)),
    ),
}

# ---- Arms: what is compared ------------------------------------------------------------------------------------------

BETA = 0.8  # the paper's β, the weight of whatever is added to KD; w is the weight of a sum over the batch
ARMS = [
    Arm("CE", {"soft": False}, description="labels alone"),
    Arm("KD", {}, description="labels and softened predictions (T picked for this arm)"),
    Arm("KD + reverse KL", {"term": "reverse_kl", "weight": 1e-3}),
    Arm("KD + JS", {"term": "jensen_shannon", "weight": 1e-3}),
    Arm("KD + row L1", {"term": "row_l1", "weight": 1e-3}, description="SinKD's distance, each sample by itself"),
    Arm("SinKD", {"term": "transport", "weight": 1e-3}, description="the published weight"),
    Arm("SinKD w=0.01", {"term": "transport", "weight": 1e-2}),
    Arm("SinKD w=0.1", {"term": "transport", "weight": 1e-1}),
    Arm("SinKD permuted", {"term": "transport", "weight": 1e-3, "permuted": True}, description="control"),
]


def arms(scale: Scale) -> list[Arm]:
    """All arms on every task."""
    return [
        replace(arm, name=f"{task}: {arm.name}", settings={"task": task, **arm.settings})
        for task in scale.settings["tasks"]
        for arm in ARMS
    ]


def objectives_of(settings: Mapping[str, Any], *, alpha: float, soft: Objective, batch_size: int) -> Objectives:
    """The loss of an arm: (1 − α) CE + α L_soft + β w · (a sum over the batch)."""
    if not settings.get("soft", True):
        return CrossEntropy()
    terms: list[Objective | Weighted] = [Weighted(CrossEntropy(), 1 - alpha), Weighted(soft, alpha)]
    weight = BETA * settings.get("weight", 0.0) * batch_size
    match settings.get("term"):
        case "reverse_kl":
            terms.append(Weighted(ReverseKL(temperature=2.0), weight))
        case "jensen_shannon":
            terms.append(Weighted(JensenShannon(temperature=2.0), weight))
        case "row_l1":  # the L1 distance is twice the total variation
            terms.append(Weighted(TotalVariation(temperature=2.0), 2 * weight))
        case "transport":
            terms.append(Weighted(transport_of(settings), weight))
    return terms


def transport_of(settings: Mapping[str, Any]) -> _Transport:
    """SinKD's term of an arm, as a mean over the batch."""
    kind = _RowByRow if settings.get("broken") == "row-by-row" else _Transport
    return kind(permuted=settings.get("permuted", False))


class _Transport(SinkhornDistillation):
    """SinKD's term, which may be given the teacher's rows in another order in each batch."""

    def __init__(self, *, permuted: bool = False) -> None:
        super().__init__(temperature=2.0, reduction="mean")
        self.permuted = permuted

    def loss(self, student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None = None) -> Tensor:
        if self.permuted:
            teacher_logits = teacher_logits[torch.randperm(len(teacher_logits))]
        return self.of_rows(student_logits, teacher_logits)

    def of_rows(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The term for rows in the order in which they come."""
        return super().loss(student_logits, teacher_logits)

    def plan(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """Which prediction of the student goes to which one of the teacher."""
        student, teacher = ((logits / 2).softmax(dim=1) for logits in (student_logits, teacher_logits))
        return sinkhorn_plan(pairwise_l1_distance(student, teacher))


class _RowByRow(_Transport):
    """What is left without transport: every sample goes to its own prediction of the teacher."""

    def of_rows(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return 2 * total_variation(student_logits, teacher_logits.detach(), temperature=2.0, reduction="mean")

    def plan(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        return torch.eye(len(student_logits), dtype=student_logits.dtype)


class _AnnealedSoftCrossEntropy(SoftCrossEntropy):
    """L_soft whose temperature falls to 1 in the last epoch."""

    def __init__(self, start: float, epochs: int) -> None:
        super().__init__(teacher_temperature=start, student_temperature=start)
        self.annealing = LinearTemperatureAnnealing(start, epochs)

    def advance(self, progress: Progress) -> None:
        self.teacher_temperature = self.student_temperature = self.annealing(progress)


def row_by_row(arm: Arm) -> Arm:
    """An arm whose transport keeps every sample to itself; other arms stay as they are."""
    transports = arm.settings.get("term") == "transport"
    return replace(arm, settings={**arm.settings, "broken": "row-by-row"}) if transports else arm


# ---- The experiment --------------------------------------------------------------------------------------------------


def prepare(context: Context) -> dict[str, float]:
    """Do what needs no training; then train a teacher a task, note its logits, and pick KD's temperature."""
    facts = {**divergences_of_distributions_that_move_apart(), **modes_of_one_bump()}
    settings = context.scale.settings
    for task, choice in settings["tasks"].items():
        parts, sizes = texts_of(settings, choice) if "texts" in choice else glue_of(settings, task, choice)
        teacher = _model(settings["teacher"], sizes)
        _train(teacher, None, _samples(parts["teacher"], sizes), CrossEntropy(), settings["teacher_training"], seed=0)
        taught = FrozenTeacher(teacher.cpu())
        shared = {
            f"{part}.{name}": value for part, read in parts.items() if part != "teacher" for name, value in read.items()
        }
        shared["logits"] = _ask(taught, _samples(parts["train"], sizes))
        shared |= {f"sizes.{name}": torch.tensor(size) for name, size in sizes.items()}
        write_tensors(context.folder / f"{task}.safetensors", shared)
        said = _ask(taught, _samples(parts["test"], sizes))
        facts[f"{task}: teacher"] = score(choice["metric"], said, parts["test"]["target"])
        facts[f"{task}: temperature"] = chosen = choice.get("temperature") or pick_temperature(context, task)
        write_tensors(context.folder / f"{task}.safetensors", shared | {"temperature": torch.tensor(chosen)})
    return facts


def pick_temperature(context: Context, task: str) -> float:
    """The temperature with which KD does best on validation data, with seeds of its own and the arms' budget."""

    def validation(temperature: float) -> float:
        arm = Arm("KD", {"task": task, "temperature": temperature})
        seeds = range(1000, 1000 + context["temperature_seeds"])
        return float(np.mean([run_arm(context, arm, seed)["validation"] for seed in seeds]))

    best: float = max(context["temperatures"], key=validation)
    return best


def run_arm(context: Context, arm: Arm, seed: int) -> Metrics:
    """Teach one student, watch the plan in the first epoch, and score it on the validation and test parts."""
    task = arm.settings["task"]
    choice = context["tasks"][task]
    shared = read_tensors(context.folder / f"{task}.safetensors")
    sizes = {name: int(shared[f"sizes.{name}"]) for name in ("vocabulary", "length", "classes")}
    parts = {part: _part(shared, part) for part in ("train", "validation", "test")}
    training = choice.get("student_training") or context["student_training"]
    temperature = arm.settings.get("temperature") or shared["temperature"].item()
    soft: Objective = SoftCrossEntropy(teacher_temperature=temperature, student_temperature=temperature)
    if choice.get("annealed"):
        soft = _AnnealedSoftCrossEntropy(temperature, training["epochs"])
    alpha = choice["alpha"] if "alpha" in choice else context["alpha"]
    objectives = objectives_of(arm.settings, alpha=alpha, soft=soft, batch_size=training["batch_size"])
    lessons, logits = _samples(parts["train"], sizes), shared["logits"]

    def teacher(batch: Batch) -> Outputs:
        return Outputs(logits=logits[batch.index.cpu()].to(batch.index.device))

    student = _model(context["student"], sizes)
    watched = _Watch(arm, batches=math.ceil(len(lessons) / training["batch_size"]))
    _train(student, teacher, lessons, objectives, training, seed=seed, watch=watched)
    metrics: Metrics = watched.figures()
    for part in ("validation", "test"):
        said = _ask(FrozenTeacher(student.cpu()), _samples(parts[part], sizes))
        metrics[part] = score(choice["metric"], said, parts[part]["target"])
    return metrics


class _Watch:
    """Looks at the plan of each batch of the first epoch, and at the term with the teacher's rows in another order."""

    def __init__(self, arm: Arm, batches: int) -> None:
        self.transport = transport_of(arm.settings) if arm.settings.get("term") == "transport" else None
        self.batches = batches
        self.generator = torch.Generator().manual_seed(0)  # its own, so that watching changes no other random number
        self.off_diagonal: list[float] = []
        self.differences: list[float] = []

    @torch.no_grad()
    def __call__(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> None:
        if self.transport is None or len(self.off_diagonal) >= self.batches:
            return
        said, lesson = (outputs.logits.cpu().double() for outputs in (student, teacher))  # type: ignore[union-attr]
        plan = self.transport.plan(said, lesson)
        self.off_diagonal.append(1 - (plan.trace() / plan.sum()).item())
        other = lesson[torch.randperm(len(lesson), generator=self.generator)]
        difference = self.transport.of_rows(said, lesson) - self.transport.of_rows(said, other)
        self.differences.append(len(lesson) * abs(difference.item()))  # of the published sum

    def figures(self) -> Metrics:
        if self.transport is None:
            return {}
        return {"off_diagonal": float(np.mean(self.off_diagonal)), "permuted_difference": max(self.differences)}


# ---- Without training: what the divergences say ----------------------------------------------------------------------

BINS = torch.arange(64, dtype=torch.float64)
SHIFTS = torch.arange(0, 41, 2, dtype=torch.float64)


def bump(mean: Tensor, deviation: Tensor) -> Tensor:
    """Log-probabilities of Gaussians on 64 bins: `[..., 64]`.

    >>> bump(torch.tensor(3.0), torch.tensor(1.0)).exp().sum()
    tensor(1., dtype=torch.float64)
    """
    return (-((BINS - mean[..., None]) / deviation[..., None]).square() / 2).log_softmax(dim=-1)


def divergences(student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
    """The divergences of a row, and the official L1 cost, of log-probabilities `[..., 64]`."""
    return {
        "kl": forward_kl(student, teacher),
        "reverse_kl": reverse_kl(student, teacher),
        "js": jensen_shannon(student, teacher),
        "l1": 2 * total_variation(student, teacher),
    }


def divergences_of_distributions_that_move_apart() -> dict[str, float]:
    """Claim 1: a student's bump (deviation 2) moves away from an equal one of the teacher, by 0 to 40 of 64 bins."""
    shifts = SHIFTS.clone().requires_grad_()
    deviation = torch.full_like(SHIFTS, 2.0)
    student, teacher = bump(12 + shifts, deviation), bump(torch.full_like(SHIFTS, 12.0), deviation)
    values = divergences(student, teacher)
    cost = (BINS[:, None] - BINS).abs().expand(len(SHIFTS), -1, -1)
    plan = sinkhorn_plan(cost, epsilon=1.0, n_iters=200, a=student.exp(), b=teacher.exp())
    values["transport"] = (plan * cost).sum(dim=(-2, -1))
    facts: dict[str, float] = {}
    for name, value in values.items():
        (slope,) = torch.autograd.grad(value.sum(), shifts, retain_graph=True)
        facts[f"apart: {name}, smallest step"] = value.detach().diff().min().item()
        facts[f"apart: {name}, farthest"] = value[-1].item()
        facts[f"apart: {name}, slope farthest"] = slope[-1].item()
    apart = SHIFTS >= 4  # two deviations: nearer, the blur of ε = 1 hides the distance
    (slope,) = torch.autograd.grad(values["transport"].sum(), shifts)
    facts["apart: transport, smallest slope"] = slope[apart].min().item()
    correlation = np.corrcoef(SHIFTS[apart].numpy(), values["transport"].detach()[apart].numpy())[0, 1]
    facts["apart: transport, r2"] = float(correlation**2)
    return facts


def modes_of_one_bump() -> dict[str, float]:
    """Claim 2: the best bump for a teacher of two (at 16 and 48, deviation 3), over a grid of means and deviations."""
    two = torch.logaddexp(*bump(torch.tensor([16.0, 48.0]), torch.tensor([3.0, 3.0]))) - math.log(2)
    means, deviations = torch.meshgrid(torch.arange(0, 63.5, 0.5), torch.arange(1, 24.5, 0.5), indexing="ij")
    student = bump(means.flatten(), deviations.flatten())
    values = divergences(student, two.expand_as(student))
    values["transport"] = (student.exp() - two.exp()).cumsum(dim=-1).abs().sum(dim=-1)  # exact in one dimension
    facts = {}
    for name, value in values.items():
        best = int(value.argmin())
        facts[f"modes: {name}, mean"] = means.flatten()[best].item()
        facts[f"modes: {name}, deviation"] = deviations.flatten()[best].item()
    return facts


# ---- Claims ----------------------------------------------------------------------------------------------------------


def overlap_matters_to_divergences(results: Results) -> Judgement:
    """Claim 1."""
    facts = {name.removeprefix("apart: "): value for name, value in results.facts.items()}
    both = ("kl", "reverse_kl")
    unbounded = all(facts[f"{name}, smallest step"] > 0 and facts[f"{name}, farthest"] > 10 for name in both)
    saturates = abs(facts["js, farthest"] - math.log(2)) < 1e-3 and facts["js, slope farthest"] < 1e-3
    linear = facts["transport, r2"] >= 0.99 and facts["transport, smallest slope"] >= 0.5
    detail = (
        f"40 bins apart: KL {facts['kl, farthest']:.0f}, reverse KL {facts['reverse_kl, farthest']:.0f}, "
        f"JS {facts['js, farthest']:.4f} (slope {facts['js, slope farthest']:.1e}), transport along the bins "
        f"{facts['transport, farthest']:.1f} (slope {facts['transport, slope farthest']:.2f}); the official cost, L1 "
        f"between rows, is {facts['l1, farthest']:.4f} (slope {facts['l1, slope farthest']:.1e}): it saturates like JS"
    )
    return Judgement(facts["transport, r2"], unbounded and saturates and linear, detail=detail)


def modes_are_averaged_or_dropped(results: Results) -> Judgement:
    """Claim 2."""
    means = {name: results.facts[f"modes: {name}, mean"] for name in ("kl", "reverse_kl", "js", "l1", "transport")}
    between = 16 + 6 < means["kl"] < 48 - 6
    inside = min(abs(means["reverse_kl"] - 16), abs(means["reverse_kl"] - 48)) <= 3
    detail = "best means: " + ", ".join(f"{name} {mean:g}" for name, mean in means.items()) + " (bumps at 16 and 48)"
    return Judgement(means["kl"], between and inside, detail=detail)


def no_worse_than_distillation(results: Results) -> Judgement:
    """Claim 3."""
    of_kd, of_ce = over_tasks(results, "SinKD", "KD"), over_tasks(results, "SinKD", "CE")
    holds = of_kd.difference >= -0.003 and of_ce.difference > 0 and of_ce.p_value < 0.1
    others = [arm.name for arm in ARMS if arm.name not in ("CE", "KD", "SinKD")]
    sweep = ", ".join(f"{name} {over_tasks(results, name, 'KD').difference:+.4f}" for name in others)
    detail = f"minus KD: {_interval(of_kd)}; minus CE: {_interval(of_ce)}; others minus KD: {sweep}"
    return Judgement(of_kd.difference, holds, of_ce.p_value, detail)


def couples_samples(results: Results) -> Judgement:
    """Claim 4."""
    names = [f"{task}: SinKD" for task in tasks_of(results)]
    masses = {name: results.mean(name, "off_diagonal") for name in names}
    mass = float(np.mean(list(masses.values())))
    difference = max(float(results.values(name, "permuted_difference").max()) for name in names)
    detail = ", ".join(f"{name.split(':')[0]} {value:.3f}" for name, value in masses.items())
    return Judgement(
        mass, mass > 0.2 and difference <= 1e-5, detail=f"{detail}; with permuted teacher rows within {difference:.1e}"
    )


CLAIMS = (
    Claim(
        "overlap",
        "without overlap KL grows without bound and JS has no gradient, while transport keeps growing in a line",
        "KL and reverse KL grow with every step and exceed 10 nats; JS within 1e-3 of ln 2 with a slope below 1e-3; "
        "transport along the bins: R² at least 0.99, slope at least 0.5 wherever the bumps are two deviations apart",
        overlap_matters_to_divergences,
    ),
    Claim(
        "modes",
        "one bump fitted to two: KL averages the modes, reverse KL keeps one",
        "the best mean lies over two deviations from either bump for KL, within one deviation of one for reverse KL",
        modes_are_averaged_or_dropped,
    ),
    Claim(
        "no-worse-than-kd",
        "SinKD is at least on a par with distillation, and beats plain cross-entropy",
        "mean over tasks and seeds: SinKD at least KD - 0.003, and above CE with one-sided paired t-test p < 0.1",
        no_worse_than_distillation,
        published="better than earlier distillation on GLUE and SuperGLUE (tables not verified)",
    ),
    Claim(
        "couples-samples",
        "the plan matches predictions across samples, and does not see their order",
        "mean off-diagonal share of the plan in the first epoch above 0.2; the summed term with the teacher's rows "
        "permuted within 1e-5",
        couples_samples,
    ),
)

# ---- Small pieces ----------------------------------------------------------------------------------------------------


def tasks_of(results: Results) -> list[str]:
    """The tasks of a run, in order."""
    return list(dict.fromkeys(name.split(":")[0] for name in results.arms))


def over_tasks(results: Results, arm: str, other: str) -> PairedComparison:
    """The test scores of two arms, paired by task and seed."""
    names = [[f"{task}: {name}" for task in tasks_of(results)] for name in (arm, other)]
    scores = [np.concatenate([results.values(name, "test") for name in of_arm]) for of_arm in names]
    return paired_t_test(*scores, alternative="greater", level=0.9)


def _interval(comparison: PairedComparison) -> str:
    return f"{comparison.difference:+.4f} [{comparison.ci_low:+.4f}, {comparison.ci_high:+.4f}]"


def score(metric: str, logits: Tensor, target: Tensor) -> float:
    """A task's own score: accuracy, Matthews correlation, or the mean of accuracy and F1.

    >>> score("accuracy", torch.eye(2), torch.tensor([0, 0]))
    0.5
    """
    predicted = logits.argmax(dim=1)
    accuracy = (predicted == target).double().mean().item()
    if metric == "matthews":
        return float(matthews_corrcoef(target, predicted))
    if metric == "accuracy_and_f1":
        return (accuracy + float(f1_score(target, predicted, zero_division=0.0))) / 2
    return accuracy


def texts_of(
    settings: Mapping[str, Any], choice: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
    """The parts of a generated task as character numbers, and its sizes. The student's part begins the teacher's."""
    counts = settings["sizes"]
    texts, labels = getattr(toy_texts, choice["texts"])(counts["teacher"] + counts["validation"] + counts["test"])
    tokenizer = CharacterTokenizer("".join(sorted(set("".join(texts)))))
    tokens, target = pad_sequences([tokenizer.encode(text) for text in texts], 0), torch.tensor(labels)
    ends = np.cumsum([0, counts["validation"], counts["test"], counts["teacher"]])
    rows = {part: slice(*ends[number : number + 2]) for number, part in enumerate(("validation", "test", "teacher"))}
    rows["train"] = slice(rows["teacher"].start, rows["teacher"].start + counts["train"])
    sizes = {"vocabulary": tokenizer.vocab_size, "length": tokens.shape[1], "classes": int(target.max()) + 1}
    return {part: {"input_ids": tokens[taken], "target": target[taken]} for part, taken in rows.items()}, sizes


def glue_of(
    settings: Mapping[str, Any], task: str, choice: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
    """The parts of a task of GLUE as tokens, and its sizes. Teacher and student learn from the same part."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(settings["teacher"]["name"])
    parts = glue_parts(task, choice["columns"], tokenizer, source=settings["data"])
    sizes = {"vocabulary": len(tokenizer), "length": 128, "classes": int(parts["train"]["target"].max()) + 1}
    return {"teacher": parts["train"], **parts}, sizes


def describe(scale: Scale) -> dict[str, Any]:
    """Build the networks of a scale and count their parameters (at `paper` without the pretrained weights)."""
    described: dict[str, Any] = {"tasks": ", ".join(scale.settings["tasks"])}
    for role, layers in (("teacher", 12), ("student", 6)):
        if scale.name == "paper":
            bert = {"name": "encoder_lm", "arguments": {**BERT, "num_layers": layers}}
            model = build_model(bert, num_classes=2, vocab_size=30_522)
        else:
            model = _model(scale.settings[role], {"vocabulary": 16, "length": 16, "classes": 2})
        name = scale.settings[role]["name"]
        described[role] = f"{name}: {type(model).__name__}, {parameter_count(model):,} parameters"
    return described


def _model(specification: Mapping[str, Any], sizes: Mapping[str, int]) -> nn.Module:
    if specification["name"] == "mlp":
        shape = (sizes["length"], sizes["vocabulary"])
        return build_model(specification, num_classes=sizes["classes"], input_shape=shape)
    return build_model(specification, num_classes=sizes["classes"])


def _samples(part: Mapping[str, Tensor], sizes: Mapping[str, int]) -> ArraySamples:
    """Named tensors for BERT, one-hot characters where there is nothing but their numbers."""
    inputs = {name: tensor for name, tensor in part.items() if name != "target"}
    if len(inputs) > 1:
        return ArraySamples(inputs, part["target"])
    return ArraySamples(nn.functional.one_hot(inputs["input_ids"], sizes["vocabulary"]).float(), part["target"])


def _part(shared: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{part}."): value for name, value in shared.items() if name.startswith(f"{part}.")}


def _train(
    model: nn.Module,
    teacher: Any,
    samples: ArraySamples,
    objectives: Objectives,
    settings: Mapping[str, Any],
    *,
    seed: int,
    watch: _Watch | None = None,
) -> None:
    method = Distillation(teacher, model, objectives)
    if watch is not None:
        method.observers.append(watch)
    Trainer(method, samples, settings=TrainingSettings(seed=seed, **settings)).run()


def _ask(teacher: FrozenTeacher, samples: ArraySamples) -> Tensor:
    logits = [teacher(samples.batch(rows)).logits for rows in torch.split(torch.arange(len(samples)), 512)]
    return torch.cat([said for said in logits if said is not None])


recipe = Recipe(
    slug="sinkd",
    scales=SCALES,
    arms=arms,
    prepare=prepare,
    run_arm=run_arm,
    claims=CLAIMS,
    breakages={"row-by-row": row_by_row},
    describe=describe,
)
