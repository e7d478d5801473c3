"""A recipe that takes milliseconds; its functions are closures, so that they travel to workers by value."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.reproduction import Arm, Claim, Context, Judgement, Recipe, Results, Scale


def make_toy_recipe(*, fail: str = "", kill: str = "", log: Path | None = None) -> Recipe:
    def prepare(context: Context) -> dict[str, float]:
        (context.folder / "offset.txt").write_text("10")
        return {"teacher_accuracy": 0.75}

    def run_arm(context: Context, arm: Arm, seed: int) -> dict[str, float | list[float]]:
        import os
        import signal

        import numpy
        import torch

        if log is not None:
            with log.open("a") as stream:
                stream.write(f"{arm.name} {seed} {torch.get_num_threads()}\n")
        if kill and arm.name == "good" and not Path(kill).exists():
            Path(kill).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if arm.name == fail:
            raise RuntimeError("the moon was in the wrong house")
        offset = float((context.folder / "offset.txt").read_text())
        # Drawn from the global generators, which the harness seeds.
        noise = torch.rand(()).item() + numpy.random.rand()
        return {"accuracy": offset + arm.settings["gain"] + noise, "curve": [0.0, noise]}

    def better(results: Results) -> Judgement:
        test = results.paired("good", "bad", "accuracy")
        return Judgement(test.difference, test.difference > 0 and test.p_value < 0.05, test.p_value)

    def worse(results: Results) -> Judgement:
        value = results.difference("bad", "good", "accuracy")
        return Judgement(value, value > 0, detail=f"picked {results.select('all', 'accuracy')}")

    return Recipe(
        slug="pld",
        scales={"smoke": Scale("smoke", 3, {"size": 1}), "quick": Scale("quick", 3, {"size": 2})},
        arms=lambda scale: [Arm("good", {"gain": 1.0}, group="all"), Arm("bad", {"gain": 0.0}, group="all")],
        prepare=prepare,
        run_arm=run_arm,
        claims=(
            Claim("better", "good beats bad", "difference > 0, p < 0.05", better, published="1.0"),
            Claim("worse", "bad beats good", "difference > 0", worse),
        ),
        breakages={"useless": lambda arm: Arm(arm.name, {"gain": 0.0}, arm.group)},
        notes="A toy.",
    )


@pytest.fixture(scope="session")
def toy_recipe():
    return make_toy_recipe
