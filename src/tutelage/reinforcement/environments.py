"""Environments by name, of packages that are imported only when one is asked for."""

from __future__ import annotations

import importlib
from typing import Any

from tutelage.reinforcement.value_training import Environment


def make_environment(name: str, **options: Any) -> Environment:
    """An environment of Gymnasium, MinAtar (`"MinAtar/Breakout-v1"`) or the Arcade Learning Environment (`"ALE/…"`).

    Games of the Arcade Learning Environment come as deep Q-learning sees them: every fourth frame, gray, 84 × 84, four
    frames stacked, pixels in uint8.

    Args:
        name: As Gymnasium registers it.
        **options: Passed on to `gymnasium.make`.

    Raises:
        ImportError: A package is missing; the message says how to install it.

    >>> make_environment("CartPole-v1").observation_space.shape
    (4,)
    """
    gymnasium = _require("gymnasium")
    if name.startswith("MinAtar/"):
        _require("minatar")
        if name not in gymnasium.registry:
            importlib.import_module("minatar.gym").register_envs()
    if not name.startswith("ALE/"):
        return gymnasium.make(name, **options)  # type: ignore[no-any-return]
    gymnasium.register_envs(_require("ale_py", "pip install ale-py"))
    frames = gymnasium.wrappers.AtariPreprocessing(gymnasium.make(name, frameskip=1, **options))
    return gymnasium.wrappers.FrameStackObservation(frames, 4)  # type: ignore[no-any-return]


def _require(package: str, install: str = "pip install 'tutelage[control]'") -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"This environment needs the package {package}: {install}.") from error
