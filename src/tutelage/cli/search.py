"""`tutelage search`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer


def search(
    teacher: Annotated[Path, typer.Option(help="The saved teacher.")] = ...,  # type: ignore[assignment]
    data: Annotated[str, typer.Option(help="Data by name, file or folder.")] = ...,  # type: ignore[assignment]
    data_option: Annotated[
        list[str] | None, typer.Option("--data-option", help="An option of the data, such as `flat=true`; repeatable.")
    ] = None,
    method: Annotated[
        Literal["score", "n2n"],
        typer.Option(help="Score a space without training, or compress the teacher by policies (N2N)."),
    ] = "score",
    space: Annotated[str, typer.Option(help="`residual` (images), `perceptron`, or module:attribute.")] = "residual",
    space_option: Annotated[
        list[str] | None, typer.Option("--space-option", help="An option of the space, such as `depths=[1,2]`.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Most parameters of a student; a tenth of the teacher's by default.")
    ] = None,
    score: Annotated[str, typer.Option(help="`diswot`, `parameters` or `random`.")] = "diswot",
    evaluations: Annotated[int, typer.Option(help="Architectures that the search looks at.")] = 100,
    lesson_epochs: Annotated[
        int, typer.Option(help="With `n2n`: epochs of the lesson after which an architecture is judged.")
    ] = 3,
    finalists: Annotated[int, typer.Option(help="How many of the best are distilled.")] = 4,
    epochs: Annotated[int, typer.Option(help="Of each distillation.")] = 5,
    seeds: Annotated[int, typer.Option(help="Distillations of each finalist.")] = 2,
    jobs: Annotated[int, typer.Option(help="How many run at once.")] = 2,
    engine: Annotated[
        Literal["processes", "ray"], typer.Option(help="Processes of this machine, or a Ray cluster.")
    ] = "processes",
    out: Annotated[Path, typer.Option(help="The search's folder; a search in it goes on.")] = Path("search"),
) -> None:
    """Propose students for a teacher: look at many architectures cheaply, distil a few, and say why."""
    from tutelage.reporting.saved_models import parse_options
    from tutelage.searching import search_students

    found = search_students(
        teacher,
        data,
        out,
        data_options=parse_options(data_option or []),
        method=method,
        space=space,
        space_options=parse_options(space_option or []),
        budget=budget,
        score=score,  # type: ignore[arg-type]  # checked there
        evaluations=evaluations,
        lesson_epochs=lesson_epochs,
        finalists=finalists,
        epochs=epochs,
        seeds=seeds,
        jobs=jobs,
        engine=engine,
    )
    for one in found:
        mark = "*" if one.on_front else " "
        reasons = "; ".join(one.reasons)
        print(f"{mark} {one.arch}: {100 * one.accuracy:.2f} %, {one.parameters:,} parameters, {reasons}")
    print(f"* no other finalist is at least as accurate, small and fast\nPage: {out / 'search.html'}")
    print(f"Weights: {out / 'students'}, for `load_model` and `tutelage assess`")
