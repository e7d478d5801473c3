"""The docs' page of benchmarks, from the records: tables of ratios, slopes beside expected exponents, and plots."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records import RATIOS, RESULTS, Ratio, Spread, find, read_record

INK, GRID = "#5b6470", "#c9ced6"  # read on light and on dark paper
TONES = ("#3f51b5", "#e4572e", "#17a398", "#b8860b", "#8e44ad")


def measured(folder: Path = RESULTS) -> dict[str, tuple[str, dict[str, Any], list[tuple[Ratio, Spread]]]]:
    """For each benchmark with a record: its hot path, the record, and the ratios that the record holds."""
    found = {}
    for benchmark, (title, ratios) in RATIOS.items():
        if record := read_record(benchmark, folder):
            spreads = ((ratio, find(record, ratio)) for ratio in ratios)
            found[benchmark] = title, record, [(ratio, spread) for ratio, spread in spreads if spread is not None]
    return found


def ratio_tables(folder: Path = RESULTS) -> str:
    """A table for every hot path: ours over each peer, with when and on what it was measured."""
    text = []
    for benchmark, (title, record, rows) in measured(folder).items():
        text.append(f"### {title}\n")
        text.append("| ours | peer | time of ours / peer | quartiles | gated |\n|---|---|---|---|---|")
        for ratio, spread in rows:
            shown = f"**{spread.median:.3g}**" if spread.median <= 1 else f"{spread.median:.3g}"
            cells = (ratio.subject, ratio.peer, shown, f"{spread.low:.3g} to {spread.high:.3g}")
            text.append(f"| {' | '.join(cells)} | {'yes' if ratio.gated else 'no'} |")
        for peer, reason in record.get("skipped", {}).items():
            text.append(f"\n{peer} was skipped: {reason}.")
        text.append(f"\n`python -m benchmarks.{benchmark}`; {described(record)}\n")
    return "\n".join(text)


def described(record: Mapping[str, Any]) -> str:
    """When a record was made, and on what."""
    machine = record["machine"]
    processor = machine["accelerator"] or f"{machine['cores']} cores of {machine['processor']}"
    threads = "one thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    versions = "".join(f", {name} {version}" for name, version in record.get("versions", {}).items() if version)
    load = "" if machine["load"] is None else f", load {machine['load']:g}"
    return (
        f"{record['measured'][:10]}, {processor}, {threads}{load}, {machine['system']}, Python {machine['python']}, "
        f"PyTorch {machine['torch']}{versions}."
    )


def growth_table(folder: Path = RESULTS) -> str:
    """Exponents of time and memory beside what is expected."""
    record = read_record("growth", folder)
    if record is None:
        return "Nothing is recorded yet.\n"
    lines = ["| hot path | sizes | time | expected | memory | expected |", "|---|---|---|---|---|---|"]
    for name, row in record["paths"].items():
        cells = [name.rpartition(",")[0], f"{row['axis']} {row['sizes'][0]} to {row['sizes'][-1]}"]
        for kind in ("time", "memory"):
            if slope := row.get(kind):
                missed = "" if slope["holds"] else " **missed**"
                cells += [f"{slope['exponent']:.2f} ± {slope['error']:.2f}{missed}", f"{slope['expected']:.3g}"]
            else:
                cells += ["–", "–"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, f"\n`python -m benchmarks.growth`; {described(record)}\n"])


def growth_plot(folder: Path = RESULTS) -> str:
    """Time and memory over the size, both by their logarithms, one panel an axis; dashes have the expected slope."""
    record = read_record("growth", folder)
    axes: dict[str, dict[str, Any]] = {}
    for name, row in (record or {"paths": {}})["paths"].items():
        axes.setdefault(row["axis"], {})[name.rpartition(",")[0]] = row
    with _figure(2, max(len(axes), 1), (3.1 * max(len(axes), 1), 5.6)) as figure:
        for column, (axis, paths) in enumerate(axes.items()):
            for line, (kind, label) in enumerate((("seconds", "CPU seconds"), ("mib", "MiB added"))):
                panel = figure.panels[line][column]
                for tone, (name, row) in zip(TONES * 2, paths.items(), strict=False):
                    if kind not in row:
                        continue
                    sizes, values = row["sizes"], row[kind]
                    expected = row["time" if kind == "seconds" else "memory"]["expected"]
                    panel.loglog(sizes, values, "o-", color=tone, markersize=3.5, linewidth=1.3, label=name)
                    ideal = [values[-1] * (size / sizes[-1]) ** expected for size in sizes]
                    panel.loglog(sizes, ideal, "--", color=tone, linewidth=0.8, alpha=0.7)
                panel.set_ylabel(label if column == 0 else "")
                panel.set_xlabel(axis if line else "")
                marks = sorted({size for row in paths.values() for size in row["sizes"]})
                panel.set_xticks(marks[:: -(-len(marks) // 5)], [f"{size:,}" for size in marks[:: -(-len(marks) // 5)]])
                panel.set_xticks([], minor=True)
                if not line:
                    panel.legend(fontsize=5.5, frameon=False, labelcolor=INK)
        return figure.svg()


def ratio_plot(folder: Path = RESULTS) -> str:
    """Every ratio with its quartiles on one logarithmic axis, by hot path."""
    groups = [(title, rows) for title, _, rows in measured(folder).values() if rows]
    count = sum(len(rows) + 1 for _, rows in groups)
    with _figure(1, 1, (8.2, 0.19 * max(count, 4) + 0.6)) as figure:
        panel = figure.panels[0][0]
        level, ticks = 0.0, []
        for title, rows in groups:
            level -= 1
            ticks.append((level, title))
            for ratio, spread in rows:
                level -= 1
                tone = TONES[0] if spread.median <= 1 else TONES[1]
                panel.plot([spread.low, spread.high], [level, level], color=tone, linewidth=1.6, alpha=0.6)
                panel.plot([spread.median], [level], "o", color=tone, markersize=3.5)
                ticks.append((level, str(ratio)))
        panel.set_xscale("log")
        panel.axvline(1.0, color=INK, linewidth=0.8)
        panel.set_yticks([place for place, _ in ticks], [text for _, text in ticks], fontsize=6)
        for text in panel.get_yticklabels():
            if text.get_text() in {title for title, _ in groups}:
                text.set_fontweight("bold")
        panel.set_ylim(level - 1, 0)
        panel.set_xlabel("time of ours / time of the peer: faster left of 1, slower right of it")
        return figure.svg()


class _figure:  # noqa: N801 - a context, written like a function
    """A matplotlib figure in the page's colours that becomes the same SVG every time."""

    def __init__(self, rows: int, columns: int, size: tuple[float, float]) -> None:
        import matplotlib
        from matplotlib.figure import Figure

        settings: dict[Any, Any] = {
            "svg.hashsalt": "tutelage", "svg.fonttype": "none", "font.size": 7.5,
            "axes.edgecolor": GRID, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
            "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.4,
        }  # fmt: skip
        self._settings = matplotlib.rc_context(settings)
        self._make = lambda: Figure(figsize=size, layout="constrained")
        self._shape = rows, columns

    def __enter__(self) -> _figure:
        self._settings.__enter__()
        self._figure = self._make()
        self.panels = self._figure.subplots(*self._shape, squeeze=False)
        return self

    def __exit__(self, *error: Any) -> None:
        self._settings.__exit__(*error)

    def svg(self) -> str:
        """The drawing."""
        text = io.StringIO()
        self._figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        return text.getvalue()
