"""`tutelage compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def compare(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="YAML config, that of `tutelage distill` too; without one, the demo on handwritten digits."
        ),
    ] = None,
    data: Annotated[str | None, typer.Option(help="Built-in name, folder, file, or module:factory.")] = None,
    teacher: Annotated[
        list[str] | None,
        typer.Option(help="Saved model, transformers name or path, or module:factory; repeat for an ensemble."),
    ] = None,
    student: Annotated[str | None, typer.Option(help="The same forms as --teacher, or a builder.")] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time for all of it: `90s`, `5m`, `2h`; 4 minutes by default.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data that a student would get.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Compare this one, beside the baselines, not all that apply; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave this method out; repeatable.")] = None,
    own: Annotated[
        list[str] | None, typer.Option(help="An objective of your own, as package.module:attribute; repeatable.")
    ] = None,
    finalists: Annotated[int | None, typer.Option(help="Methods in the final, besides the baselines.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Students of each finalist.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Students taught at the same time; 0 is one a core.")] = None,
    engine: Annotated[
        Literal["processes", "ray"] | None, typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="Any config key: training.batch_size=32, keep=4 …")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder; by default a new one under comparisons/.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the comparison in this folder.")] = None,
    list_only: Annotated[
        bool, typer.Option("--list", help="Say which methods apply, and why others do not; trains nothing.")
    ] = False,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print the resolved config and stop.")] = False,
) -> None:
    """Find the best method for your own teacher, student and data. Without arguments: on real handwritten digits."""
    from tutelage.cli.own_code import import_from_here
    from tutelage.comparison.settings import comparison_from_options
    from tutelage.comparison.terminal import compare_from_terminal, print_methods

    import_from_here()
    options = {
        "data": data,
        "teacher": teacher,
        "student": student,
        "budget": budget,
        "training.epochs": epochs,
        "methods.include": method,
        "methods.exclude": exclude,
        "methods.own": own,
        "finalists": finalists,
        "seeds": seeds,
        "jobs": jobs,
        "engine": engine,
    }
    if resume is not None:
        given = {"CONFIG": config, **options, "set": setting, "out": out, "list": list_only, "show_config": show_config}
        more = [key for key, value in given.items() if value and key not in ("jobs", "engine", "budget")]
        if more:
            raise ValueError(
                f"Expected only --jobs, --engine or --budget beside --resume, but got {', '.join(more)} too."
            )
        compare_from_terminal(None, resume, jobs=jobs, engine=engine, budget=budget)
        return
    resolved, left_out = comparison_from_options(config, options, setting or [])
    if left_out:
        print(f"A comparison does not use these keys of {config}: {', '.join(left_out)}.")
    if show_config:
        print(resolved.to_yaml(), end="")
    elif list_only:
        print_methods(resolved)
    else:
        compare_from_terminal(resolved, out)
