"""What a run stands on fails: the disk is full or read-only, a server or tracker hangs, another run wants the folder,
the clock jumps."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from tests.reliability.children import Children
from tests.reliability.faults import Faults
from tests.reliability.outcomes import differences, outcome
from tests.reliability.test_killing import RUN
from tutelage.files import read_json, write_json
from tutelage.teachers.endpoint import Endpoint, EndpointError
from tutelage.training.checkpoints import Checkpoint, checkpoint_folders, load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(yaml.safe_dump(RUN))
    return path


@pytest.fixture(scope="module")
def whole(children: Children, config: Path) -> Path:
    folder = config.with_name("whole")
    children.finish("tests.reliability.work:distill", config, folder, log=config.with_name("whole.log"))
    return folder


@contextlib.contextmanager
def small_disk(place: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of that size, where this process may mount one."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("A file system of our own cannot be mounted here.")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def the_one_line(log: Path) -> str:
    """What the command line says of an error, as its last line; no traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text[-3000:]
    last = text.strip().splitlines()[-1]
    assert last.startswith("tutelage: "), text[-3000:]
    return last


# ── Disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kilobytes", [64, pytest.param(160, marks=pytest.mark.reliability), 320])
def test_a_full_disk_ends_a_run_with_one_line_and_room_lets_it_go_on(
    children: Children, config: Path, whole: Path, faults: Faults, tmp_path: Path, kilobytes: int
) -> None:
    log = tmp_path / "child.log"
    with small_disk(tmp_path / "disk", kilobytes) as disk, faults.inject("a full disk"):
        child = children.start("tests.reliability.work:distill", config, disk / "run", log=log)
        assert children.wait(child) == 2, log.read_text()[-3000:]
        assert "No space left" in the_one_line(log)
        for folder in (disk / "run").rglob("checkpoints"):
            for checkpoint in checkpoint_folders(folder):
                load_checkpoint(checkpoint)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        children.finish("tests.reliability.work:distill", config, disk / "run", log=log)
        assert differences(outcome(disk / "run"), outcome(whole)) == []


def test_a_full_disk_leaves_earlier_files_whole(faults: Faults, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 96) as disk, faults.inject("a full disk at a write", 2):
        write_json(disk / "a.json", {"a": 1})
        with pytest.raises(OSError, match="No space left"):
            write_json(disk / "a.json", {"a": "x" * 200_000})
        assert read_json(disk / "a.json") == {"a": 1}
        small, large = ({"w": torch.zeros(size)} for size in (100, 100_000))
        save_checkpoint(disk / "c", Checkpoint(1, small, {}))
        with pytest.raises(OSError, match=r"the last good one is .*step-000000001"):
            save_checkpoint(disk / "c", Checkpoint(2, large, {}))
        assert load_checkpoint(disk / "c" / "step-000000001").step == 1
        assert sorted(path.name for path in disk.iterdir()) == ["a.json", "c"], "nothing half-written is left"


@pytest.mark.parametrize("call", ["distill", "cache"])
def test_a_folder_that_cannot_be_written_is_told_in_one_line(
    children: Children, config: Path, faults: Faults, tmp_path: Path, call: str
) -> None:
    """A place under a file, and a read-only file system: neither gives way to a superuser."""
    (tmp_path / "file").write_text("")
    places = [tmp_path / "file" / "run"]
    with contextlib.ExitStack() as stack:
        if os.geteuid() == 0:
            disk = stack.enter_context(small_disk(tmp_path / "disk", 64))
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            places.append(disk / "run")
        for place in places:
            log = tmp_path / "child.log"
            arguments = (config, place) if call == "distill" else (place,)
            with faults.inject("a folder that cannot be written"):
                child = children.start("tests.reliability.work:told", call, *arguments, log=log)
                assert children.wait(child) == 2, log.read_text()[-3000:]
                assert str(place) in the_one_line(log)


# ── Servers and trackers ─────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def bad_server(first: bytes, drip: bytes) -> Iterator[str]:
    """Takes any number of connections, says `first` and then `drip` again and again, slowly, without end."""
    ended = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.sendall(first)
            while not ended.wait(0.02):
                connection.sendall(drip)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        ended.set()
        listening.close()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (HEAD, b""), (HEAD + b"X-Long: ", b"x"), (HEAD + b"\r\n", b" "), (HEAD + b"\r\n{", b"")],
    ids=["never answers", "begins its headers", "drips its headers", "drips its answer", "begins its answer"],
)
def test_an_endpoint_that_hangs_is_given_up_in_bounded_time(
    faults: Faults, tmp_path: Path, first: bytes, drip: bytes
) -> None:
    with bad_server(first, drip) as url, faults.inject("an endpoint that hangs"):
        endpoint = Endpoint(url, "m", cache=tmp_path, timeout=0.2, max_attempts=2, first_wait=0.0)
        begun = time.monotonic()
        with pytest.raises(EndpointError, match="gave no usable answer in 2 tries") as told:
            endpoint.ask("completions", {"prompt": "x"})
        assert time.monotonic() - begun < 20
        assert "\n" not in str(told.value)
        assert not list(tmp_path.rglob("*.json")), "nothing is kept of half an answer"


@pytest.mark.parametrize("moment", ["begin", "log", "end"])
def test_a_tracker_that_hangs_does_not_hold_up_a_run(
    children: Children, faults: Faults, tmp_path: Path, moment: str
) -> None:
    log = tmp_path / "child.log"
    with faults.inject("a tracker that hangs"):
        begun = time.monotonic()
        children.finish("tests.reliability.work:train_with_a_hanging_tracker", tmp_path / "run", moment, log=log)
        assert time.monotonic() - begun < 60
        assert "The trackers have not answered for 0.5 s; the run goes on without them" in log.read_text()
        assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 4


# ── Other writers, clocks ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_killed(
    children: Children, config: Path, whole: Path, faults: Faults, tmp_path: Path
) -> None:
    folder, log = tmp_path / "run", tmp_path / "child.log"
    first = children.start("tests.reliability.work:distill_and_stay", config, folder, log=tmp_path / "first.log")
    deadline = time.monotonic() + 60
    while not (folder / "arms").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        with faults.inject("a second run in the same folder"):
            second = children.start("tests.reliability.work:distill", config, folder, log=log)
            assert children.wait(second) == 2
            said = f"Expected no other writer in {folder}, but process {first.pid} is writing there"
            assert said in the_one_line(log)
    finally:
        os.kill(first.pid, signal.SIGKILL)  # the process alone, not its group: nothing else may hold the lock
        children.wait(first)
    with faults.inject("a lock of a process that was killed"):
        children.finish("tests.reliability.work:distill", config, folder, log=log)
        assert differences(outcome(folder), outcome(whole)) == []


def test_a_clock_that_jumps_changes_nothing(
    children: Children, config: Path, whole: Path, faults: Faults, tmp_path: Path
) -> None:
    """Back by an hour at every other look, in a run that is killed and one that goes on."""
    folder, log = tmp_path / "run", tmp_path / "child.log"
    call = "tests.reliability.work:with_a_jumping_clock"
    with faults.inject("a wall clock that jumps back by an hour", 2):
        child = children.start(call, "distill", config, folder, log=log, watched=folder, die_at=300)
        assert children.wait(child) == -9, log.read_text()
        children.finish(call, "distill", config, folder, log=log)
        assert differences(outcome(folder), outcome(whole)) == []
        records = [read_json(path)["history"] for path in folder.rglob("card.json")]
        assert all(0 <= record["seconds"] < 600 for history in records for record in history)
    with faults.inject("a wall clock that jumps back by an hour"):
        children.finish(call, "cache", tmp_path / "cache", log=log)
