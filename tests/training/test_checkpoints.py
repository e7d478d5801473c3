from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.training import Checkpoint, load_checkpoint, load_latest, save_checkpoint
from tutelage.training.checkpoints import load_named_state, named_state, pack, unpack


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        step, {"student.weight": torch.full((3,), float(step))}, {"random": torch.arange(step), "best": None}
    )


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(7))
    read = load_checkpoint(path)
    assert read.step == 7
    assert torch.equal(read.modules["student.weight"], torch.full((3,), 7.0))
    assert torch.equal(read.state["random"], torch.arange(7))
    assert read.state["best"] is None


def test_only_the_newest_stay_and_the_newest_is_read(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]
    latest = load_latest(tmp_path)
    assert latest is not None
    assert latest.step == 10
    assert load_latest(tmp_path / "nothing") is None


@pytest.mark.parametrize("name", ["modules.safetensors", "state.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_damaged_file_is_noticed_and_the_one_before_is_used(tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    file = save_checkpoint(tmp_path, checkpoint(2)) / name
    content = bytearray(file.read_bytes())
    if damage == "gone":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0x10
        file.write_bytes(content)
    if not (name == "manifest.json" and damage == "flip"):  # a flip in the manifest may leave it as good as before
        with pytest.raises(ValueError, match="Expected"):
            load_checkpoint(file.parent)
        latest = load_latest(tmp_path)
        assert latest is not None
        assert latest.step == 1


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (save_checkpoint(tmp_path, checkpoint(1)) / "state.json").write_text("{")
    with pytest.raises(ValueError, match="Every checkpoint in"):
        load_latest(tmp_path)


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The file size limit makes real writes fail in another process, as a full disk would."""
    save_checkpoint(tmp_path, checkpoint(1))
    program = f"""
import resource, signal, torch
from tutelage.training import Checkpoint, save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
save_checkpoint({str(tmp_path)!r}, Checkpoint(2, {{"weight": torch.zeros(100_000)}}, {{}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Could not write a checkpoint" in done.stderr
    assert "the last good one is" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    assert load_checkpoint(tmp_path / "step-000000001").step == 1


_LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
_TREES = st.recursive(
    _LEAVES,
    lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(st.text() | st.integers(), part),
    max_leaves=12,
)


@given(_TREES)
@settings(max_examples=50, deadline=None)
def test_any_nest_of_plain_values_survives(tree: Any) -> None:
    import json

    packed, tensors = pack(tree)
    assert unpack(json.loads(json.dumps(packed)), tensors) == tree


def test_a_value_that_only_pickle_could_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="but got a object"):
        pack({"a": object()})


def test_weights_that_do_not_fit_say_which() -> None:
    module = torch.nn.Linear(2, 3)
    good = named_state({"student": module})
    with pytest.raises(ValueError, match=r"student.weight.* to have shape \(3, 2\), but got \(2, 2\)"):
        load_named_state({"student": module}, {**good, "student.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match="lacks"):
        load_named_state({"student": module}, {"student.weight": good["student.weight"]})
