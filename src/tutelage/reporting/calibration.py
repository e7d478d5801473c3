"""A calibrator for a saved model: fitted on the validation part, saved beside the model, shown before and after."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from tutelage.assessment import CalibratedModel, calibrate_model, save_calibrator
from tutelage.data.loading import load_data
from tutelage.models import load_model
from tutelage.reporting.metrics import metric
from tutelage.reporting.report import Report
from tutelage.reporting.saved_models import check_takes, model_names, report_on_models

FEW_SAMPLES = 2000
"""Up to here one temperature did better than one a sample: `reproductions/correctness-calibration.full.json`."""


def calibrate_saved_model(
    path: Path | str,
    data: str | Path,
    *,
    data_options: Mapping[str, Any] | None = None,
    method: str = "temperature",
    loss: str | None = None,
    seed: int = 0,
    title: str = "",
    environment: Mapping[str, Any] | None = None,
    device: str | None = None,
) -> tuple[Report, Path]:
    """Fit a calibrator on the data's validation part, save it beside the model, and compare on the test part.

    Args:
        path: What `load_model` reads; a calibrator that is there already is not asked, and is replaced.
        data: What `load_data` reads.
        data_options: Passed on to `load_data`.
        method: See `calibrate_model`.
        loss: See `calibrate_model`.
        seed: Of what is drawn.
        title: The report's title; made from the names by default.
        environment: Goes into the report as it is.
        device: Where the model runs; the GPU by default if there is one.

    Returns:
        The report, whose two arms are the model before and after, and the calibrator's JSON file.

    Raises:
        FileNotFoundError: There is no model at the path.
        ValueError: The data are unknown, the model does not take them, or the calibrator does not suit them.
    """
    loaded = load_data(data, **(data_options or {}))
    if loaded.task != "classification":
        raise ValueError(f"Expected data with one class a sample to calibrate on, but got {loaded.task} data.")
    (name,) = model_names([path])
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(path).to(place)
    check_takes(model, loaded.validation, name)
    calibrated = calibrate_model(model, loaded.validation, method=method, loss=loss, seed=seed)
    both = {f"{name}, calibrated": calibrated, name: model}
    report = report_on_models(both, loaded, robustness=False)
    report.arms[0].description = f"{calibrated.describe()}, fitted on {len(loaded.validation):,} validation samples"
    report.title = title or f"{name}, calibrated, on {loaded.name}"
    report.summary = _summary(report, len(loaded.validation), calibrated)
    fitted = {"data": str(data), "samples": len(loaded.validation), "method": method, "loss": loss or "default"}
    report.config_text = yaml.safe_dump(
        {"model": str(path), "data_options": dict(data_options or {}), "seed": seed, **fitted}, sort_keys=False
    )
    report.environment = {**(environment or {}), "device": place}
    return report, save_calibrator(path, calibrated, fitted=fitted)


def _summary(report: Report, fitted_on: int, calibrated: CalibratedModel) -> str:
    after, before = (arm.cards[0].metrics for arm in report.arms)
    key = "expected_calibration_error"
    shown, samples = metric(key), report.arms[0].cards[0].num_samples
    moved = "falls" if after[key] < before[key] else "rises" if after[key] > before[key] else "stays"
    text = (
        f"Calibration error {moved} from {shown.format_unit(before[key])} to {shown.format_unit(after[key])} on "
        f"{samples:,} test samples; the accuracy of {metric('accuracy').format_unit(after['accuracy'])} is the same. "
        f"Calibrator: {calibrated.describe()}, fitted on {fitted_on:,} validation samples."
    )
    if after[key] >= before[key]:
        text += " It does not help here: remove its files, or fit it on more samples."
    if calibrated.transforms and fitted_on <= FEW_SAMPLES:
        text += " With so few samples one temperature for all is usually better."
    return text
