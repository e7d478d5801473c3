"""The report card of a model: one pass over the samples, then everything that can be said from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tutelage._checks import (
    check_at_least,
    check_non_negative,
    check_option,
    check_positive,
    check_same_logits,
    check_same_shape,
)
from tutelage.assessment.accuracy import accuracy, negative_log_likelihood, top_k_accuracy
from tutelage.assessment.agreement import kl_from_teacher, prediction_fidelity
from tutelage.assessment.calibration import (
    brier_score,
    confidence_auroc,
    expected_calibration_error,
    maximum_calibration_error,
    reliability_curve,
)
from tutelage.assessment.disagreements import one_sided_examples, partings
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.assessment.fidelity import FidelityTally
from tutelage.assessment.latency import latency_distribution
from tutelage.assessment.named_attacks import attack_accuracies
from tutelage.assessment.report_card import ReportCard
from tutelage.assessment.robustness import robust_accuracy_curve
from tutelage.assessment.segmentation import confusion_matrix, iou_from_confusion
from tutelage.batch import Batch
from tutelage.data.samples import Samples, Task
from tutelage.models import call_model, multiply_adds, parameter_count
from tutelage.outputs import Outputs
from tutelage.teachers.teacher import Teacher, TeacherModule

IGNORED = -100  # the target of positions that are not counted
RELATIVE_RADII = (0.0, 0.02, 0.05, 0.1, 0.2)  # attack radii as shares of the inputs' range
LOGIT_BUDGET = 1 << 26  # logits of one language-model batch: 64 Mi, 256 MiB in float32
ROW_BUDGET = 1 << 22  # logits that are turned into probabilities at once
LATENCY_SECONDS = 1.0  # the most that timing a slow model may take
ROBUSTNESS_OPTIONS = ("epsilons", "steps", "step_size", "restarts", "bounds", "num_samples", "batch_size", "objective")


def assess(
    model: nn.Module,
    samples: Samples,
    *,
    name: str = "model",
    teacher: Teacher | nn.Module | None = None,
    class_names: Sequence[str] = (),
    batch_size: int = 256,
    robustness: bool | Mapping[str, Any] = True,
    attack_radius: float = 8 / 255,
    auto_attack_seconds: float = 60.0,
    latency: bool = True,
    num_examples: int = 12,
    seed: int = 0,
) -> ReportCard:
    """Ask a model every sample once, and write down what it knows.

    The task is read off the first sample: floating-point targets are regression, integer targets with sequence outputs
    are causal language modelling, logits of pixels `[batch, height, width, classes]` are segmentation, the rest is
    classification. Then:

    * classification: accuracy, top-5 accuracy (above 5 classes), negative log-likelihood, Brier score, expected and
      maximum calibration error, AUROC of confidence against correctness (where some predictions are right and some
      wrong), mean confidence, the reliability curve (bins without samples left out), and, with a
      teacher, agreement, agreement on the teacher's errors, KL(teacher ‖ student), partings, and examples that only one
      gets right;
    * regression: squared and absolute error and R² (mean over outputs that vary); with a teacher the squared distance
      to it;
    * causal_lm: per token, over positions whose target is not −100: negative log-likelihood, its exponential
      (perplexity), accuracy; with a teacher agreement and KL, over the smaller of two vocabularies. Sums are kept,
      never all logits;
    * segmentation: the same per pixel, without perplexity, and the mean over classes of intersection over union;
    * every task: parameters, multiply–adds of one sample, and latency of one sample (median and 95th percentile).

    A figure that does not apply or is not finite is absent. The model (and a teacher that is a module) is asked in
    evaluation mode without gradients, and gets its own mode back; no parameter's `.grad` changes.

    Args:
        model: What is assessed; called by `call_model` on its own device.
        samples: What it is asked. Samples without targets give the figures that need none.
        name: The model's name in reports.
        teacher: Whom to compare with: a teacher, called with batches, or a plain module, called like the model.
        class_names: A name a class.
        batch_size: Samples asked at once (fewer for language models with large vocabularies).
        robustness: Accuracy under attack (classification of one floating-point input tensor). True: where inputs are
            images or lie in [0, 1], by up to 256 samples, 10 steps and radii of 0, 2, 5, 10 and 20 % of the inputs'
            range, and by FGSM, PGD-20 and AutoAttack at `attack_radius`. A mapping: for any such inputs, with these
            arguments of `robust_accuracy_curve`. False: not at all. Where it is asked for and makes no sense, the card
            says why.
        attack_radius: The one radius of FGSM, PGD-20 and AutoAttack, as a share of the inputs' range.
        auto_attack_seconds: The most that AutoAttack may take, where its package is installed; 0: not at all.
        latency: Whether to time the model.
        num_examples: How many samples to show that only one of student and teacher gets right.
        seed: Of the choice of examples and attacked samples, and of the attacks.

    Raises:
        ValueError: There are no samples, the model gives no logits or NaN, its outputs do not fit the targets or the
            teacher's, or a setting is out of range.

    >>> from tutelage.data.arrays import ArraySamples
    >>> samples = ArraySamples(torch.eye(3), torch.tensor([0, 1, 1]))
    >>> card = assess(nn.Identity(), samples, robustness=False, latency=False)
    >>> card.task, round(card.metrics["accuracy"], 4)
    ('classification', 0.6667)
    """
    check_at_least(len(samples), "samples", 1)
    check_at_least(batch_size, "batch_size", 1)
    check_at_least(num_examples, "num_examples", 0)
    check_positive(attack_radius, "attack_radius")
    check_non_negative(auto_attack_seconds, "auto_attack_seconds")
    if isinstance(robustness, Mapping):
        for option in robustness:
            check_option(option, "robustness", ROBUSTNESS_OPTIONS)
    room = _ExamRoom(model, teacher, samples, device_of(model))
    with evaluation_mode(model, teacher), torch.no_grad():
        first = samples.batch(torch.zeros(1, dtype=torch.int64)).to(room.device)
        outputs = call_model(model, first.inputs)
        task = _task_of(outputs, first.target)
        card = ReportCard(name=name, task=task, num_samples=len(samples), class_names=list(class_names))
        if task == "classification":
            _classification(card, room, batch_size, num_examples, seed)
        elif task == "regression":
            _regression(card, room, batch_size)
        else:
            _positions(card, room, outputs, batch_size)
        del outputs
        card.metrics["parameters"] = parameter_count(model)
        card.metrics["multiply_adds"] = multiply_adds(model, first.inputs)
        if latency:
            timed = latency_distribution(model, first.inputs, warmup=3, max_seconds=LATENCY_SECONDS)
            card.latency = {"milliseconds": list(timed.milliseconds), "batch_size": timed.batch_size}
            card.metrics |= {"latency_ms": timed.median, "latency_p95_ms": timed.p95}
        if robustness is not False:
            options = {} if robustness is True else dict(robustness)
            if (why := _no_attack(card.task, room, first, options)) is not None:
                card.robustness = {"absent": why}
            else:
                _robustness(card, room, options, attack_radius, auto_attack_seconds, seed)
    card.metrics = {key: value for key, value in card.metrics.items() if math.isfinite(value)}
    return card


@dataclass(slots=True)
class _ExamRoom:
    """Who is asked what; `low` and `high` become the range of the floating-point inputs that were handed out."""

    model: nn.Module
    teacher: Teacher | nn.Module | None
    samples: Samples
    device: torch.device
    low: float = math.inf
    high: float = -math.inf

    def batches(self, size: int) -> Iterator[Batch]:
        for rows in torch.arange(len(self.samples)).split(size):  # type: ignore[no-untyped-call]
            batch = self.samples.batch(rows).to(self.device)
            if isinstance(batch.inputs, Tensor) and batch.inputs.is_floating_point():
                self.low = min(self.low, float(batch.inputs.min()))
                self.high = max(self.high, float(batch.inputs.max()))
            yield batch

    def ask_teacher(self, batch: Batch) -> Outputs | None:
        """The teacher's outputs on the model's device."""
        if self.teacher is None:
            return None
        if isinstance(self.teacher, nn.Module):
            batch = batch.to(device_of(self.teacher))
            if not isinstance(self.teacher, TeacherModule):
                return call_model(self.teacher, batch.inputs).to(self.device)
        outputs: Outputs = self.teacher(batch)
        return outputs.to(self.device)

    def collect(self, size: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """All logits of model and teacher and all targets, on the CPU, in float32 at least."""
        student: list[Tensor] = []
        teacher: list[Tensor] = []
        target: list[Tensor] = []
        for batch in self.batches(size):
            student.append(_logits(call_model(self.model, batch.inputs), "model"))
            if (outputs := self.ask_teacher(batch)) is not None:
                teacher.append(_logits(outputs, "teacher"))
            if batch.target is not None:
                target.append(batch.target.cpu())
        return torch.cat(student), torch.cat(teacher) if teacher else None, torch.cat(target) if target else None


def _task_of(outputs: Outputs, target: Tensor | None) -> Task:
    if target is not None and target.is_floating_point():
        return "regression"
    if outputs.logits is None or (outputs.logits.ndim == 3 and target is not None):
        return "causal_lm"
    if outputs.logits.ndim == 4:
        return "segmentation"
    return "classification"


def _classification(card: ReportCard, room: _ExamRoom, batch_size: int, num_examples: int, seed: int) -> None:
    student, teacher, target = room.collect(batch_size)
    if student.ndim != 2:
        raise ValueError(f"Expected argument `model` to give logits [batch, classes], but got {tuple(student.shape)}.")
    probs = student.softmax(dim=1)
    confidence, predicted = probs.max(dim=1)
    card.metrics["mean_confidence"] = float(confidence.double().mean())
    if target is not None:
        correct = predicted == target
        card.metrics |= {
            "accuracy": accuracy(student, target),
            "negative_log_likelihood": negative_log_likelihood(student, target),
            "brier_score": brier_score(probs, target),
            "expected_calibration_error": expected_calibration_error(confidence, correct),
            "maximum_calibration_error": maximum_calibration_error(confidence, correct),
        }
        if 0 < int(correct.sum()) < len(correct):
            card.metrics["confidence_auroc"] = confidence_auroc(confidence, correct)
        if student.shape[1] > 5:
            card.metrics["top5_accuracy"] = top_k_accuracy(student, target, k=5)
        curve = reliability_curve(confidence, correct)
        filled = curve.count > 0
        card.reliability = {
            part: getattr(curve, part)[filled].double().tolist() for part in ("confidence", "accuracy", "count")
        }
    if teacher is None:
        return
    check_same_logits(student, teacher)
    fidelity = prediction_fidelity(student, teacher, target)
    card.metrics |= {"teacher_agreement": fidelity.agreement, "teacher_kl": fidelity.kl}
    if fidelity.agreement_on_teacher_errors is not None:
        card.metrics["teacher_error_agreement"] = fidelity.agreement_on_teacher_errors
    tally = FidelityTally()
    tally.add(predicted, teacher.argmax(dim=1), target)
    _add_fidelity(card, tally)
    if target is not None:
        card.partings = partings(predicted, teacher.argmax(dim=1), target)
        card.examples = one_sided_examples(room.samples, probs, teacher.softmax(dim=1), target, num_examples, seed)


def _regression(card: ReportCard, room: _ExamRoom, batch_size: int) -> None:
    student, teacher, target = room.collect(batch_size)
    assert target is not None  # a floating-point target is what makes it regression
    if teacher is not None:
        check_same_shape(student, teacher, "model outputs", "teacher outputs")
        card.metrics["teacher_mean_squared_error"] = float((student.double() - teacher.double()).square().mean())
    if student.ndim == target.ndim + 1 and student.shape[-1] == 1:
        student = student.squeeze(-1)
    check_same_shape(student, target, "model outputs", "target")
    values = target.double().reshape(len(target), -1)
    error = student.double().reshape(len(target), -1) - values
    card.metrics["mean_squared_error"] = float(error.square().mean())
    card.metrics["mean_absolute_error"] = float(error.abs().mean())
    spread = (values - values.mean(dim=0)).square().sum(dim=0)
    varies = spread > 0
    if varies.any():
        card.metrics["r2"] = float((1 - error.square().sum(dim=0)[varies] / spread[varies]).mean())


def _positions(card: ReportCard, room: _ExamRoom, outputs: Outputs, batch_size: int) -> None:
    if outputs.logits is not None:  # the widest thing that the model builds for one sample
        batch_size = max(1, min(batch_size, LOGIT_BUDGET // outputs.logits.numel()))
    pixels = card.task == "segmentation"
    right = "pixel_accuracy" if pixels else "token_accuracy"
    sums = dict.fromkeys(("negative_log_likelihood", right, "teacher_agreement", "teacher_kl"), 0.0)
    tokens, tally, confusion = 0, FidelityTally(), torch.zeros((), dtype=torch.int64)
    for batch in room.batches(batch_size):
        if batch.target is None:
            raise ValueError(f"Expected argument `samples` to have targets for {card.task}, but it has none.")
        target = batch.target.reshape(-1).long()
        student_rows = _rows(call_model(room.model, batch.inputs), batch.target.shape, "model")
        asked = room.ask_teacher(batch)
        teacher_rows = None if asked is None else _rows(asked, batch.target.shape, "teacher")
        kept = (target != IGNORED).nonzero().squeeze(1)
        if not len(kept):
            continue
        tokens += len(kept)
        width = student_rows(kept[:1]).shape[-1]
        for part in kept.split(max(1, ROW_BUDGET // width)):  # type: ignore[no-untyped-call]
            logits, truth = student_rows(part), target[part]
            sums["negative_log_likelihood"] += negative_log_likelihood(logits, truth) * len(part)
            sums[right] += accuracy(logits, truth) * len(part)
            if pixels:
                confusion = confusion + confusion_matrix(logits.argmax(dim=1), truth, width, IGNORED).cpu()
            if teacher_rows is not None:
                taught = teacher_rows(part)
                common = min(width, taught.shape[-1])
                logits, taught = logits[:, :common], taught[:, :common]
                said, meant = logits.argmax(dim=1), taught.argmax(dim=1)
                sums["teacher_agreement"] += float((said == meant).sum())
                tally.add(said, meant, truth)
                sums["teacher_kl"] += float(kl_from_teacher(logits, taught).double().sum())
    if not tokens:
        raise ValueError("Expected argument `samples` to have targets to predict, but every position is left out.")
    card.metrics |= {
        key: value / tokens for key, value in sums.items() if room.teacher is not None or not key.startswith("teacher")
    }
    _add_fidelity(card, tally)
    if pixels:
        card.metrics["mean_iou"] = float(iou_from_confusion(confusion).nanmean())
        return
    loss = card.metrics["negative_log_likelihood"]
    card.metrics["perplexity"] = math.exp(loss) if loss < 700 else math.inf


def _add_fidelity(card: ReportCard, tally: FidelityTally) -> None:
    card.fidelity = tally.section()
    if "kappa" in card.fidelity:
        card.metrics["teacher_kappa"] = card.fidelity["kappa"]


def _no_attack(task: str, room: _ExamRoom, first: Batch, options: Mapping[str, Any]) -> str | None:
    """Why the model is not attacked, if it is not."""
    inputs, low, high = first.inputs, room.low, room.high
    if task != "classification":
        return f"Attacks are made on classifiers; this task is {task}."
    if first.target is None or not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        if options:
            raise ValueError("Expected labelled samples of one floating-point input tensor for `robustness`.")
        if first.target is None:
            return "The samples have no classes that an attack could turn wrong."
        return (
            "The inputs are not one tensor of floating-point numbers (integers such as token ids, or several tensors)."
        )
    if not options and inputs.ndim < 3 and not 0 <= low <= high <= 1:
        return "The inputs are columns that may have different units, for which one radius says nothing."
    if not low < high:
        return "All inputs have the same value."
    return None


def _robustness(
    card: ReportCard, room: _ExamRoom, options: dict[str, Any], radius: float, seconds: float, seed: int
) -> None:
    low, high = room.low, room.high
    settings: dict[str, Any] = {
        "epsilons": [share * (high - low) for share in RELATIVE_RADII],
        "bounds": (low, high),
        "seed": seed,
    }
    settings |= options
    curve = robust_accuracy_curve(room.model, room.samples, **settings)
    shared = {key: settings[key] for key in ("bounds", "num_samples", "batch_size", "seed") if key in settings}
    named = attack_accuracies(
        room.model, room.samples, radius=radius * (high - low), auto_attack_seconds=seconds, **shared
    )
    card.robustness = {
        "epsilon": list(curve.epsilon),
        "accuracy": list(curve.accuracy),
        "attacks": asdict(named),
        "range": [low, high],
    }
    card.metrics["robust_accuracy"] = min(curve.accuracy)
    card.metrics |= {"fgsm_accuracy": named.fgsm, "pgd20_accuracy": named.pgd20}
    if named.auto_attack is not None:
        card.metrics["auto_attack_accuracy"] = named.auto_attack


def _logits(outputs: Outputs, who: str) -> Tensor:
    if outputs.logits is None:
        raise ValueError(f"Expected argument `{who}` to give logits, but it gives none.")
    logits = outputs.logits.detach().cpu()
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if logits.isnan().any():
        raise ValueError(f"Expected argument `{who}` to give numbers as logits, but it gives NaN.")
    return logits


def _rows(outputs: Outputs, shape: Sequence[int], who: str) -> Callable[[Tensor], Tensor]:
    """A function from flat positions to their logits in float32, built only for the positions that are asked."""
    source = outputs.logits if outputs.logits is not None else outputs.hidden
    if source is None or tuple(source.shape[:-1]) != tuple(shape):
        got = "none" if source is None else str(tuple(source.shape))
        raise ValueError(
            f"Expected argument `{who}` to give logits of shape {tuple(shape)} + [vocabulary], but got {got}."
        )
    flat, head = source.reshape(-1, source.shape[-1]), outputs.head if outputs.logits is None else None

    def rows(positions: Tensor) -> Tensor:
        picked = flat[positions]
        return (picked if head is None else picked @ head.T).float()

    return rows
