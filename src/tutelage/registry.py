"""Names in configs: a registered name, or `package.module:attribute` of the user's own."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tutelage._checks import nearest


def resolve(name: str, registered: Mapping[str, Any], kind: str) -> Any:
    """The object that a config names.

    Args:
        name: A key of `registered`, or `package.module:attribute`.
        registered: What can be named without a module.
        kind: What is looked up, for the error text (`"objective"`).

    Raises:
        ValueError: The name is neither registered nor importable.

    >>> resolve("math:sqrt", {}, "function")(4.0)
    2.0
    >>> resolve("hafl", {"half": 0.5}, "schedule")
    Traceback (most recent call last):
    ValueError: Expected the schedule to be one of 'half' or ..., but got 'hafl' (did you mean 'half'?).
    """
    if name in registered:
        return registered[name]
    if ":" not in name:
        listed = ", ".join(repr(option) for option in sorted(registered))
        raise ValueError(
            f"Expected the {kind} to be one of {listed} or `package.module:attribute`, "
            f"but got {name!r}{nearest(name, registered)}."
        )
    module_name, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"Expected the {kind} {name!r} to be importable, but got: {error}.") from error
    return found


class LazyRegistry(Mapping[str, Any]):
    """A mapping from names to objects that are imported when first asked for.

    >>> LazyRegistry({"root": "math:sqrt"})["root"](9.0)
    3.0
    """

    def __init__(self, locations: Mapping[str, str]) -> None:
        self._locations = dict(locations)

    def __getitem__(self, name: str) -> Any:
        return resolve(self._locations[name], {}, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._locations)

    def __len__(self) -> int:
        return len(self._locations)
