import re
from collections import Counter

import pytest

from tutelage.reproduction import find_system, search, systems
from tutelage.reproduction.system import System

FAMILIES = {
    "logits",
    "cross-entropy",
    "language",
    "features",
    "teachers",
    "tutors",
    "students",
    "curricula",
    "reinforcement",
    "assessment",
    "scaling",
    "generation",
    "classroom",
}


def test_all_57_numbered_once_each():
    assert [system.number for system in systems()] == list(range(1, 58))
    assert len({system.slug for system in systems()}) == 57
    assert len({system.arxiv for system in systems()}) == 57


@pytest.mark.parametrize("system", systems(), ids=lambda system: system.slug)
def test_every_entry_is_filled(system):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", system.slug)
    assert re.fullmatch(r"\d{4}\.\d{5}", system.arxiv)
    # A paper is not published before it is on arXiv (by more than the turn of a year).
    assert int("20" + system.arxiv[:2]) <= system.year + 1 <= 2027
    assert system.family in FAMILIES
    assert system.title
    assert system.venue
    assert system.summary.endswith(".")
    assert len(system.blocks) >= 5
    assert len(system.headline) >= 1
    assert not [name for name, count in Counter(system.blocks).items() if count > 1]
    for block in system.blocks:
        assert re.fullmatch(r"([a-z]+\.)?[A-Za-z][A-Za-z0-9_]*", block)


def test_status_is_works_only_with_blocks_recipe_and_record(monkeypatch, tmp_path):
    entry = {**find_system("pld").__dict__, "slug": "toy", "room": "registry", "blocks": ("resolve",)}
    system = System(**entry)
    monkeypatch.setattr("tutelage.reproduction.recorded.recorded_folder", lambda: tmp_path)
    assert system.status == "planned"  # neither recipe nor record
    (tmp_path / "toy.quick.json").write_text("{}")
    assert system.status == "planned"  # no recipe
    monkeypatch.setattr(System, "has_recipe", True)
    assert system.status == "works"
    missing = System(**{**entry, "blocks": ("resolve", "no_such_block", "no_such_room.block")})
    assert missing.missing_blocks() == ("no_such_block", "no_such_room.block")
    assert missing.status == "planned"
    with pytest.raises(ImportError, match=r"tutelage.registry to have 'no_such_block'"):
        missing.block("no_such_block")


def test_system_is_frozen():
    with pytest.raises(AttributeError):
        find_system("pld").title = "another"


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("pld", "pld"),
        ("HL-Gauss", "hl-gauss"),
        ("crowd counting", "skt"),
        ("tokenizer", "alm"),
        ("calibraton", "correctness-calibration"),  # misspelt
        ("sinkhorn", "sinkd"),
        ("crosswords", "crossword"),
        ("knowledge tracing", "psi-kt"),
        ("one-step generator without data", "freeflow"),
        ("linear_cross_entropy", "cce"),
        ("forgetting of learners", "psi-kt"),
        ("noisy labels", "ldr"),
    ],
)
def test_search_finds(text, slug):
    assert slug in [system.slug for system in search(text, limit=3)]


def test_search_ranks_and_limits():
    assert len(search("distillation", limit=5)) == 5
    assert len(search("sinkhorn")) < 20
    assert search("zzzzqqqq") == []
    with pytest.raises(ValueError, match="`text` to hold a word"):
        search(" - ")
