"""A comparison for a person at a terminal: progress, a table, a closing line; Ctrl-C says how to go on."""

from __future__ import annotations

import sys
from pathlib import Path

from tutelage.comparison.planning import list_methods
from tutelage.comparison.settings import ComparisonConfig
from tutelage.comparison.tournament import resume_comparison, start_comparison
from tutelage.reporting.comparison_page import FEW_COLUMNS, comparison_table, text_table
from tutelage.run import free_folder


def compare_from_terminal(
    config: ComparisonConfig | None,
    folder: Path | None,
    *,
    jobs: int | None = None,
    engine: str | None = None,
    budget: str | None = None,
) -> None:
    """Carry a comparison out, and print its table.

    Args:
        config: What to compare; None goes on with the comparison in `folder`.
        folder: Where everything goes; None takes a new folder under `comparisons/`.
        jobs: For going on: students at the same time, where not as before.
        engine: For going on: the engine, where not as before.
        budget: For going on: another budget, where there is no plan yet.
    """
    if folder is None:
        assert config is not None
        title = "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in config.name)
        folder = free_folder(title, "comparisons")
    try:
        if config is None:
            result = resume_comparison(folder, jobs=jobs, engine=engine, budget=budget, announce=_say)
        else:
            result = start_comparison(config, folder, announce=_say)
    except KeyboardInterrupt:
        print(f"\nStopped. Go on with: tutelage compare --resume {folder}", file=sys.stderr)
        sys.exit(130)
    print(text_table(*comparison_table(result, FEW_COLUMNS)))
    print("* chosen on validation; ≈ not told apart from it by a test; intervals of 95 %, on the test part")
    print(result["summary"])
    print(f"Page: {folder / 'comparison.html'}. Teach with it: tutelage distill {folder / 'winner.yaml'}")


def print_methods(config: ComparisonConfig) -> None:
    """Print which methods apply, with their settings, and why others do not."""
    applicable, reasons = list_methods(config)
    print(f"{len(applicable)} methods apply:")
    rows = [
        [name, "; ".join(setting.label or "as published" for setting in found.lesson.settings[: config.settings])]
        for name, found in applicable.items()
    ]
    print(text_table(["Method", "Settings"], rows))
    print(f"\n{len(reasons)} do not:")
    print(text_table(["Method", "Why not"], [[name, reason] for name, reason in sorted(reasons.items())]))


def _say(line: str) -> None:
    print(line, flush=True)
