"""What a config says about a monitor: which one watches the run, and what it is made with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field, model_validator

from tutelage.registry import resolve
from tutelage.training import Monitor, PowerLawMonitor, RepresentationTracker
from tutelage.training.settings import StrictModel

MONITORS: Mapping[str, Callable[..., Monitor]] = {
    "representation": RepresentationTracker,
    # What a config's run logs is a loss against labels, which ends in their entropy: a floor, and no departure.
    "teacher_hacking": functools.partial(PowerLawMonitor, constant=True),
}


class MonitorSettings(StrictModel):
    """What watches a run. A plain string is a name without arguments."""

    name: str = Field(
        description="representation (logs entropy and information of layers), teacher_hacking (warns when a metric "
        "leaves the power law of the run's first part), or `module:attribute`."
    )
    arguments: dict[str, Any] = Field(
        {}, description="What it is made with, such as `layers` and `every`, or `metric`, `patience` and `stop`."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def make(self) -> Monitor:
        """A monitor of its own for one student.

        Raises:
            ValueError: There is none of that name, it does not take the arguments, or it is no `Monitor`.

        >>> MonitorSettings(name="teacher_hacking", arguments={"stop": True}).make().stop
        True
        """
        factory = resolve(self.name, MONITORS, "monitor")
        try:
            made = factory(**self.arguments)
        except TypeError as error:
            problem = str(error).split("() ")[-1]
            raise ValueError(f"Expected the arguments of {self.name!r} to fit it, but it {problem}.") from error
        if not isinstance(made, Monitor):
            raise ValueError(f"Expected {self.name!r} to make a `Monitor`, but got {type(made).__name__}.")
        return made
