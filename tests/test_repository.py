"""The house rules that no single room can hold: pins, floors, forbidden calls, docstrings, versions, light imports."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import tutelage

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "tutelage"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ROOMS = sorted(module.name for module in pkgutil.iter_modules([str(SOURCE)]) if module.ispkg)


def source_files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


# ── Versions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def read_pins() -> dict[str, Version]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    for pin in pins:
        operators = [specifier.operator for specifier in pin.specifier]
        assert operators == ["=="], f"constraints.txt must pin one exact version, but has {str(pin)!r}"
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(set(names)) == len(names), "constraints.txt names a package twice"
    return {name: Version(next(iter(pin.specifier)).version) for name, pin in zip(names, pins, strict=True)}


def needed(requirements: list[Requirement], seen: dict[str, str]) -> dict[str, str]:
    """Installed packages (name → version) that requirements bring, followed through what each of them requires."""
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this environment does not have
        before = seen.get(f"{name}[{sorted(requirement.extras)}]")
        if before is not None:
            continue
        seen[f"{name}[{sorted(requirement.extras)}]"] = distribution.version
        environment = default_environment()
        wanted = [Requirement(text) for text in distribution.requires or []]
        needed(
            [
                child
                for child in wanted
                if child.marker is None
                or any(child.marker.evaluate({**environment, "extra": extra}) for extra in ("", *requirement.extras))
            ],
            seen,
        )
    return {key.partition("[")[0]: version for key, version in seen.items()}


def test_every_requirement_is_pinned_to_a_version_that_satisfies_it() -> None:
    pins = read_pins()
    groups = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    for group, lines in groups.items():
        for requirement in map(Requirement, lines):
            name = canonicalize_name(requirement.name)
            assert name in pins, f"{name} ({group}) is missing from constraints.txt"
            assert requirement.specifier.contains(pins[name]), f"{requirement} ({group}) is pinned to {pins[name]}"


def test_every_package_that_an_extra_installs_is_pinned_to_what_is_installed() -> None:
    pins = read_pins()
    lines = [*PROJECT["dependencies"], *(line for group in PROJECT["optional-dependencies"].values() for line in group)]
    installed = needed([Requirement(line) for line in lines], {})
    assert {"torch", "pytest", "sympy"} <= installed.keys(), "the walk through requirements found too little"
    binary = re.compile(r"nvidia-.*|cuda-.*|triton")  # pinned exactly by torch, and present on some machines only
    missing = {name for name in installed if name not in pins and not binary.fullmatch(name)}
    assert not missing, f"missing from constraints.txt: {sorted(missing)}"
    different = {
        name: (version, str(pins[name]))
        for name, version in installed.items()
        if name in pins and Version(version).public != pins[name].public
    }
    assert not different, f"installed and pinned versions part: {different}"


def test_one_version_everywhere() -> None:
    assert tutelage.__version__ == PROJECT["version"]
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert citation is not None
    assert citation[1] == PROJECT["version"]
    assert f"## [{PROJECT['version']}]" in (ROOT / "CHANGELOG.md").read_text()


# ── Floors and rooms ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_floors_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_room_stands_on_a_floor() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    placed = set(re.findall(r"tutelage\.(\w+)", " ".join(config)))
    there = {module.name for module in pkgutil.iter_modules([str(SOURCE)])} - {"__main__"}
    assert there <= placed, f"on no floor in pyproject.toml: {sorted(there - placed)}"


@pytest.mark.parametrize("room", ROOMS)
def test_public_names_of_a_room_resolve(room: str) -> None:
    module = importlib.import_module(f"tutelage.{room}")
    names = list(getattr(module, "__all__", []))
    assert len(set(names)) == len(names), f"`__all__` of {room} names something twice"
    for name in names:
        assert getattr(module, name, None) is not None, f"tutelage.{room}.{name} does not resolve"


def test_public_names_of_the_package_resolve() -> None:
    for name in tutelage.__all__:
        assert getattr(tutelage, name) is not None
    for room in tutelage._ROOMS:
        assert inspect.ismodule(getattr(tutelage, room))


# ── Rules for source files ───────────────────────────────────────────────────────────────────────────────────────────

# Reading with these runs code that the file brings along.
FORBIDDEN_CALLS = {
    *("torch.load", "joblib.load", "pd.read_pickle", "pandas.read_pickle", "shelve.open"),
    *(f"{module}.{name}" for module in ("pickle", "dill", "cloudpickle") for name in ("load", "loads", "Unpickler")),
    *("yaml.unsafe_load", "yaml.full_load", "eval", "exec"),
}
UNSAFE_LOADERS = ("UnsafeLoader", "FullLoader", "yaml.Loader", "CLoader")


def forbidden(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in FORBIDDEN_CALLS:
                yield f"line {node.lineno}: {called}(…)"
            for keyword in node.keywords:
                if keyword.arg == "allow_pickle" and not (
                    isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                ):
                    yield f"line {node.lineno}: allow_pickle"
        elif isinstance(node, ast.Attribute) and ast.unparse(node).endswith(UNSAFE_LOADERS):
            yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.ImportFrom) and node.module in ("pickle", "joblib", "dill", "cloudpickle"):
            for alias in node.names:
                if f"{node.module}.{alias.name}" in FORBIDDEN_CALLS:
                    yield f"line {node.lineno}: from {node.module} import {alias.name}"


def test_nothing_is_unpickled() -> None:
    found = {str(path.relative_to(ROOT)): list(forbidden(ast.parse(path.read_text()))) for path in source_files()}
    assert not {path: lines for path, lines in found.items() if lines}


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "from pickle import load",
    ],
)
def test_the_search_for_unpickling_finds_it(code: str) -> None:
    assert list(forbidden(ast.parse(code)))


def test_files_have_telling_names_and_a_readable_length() -> None:
    vague = [path.name for path in source_files() if path.stem in ("utils", "helpers", "common", "misc", "util")]
    assert not vague
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()}
    # A recipe is a whole experiment in one file: four scales, arms, claims and what a reader must know about them.
    allowed = {path: 640 if "recipes/" in path else 600 if path.endswith("__init__.py") else 450 for path in lengths}
    assert not {path: lines for path, lines in lengths.items() if lines > allowed[path]}


def test_every_public_function_and_class_says_what_it_does() -> None:
    silent = []
    for room in ["", *ROOMS]:
        module = importlib.import_module(f"tutelage.{room}".rstrip("."))
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            own = value.__doc__ if inspect.isclass(value) else inspect.getdoc(value)
            summary = (own or "").strip().split("\n\n")[0]
            generated = inspect.isclass(value) and (own or "").startswith(f"{name}(")  # a dataclass writes its own
            if not summary or generated or not summary.rstrip().endswith((".", ":", "?", "!", ")", "…")):
                silent.append(f"tutelage.{room}.{name}".replace("..", "."))
    assert not silent, f"no docstring with a summary sentence: {silent}"


# ── Light imports ────────────────────────────────────────────────────────────────────────────────────────────────────

HEAVY = {
    *("torch", "transformers", "accelerate", "datasets", "ray", "trl", "peft", "trackio", "onnx", "onnxruntime"),
    *("numpy", "sklearn", "scipy", "pandas", "pyarrow", "joblib", "matplotlib", "jinja2", "PIL", "pydantic"),
}


@pytest.mark.parametrize("module", ["tutelage", "tutelage.cli"])
def test_import_is_light(module: str) -> None:
    """Not even torch is loaded: `--help` answers at once, and whoever uses a name of the package pays for it alone."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = json.loads(result.stdout)
    loaded = {name.partition(".")[0] for name in modules} & HEAVY
    assert not loaded, f"import {module} loads {sorted(loaded)}"
    rooms = {name.split(".")[1] for name in modules if name.startswith("tutelage.")}
    assert rooms <= {"cli"}, f"import {module} loads the rooms {sorted(rooms - {'cli'})}"


# ── What the repository promises to a newcomer ───────────────────────────────────────────────────────────────────────


def test_repository_speaks_of_no_single_machine() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    local = re.compile(r"(?<![\w.])/(?:work|home/\w+|root)/")
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".yml", ".yaml", ".json", ".html", ".txt") and path.is_file():
            found += [f"{name}: {match[0]}" for match in local.finditer(path.read_text(errors="replace"))]
    assert not found


def test_makefile_has_the_promised_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test", "check", "docs", "bench"} <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text()
