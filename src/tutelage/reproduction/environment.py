"""What a result was measured with."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path


def environment() -> dict[str, str | int]:
    """Versions, processor and cores: enough to tell why another machine gives other figures.

    >>> sorted(environment())[:3]
    ['accelerator', 'cores', 'numpy']
    """
    import torch

    cuda = torch.cuda.is_available()
    return {
        "tutelage": _version("tutelage"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "numpy": _version("numpy"),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
