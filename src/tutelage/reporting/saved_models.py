"""A report about saved models: each is assessed on the test data, and the first is compared with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage._checks import check_at_least, check_same_shape
from tutelage.assessment import (
    CalibratedModel,
    PairedComparison,
    assess,
    bootstrap_interval,
    clustered_comparison,
    load_calibrated,
    paired_t_test,
)
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.data.loading import load_data
from tutelage.data.samples import Data, Samples
from tutelage.models import call_model, load_model
from tutelage.reporting.report import ArmResult, Report

_BATCH = 256
_IGNORED = -100


def report_on_saved_models(
    paths: Sequence[Path | str],
    data: str | Path,
    *,
    data_options: Mapping[str, Any] | None = None,
    teacher: Path | str | None = None,
    title: str = "",
    environment: Mapping[str, Any] | None = None,
    robustness: bool = True,
    attack_radius: float = 8 / 255,
    auto_attack_seconds: float = 60.0,
    calibrated: bool = True,
    device: str | None = None,
) -> Report:
    """Assess saved models on a data set's test part, and test whether the first differs from each of the others.

    Args:
        paths: What `load_model` reads; each becomes an arm, named after its folder or file.
        data: What `load_data` reads.
        data_options: Passed on to `load_data`.
        teacher: A saved model to compare with.
        title: The report's title; made from the names by default.
        environment: Goes into the report as it is.
        robustness: Whether to attack the models, which takes the longest.
        attack_radius: Of FGSM, PGD-20 and AutoAttack, as a share of the inputs' range.
        auto_attack_seconds: The most that AutoAttack may take for a model, where its package is installed.
        calibrated: Whether a model is asked together with the calibrator beside it, if there is one.
        device: Where the models run and are timed; the GPU by default if there is one.

    Raises:
        FileNotFoundError: There is no model at a path.
        ValueError: The data are unknown, or a model does not take them.
    """
    check_at_least(len(paths), "paths", 1)
    loaded = load_data(data, **(data_options or {}))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    everything = [*paths, teacher] if teacher is not None else [*paths]
    names = model_names(everything)
    load = load_calibrated if calibrated else load_model
    models = {name: load(path).to(place) for name, path in zip(names, everything, strict=True)}
    taught = models.pop(names[-1]) if teacher is not None else None
    report = report_on_models(
        models,
        loaded,
        teacher=taught,
        robustness=robustness,
        attack_radius=attack_radius,
        auto_attack_seconds=auto_attack_seconds,
    )
    if report.teacher is not None:
        report.teacher.name = names[-1]
    for arm in report.arms:
        model = models[arm.name]
        arm.description = f"calibrated: {model.describe()}" if isinstance(model, CalibratedModel) else ""
    report.title = title or f"{' and '.join(models)} on {loaded.name}"
    settings = {"models": dict(zip(models, map(str, paths), strict=True)), "data": str(data)}
    settings |= {"data_options": dict(data_options)} if data_options else {}
    settings |= {} if teacher is None else {"teacher": str(teacher)}
    report.config_text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    report.environment = {**(environment or {}), "device": place}
    return report


def report_on_models(
    models: Mapping[str, nn.Module], data: Data, *, teacher: nn.Module | None = None, **options: Any
) -> Report:
    """Assess models on a data set's test part, and test whether the first differs from each of the others.

    Args:
        models: Models by name; each becomes an arm with one card.
        data: Only its test part is read.
        teacher: A model to compare with.
        options: Passed on to `assess`: `robustness`, `attack_radius` …

    Returns:
        A report without a summary, which pages and tables then make from the figures.

    Raises:
        ValueError: A model does not take the samples.

    >>> from tutelage.data.loading import load_data
    >>> from tutelage.models import mlp
    >>> report = report_on_models({"small": mlp(4, 3)}, load_data("iris"), robustness=False)
    >>> report.title, "accuracy" in report.arms[0].cards[0].metrics
    ('small on iris', True)
    """
    asked: dict[str, Any] = {"class_names": data.class_names, **options}
    report = Report(f"{' and '.join(models)} on {data.name}")
    for name, model in {**models, **({} if teacher is None else {"teacher": teacher})}.items():
        check_takes(model, data.test, name)
    if teacher is not None:
        report.teacher = assess(teacher, data.test, name="teacher", **asked)
    for name, model in models.items():
        card = assess(model, data.test, name=name, teacher=teacher, **asked)
        report.arms.append(ArmResult(name, cards=[card]))
    if len(models) > 1:
        scores = {name: sample_scores(model, data.test) for name, model in models.items()}
        first = next(iter(models))
        for other in list(models)[1:]:
            for metric in scores[first]:
                compared, method = _compare(metric, scores[first][metric], scores[other][metric])
                report.comparisons.append(
                    {
                        "arm": first,
                        "baseline": other,
                        "metric": metric,
                        "difference": compared.difference,
                        "ci_low": compared.ci_low,
                        "ci_high": compared.ci_high,
                        "p_value": compared.p_value,
                        "method": method,
                    }
                )
    return report


def check_takes(model: nn.Module, samples: Samples, name: str) -> None:
    """Say which model does not take the samples, where torch would only speak of shapes."""
    batch = samples.batch(torch.zeros(1, dtype=torch.int64)).to(device_of(model))
    try:
        with evaluation_mode(model), torch.no_grad():
            call_model(model, batch.inputs)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"Expected the model {name!r} to take the data's samples (an option of the data may be missing), "
            f"but got: {str(error).strip().splitlines()[0]}."
        ) from error


def model_names(paths: Sequence[Path | str]) -> list[str]:
    """Short names that differ: the file or folder, with as many folders above it as tell the models apart.

    >>> model_names(["runs/kd/student.safetensors", "runs/pld"]), model_names(["a/run", "b/run"])
    (['kd', 'pld'], ['a/run', 'b/run'])
    """
    parts = []
    for path in map(Path, paths):
        stem = path.parent if path.suffix == ".safetensors" and path.stem in ("student", "model") else path
        whole = stem.with_suffix("") if stem.suffix == ".safetensors" else stem
        parts.append([part for part in whole.absolute().parts if part != whole.anchor] or ["model"])
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name}, {count}" for count, name in enumerate(names, start=1)]  # one model given twice


def sample_scores(model: nn.Module, samples: Samples) -> dict[str, list[np.ndarray]]:
    """What the metrics of a model are means of: by metric, an array of values a sample.

    Classification gives `accuracy` (right or wrong) and `negative_log_likelihood`, regression `mean_squared_error`: one
    value a sample. Language models give `token_accuracy` and `negative_log_likelihood`: one value a counted token.

    Args:
        model: Called by `call_model` on its own device, in evaluation mode, without gradients.
        samples: Have targets.

    Raises:
        ValueError: The samples have no targets, or outputs do not fit them.
    """
    scores: dict[str, list[np.ndarray]] = {}
    with evaluation_mode(model), torch.no_grad():
        for rows in torch.split(torch.arange(len(samples)), _BATCH):
            batch = samples.batch(rows).to(device_of(model))
            logits = call_model(model, batch.inputs).logits
            if batch.target is None or logits is None:
                raise ValueError("Expected labelled samples and models with logits, to compare sample by sample.")
            for metric, values in _batch_scores(logits.float(), batch.target).items():
                scores.setdefault(metric, []).extend(values)
    return scores


def _batch_scores(logits: Tensor, target: Tensor) -> dict[str, list[np.ndarray]]:
    if target.is_floating_point():
        if logits.ndim == target.ndim + 1 and logits.shape[-1] == 1:
            logits = logits.squeeze(-1)
        check_same_shape(logits, target, "model outputs", "target")
        error = (logits - target).square()
        return {"mean_squared_error": _by_sample(error.flatten(1).mean(1) if error.ndim > 1 else error)}
    kept = target != _IGNORED
    loss = F.cross_entropy(logits.movedim(-1, 1), target, reduction="none", ignore_index=_IGNORED)
    right = logits.argmax(-1) == target
    if target.ndim == 1:
        return {"accuracy": _by_sample(right), "negative_log_likelihood": _by_sample(loss)}
    return {
        name: [values[row][kept[row]].double().cpu().numpy() for row in range(len(target))]
        for name, values in (("token_accuracy", right), ("negative_log_likelihood", loss))
    }


def _by_sample(values: Tensor) -> list[np.ndarray]:
    return list(values.double().cpu().numpy()[:, None])


def _compare(metric: str, first: list[np.ndarray], second: list[np.ndarray]) -> tuple[PairedComparison, str]:
    """The paired comparison that fits a metric, and what it is called."""
    a, b = np.concatenate(first), np.concatenate(second)
    if metric == "accuracy":
        return mcnemar_comparison(a, b), "exact McNemar test, paired bootstrap interval"
    sizes = [len(values) for values in first]
    if any(size != 1 for size in sizes):
        clusters = np.repeat(np.arange(len(sizes)), sizes)
        return clustered_comparison(a, b, clusters), "paired t-test over tokens, clustered by sample"
    return paired_t_test(a, b), "paired t-test over samples"


def mcnemar_comparison(first: Any, second: Any) -> PairedComparison:
    """Compare the accuracies of two models on the same samples.

    Only samples that one model gets right and the other wrong tell them apart: without a difference, either is right on
    half of those. p is the two-sided binomial probability; the interval is the percentile bootstrap over samples.

    Args:
        first: `[samples]`, 1 where the first model is right, else 0.
        second: `[samples]`, the same for the second.

    Returns:
        The difference of accuracies, first minus second.

    Raises:
        ValueError: Lengths differ, or there are no samples.

    Source: McNemar, Psychometrika 12 (1947), in its exact form.

    >>> compared = mcnemar_comparison([1, 1, 1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 0, 1])
    >>> compared.difference, round(compared.p_value, 5)  # 5 against 1: 2 (1 + 6) / 64
    (0.5, 0.21875)
    """
    from scipy.stats import binomtest

    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    check_at_least(len(difference), "first", 1)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    p_value = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    low, high = bootstrap_interval(difference)
    return PairedComparison(float(difference.mean()), low, high, p_value, len(difference), 0.95, "two-sided")


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options given as `key=value` texts, with values read as YAML.

    Raises:
        ValueError: A text has no `=`, or its value is no YAML.

    >>> parse_options(["flat=true", "size=8"])
    {'flat': True, 'size': 8}
    """
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        try:
            if not (key and equals):
                raise yaml.YAMLError
            options[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"Expected an option as `key=value`, but got {text!r}.") from error
    return options
