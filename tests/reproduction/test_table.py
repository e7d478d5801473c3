import pytest

from tutelage.reproduction import recorded, run_recipe, systems, table


def test_page_lists_every_system_and_every_claim(monkeypatch, tmp_path, toy_recipe):
    (tmp_path / "reproductions").mkdir()
    monkeypatch.setattr(recorded, "checkout", lambda: tmp_path)
    assert "None yet." in table.systems_page()
    recorded.record(run_recipe(toy_recipe(), "quick", seeds=2, jobs=1))
    page = table.systems_page()
    for system in systems():
        assert f"| {system.number} | **{system.name}** (`{system.slug}`)" in page
    assert "| quick | good beats bad | 1.0 | 1 (p = 0) | difference > 0, p < 0.05 | yes |" in page
    assert "| quick | bad beats good |  | -1 | difference > 0 | **no** |" in page


def test_main_writes_the_page(tmp_path, capsys, monkeypatch):
    table.main([str(tmp_path / "deep" / "index.md")])
    assert (tmp_path / "deep" / "index.md").read_text() == table.systems_page()
    assert "index.md" in capsys.readouterr().out
    monkeypatch.setattr(table, "checkout", lambda: None)
    with pytest.raises(SystemExit, match="Name the file"):
        table.main([])


def test_bars_in_cells_are_escaped():
    assert table._cell("a|b\nc") == "a\\|b c"
