"""Tutelage: teacher–student learning in PyTorch.

The package is lazy: `import tutelage` loads no room, and a room is loaded when one of its names is first used.

>>> import tutelage
>>> tutelage.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tutelage.batch import Batch as Batch
    from tutelage.one_call import Result as Result
    from tutelage.one_call import distill as distill
    from tutelage.outputs import Outputs as Outputs

_NAMES = {"Batch": "batch", "Outputs": "outputs", "Result": "one_call", "distill": "one_call"}
_ROOMS = (
    "assessment",
    "config",
    "data",
    "features",
    "models",
    "objectives",
    "reporting",
    "reproduction",
    "teachers",
    "training",
)

__all__ = ["Batch", "Outputs", "Result", "__version__", "distill"]


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        value = getattr(importlib.import_module(f"tutelage.{_NAMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"tutelage.{name}")
    raise AttributeError(f"module 'tutelage' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES, *_ROOMS})
