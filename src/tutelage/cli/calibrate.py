"""`tutelage calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    model: Annotated[Path, typer.Argument(help="The saved model: a run's folder, or what `tutelage assess` takes.")],
    data: Annotated[str, typer.Option(help="Data by name, file or folder: fits on validation, reports on test.")] = ...,  # type: ignore[assignment]
    data_option: Annotated[
        list[str] | None, typer.Option("--data-option", help="An option of the data, such as `flat=true`; repeatable.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="`temperature`, or `sample_temperature`: one a sample, from transformed copies of images."),
    ] = "temperature",
    loss: Annotated[
        str | None,
        typer.Option(
            help="`nll`, `brier`, `correctness_aware`; a temperature a sample also `correctness_aware_balanced`."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder for `report.html` and `report.json`.")] = Path("calibration"),
    name: Annotated[str, typer.Option(help="The report's title.")] = "",
    seed: Annotated[int, typer.Option(help="Of what is drawn for a temperature a sample.")] = 0,
    device: Annotated[str | None, typer.Option(help="Where to run; the GPU by default if there is one.")] = None,
) -> None:
    """Make a saved model's confidence mean what it says: fit a calibrator on held-out data, save it beside the model.

    Predictions stay as they are. `tutelage assess` and `tutelage export` use the calibrator from then on.
    """
    from tutelage.reporting import calibrate_saved_model, print_report, write_report
    from tutelage.reporting.saved_models import parse_options
    from tutelage.reproduction.environment import environment

    report, saved = calibrate_saved_model(
        model,
        data,
        data_options=parse_options(data_option or []),
        method=method,
        loss=loss,
        seed=seed,
        title=name,
        environment=environment(),
        device=device,
    )
    page = write_report(out / "report.html", report)
    print_report(report, page=page)
    typer.echo(f"Calibrator: {saved}")
