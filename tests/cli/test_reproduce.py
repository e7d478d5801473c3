import json

import pytest
from typer.testing import CliRunner

from tutelage import reproduction
from tutelage.cli import app
from tutelage.reproduction import Arm, Claim, Judgement, Recipe, Scale, recorded

runner = CliRunner()


@pytest.fixture
def recipe(monkeypatch):
    """Makes `reproduce` run a recipe of milliseconds."""

    def use(*, holds: bool = True, error: str = "") -> None:
        def run_arm(context, arm, seed):
            if error:
                raise RuntimeError(error)
            return {"accuracy": 0.5 + seed / 10}

        claims = (Claim("c", "it works", "accuracy > 0", lambda results: Judgement(0.5, holds), published="[0.9]"),)
        toy = Recipe(
            slug="pld",
            scales={"quick": Scale("quick", 2, {"size": 1})},
            arms=lambda scale: [Arm("only")],
            run_arm=run_arm,
            claims=claims,
            breakages={"useless": lambda arm: arm},
            notes="A toy.",
        )
        monkeypatch.setattr(reproduction, "load_recipe", lambda slug: toy)

    return use


def run(*arguments):
    return runner.invoke(app, ["reproduce", "pld", "--jobs", "1", *arguments])


def test_exits_0_when_all_claims_hold(recipe, tmp_path):
    recipe()
    done = run("--json", str(tmp_path / "deep" / "result.json"), "--seeds", "3")
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "deep" / "result.json").read_text())
    assert result["arms"]["only"]["accuracy"] == pytest.approx([0.5, 0.6, 0.7])
    assert {"slug", "scale", "seeds", "environment", "arms", "claims", "seconds", "peak_rss_mb"} <= result.keys()
    for text in ("0.6000 ± 0.1000", "it works", "[0.9]", "1 of 1 claims hold", "A toy."):
        assert text in done.output
    assert "[3/3]" in done.output


def test_exits_3_when_a_claim_does_not_hold(recipe):
    recipe(holds=False)
    done = run()
    assert done.exit_code == 3
    assert "NO" in done.output


def test_exits_1_and_names_the_trial_when_one_fails(recipe, tmp_path):
    recipe(error="no luck")
    done = run("--json", str(tmp_path / "result.json"))
    assert done.exit_code == 1
    assert "Trial 'only, seed 0' failed: RuntimeError: no luck" in done.output
    assert not (tmp_path / "result.json").exists()


def test_records_in_the_checkout(recipe, monkeypatch, tmp_path):
    recipe()
    (tmp_path / "reproductions").mkdir()
    monkeypatch.setattr(recorded, "checkout", lambda: tmp_path)
    assert run("--record").exit_code == 0
    assert json.loads((tmp_path / "reproductions" / "pld.quick.json").read_text())["slug"] == "pld"
    broken = run("--record", "--break", "useless")
    assert isinstance(broken.exception, ValueError)
    assert "broken on purpose" in str(broken.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "quik"], "did you mean 'quick'"),
        (["--break", "uselss"], "did you mean 'useless'"),
    ],
)
def test_mistakes_are_one_line(recipe, arguments, message):
    recipe()
    done = run(*arguments)
    assert isinstance(done.exception, ValueError)
    assert message in str(done.exception)


def test_unknown_system():
    done = runner.invoke(app, ["reproduce", "plt"])
    assert isinstance(done.exception, ValueError)
    assert "did you mean 'pld'?" in str(done.exception)
