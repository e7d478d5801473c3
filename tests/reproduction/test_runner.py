import json
import subprocess
import sys
import textwrap

import pytest

from tutelage.reproduction import TrialError, run_recipe
from tutelage.reproduction.runner import judge


def comparable(result):
    return {key: result[key] for key in ("slug", "scale", "seeds", "settings", "facts", "arms", "claims")}


@pytest.fixture(scope="module")
def alone(toy_recipe):
    return run_recipe(toy_recipe(), "smoke", jobs=1)


def test_one_value_a_seed_for_every_arm_and_metric(alone):
    assert alone["seeds"] == [0, 1, 2]
    assert set(alone["arms"]) == {"good", "bad"}
    assert all(len(alone["arms"][arm]["accuracy"]) == 3 for arm in alone["arms"])
    assert len(set(alone["arms"]["bad"]["accuracy"])) == 3
    assert alone["facts"] == {"teacher_accuracy": 0.75}
    assert alone["arms"]["good"]["curve"][0][0] == 0.0


def test_claims_are_judged_by_their_criterion(alone):
    better, worse = alone["claims"]
    # Both arms draw the same noise of a seed, so that the difference is exact: the arms are paired.
    assert better["value"] == pytest.approx(1.0)
    assert better["holds"]
    assert better["p_value"] == 0.0
    assert better["published"] == "1.0"
    assert not worse["holds"]
    assert worse["value"] == pytest.approx(-1.0)
    assert worse["detail"] == "picked good"
    assert "p_value" not in worse


def test_result_is_json_without_nan(alone):
    assert json.loads(json.dumps(alone, allow_nan=False)) == alone
    assert alone["peak_rss_mb"] > 10
    assert alone["environment"]["torch"]
    assert alone["published"]


def test_processes_give_the_same_bits_as_one_process(toy_recipe, alone):
    seen = []
    parallel = run_recipe(
        toy_recipe(), "smoke", jobs=2, report=lambda done, total, outcome: seen.append((done, total, outcome.arm))
    )
    assert comparable(parallel) == comparable(alone)
    assert [done for done, _, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in seen} == {6}


def test_trials_run_on_one_thread(toy_recipe, tmp_path):
    run_recipe(toy_recipe(log=tmp_path / "log"), "smoke", seeds=1, jobs=1)
    assert {line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()} == {"1"}


def test_one_seed_leaves_the_test_undecided(toy_recipe):
    better = run_recipe(toy_recipe(), "smoke", seeds=1, jobs=1)["claims"][0]
    assert better["value"] == pytest.approx(1.0)
    assert better["p_value"] == 1.0
    assert not better["holds"]


def test_breakage_makes_the_claim_fail_and_is_marked(toy_recipe, alone):
    broken = run_recipe(toy_recipe(), "smoke", jobs=1, breakage="useless")
    assert broken["breakage"] == "useless"
    assert "breakage" not in alone
    assert broken["claims"][0]["value"] == 0.0
    assert not broken["claims"][0]["holds"]
    with pytest.raises(ValueError, match=r"did you mean 'useless'\?"):
        run_recipe(toy_recipe(), "smoke", breakage="usless")


@pytest.mark.parametrize("jobs", [1, 2])
def test_failing_trial_is_named_with_its_error(toy_recipe, jobs):
    with pytest.raises(TrialError, match=r"'bad, seed \d' failed: RuntimeError: the moon was in the wrong house"):
        run_recipe(toy_recipe(fail="bad"), "smoke", jobs=jobs)


def test_non_finite_metric_is_a_failure(toy_recipe):
    recipe = toy_recipe()
    object.__setattr__(recipe, "run_arm", lambda context, arm, seed: {"accuracy": float("nan")})
    with pytest.raises(TrialError, match="Expected metric 'accuracy' to be finite, but got nan"):
        run_recipe(recipe, "smoke", jobs=1)


def test_killed_worker_is_an_error_not_a_hang(toy_recipe, tmp_path):
    with pytest.raises(TrialError, match="killed"):
        run_recipe(toy_recipe(kill=str(tmp_path / "killed")), "smoke", jobs=2)


def test_finished_trials_are_reused_and_seeds_can_be_added(toy_recipe, tmp_path, alone):
    log, work = tmp_path / "log", tmp_path / "work"
    with pytest.raises(TrialError):
        run_recipe(toy_recipe(log=log, fail="bad"), "smoke", jobs=1, folder=work)
    assert log.read_text().split()[:2] == ["good", "0"]
    result = run_recipe(toy_recipe(log=log), "smoke", jobs=1, folder=work)
    assert comparable(result) == comparable(alone)
    ran = [tuple(line.split()[:2]) for line in log.read_text().splitlines()]
    assert ran.count(("good", "0")) == 1
    run_recipe(toy_recipe(log=log), "smoke", seeds=4, jobs=1, folder=work)
    again = [tuple(line.split()[:2]) for line in log.read_text().splitlines()][len(ran) :]
    assert again == [("good", "3"), ("bad", "3")]


def test_folder_of_another_experiment_is_refused(toy_recipe, tmp_path):
    run_recipe(toy_recipe(), "smoke", seeds=1, jobs=1, folder=tmp_path)
    with pytest.raises(ValueError, match="its scale, settings are other"):
        run_recipe(toy_recipe(), "quick", seeds=1, jobs=1, folder=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "smokey"}, r"`scale` to be one of 'smoke', 'quick', but got 'smokey' \(did you mean 'smoke'\?\)"),
        ({"scale": "smoke", "seeds": 0}, "`seeds` to be at least 1"),
        ({"scale": "smoke", "jobs": 0}, "`jobs` to be at least 1"),
    ],
)
def test_bad_arguments(toy_recipe, options, message):
    with pytest.raises(ValueError, match=message):
        run_recipe(toy_recipe(), **options)


def test_undefined_value_is_null(toy_recipe, alone):
    from tutelage.reproduction import Claim, Judgement, Results

    recipe = toy_recipe()
    claim = Claim("x", "x", "x", lambda results: Judgement(float("nan"), False, float("nan")))
    object.__setattr__(recipe, "claims", (claim,))
    assert judge(recipe, Results({}))[0]["value"] is None
    assert judge(recipe, Results({}))[0]["p_value"] is None


def test_everything_finished_runs_nothing(toy_recipe, tmp_path):
    log = tmp_path / "log"
    first = run_recipe(toy_recipe(log=log), "smoke", seeds=2, jobs=1, folder=tmp_path / "work")
    again = run_recipe(toy_recipe(log=log), "smoke", seeds=2, jobs=1, folder=tmp_path / "work")
    assert comparable(first) == comparable(again)
    assert len(log.read_text().splitlines()) == 4


@pytest.mark.slow
@pytest.mark.cluster
def test_ray_gives_the_same_bits_and_retries_a_killed_worker(toy_recipe, tmp_path, alone):
    pytest.importorskip("ray")
    result = run_recipe(toy_recipe(kill=str(tmp_path / "killed")), "smoke", engine="ray", jobs=2)
    assert (tmp_path / "killed").exists()
    assert comparable(result) == comparable(alone)
    with pytest.raises(TrialError, match="the moon was in the wrong house"):
        run_recipe(toy_recipe(fail="bad"), "smoke", engine="ray", jobs=2)


def test_import_of_the_catalogue_costs_no_scikit_learn():
    code = """
        import sys
        from tutelage.reproduction import systems
        assert len(systems()) == 57
        loaded = [name for name in ("sklearn", "ray", "joblib", "transformers", "rich") if name in sys.modules]
        print(loaded)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_ray_is_told_before_anything_runs(toy_recipe, monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tutelage\[cluster\]"):
        run_recipe(toy_recipe(log=tmp_path / "log"), "smoke", engine="ray", folder=tmp_path / "work")
    assert not (tmp_path / "work").exists()
