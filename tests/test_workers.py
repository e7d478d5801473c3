from __future__ import annotations

import os
import signal

import pytest
import torch

from tutelage.workers import run_in_workers, threads_for


def describe(number: int) -> tuple[int, int, int]:
    return number * number, os.getpid(), torch.get_num_threads()


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(number: int) -> None:
    raise ValueError(f"no luck with {number}")


def test_one_job_works_in_this_process_in_order() -> None:
    results = list(run_in_workers(describe, [(2,), (3,)], jobs=1))
    assert [(position, result[0]) for position, result in results] == [(0, 4), (1, 9)]
    assert all(result[1] == os.getpid() for _, result in results)


def test_several_jobs_work_elsewhere_with_one_thread_each() -> None:
    results = dict(run_in_workers(describe, [(2,), (3,), (4,)], jobs=2))
    assert [results[position][0] for position in range(3)] == [4, 9, 16]
    assert all(result[1] != os.getpid() and result[2] == 1 for result in results.values())


def test_an_error_comes_back_as_it_is_and_a_death_is_said() -> None:
    with pytest.raises(ValueError, match="no luck with"):
        list(run_in_workers(fail, [(1,), (2,)], jobs=2))
    with pytest.raises(ChildProcessError, match="A worker process died"):
        list(run_in_workers(die, [(1,), (2,)], jobs=2))


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with threads_for(10):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
