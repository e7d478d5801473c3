"""Real processes to kill, quick to start: one process imports what they need once, and forks a child for every call.

`python -m tests.reliability.children` is that process; `Children` talks to it. It learns from every child that ends
well what to import for the next. A child leads a process group of its
own, so that it can be killed with all that it started. It can also be told to kill its group by itself, before its
n-th operation on a file of a folder: a moment that can be named, and named again.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
_OPERATIONS = ("open", "os.chmod", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate", "shutil.copyfile")


@dataclass(frozen=True)
class Child:
    """A child that was started: its process (and process group), and where its output goes."""

    pid: int
    log: Path

    def kill(self) -> None:
        """`kill -9`, for all of its group."""
        os.killpg(self.pid, signal.SIGKILL)


class Children:
    """Starts children and waits for them."""

    def __enter__(self) -> Self:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.children"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def start(self, call: str, *arguments: Any, log: Path, watched: Path | None = None, die_at: int = 0) -> Child:
        """Begin `module:function` with the arguments; with `die_at` it dies before that operation in `watched`.

        When it ends by itself, `log` with the suffix `.told` says how many operations there were in `watched`.
        """
        told = {
            "call": call,
            "arguments": [str(one) if isinstance(one, Path) else one for one in arguments],
            "log": str(log),
            "watched": None if watched is None else str(watched),
            "die_at": die_at,
        }
        return Child(self._ask(told), log)

    def wait(self, child: Child) -> int:
        """The child's exit status, -9 when it was killed."""
        return self._ask({"wait": child.pid})

    def finish(self, call: str, *arguments: Any, log: Path, watched: Path | None = None) -> int:
        """Run a child to its good end, and give the number of its operations in `watched`."""
        child = self.start(call, *arguments, log=log, watched=watched)
        assert self.wait(child) == 0, child.log.read_text()
        return 0 if watched is None else int(json.loads(log.with_suffix(".told").read_text())["operations"])

    def kill_after(self, seconds: float, call: str, *arguments: Any, log: Path) -> bool:
        """Start a child and kill it after so many seconds; whether it was still running."""
        child = self.start(call, *arguments, log=log)
        time.sleep(seconds)
        child.kill()
        status = self.wait(child)
        assert status in (0, -signal.SIGKILL), child.log.read_text()
        return status != 0

    def _ask(self, told: dict[str, Any]) -> int:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(told) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())


def main() -> None:
    """Serve one request a line: start a child and tell its process, or wait for one and tell its status."""
    import torch

    torch.set_num_threads(1)
    for name in ("tutelage.run", "tutelage.cli", "sklearn.datasets", "torch._dynamo"):  # what takes long
        importlib.import_module(name)
    logs: dict[int, Path] = {}
    for line in sys.stdin:
        told = json.loads(line)
        if "wait" in told:
            _, status = os.waitpid(told["wait"], 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            _import_alike(logs.pop(told["wait"]).with_suffix(".told"))
            continue
        pid = os.fork()
        if pid == 0:
            _run(told)
        logs[pid] = Path(told["log"])
        print(pid, flush=True)


def _import_alike(told: Path) -> None:
    """Import what a child had imported when it ended, if it did."""
    if told.exists():
        for name in json.loads(told.read_text())["modules"]:
            if name not in sys.modules and not name.startswith("_"):
                with contextlib.suppress(Exception):
                    importlib.import_module(name)


def _run(told: dict[str, Any]) -> None:
    os.setsid()
    log = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status, count = 0, [0]
    if told["watched"] is not None:
        _watch(told["watched"], told["die_at"], count)
    try:
        module, _, name = told["call"].partition(":")
        getattr(importlib.import_module(module), name)(*told["arguments"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    told_at_end = {"operations": count[0], "modules": sorted(sys.modules)}
    Path(told["log"]).with_suffix(".told").write_text(json.dumps(told_at_end))
    os._exit(status)


def _watch(folder: str, die_at: int, count: list[int]) -> None:
    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and any(
            isinstance(one, str | Path) and str(one).startswith(folder) for one in arguments
        ):
            count[0] += 1
            if count[0] == die_at:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
