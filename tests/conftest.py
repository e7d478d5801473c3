"""Shape annotations are checked on every call in tests; results do not depend on the machine's cores; one browser."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# An int is a float, as for mypy (PEP 484); jaxtyping takes its checker by name only.
checker = types.ModuleType("tutelage_type_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
install_import_hook("tutelage", "tutelage_type_checker.check")

import pytest
import torch

torch.set_num_threads(1)

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def build_report() -> Callable[..., Any]:
    specification = importlib.util.spec_from_file_location(
        "example_report", Path(__file__).with_name("reporting") / "example_report.py"
    )
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module.example_report


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("Chromium is not installed")
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield opened
        opened.close()
