"""One of the 57 published systems: what was published, and what of it the package gives."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tutelage.reproduction.recorded import recorded_path

Status = Literal["works", "planned"]
"""`works`: its building blocks import, it has a recipe, and a `quick` result of that recipe is recorded."""


@dataclass(frozen=True)
class System:
    """A published system.

    Attributes:
        number: Its place in the source list, 1 to 57.
        slug: Its name in commands and file names (`"hl-gauss"`).
        name: Its short name in tables ("HL-Gauss").
        title: The title of the paper.
        venue: Where it was published; `"arXiv"` when there is no other place.
        year: The year of that venue.
        arxiv: The arXiv identifier.
        code: The authors' public repository (`"owner/name"`), or empty.
        family: How the catalogue groups it.
        room: Where its building blocks live, `tutelage.ROOM`.
        summary: What it does, in one sentence.
        blocks: Its public building blocks: `name` in its own room, `room.name` in another.
        headline: A short selection of published figures.
    """

    number: int
    slug: str
    name: str
    title: str
    venue: str
    year: int
    arxiv: str
    code: str
    family: str
    room: str
    summary: str
    blocks: tuple[str, ...]
    headline: tuple[str, ...]

    @property
    def recipe_module(self) -> str:
        """The module that holds the system's recipe, whether or not it is written yet."""
        return f"tutelage.recipes.{self.slug.replace('-', '_')}"

    @property
    def has_recipe(self) -> bool:
        """Whether the recipe is written."""
        return importlib.util.find_spec(self.recipe_module) is not None

    @property
    def status(self) -> Status:
        """`works` or `planned`, found out anew each time: never a stored opinion."""
        whole = recorded_path(self.slug, "quick").exists() and self.has_recipe and not self.missing_blocks()
        return "works" if whole else "planned"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the status."""
        return {**asdict(self), "status": self.status}

    def block(self, name: str) -> Any:
        """Import one building block.

        Raises:
            ImportError: The block is not there (yet).
        """
        room, _, attribute = name.rpartition(".")
        module = f"tutelage.{room or self.room}"
        try:
            return getattr(importlib.import_module(module), attribute)
        except AttributeError as error:
            raise ImportError(f"Expected {module} to have {attribute!r}, but it has not.") from error

    def missing_blocks(self) -> tuple[str, ...]:
        """The building blocks that cannot be imported."""
        return tuple(name for name in self.blocks if not self._has(name))

    def _has(self, name: str) -> bool:
        try:
            self.block(name)
        except ImportError:
            return False
        return True
