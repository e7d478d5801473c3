from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from tutelage.reinforcement import Environment, ImageBody, make_environment, train_dqn


@pytest.mark.parametrize(
    ("name", "shape", "actions"), [("CartPole-v1", (4,), 2), ("MinAtar/Breakout-v1", (10, 10, 4), 3)]
)
def test_an_environment_is_what_training_expects(name, shape, actions) -> None:
    environment = make_environment(name)
    assert isinstance(environment, Environment)
    assert environment.observation_space.shape == shape
    assert environment.action_space.n == actions
    first, again = (environment.reset(seed=3)[0] for _ in range(2))
    assert np.array_equal(first, again)
    observation, reward, terminated, truncated, _ = environment.step(0)
    assert observation.shape == shape
    assert float(reward) >= 0
    assert terminated is False
    assert truncated is False


def test_a_game_of_images_is_played() -> None:
    def body(shape):
        return ImageBody(shape, layers=((4, 3, 1),), width=8, channels_last=True)

    def play(seed):
        return train_dqn(
            lambda: make_environment("MinAtar/Breakout-v1"),
            value_loss="hl_gauss",
            steps=80,
            learning_starts=40,
            batch_size=4,
            body=body,
            seed=seed,
        )

    runs = [play(seed) for seed in (0, 0)]
    assert runs[0].returns == runs[1].returns
    assert len(runs[0].returns) > 1
    for one, other in zip(runs[0].agent.parameters(), runs[1].agent.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_missing_package_is_named_with_its_extra(monkeypatch) -> None:
    def refuse(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(ImportError, match=r"package gymnasium: pip install 'tutelage\[control\]'"):
        make_environment("CartPole-v1")


def test_the_room_is_imported_without_environments() -> None:
    code = "import sys, tutelage.reinforcement as r; print({'gymnasium', 'minatar'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
