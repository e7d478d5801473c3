import json

import pytest

from tutelage.reproduction import recorded
from tutelage.reproduction.recorded import checkout, record, recorded_folder, recorded_result

RESULT = {"slug": "pld", "scale": "quick", "arms": {}, "claims": []}


@pytest.fixture
def home(monkeypatch, tmp_path):
    (tmp_path / "reproductions").mkdir()
    monkeypatch.setattr(recorded, "checkout", lambda: tmp_path)
    return tmp_path


def test_record_and_read_back(home):
    assert recorded_result("pld", "quick") is None
    path = record(RESULT)
    assert path == home / "reproductions" / "pld.quick.json"
    assert recorded_result("pld", "quick") == RESULT


def test_broken_methods_are_not_recorded(home):
    with pytest.raises(ValueError, match="broken on purpose"):
        record({**RESULT, "breakage": "unsorted"})
    assert list((home / "reproductions").iterdir()) == []


def test_installed_package_does_not_record(monkeypatch):
    monkeypatch.setattr(recorded, "checkout", lambda: None)
    assert recorded_folder().name == "recorded"
    with pytest.raises(ValueError, match="installed package"):
        record(RESULT)


def test_damaged_record_is_told(home):
    (home / "reproductions" / "pld.quick.json").write_text(json.dumps({"slug": "pld"}))
    with pytest.raises(ValueError, match="lacks slug, scale, arms or claims"):
        recorded_result("pld", "quick")


def test_every_recorded_result_is_whole_and_of_a_known_system():
    from tutelage.reproduction import find_system

    root = checkout()
    if root is None:
        pytest.skip("not a checkout")
    for path in (root / "reproductions").glob("*.json"):
        slug, scale, _ = path.name.split(".")
        result = recorded_result(slug, scale)
        assert (result["slug"], result["scale"]) == (slug, scale)
        assert find_system(slug).has_recipe
        seeds = len(result["seeds"])
        assert all(len(values) == seeds for arm in result["arms"].values() for values in arm.values())
        assert "breakage" not in result
