"""`tutelage export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    path: Annotated[Path, typer.Argument(help="A run's folder, a saved model, or a `transformers` folder.")],
    to: Annotated[Path, typer.Option("--to", help="Folder for the exported files.")],
    format: Annotated[
        list[str] | None,
        typer.Option("--format", help="`safetensors`, `torch_export` or `onnx`; repeatable. All three by default."),
    ] = None,
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--raw", help="Put the calibrator beside the model, if there is one, into it.")
    ] = True,
    input_shape: Annotated[
        str | None,
        typer.Option("--input-shape", help="A sample's shape, such as `1,8,8`, where the model does not say it."),
    ] = None,
) -> None:
    """Ship a student: write it for other runtimes and check that each file gives the same logits.

    A calibrator that `tutelage calibrate` left beside the model becomes part of every file, so that the softmax of its
    logits is calibrated. With a temperature a sample, the file asks the network about the transformed copies as well.
    """
    from tutelage.assessment import CalibratedModel, load_calibrated
    from tutelage.models.export import FORMATS, example_inputs, export_model
    from tutelage.models.saving import load_model

    shape = None
    if input_shape is not None:
        try:
            shape = tuple(int(size) for size in input_shape.split(","))
        except ValueError:
            raise ValueError(
                f"Expected --input-shape to be whole numbers with commas between, but got {input_shape!r}."
            ) from None
    model = load_calibrated(path) if calibrated else load_model(path)
    network = model.model if isinstance(model, CalibratedModel) else model
    files = export_model(
        model,
        to,
        example_inputs=example_inputs(network, input_shape=shape),
        formats=format or FORMATS,
    )
    for file in files:
        typer.echo(
            f"{file.format}: {file.path} ({file.bytes / 1e6:.3g} MB), "
            f"largest difference of a logit {file.largest_difference:.2g}"
        )
    if isinstance(model, CalibratedModel):
        calls = 1 + len(model.transforms)
        cost = f"; every call runs the network {calls} times" if calls > 1 else ""
        typer.echo(f"calibrated: {model.describe()}{cost}")
