"""What mkdocs generates: the API pages, the tables of objectives and systems, the command line, the system pages.

A page asks for a generated part with a line `<!-- generated: NAME -->`; nothing generated is kept in the repository.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOMS = {
    "tutelage": "The package",
    "tutelage.config": "Configs",
    "tutelage.comparison": "Comparison",
    "tutelage.searching": "Searching",
    "tutelage.objectives": "Objectives",
    "tutelage.features": "Features",
    "tutelage.teachers": "Teachers",
    "tutelage.students": "Students",
    "tutelage.reinforcement": "Reinforcement",
    "tutelage.training": "Training",
    "tutelage.assessment": "Assessment",
    "tutelage.scaling": "Scaling laws",
    "tutelage.data": "Data",
    "tutelage.models": "Models",
    "tutelage.kernels": "Kernels",
    "tutelage.reporting": "Reporting",
    "tutelage.reproduction": "Reproduction",
}
MARKER = re.compile(r"^<!-- generated: ([a-z-]+) -->$", re.MULTILINE)


# ── Events ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the generated pages into the navigation."""
    assert config.nav is not None
    for section in config.nav:
        if "API" in section:
            section["API"] += [{title: f"api/{room}.md"} for room, title in ROOMS.items()]
        if "Published systems" in section:
            section["Published systems"] += [{system.name: f"systems/{system.slug}.md"} for system in shown_systems()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; a page that somebody wrote by hand stays."""
    pages = {f"api/{room}.md": functools.partial(api_page, room) for room in ROOMS}
    pages |= {f"assets/benchmark_{name}.svg": drawing for name, drawing in benchmark_plots().items()}
    pages |= {f"systems/{system.slug}.md": functools.partial(bare_system_page, system) for system in shown_systems()}
    for place, write in pages.items():
        if files.get_file_from_path(place) is None:
            files.append(File.generated(config, place, content=write()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in the generated parts of a page."""
    slug = Path(page.file.src_uri).stem
    parts: dict[str, Callable[[], str]] = {
        "objectives": objectives_table,
        "schedules": schedules_table,
        "config": config_reference,
        "commands": command_reference,
        "systems": systems_table,
        "rooms": rooms_table,
        "benchmark-ratios": lambda: benchmark_pages().ratio_tables(),
        "benchmark-growth": lambda: benchmark_pages().growth_table(),
        "reliability": reliability_table,
        "system-facts": lambda: system_facts(slug),
        "system-results": lambda: system_results(slug),
    }

    def fill(match: re.Match[str]) -> str:
        if match[1] not in parts:
            raise PluginError(f"{page.file.src_uri} asks for {match[1]!r}; there are: {', '.join(parts)}.")
        return parts[match[1]]()

    return MARKER.sub(fill, markdown)


# ── Benchmarks ───────────────────────────────────────────────────────────────────────────────────────────────────────


def benchmark_pages() -> Any:
    """`benchmarks.page`, which lies beside the docs and in no package that is installed."""
    root = str(Path(__file__).parents[1])
    if root not in sys.path:
        sys.path.append(root)
    return importlib.import_module("benchmarks.page")


def benchmark_plots() -> dict[str, Callable[[], str]]:
    """The drawings of the page of benchmarks, by name."""
    return {"ratios": benchmark_pages().ratio_plot, "growth": benchmark_pages().growth_plot}


# ── Small forms ──────────────────────────────────────────────────────────────────────────────────────────────────────


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    titles = list(head)
    lines = [titles, ["---"] * len(titles), *(list(row) for row in rows)]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def summary(documented: Any) -> str:
    """The first sentence or line of a docstring, on one line."""
    text = (inspect.getdoc(documented) or "").strip().split("\n\n")[0]
    return code_spans(" ".join(text.split()))


def code_spans(text: str) -> str:
    """Square brackets outside code (`[batch]`) would be read as links."""
    parts = text.split("`")
    return "`".join(part if index % 2 else part.replace("[", "\\[") for index, part in enumerate(parts))


# ── API ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def package() -> griffe.Module:
    """The package as griffe reads it, without importing it."""
    extensions = griffe.load_extensions("docs/doctest_blocks.py")
    loaded = griffe.load("tutelage", search_paths=["src"], resolve_aliases=True, extensions=extensions)
    assert isinstance(loaded, griffe.Module)
    return loaded


def find(path: str) -> griffe.Object | griffe.Alias:
    """An object of the package by its dotted path."""
    return package() if path == "tutelage" else package()[path.removeprefix("tutelage.")]


def public_names(room: str) -> list[str]:
    """What a room's `__all__` names; of a module without one, the classes and functions that it defines."""
    documented = find(room)
    if documented.exports is None:
        own = [name for name, member in documented.members.items() if not member.is_alias]
        return [name for name in own if not name.startswith("_") and documented[name].docstring]
    return [str(name) for name in documented.exports if not str(name).startswith("__")]


def home(room: str, name: str) -> str:
    """The module that defines a public name of a room."""
    if room == "tutelage":  # its names are lazy, so that griffe sees no import
        module = importlib.import_module("tutelage")._NAMES[name]
        return f"tutelage.{module}"
    member = find(f"{room}.{name}")
    target = member.target_path if member.is_alias else member.path
    return target.rpartition(".")[0]


def api_page(room: str) -> str:
    """One room: its docstring, then every public name under the module that defines it."""
    documented = find(room)
    by_home: dict[str, list[str]] = {}
    for name in public_names(room):
        by_home.setdefault(home(room, name), []).append(name)
    lines = [f"# {ROOMS[room]}", "", documented.docstring.value if documented.docstring else ""]
    lines += ["", f"`from {room} import …`", ""]
    for module, names in sorted(by_home.items()):
        docstring = find(module).docstring
        title = docstring.value.split("\n\n")[0].strip() if docstring and module != room else ""
        lines += [f"## {module.rpartition('.')[2].replace('_', ' ').capitalize()}", "", code_spans(title), ""]
        lines += [f"::: {module}.{name}\n" for name in names]
    return "\n".join(lines)


def rooms_table() -> str:
    """The rooms with what is in them."""
    rows = []
    for room, title in ROOMS.items():
        documented = find(room).docstring
        first = documented.value.strip().splitlines()[0] if documented else ""
        rows.append([f"[{title}]({room}.md)", f"`{room}`", code_spans(first), str(len(public_names(room)))])
    return table(["room", "import", "what is in it", "public names"], rows)


# ── Objectives and schedules ─────────────────────────────────────────────────────────────────────────────────────────


def objectives_table() -> str:
    """Every registered objective: its names in a config, what it reads, where it comes from."""
    from tutelage.objectives import registered_objectives

    names: dict[type, list[str]] = {}
    for name, objective in registered_objectives().items():
        names.setdefault(objective, []).append(name)
    rows = []
    for objective, spellings in sorted(names.items(), key=lambda item: item[1][0]):
        link = f"[{objective.__name__}][{objective.__module__}.{objective.__qualname__}]"
        reads = ", ".join(f"`{path}`" for path in getattr(objective, "reads", ()))
        named = ", ".join(f"`{name}`" for name in spellings)
        twin = twin_of(objective)
        rows.append([named, link, summary(twin or objective), reads, source_of(objective, twin)])
    return table(["name in a config", "class", "what it asks of the student", "reads", "source"], rows)


def twin_of(objective: type) -> Any:
    """The pure function of the same name, which says what is computed."""
    from tutelage.objectives.objective import snake_case

    return getattr(inspect.getmodule(objective), snake_case(objective.__name__), None)


def source_of(*documented: Any) -> str:
    """The first citation in the docstrings: what follows `Source:`, or brackets that hold a year or an arXiv number."""
    places = [inspect.getdoc(one) or "" for one in documented if one is not None]
    places += [inspect.getmodule(documented[0]).__doc__ or ""]  # type: ignore[union-attr]
    bracketed = r"\(([A-Z][^()]*(?:, (?:19|20)\d\d|[A-Za-z] (?:19|20)\d\d|arXiv \d{4}\.\d+)\b[^()]*)\)"
    for pattern in (r"^Sources?: *\n?((?:.+\n?)+)", bracketed):
        for text in places:
            if found := re.search(pattern, text, re.MULTILINE):
                return code_spans(" ".join(found[1].split()))
    return "–"


def schedules_table() -> str:
    """Every schedule of the objectives' room."""
    from tutelage.objectives import schedules

    own = [value for value in vars(schedules).values() if getattr(value, "__module__", "") == schedules.__name__]
    timed = [value for value in own if inspect.isclass(value) and "__call__" in vars(value)]
    rows = []
    for schedule in timed:
        arguments = ", ".join(f"`{part.name}`" for part in dataclasses.fields(schedule))
        rows.append([f"[{schedule.__name__}][{schedule.__module__}.{schedule.__name__}]", summary(schedule), arguments])
    return table(["schedule", "what it does", "arguments"], rows)


# ── Config ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def config_reference() -> str:
    """Every key of a config with its type, default and meaning, section by section."""
    from pydantic import BaseModel

    from tutelage import config

    sections: list[tuple[str, type[BaseModel]]] = [("", config.DistillConfig)]
    text = []
    seen: set[type] = set()
    while sections:
        place, model = sections.pop(0)
        if model in seen:
            continue
        seen.add(model)
        rows = []
        for name, field in model.model_fields.items():
            inner = nested_models(field.annotation)
            sections += [(f"{place}.{name}".lstrip("."), part) for part in inner]
            default = "required" if field.is_required() else f"`{shown_default(field)}`"
            kind, meaning = f"`{shown_type(field.annotation)}`", code_spans(field.description or "")
            rows.append([f"`{name}`", kind, default, meaning])
        text.append(f"### {f'`{place}:`' if place else 'Top level'}\n\n{summary(model)}\n")
        text.append(table(["key", "type", "default", "meaning"], rows) + "\n")
    return "\n".join(text)


def nested_models(annotation: Any) -> list[type]:
    """The pydantic models inside an annotation."""
    from pydantic import BaseModel

    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in nested_models(part)]


def shown_type(annotation: Any) -> str:
    """A type as a person would write it."""
    plain = inspect.isclass(annotation) and not hasattr(annotation, "__args__")
    text = annotation.__name__ if plain else str(annotation)
    text = re.sub(r"Annotated\[([^,\[\]]+),[^\]]*\]", r"\1", text)
    text = re.sub(r"typing\.|pathlib\.\w+\.|pathlib\.|tutelage(\.\w+)*\.|<class '|'>", "", text)
    return text.replace("NoneType", "none").replace("None", "none").replace(" | ", " or ")


def shown_default(field: Any) -> str:
    """A key's default value, short."""
    from pydantic import BaseModel

    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "…"
    if value is None:
        return "none"
    text = str(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 60 else "…"


# ── The command line ─────────────────────────────────────────────────────────────────────────────────────────────────


def command_reference() -> str:
    """Every command with its arguments and options, read from the program itself."""
    import typer

    from tutelage.cli import app

    group: Any = typer.main.get_command(app)
    text = []
    for name, command in group.commands.items():
        hints = get_type_hints(command.callback, include_extras=True)
        text.append(f"## `tutelage {name}`\n\n{command.help or ''}\n".replace("\f", ""))
        rows = []
        for parameter in command.params:
            flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                flags = f"`{parameter.human_readable_name}`"
            default = parameter.default if isinstance(parameter.default, str | int | float) else None
            shown = "required" if parameter.required else "" if default in (None, False, "") else f"`{default}`"
            declared = next(iter(getattr(hints.get(parameter.name), "__metadata__", ())), None)
            meaning = parameter.help or getattr(declared, "help", None) or ""  # click drops an argument's own help
            rows.append([flags, meaning, shown])
        if rows:
            text.append(table(["argument or option", "meaning", "default"], rows) + "\n")
    return "\n".join(text)


# ── Systems ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def reliability_table() -> str:
    """The faults that `make reliability` injected when it was last run, as it recorded them."""
    recorded = json.loads(Path("docs/assets/reliability.json").read_text(encoding="utf-8"))
    counts: dict[tuple[str, str], list[int]] = {}
    for row in recorded["faults"]:
        fault = row["fault"].partition(":")[0] if row["area"] == "damage" else row["fault"]  # all kinds of damage
        so_far = counts.setdefault((row["area"], fault), [0, 0, 0])
        counts[row["area"], fault] = [
            number + row[key] for number, key in zip(so_far, ("injected", "survived", "lost"), strict=True)
        ]
    rows = [(area, code_spans(fault), *map(str, numbers)) for (area, fault), numbers in counts.items()]
    totals = [str(sum(column)) for column in zip(*counts.values(), strict=True)]
    machine = recorded["environment"]
    measured = (
        f"Measured by `make reliability` on {recorded['date']} with Python {machine['python']} and PyTorch "
        f"{machine['torch']} on {machine['cores']} cores of {machine['processor']}."
    )
    rows.append(("**all**", "", *(f"**{total}**" for total in totals)))
    return f"{measured}\n\n{table(('Test', 'Fault', 'Injected', 'Survived', 'Lost'), rows)}"


def shown_systems() -> tuple[Any, ...]:
    """The systems that have a recipe, by number."""
    from tutelage.reproduction.catalogue import systems

    return tuple(system for system in systems() if system.has_recipe)


def systems_table() -> str:
    """All systems, with a link to the page of each that has a recipe."""
    from tutelage.reproduction.catalogue import systems

    rows = []
    for system in systems():
        name = f"[{system.name}]({system.slug}.md)" if system in shown_systems() else system.name
        paper = f"[{system.arxiv}](https://arxiv.org/abs/{system.arxiv})" if system.arxiv else ""
        rows.append(
            [str(system.number), name, code_spans(system.title), f"{system.venue} {system.year}", paper, system.family,
             system.status]
        )  # fmt: skip
    return table(["#", "system", "paper", "venue", "arXiv", "family", "status"], rows)


def bare_system_page(system: Any) -> str:
    """The page of a system that nobody has written about yet."""
    parts = [f"# {system.name}", "<!-- generated: system-facts -->", "<!-- generated: system-results -->"]
    return "\n\n".join(parts) + "\n"


def system_facts(slug: str) -> str:
    """What was published, what of it the package gives, and how to run it."""
    from tutelage.reproduction.catalogue import find_system

    system = find_system(slug)
    facts = [
        ["arXiv", f"[{system.arxiv}](https://arxiv.org/abs/{system.arxiv})"],
        ["official code", f"[{system.code}](https://github.com/{system.code})" if system.code else "none found"],
        ["family", system.family],
        ["status", system.status],
        ["run it", f"`tutelage reproduce {system.slug}`"],
    ]
    blocks = [f"`{name}`" if "." in name else f"`{system.room}.{name}`" for name in system.blocks]
    headline = "\n".join(f"- {line}" for line in system.headline)
    return (
        f"{system.summary}\n\n{table(['paper', f'{system.title}, {system.venue} {system.year}'], facts)}\n\n"
        f"**Building blocks** (in `tutelage`): {', '.join(blocks)}.\n\n**Published figures**\n\n{headline}\n"
    )


def system_results(slug: str) -> str:
    """What was measured, from the recorded results: every arm, and every claim with whether it holds."""
    from tutelage.reproduction.recorded import recorded_result

    text = []
    for scale in ("quick", "full", "paper"):
        result = recorded_result(slug, scale)
        if result is None:
            continue
        text.append(f"## Measured: {scale} scale\n")
        rows = [
            [claim["text"], claim["criterion"], number(claim["value"]), number(claim.get("p_value")),
             "**holds**" if claim["holds"] else "**does not hold**"]
            for claim in result["claims"]
        ]  # fmt: skip
        text.append(table(["claim", "criterion", "measured", "p", ""], rows) + "\n")
        metrics = sorted(
            {metric for arm in result["arms"].values() for metric, values in arm.items() if figures(values)}
        )
        rows = [[arm, *(spread(values.get(metric)) for metric in metrics)] for arm, values in result["arms"].items()]
        text.append(table(["arm", *(metric.replace("_", " ") for metric in metrics)], rows) + "\n")
        seeds = result["seeds"] if isinstance(result["seeds"], int) else len(result["seeds"])
        text.append(f"{seeds} seeds, {result['seconds']:.0f} s in all; mean ± standard deviation over seeds.\n")
    return "\n".join(text) or "No result is recorded yet.\n"


def number(value: Any) -> str:
    """A figure to four digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, int | float) else str(value)


def spread(values: Any) -> str:
    """Mean ± standard deviation of one value a seed."""
    import statistics

    known = figures(values)
    if not known:
        return ""
    mean = statistics.fmean(known)
    return f"{mean:.4g} ± {statistics.stdev(known):.2g}" if len(known) > 1 else f"{mean:.4g}"


def figures(values: Any) -> list[float]:
    """The seeds' values that are single numbers; curves, and what was not measured, are left out."""
    return [value for value in values or () if isinstance(value, int | float)]
