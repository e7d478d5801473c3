"""A model together with its calibrator: fitted on held-out samples, saved beside the model, called like any model."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.batch import Inputs
from tutelage.data.image_transforms import (
    Blur,
    ImageTransform,
    build_image_transform,
    default_image_transforms,
    describe_image_transform,
)
from tutelage.data.samples import Samples
from tutelage.files import errors_name, read_json, read_tensors, sha256_of, write_json, write_tensors
from tutelage.models import ModelSpecification, build_model, call_model, load_model
from tutelage.models.saving import describe_model
from tutelage.models.specification import Specification, remember
from tutelage.objectives import (
    SampleTemperatureCalibrator,
    TemperatureScaling,
    fit_calibrator,
    transformation_consistency_features,
)
from tutelage.teachers.fingerprint import model_fingerprint

Calibrator = TemperatureScaling | SampleTemperatureCalibrator

_BATCH = 512
_NAMES: dict[str, type[Calibrator]] = {
    "temperature": TemperatureScaling,
    "sample_temperature": SampleTemperatureCalibrator,
}


class CalibratedModel(nn.Module):
    """A classifier whose logits are divided by a temperature; its predictions stay as they are.

    It is called like the model itself, and saved and exported like any model. With a temperature a sample, a call asks
    the model about every transformed copy as well, so that it costs 1 + copies calls.

    Args:
        model: Any classifier that `call_model` can call.
        calibrator: A fitted one; with `transforms` it is called with the features of the copies.
        transforms: What makes the copies, for `SampleTemperatureCalibrator`.
        top_k: How many classes the features hold.

    Raises:
        ValueError: A calibrator for all samples with transforms, or one a sample without or with another number.

    >>> scaling = TemperatureScaling().fit(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    >>> CalibratedModel(nn.Identity(), scaling)(torch.tensor([[4.0, 0.0]])).softmax(dim=1)
    tensor([[0.7500, 0.2500]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(
        self,
        model: nn.Module,
        calibrator: Calibrator,
        transforms: Sequence[ImageTransform] = (),
        *,
        top_k: int = 4,
    ) -> None:
        super().__init__()
        per_sample = isinstance(calibrator, SampleTemperatureCalibrator)
        width = calibrator.hidden.in_features if isinstance(calibrator, SampleTemperatureCalibrator) else 0
        if width != len(transforms) * (top_k if per_sample else 1):
            raise ValueError(
                f"Expected argument `transforms` to hold {width // top_k} transforms for this calibrator "
                f"(its features are {width} wide), but got {len(transforms)}."
            )
        self.model = model
        self.calibrator = calibrator
        self.transforms = list(transforms)
        self.top_k = top_k
        with contextlib.suppress(ValueError):  # a model or transform that nobody described can be used, but not saved
            remember(self, _specification(self))

    def forward(self, inputs: Tensor | None = None, **named: Tensor) -> Tensor:
        """Calibrated logits `[batch, classes]` in float32 or wider."""
        logits = _logits(self.model, named if inputs is None else inputs)
        read = (logits,) if inputs is None or not self.transforms else (logits, self.features(inputs, logits))
        calibrated: Tensor = self.calibrator(*read)
        return calibrated

    def features(self, inputs: Tensor, logits: Tensor) -> Tensor:
        """What the calibrator reads of images with these logits: `[batch, copies · top_k]`."""
        copies = torch.stack([_logits(self.model, transform(inputs)) for transform in self.transforms])
        return transformation_consistency_features(logits, copies, top_k=self.top_k)

    def describe(self) -> str:
        """The calibrator in a few words."""
        if isinstance(self.calibrator, TemperatureScaling):
            return f"temperature {self.calibrator.temperature:.3g}"
        return f"a temperature a sample, from {len(self.transforms)} transformed copies"


def calibrated_model(
    model: Specification,
    calibrator: Mapping[str, Any],
    transforms: Sequence[Mapping[str, Any]] = (),
    top_k: int = 4,
) -> CalibratedModel:
    """Build a calibrated model with random weights from its description; saved models name this factory.

    Args:
        model: The classifier.
        calibrator: `name` (`temperature` or `sample_temperature`) and its arguments.
        transforms: The transformed copies; see `build_image_transform`.
        top_k: How many classes the features hold.

    Raises:
        ValueError: A name or argument is unknown.

    >>> calibrated_model({"name": "mlp", "arguments": {"input_shape": 4, "num_classes": 2}}, {"name": "temperature"})
    CalibratedModel(...(calibrator): TemperatureScaling(temperature=1)...)
    """
    copies = [build_image_transform(dict(transform)) for transform in transforms]
    return CalibratedModel(build_model(model), _build_calibrator(calibrator), copies, top_k=top_k)


def calibrate_model(
    model: nn.Module,
    samples: Samples,
    *,
    method: str = "temperature",
    loss: str | None = None,
    transforms: Sequence[ImageTransform] | None = None,
    top_k: int = 4,
    steps: int = 1000,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> CalibratedModel:
    """Fit a calibrator to a classifier, on samples that it was not trained on.

    Args:
        model: Any classifier; it stays as it is.
        samples: With one class each. A temperature a sample needs thousands: in our measurements one temperature told
            right from wrong better with 2 000 samples, and worse with 5 000.
        method: `"temperature"`: one for all samples. `"sample_temperature"`: one a sample, from how the model answers
            on transformed copies of an image; every later call asks the model about the copies, too.
        loss: `"nll"` (the default of `"temperature"`), `"brier"`, `"correctness_aware"` (the default of
            `"sample_temperature"`) or, for a temperature a sample only, `"correctness_aware_balanced"`.
        transforms: The copies; by default `default_image_transforms`, with a blur in place of greyscale for images that
            have one channel.
        top_k: How many classes the features hold; at most as many as there are.
        steps: Adam's steps for `"sample_temperature"`, in batches of 1 000.
        learning_rate: Adam's.
        seed: Of the calibrator's initial weights, batches and default transforms.

    Raises:
        ValueError: A setting is unknown or does not fit the method, samples are no images where copies are needed, or
            they or the model's outputs are not those of a classifier.

    >>> from tutelage.data import ArraySamples
    >>> samples = ArraySamples(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    >>> calibrate_model(nn.Identity(), samples).describe()
    'temperature 3.64'
    """
    check_option(method, "method", _NAMES)
    losses = ("nll", "brier", "correctness_aware")
    if method == "temperature":
        check_option(loss or "nll", "loss", losses)
        if transforms:
            raise ValueError("Expected argument `transforms` to be empty for the method 'temperature'.")
        logits, target, _ = _answers(model, samples, (), top_k)
        return CalibratedModel(model, TemperatureScaling().to(logits.device).fit(logits, target, loss or "nll"))  # type: ignore[arg-type]
    check_option(loss or "correctness_aware", "loss", (*losses, "correctness_aware_balanced"))
    generator = torch.Generator().manual_seed(seed)
    copies = _default_transforms(samples, generator) if transforms is None else list(transforms)
    check_at_least(len(copies), "transforms", 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logits, target, features = _answers(model, samples, copies, top_k)
        assert features is not None
        calibrator = SampleTemperatureCalibrator(features.shape[1]).to(logits.device)
    fit_calibrator(
        calibrator,
        logits,
        features,
        target,
        loss="cross_entropy" if loss == "nll" else loss or "correctness_aware",
        steps=steps,
        lr=learning_rate,
        batch_size=1000,
        generator=generator,
    )
    return CalibratedModel(model, calibrator.eval(), copies, top_k=features.shape[1] // len(copies))


def save_calibrator(path: Path | str, calibrated: CalibratedModel, *, fitted: Mapping[str, Any] | None = None) -> Path:
    """Save a calibrator beside its saved model, each file written atomically.

    Args:
        path: The saved model: what `load_model` reads. A folder gets `calibrator.safetensors` and `calibrator.json`;
            beside `NAME.safetensors` they are `NAME.calibrator.safetensors` and `NAME.calibrator.json`.
        calibrated: Holds the calibrator, and the model that it was fitted to.
        fitted: What is worth knowing about the fit (data, loss), for people to read.

    Returns:
        The JSON file. It is written last and holds the hash of the tensors and that of the model, so that a calibrator
        of other weights is never used.

    Raises:
        ValueError: A transform is none of the toolkit's.
    """
    tensors = _beside(Path(path))
    description = tensors.with_suffix(".json")
    arguments = _arguments(calibrated)
    write_tensors(tensors, calibrated.calibrator.state_dict())
    write_json(
        description,
        {
            **arguments,
            "model_fingerprint": model_fingerprint(calibrated.model),
            "tensors_sha256": sha256_of(tensors),
            "fitted": {**(fitted or {}), "result": calibrated.describe()},
        },
    )
    return description


def load_calibrated(path: Path | str) -> nn.Module:
    """Load a saved model with the calibrator that lies beside it, if there is one.

    Args:
        path: What `load_model` reads.

    Returns:
        A `CalibratedModel`, or the plain model where no calibrator lies beside it; on the CPU, in evaluation mode.

    Raises:
        FileNotFoundError: There is no model.
        ValueError: A file is damaged, or the calibrator was fitted to other weights.
    """
    model = load_model(path)
    tensors = _beside(Path(path).expanduser())
    description = tensors.with_suffix(".json")
    if not description.exists():
        return model
    try:
        saved = _SavedCalibrator.model_validate(read_json(description))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise ValueError(f"Expected {description} to describe a calibrator, but `{key}`: {first['msg']}.") from None
    if not tensors.exists() or sha256_of(tensors) != saved.tensors_sha256:
        raise ValueError(
            f"Expected {tensors} to hold the tensors that {description.name} describes, but it does not; fit the "
            "calibrator again with `tutelage calibrate`."
        )
    if model_fingerprint(model) != saved.model_fingerprint:
        raise ValueError(
            f"Expected the calibrator {description} to be fitted to the model beside it, but that has changed; fit it "
            "again with `tutelage calibrate`, or remove it."
        )
    with errors_name(description):
        calibrator = _build_calibrator(saved.calibrator)
        copies = [build_image_transform(transform) for transform in saved.transforms]
    state = read_tensors(tensors)
    try:
        calibrator.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"Expected {tensors} to hold the calibrator's tensors, but got {sorted(state)}.") from error
    with errors_name(description):
        return CalibratedModel(model, calibrator, copies, top_k=saved.top_k).eval()


class _SavedCalibrator(BaseModel):
    """What `calibrator.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    calibrator: dict[str, Any]
    transforms: list[dict[str, Any]]
    top_k: int
    model_fingerprint: str
    tensors_sha256: str
    fitted: dict[str, Any] = {}


def _beside(path: Path) -> Path:
    """Where the calibrator of a saved model has its tensors."""
    if path.suffix == ".safetensors":
        stem = path.stem
        return path.with_name(
            "calibrator.safetensors" if stem in ("model", "student") else f"{stem}.calibrator.safetensors"
        )
    return path / "calibrator.safetensors"


def _arguments(calibrated: CalibratedModel) -> dict[str, Any]:
    """The arguments of `calibrated_model`, but for the model."""
    calibrator = calibrated.calibrator
    described: dict[str, Any] = {"name": "temperature"}
    if isinstance(calibrator, SampleTemperatureCalibrator):
        described = {
            "name": "sample_temperature",
            "in_features": calibrator.hidden.in_features,
            "hidden_features": calibrator.hidden.out_features,
            "t_min": calibrator.t_min,
            "t_max": calibrator.t_max,
        }
    transforms = [describe_image_transform(transform) for transform in calibrated.transforms]
    return {"calibrator": described, "transforms": transforms, "top_k": calibrated.top_k}


def _specification(calibrated: CalibratedModel) -> ModelSpecification:
    inner = describe_model(calibrated.model).model_dump(mode="json", exclude_none=True)
    return ModelSpecification(
        name=f"{__name__}:{calibrated_model.__name__}", arguments={"model": inner, **_arguments(calibrated)}
    )


def _build_calibrator(description: Mapping[str, Any]) -> Calibrator:
    arguments = dict(description)
    name = arguments.pop("name", None)
    check_option(name, "calibrator", _NAMES)
    try:
        return _NAMES[name](**arguments)
    except TypeError as error:
        raise ValueError(f"Expected the arguments of the calibrator {name!r}, but got: {error}.") from error


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    logits = call_model(model, inputs).logits
    if logits is None or logits.ndim != 2:
        found = "none" if logits is None else tuple(logits.shape)
        raise ValueError(f"Expected a classifier with logits [batch, classes] to calibrate, but got {found}.")
    return logits


def _answers(
    model: nn.Module, samples: Samples, transforms: Sequence[ImageTransform], top_k: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, targets and features of all samples, on the model's device."""
    check_at_least(len(samples), "samples", 1)
    logits, target, features = [], [], []
    with evaluation_mode(model), torch.no_grad():
        for rows in torch.split(torch.arange(len(samples)), _BATCH):
            batch = samples.batch(rows).to(device_of(model))
            if batch.target is None or batch.target.is_floating_point() or batch.target.ndim != 1:
                raise ValueError("Expected samples with one class each to calibrate on.")
            said = _logits(model, batch.inputs)
            logits.append(said)
            target.append(batch.target)
            if transforms:
                images = _images(batch.inputs)
                copies = torch.stack([_logits(model, transform(images)) for transform in transforms])
                k = min(top_k, said.shape[1])
                features.append(transformation_consistency_features(said, copies, top_k=k))
    return torch.cat(logits), torch.cat(target), torch.cat(features) if features else None


def _images(inputs: Inputs) -> Tensor:
    if isinstance(inputs, dict) or inputs.ndim != 4 or not inputs.is_floating_point():
        raise ValueError(
            "Expected images [batch, channels, height, width] for a temperature a sample, which reads transformed "
            "copies; for other data use the method 'temperature'."
        )
    return inputs


def _default_transforms(samples: Samples, generator: torch.Generator) -> list[ImageTransform]:
    images = _images(samples.batch(torch.zeros(1, dtype=torch.int64)).inputs)
    grey = images.shape[1] != 3
    transforms = default_image_transforms(greyscale=not grey, generator=generator)
    return [*transforms, Blur(0.06 * min(images.shape[-2:]))] if grey else transforms
