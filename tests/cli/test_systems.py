import json

from typer.testing import CliRunner

from tutelage.cli import app

runner = CliRunner()


def test_lists_all_57():
    done = runner.invoke(app, ["systems"])
    assert done.exit_code == 0
    for name in ("dear", "pld", "mst-distill", "2506.12542", "NeurIPS 2025"):
        assert name in done.stdout


def test_json_has_everything():
    listed = json.loads(runner.invoke(app, ["systems", "--json"]).stdout)
    assert len(listed) == 57
    assert {"number", "slug", "title", "venue", "year", "arxiv", "family", "status", "blocks"} <= listed[0].keys()
    assert {system["status"] for system in listed} <= {"works", "planned"}


def test_search_ranks():
    listed = json.loads(runner.invoke(app, ["systems", "--search", "optimal transport", "--json"]).stdout)
    assert listed[0]["slug"] == "sinkd"
    assert len(listed) < 57
    assert "sinkd" in runner.invoke(app, ["systems", "--search", "sinkhorn"]).stdout


def test_search_without_a_match():
    done = runner.invoke(app, ["systems", "--search", "zzzzqqqq"])
    assert done.exit_code == 0
    assert "No system" in done.stdout
