"""How a reproduction looks in a terminal: progress on stderr, tables of arms and claims on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tutelage.reproduction.recipe import Recipe
from tutelage.reproduction.runner import Report
from tutelage.reproduction.system import System
from tutelage.reproduction.trial import Outcome


@contextmanager
def progress(label: str) -> Iterator[Report]:
    """A bar on a terminal; off it, one plain line a finished trial.

    >>> with progress("pld") as report:
    ...     callable(report)
    True
    """
    console = Console(stderr=True)
    started = time.perf_counter()
    if not console.is_terminal:

        def plain(done: int, total: int, outcome: Outcome) -> None:
            clock = time.perf_counter() - started
            trial = f"{outcome.arm}, seed {outcome.seed}"
            print(f"[{done}/{total}] {clock:.0f} s  {trial} ({outcome.seconds:.1f} s)", file=sys.stderr, flush=True)

        yield plain
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"{label}: preparing", total=None)

        def advance(done: int, total: int, outcome: Outcome) -> None:
            bar.update(task, completed=done, total=total, description=f"{label}: {outcome.arm}")

        yield advance


def arm_table(result: Mapping[str, Any], *, columns: int = 6) -> Table:
    """Mean ± standard deviation over the seeds of every arm's first metrics."""
    scalar = [
        metric
        for metric, values in next(iter(result["arms"].values())).items()
        if not isinstance(values[0], list)  # curves are in the JSON
    ][:columns]
    seeds = len(result["seeds"])
    table = Table(title=f"{result['slug']} at {result['scale']} scale, {seeds} seed{'s' if seeds > 1 else ''}")
    table.add_column("arm")
    for metric in scalar:
        table.add_column(metric.replace("_", " "), justify="right")
    for arm, metrics in result["arms"].items():
        table.add_row(arm, *(_spread(metrics[metric]) if metric in metrics else "" for metric in scalar))
    return table


def claim_table(result: Mapping[str, Any]) -> Table:
    """Every claim with its published figure, ours, and whether it holds."""
    table = Table(title="claims", show_lines=True)
    for column in ("claim", "published", "ours", "criterion", "holds"):
        table.add_column(column)
    for claim in result["claims"]:
        ours = "undefined" if claim["value"] is None else f"{claim['value']:.4g}"
        if claim.get("p_value") is not None:
            ours += f" (p = {claim['p_value']:.2g})"
        if claim["detail"]:
            ours += f"\n{claim['detail']}"
        table.add_row(claim["text"], claim["published"], ours, claim["criterion"], "yes" if claim["holds"] else "NO")
    return table


def configuration_lines(recipe: Recipe, scale: str) -> list[str]:
    """What a scale consists of, one `name: value` a line: settings, what it builds, what it needs."""
    chosen = recipe.scales[scale]
    built = {} if recipe.describe is None else recipe.describe(chosen)
    lines = [f"{key}: {value}" for key, value in {"seeds": chosen.seeds, **chosen.settings, **built}.items()]
    return [*lines, "arms: " + ", ".join(arm.name for arm in recipe.arms(chosen))]


def print_result(result: Mapping[str, Any]) -> None:
    """Print the arms, what was prepared, the claims, and the notes."""
    print_table(arm_table(result))
    if result["facts"]:
        print(
            "prepared: " + ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in result["facts"].items())
        )
    print_table(claim_table(result))
    holding = sum(claim["holds"] for claim in result["claims"])
    print(
        f"{holding} of {len(result['claims'])} claims hold. "
        f"{result['seconds']:.0f} s, at most {result['peak_rss_mb']:.0f} MiB a process."
    )
    if result["notes"]:
        print(result["notes"])


def system_table(listed: Iterable[System]) -> Table:
    """Number, name, title, venue, arXiv identifier, family and status."""
    table = Table()
    for column in ("#", "system", "title", "venue", "arXiv", "family", "status"):
        table.add_column(column, justify="right" if column == "#" else "left")
    for system in listed:
        venue = f"{system.venue} {system.year}"
        cells = (str(system.number), system.slug, system.title, venue, system.arxiv, system.family, system.status)
        table.add_row(*cells)
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal; 140 columns where there is none (a pipe, a log)."""
    width = None if Console().is_terminal else 140
    Console(width=width, markup=False, highlight=False).print(table)


def _spread(values: list[float]) -> str:
    mean = f"{np.mean(values):.4f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.4f}"
