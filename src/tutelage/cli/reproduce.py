"""`tutelage reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

NOT_ALL_HOLD, FAILED, NOT_HERE = 3, 1, 4


def reproduce(
    slug: Annotated[str, typer.Argument(help="The system's name, as `tutelage systems` lists it.")],
    scale: Annotated[str, typer.Option(help="smoke (seconds), quick (minutes), full, paper (GPUs).")] = "quick",
    seeds: Annotated[
        int | None, typer.Option(min=1, help="How many seeds; as many as the scale says if left out.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the result to this file.")] = None,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "processes",
    jobs: Annotated[int, typer.Option(min=1, help="How many trials run at once.")] = 2,
    folder: Annotated[Path | None, typer.Option(help="Keep finished trials here, and reuse those that are.")] = None,
    breakage: Annotated[
        str | None, typer.Option("--break", help="Break the method on purpose in this way: some claim must then fail.")
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="Record the result in `reproductions/`.")] = False,
) -> None:
    """Run a system's experiment on this machine and judge the paper's claims.

    Exits with 0 when all claims hold, 3 when some do not, 1 when a trial failed, 4 when this machine lacks what the
    scale needs, 2 for a mistake in the arguments.
    """
    from tutelage.files import write_json
    from tutelage.reproduction import TrialError, load_recipe, run_recipe
    from tutelage.reproduction.needs import unmet
    from tutelage.reproduction.presentation import configuration_lines, print_result, progress
    from tutelage.reproduction.recorded import check_recordable
    from tutelage.reproduction.recorded import record as write_record

    recipe = load_recipe(slug)
    chosen = recipe.scale(scale)
    if record:
        check_recordable(breakage)
    if scale == "paper":
        print("\n".join(configuration_lines(recipe, scale)))
    missing = unmet(chosen.needs)
    if missing:
        typer.echo(f"Not run, since this scale needs {', '.join(missing)}.", err=True)
        raise typer.Exit(NOT_HERE)
    try:
        with progress(slug) as report:
            result = run_recipe(
                recipe, scale, seeds=seeds, engine=engine, jobs=jobs, breakage=breakage, folder=folder, report=report
            )
    except TrialError as error:
        typer.echo(f"tutelage: {error}", err=True)
        raise typer.Exit(FAILED) from error
    print_result(result)
    if json is not None:
        write_json(json, result)
    if record:
        print(write_record(result))
    if not all(claim["holds"] for claim in result["claims"]):
        raise typer.Exit(NOT_ALL_HOLD)
