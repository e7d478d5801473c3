"""Work for several processes of this machine, which can be stopped with a checkpoint at any moment."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Any, TypeVar

_Result = TypeVar("_Result")


def run_in_workers(
    function: Callable[..., _Result], arguments: Sequence[tuple[Any, ...]], *, jobs: int
) -> Iterator[tuple[int, _Result]]:
    """Call a function with every tuple of arguments, and give (position, result) as soon as one is there.

    Workers run one thread each and ignore Ctrl-C: when it or SIGTERM comes, this process asks each of them to stop
    (SIGTERM), which lets a trainer write its checkpoint, and waits for them. Workers end with this process, however it
    ends, so none goes on writing beside a resumed run.

    Args:
        function: Importable by name; it and its arguments are sent to the workers.
        arguments: One tuple a call.
        jobs: Workers; 1 calls the function here.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM came; every worker has stopped.
        ChildProcessError: A worker died, say because the system killed it.
    """
    if jobs <= 1 or len(arguments) <= 1:
        for position, one in enumerate(arguments):
            yield position, function(*one)
        return
    context = multiprocessing.get_context("spawn")
    workers = min(jobs, len(arguments))
    with _terminate_as_interrupt(), ProcessPoolExecutor(workers, mp_context=context, initializer=begin_worker) as pool:
        waiting: dict[Future[_Result], int] = {pool.submit(function, *one): n for n, one in enumerate(arguments)}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        except BrokenProcessPool as error:
            raise ChildProcessError("A worker process died, perhaps for want of memory; lower `jobs`.") from error
        except BaseException:
            for future in waiting:
                future.cancel()
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def on_main_process(function: Callable[[], _Result]) -> _Result:
    """Call a function on the main process of those that `torchrun` started, while the others wait, for days if need be.

    Returns:
        What the function gave, on every process. A process that is alone is the main one.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return function()
    import torch
    import torch.distributed as dist
    from accelerate import PartialState

    joined = PartialState(cpu=not torch.accelerator.is_available())
    group = dist.new_group(backend="gloo", timeout=datetime.timedelta(days=30))
    told: list[Any] = [function() if joined.is_main_process else None]
    dist.broadcast_object_list(told, src=0, group=group)
    dist.destroy_process_group(group)
    result: _Result = told[0]
    return result


@contextlib.contextmanager
def threads_for(parameters: int) -> Iterator[None]:
    """As many threads inside the block as pay for themselves: one for a small model, else as many as there were.

    Below a million parameters the operations of a batch are so short that waiting for each other costs threads more
    than they bring, and many times more when other processes use the cores.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if parameters < 1_000_000 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def core_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def begin_worker() -> None:
    """Make a process a worker: one thread, deaf to Ctrl-C, and gone as soon as its parent is, however that ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


@contextlib.contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """Let SIGTERM act like Ctrl-C inside the block (in the main thread; elsewhere signals can't be caught)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
