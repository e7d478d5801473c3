"""`tutelage assess`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def assess(
    model: Annotated[Path, typer.Argument(help="The saved model to assess.")],
    other: Annotated[Path | None, typer.Argument(metavar="MODEL_B", help="A second model to compare with.")] = None,
    data: Annotated[str, typer.Option(help="Data by name, file or folder; its test part is asked.")] = ...,  # type: ignore[assignment]
    data_option: Annotated[
        list[str] | None, typer.Option("--data-option", help="An option of the data, such as `flat=true`; repeatable.")
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="A saved model that the others learned from.")] = None,
    out: Annotated[Path, typer.Option(help="The folder for `report.html` and `report.json`.")] = Path("assessment"),
    name: Annotated[str, typer.Option(help="The report's title.")] = "",
    robustness: Annotated[bool, typer.Option(help="Attack the models, which takes the longest.")] = True,
    attack_radius: Annotated[
        float,
        typer.Option(help="Of FGSM, PGD-20 and AutoAttack, as a share of the inputs' range.", show_default="8/255"),
    ] = 8 / 255,
    auto_attack_seconds: Annotated[
        float, typer.Option(help="The most that AutoAttack may take for a model, if it is installed; 0: not at all.")
    ] = 60.0,
    calibrated: Annotated[
        bool, typer.Option("--calibrated/--raw", help="Use the calibrator beside a model, if there is one.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="Where to run; the GPU by default if there is one.")] = None,
) -> None:
    """Say what a saved model knows, and write a report card; with two models, say which is better and how surely.

    A model is a run's folder, a `.safetensors` file with its JSON, or a folder in the form of `transformers`.
    """
    from tutelage.reporting import print_report, report_on_saved_models, write_report
    from tutelage.reporting.saved_models import parse_options
    from tutelage.reproduction.environment import environment

    report = report_on_saved_models(
        [model] if other is None else [model, other],
        data,
        data_options=parse_options(data_option or []),
        teacher=teacher,
        title=name,
        environment=environment(),
        robustness=robustness,
        attack_radius=attack_radius,
        auto_attack_seconds=auto_attack_seconds,
        calibrated=calibrated,
        device=device,
    )
    page = write_report(out / "report.html", report)
    print_report(report, page=page)
