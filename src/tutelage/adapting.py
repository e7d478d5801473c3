"""Adapting a saved model to a stream, from beginning to end: answers, what drifted, and a page that shows it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_option, check_positive
from tutelage.assessment.evaluation_mode import evaluation_mode
from tutelage.data import load_data, read_stream, test_time_augmentation
from tutelage.data.samples import Data
from tutelage.features import ObservedModel, class_conditional_mean
from tutelage.files import write_json, write_text
from tutelage.models import head_path, load_model
from tutelage.reporting.drift import write_drift_page
from tutelage.training import (
    BatchStatistics,
    EntropyMinimization,
    RobustMeanTeacher,
    SourceModel,
    TestTimeAdaptation,
)
from tutelage.training.adaptation import BATCH_NORMS, logits_of_model

Way = Literal["rmt", "tent", "batch_statistics", "none"]
WAYS = ("rmt", "tent", "batch_statistics", "none")


@dataclass
class Adaptation:
    """What came of a stream.

    Attributes:
        names: What each sample is called.
        probabilities: `[samples, classes]` after adaptation.
        source_probabilities: `[samples, classes]` of the model as it was.
        class_names: Names of the classes, or their numbers.
        target: `[samples]` classes, where they are known.
        curves: Figures of every batch by name: `confidence`, `source confidence`, `entropy`, `changed answers`, `drift`
            (how far the batch's mean embedding has moved from the source's, in deviations of the source; with source
            data only), and `error`, `source error` where classes are known.
        batch_sizes: Samples of every batch.
    """

    names: list[str]
    probabilities: Tensor
    source_probabilities: Tensor
    class_names: tuple[str, ...]
    target: Tensor | None = None
    curves: dict[str, list[float]] = field(default_factory=dict)
    batch_sizes: list[int] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """The number of samples, and the mean of every curve in which every sample counts once."""
        count = len(self.names)
        means = {
            name: sum(size * value for size, value in zip(self.batch_sizes, values, strict=True)) / count
            for name, values in self.curves.items()
        }
        return {"samples": float(count), **means}


def adapt_stream(
    model: Path | str,
    stream: Path | str,
    *,
    source: Path | str | None = None,
    source_options: Mapping[str, Any] | None = None,
    stream_options: Mapping[str, Any] | None = None,
    way: Way = "rmt",
    batch_size: int = 64,
    learning_rate: float = 5e-4,
    momentum: float = 0.99,
    warm_up: int = 50,
    flip: bool = False,
    size: tuple[int, int] | None = None,
    mode: Literal["RGB", "L"] | None = None,
    seed: int = 0,
) -> Adaptation:
    """Answer a stream with a saved classifier that adapts to it; the saved model stays as it is.

    Args:
        model: What `load_model` reads.
        stream: What `read_stream` reads.
        source: The data the model was trained on, which `load_data` reads. Needed for `"rmt"`: prototypes and warm-up
            come from its training part, without their labels being used at test time.
        source_options: Passed on to `load_data` for the source.
        stream_options: The same for a stream of named data.
        way: `"rmt"`, `"tent"`, `"batch_statistics"` (BN-1) or `"none"`.
        batch_size: Samples answered, and learned from, at a time; a last batch of less than half of that is joined to
            the one before, since its statistics would be noise.
        learning_rate: Of Adam.
        momentum: Of RMT's teacher.
        warm_up: RMT's steps on source data before the stream; 0 for none.
        flip: Whether RMT's augmentation may mirror images.
        size: Height and width that images of a folder are resized to; by default the source's, if that is images.
        mode: How images of a folder are read, `"L"` for grey; by default as the source's, and else in colour.
        seed: Every random choice follows from it.

    Raises:
        FileNotFoundError: No such model or stream.
        ValueError: `"rmt"` without a source, a setting out of range, inputs that the model does not take, or labels
            and classes that do not fit it.
    """
    check_option(way, "way", WAYS)
    check_at_least(batch_size, "batch_size", 2)
    check_positive(learning_rate, "learning_rate")
    check_non_negative(warm_up, "warm_up")
    if way == "rmt" and source is None:
        raise ValueError("Expected argument `source`, since `rmt` starts from source prototypes, but got None.")
    torch.manual_seed(seed)
    deployed, learning = load_model(model).eval(), load_model(model)
    data = None if source is None else load_data(source, **(source_options or {}))
    known = None if data is None else _inputs_of(data, source)
    if known is not None and known.ndim == 4:
        size = size or (known.shape[-2], known.shape[-1])
        mode = mode or ("L" if known.shape[1] == 1 else "RGB")
    incoming = read_stream(stream, options=stream_options, size=size, mode=mode or "RGB")
    classes = _classes_of(deployed, incoming.inputs, stream)
    if data is not None and known is not None and _classes_of(deployed, known, source) != data.num_classes:
        raise ValueError(f"Expected {source} to have the {classes} classes of the model, but got {data.num_classes}.")
    if incoming.target is not None:
        _check_target(incoming.target, len(incoming.inputs), classes, stream)
    spread = None if known is None else _embedding_spread(deployed, known)
    method = _method(way, learning, data, learning_rate, momentum, warm_up, flip)
    batches = _batches(len(incoming.inputs), batch_size)
    answers: list[Tensor] = []
    before: list[Tensor] = []
    curves: dict[str, list[float]] = {}
    for first, last in batches:
        x = incoming.inputs[first:last]
        with torch.no_grad():
            old = logits_of_model(deployed, x).softmax(dim=1)
        logits = method.adapt(x) / (2 if way == "rmt" else 1)  # RMT sums two models: their mean is as sure as they are
        new = logits.softmax(dim=1)
        answers.append(new)
        before.append(old)
        target = None if incoming.target is None else incoming.target[first:last]
        for name, value in _figures(new, old, target).items():
            curves.setdefault(name, []).append(value)
        if spread is not None:
            moved = (_embeddings(deployed, x).mean(dim=0) - spread[0]) / spread[1]
            curves.setdefault("drift", []).append(float(moved.square().mean().sqrt()))
    probabilities = torch.cat(answers)
    names = incoming.class_names or (() if data is None else tuple(data.class_names))
    return Adaptation(
        incoming.names,
        probabilities,
        torch.cat(before),
        names or tuple(str(number) for number in range(probabilities.shape[1])),
        incoming.target,
        curves,
        [last - first for first, last in batches],
    )


def write_adaptation(folder: Path | str, found: Adaptation, *, title: str = "Adaptation to a stream") -> Path:
    """Write `predictions.csv`, `drift.json` and the page `drift.html`; gives the page's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    known = found.target is not None
    rows.writerow(["sample", "class", "confidence", "class_before", "confidence_before", *(["label"] if known else [])])
    now, before = found.probabilities.max(dim=1), found.source_probabilities.max(dim=1)
    for place, name in enumerate(found.names):
        row = [name]
        for best in (now, before):
            row += [found.class_names[int(best.indices[place])], f"{float(best.values[place]):.4f}"]
        if found.target is not None:
            row.append(found.class_names[int(found.target[place])])
        rows.writerow(row)
    write_text(folder / "predictions.csv", text.getvalue())
    write_json(folder / "drift.json", {"title": title, "summary": found.summary(), "curves": found.curves})
    return write_drift_page(folder / "drift.html", title, found.curves, found.summary())


class _Embedding(nn.Module):
    """A model up to what its head reads."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._observed = ObservedModel(model, embedding=True)

    def forward(self, x: Tensor) -> Tensor:
        embedding = self._observed(x).embedding
        assert embedding is not None
        return embedding


def _method(
    way: Way,
    model: nn.Module,
    data: Data | None,
    learning_rate: float,
    momentum: float,
    warm_up: int,
    flip: bool,
) -> TestTimeAdaptation:
    optimizer = partial(torch.optim.Adam, lr=learning_rate)
    if way == "none":
        return SourceModel(model)
    if way == "batch_statistics":
        if not any(isinstance(module, BATCH_NORMS) for module in model.modules()):
            raise ValueError("Expected argument `model` to have batch normalisation, but it has none.")
        return BatchStatistics(model)
    if way == "tent":
        return EntropyMinimization(model, optimizer=optimizer)
    assert data is not None
    train = data.train.batch(torch.arange(len(data.train)))
    if not isinstance(train.inputs, Tensor) or train.target is None:
        raise ValueError("Expected source data with one tensor of inputs and a class each.")
    features, head = _Embedding(model), model.get_submodule(head_path(model))
    prototypes = class_conditional_mean(
        _embeddings(model.eval(), train.inputs), train.target, num_classes=data.num_classes or 0
    )
    image = train.inputs.ndim == 4
    method = RobustMeanTeacher(
        model,
        features,
        head,
        prototypes,
        momentum=momentum,
        source_weight=0.0,
        optimizer=optimizer,
        augment=test_time_augmentation(min(train.inputs.shape[-2:]), flip=flip) if image else _jitter,
    )
    if warm_up:
        order = torch.randperm(len(train.inputs))
        method.warm_up([train.inputs[rows] for rows in order.split(64) if len(rows) > 1], warm_up)  # type: ignore[no-untyped-call]
    return method


def _jitter(x: Tensor) -> Tensor:
    """Inputs that are no images: a twentieth of the batch's own deviation as noise."""
    return x + 0.05 * x.std(dim=0, keepdim=True) * torch.randn_like(x)


@torch.no_grad()
def _embeddings(model: nn.Module, inputs: Tensor) -> Tensor:
    features = _Embedding(model)
    with evaluation_mode(model):
        return torch.cat([features(part) for part in inputs.split(256)])  # type: ignore[no-untyped-call]


def _inputs_of(data: Data, source: Any) -> Tensor:
    """All training inputs of the source."""
    inputs = data.train.batch(torch.arange(len(data.train))).inputs
    if not isinstance(inputs, Tensor):
        raise ValueError(f"Expected the inputs of {source} to be one tensor, but they are named tensors.")
    return inputs


@torch.no_grad()
def _classes_of(model: nn.Module, inputs: Tensor, place: Any) -> int:
    """How many classes the model tells apart; asked with the first inputs, so that those that do not fit are told."""
    try:
        return logits_of_model(model, inputs[:2]).shape[1]
    except (RuntimeError, ValueError, TypeError) as error:
        cause = " ".join(str(error).split())
        raise ValueError(
            f"Expected {place} to hold inputs that the model takes, but it takes none of shape "
            f"{tuple(inputs.shape[1:])}: {cause}"
        ) from error


def _check_target(target: Tensor, samples: int, classes: int, stream: Any) -> None:
    if target.shape != (samples,):
        raise ValueError(
            f"Expected the target of {stream} to hold a class for each of its {samples} samples, but got the shape "
            f"{tuple(target.shape)}."
        )
    if target.min() < 0 or target.max() >= classes:
        wrong = int(target.min() if target.min() < 0 else target.max())
        raise ValueError(f"Expected the target of {stream} to hold classes in [0, {classes}), but got {wrong}.")


def _embedding_spread(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the source's embeddings."""
    found = _embeddings(model, inputs)
    return found.mean(dim=0), found.std(dim=0).clamp_min(1e-6)


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    """First and end of every batch; a last one of less than half a batch joins the one before it."""
    starts = list(range(0, count, size))
    if len(starts) > 1 and 2 * (count - starts[-1]) < size:
        starts.pop()
    return [(first, last) for first, last in zip(starts, [*starts[1:], count], strict=True)]


def _figures(new: Tensor, old: Tensor, target: Tensor | None) -> dict[str, float]:
    best, before = new.argmax(dim=1), old.argmax(dim=1)
    found = {
        "confidence": new.amax(dim=1).mean(),
        "source confidence": old.amax(dim=1).mean(),
        "entropy": torch.special.entr(new).sum(dim=1).mean(),
        "changed answers": (best != before).float().mean(),
    }
    if target is not None:
        found |= {"error": (best != target).float().mean(), "source error": (before != target).float().mean()}
    return {name: float(value) for name, value in found.items()}
