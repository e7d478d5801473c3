"""The command line: one file a command, no logic. Heavy imports are inside the commands, so that `--help` is quick."""

from __future__ import annotations

import os
import sys

import typer

from tutelage.cli import adapt, assess, cache, calibrate, compare, distill, export, reproduce, search, systems

app = typer.Typer(
    name="tutelage",
    help="Teacher–student learning: teach a student, check what it learned, ship it, and trust the method.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("adapt")(adapt.adapt)
app.command("distill")(distill.distill)
app.command("compare")(compare.compare)
app.command("cache")(cache.cache)
app.command("assess")(assess.assess)
app.command("calibrate")(calibrate.calibrate)
app.command("export")(export.export)
app.command("search")(search.search)
app.command("systems")(systems.systems)
app.command("reproduce")(reproduce.reproduce)


def main() -> None:
    """Run the command line; an error that a person can mend is one line (TUTELAGE_DEBUG=1 shows its traceback)."""
    try:
        app()
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        mendable = not isinstance(error, RuntimeError) or type(error).__name__ == "OutOfMemoryError"
        if os.environ.get("TUTELAGE_DEBUG") or not mendable:
            raise
        print(f"tutelage: {error}", file=sys.stderr)
        sys.exit(2)
