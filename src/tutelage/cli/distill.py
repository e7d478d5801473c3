"""`tutelage distill`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def distill(
    config: Annotated[
        Path | None, typer.Argument(help="YAML config; without one, the demo on handwritten digits.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Built-in name, folder, file, or module:factory.")] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="Builder, transformers name or path, saved model, or module:factory; repeat for an ensemble."
        ),
    ] = None,
    student: Annotated[str | None, typer.Option(help="The same forms as --teacher.")] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(help="Registered objective or module:attribute; repeat to sum several in one lesson."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed; repeat for several students.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Students taught at the same time; 0 is one a core.")] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any config key: training.batch_size=32, student.arguments.hidden=[64] …"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default a new one under runs/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved config and stop.")] = False,
) -> None:
    """Teach a student, and say what it learned. Without arguments: a demo on real handwritten digits."""
    from tutelage.cli.own_code import import_from_here
    from tutelage.config import config_from_options
    from tutelage.run import run_from_terminal

    import_from_here()
    options = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "objectives": objective,
        "training.epochs": epochs,
        "seeds": seed,
        "jobs": jobs,
    }
    if resume is not None:
        given = {"CONFIG": config, **options, "set": setting, "out": out, "show_config": show_config}
        if more := [key for key, value in given.items() if value]:
            raise ValueError(f"Expected --resume alone, since a run keeps its config, but got {', '.join(more)} too.")
        run_from_terminal(None, resume)
        return
    resolved = config_from_options(config, options, setting or [])
    if show_config:
        print(resolved.to_yaml(), end="")
        return
    run_from_terminal(resolved, out)
