"""The endpoint client against a real server that misbehaves: nothing lost, nothing asked twice, a clear end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.teachers.loopback import ServedModel
from tutelage.models import causal_lm
from tutelage.teachers.endpoint import BudgetExceeded, CostMeter, Endpoint, EndpointError

QUESTION = {"prompt": [1, 2, 3], "max_tokens": 1, "logprobs": 2, "prompt_logprobs": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[ServedModel]:
    torch.manual_seed(0)
    with ServedModel(causal_lm(12, hidden_size=8, num_layers=1, num_heads=1, max_length=16)) as served:
        yield served


@pytest.fixture(autouse=True)
def _fresh(server: ServedModel) -> None:
    server.faults.clear()
    server.requests.clear()
    server.answered.clear()
    server.headers.clear()
    server.retry_after = None
    server.most_at_once = 0


def _endpoint(server: ServedModel, **options: Any) -> Endpoint:
    return Endpoint(server.url, "small", **{"first_wait": 0.0, "timeout": 5.0, **options})


@pytest.mark.parametrize("fault", [408, 429, 500, 503, "reset", "cut", "not json", "a list"])
def test_a_fault_that_passes_is_tried_again(server: ServedModel, fault: Any) -> None:
    server.faults.extend([fault, fault])
    endpoint = _endpoint(server)
    assert endpoint.ask("completions", QUESTION)["usage"]["prompt_tokens"] == 3
    assert len(server.requests) == 3
    assert endpoint.meter.retries == 2


@pytest.mark.parametrize("fault", ["slow", "drip"])
def test_an_endpoint_that_hangs_is_left_after_the_time_out(server: ServedModel, fault: str) -> None:
    server.faults.append(fault)
    started = time.monotonic()
    _endpoint(server, timeout=0.3).ask("completions", QUESTION)
    assert time.monotonic() - started < 5
    assert len(server.requests) == 2


def test_it_gives_up_with_the_last_fault_and_the_number_of_tries(server: ServedModel) -> None:
    server.faults.extend([500] * 3)
    with pytest.raises(EndpointError, match=r"completions gave no usable answer in 3 tries; the last was status 500"):
        _endpoint(server, max_attempts=3).ask("completions", QUESTION)
    assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_refusal_is_not_tried_again(server: ServedModel, status: int) -> None:
    server.faults.append(status)
    with pytest.raises(EndpointError, match=f"refused the request: status {status} .*asked to fail"):
        _endpoint(server).ask("completions", QUESTION)
    assert len(server.requests) == 1


def test_nobody_there_is_a_clear_error() -> None:
    with pytest.raises(EndpointError, match=r"2 tries; the last was no answer \(.*refused"):
        Endpoint("http://127.0.0.1:9/v1", "m", first_wait=0.0, max_attempts=2).ask("completions", QUESTION)


def test_nothing_is_asked_twice_in_one_run_or_the_next(server: ServedModel, tmp_path: Path) -> None:
    first = _endpoint(server, cache=tmp_path)
    answers = [first.ask("completions", QUESTION), first.ask("completions", dict(reversed(QUESTION.items())))]
    second = _endpoint(server, cache=tmp_path)
    answers.append(second.ask("completions", QUESTION))
    assert answers[0] == answers[1] == answers[2]
    assert len(server.requests) == 1
    assert (first.meter.requests, first.meter.from_cache) == (1, 1)
    assert (second.meter.requests, second.meter.from_cache, second.meter.cost) == (0, 1, 0.0)


def test_equal_requests_at_the_same_time_are_one(server: ServedModel) -> None:
    endpoint = _endpoint(server, concurrency=6)
    assert len(endpoint.ask_all("completions", [QUESTION] * 6)) == 6
    assert len(server.requests) == 1


def test_what_was_answered_before_a_failure_is_kept(server: ServedModel, tmp_path: Path) -> None:
    questions = [{**QUESTION, "prompt": [number]} for number in range(1, 9)]
    server.faults.extend([None, None, None, 401])
    with pytest.raises(EndpointError, match="401"):
        _endpoint(server, cache=tmp_path, concurrency=2).ask_all("completions", questions)
    kept = len(server.answered)
    assert kept >= 3
    server.faults.clear()
    resumed = _endpoint(server, cache=tmp_path, concurrency=2)
    answers = resumed.ask_all("completions", questions)
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [1] * 8
    assert resumed.meter.from_cache == kept
    assert sorted(request["prompt"] for request in server.answered) == [[number] for number in range(1, 9)]


def test_answers_come_in_the_order_of_the_questions(server: ServedModel) -> None:
    server.faults.extend(["slow", None, 500])
    questions = [{**QUESTION, "prompt": [1] * length} for length in (3, 1, 2)]
    answers = _endpoint(server, concurrency=3).ask_all("completions", questions)
    assert [answer["usage"]["prompt_tokens"] for answer in answers] == [3, 1, 2]


def test_no_more_requests_at_once_than_allowed(server: ServedModel) -> None:
    server.faults.extend(["slow"] * 4)
    questions = [{**QUESTION, "prompt": [number]} for number in range(1, 7)]
    _endpoint(server, concurrency=2).ask_all("completions", questions)
    assert server.most_at_once <= 2


def test_an_answer_that_the_check_refuses_is_asked_again_and_never_kept(server: ServedModel, tmp_path: Path) -> None:
    server.faults.append("short")

    def check(answer: dict[str, Any]) -> None:
        if len(answer["choices"][0]["prompt_logprobs"]) != 3:
            raise ValueError("too short")

    endpoint = _endpoint(server, cache=tmp_path)
    assert len(endpoint.ask("completions", QUESTION, check=check)["choices"][0]["prompt_logprobs"]) == 3
    assert endpoint.meter.requests == 2  # both were paid for
    server.faults.extend(["short"] * 2)
    with pytest.raises(EndpointError, match=r"an answer that is no use \(too short\)"):
        _endpoint(server, max_attempts=2).ask("completions", QUESTION, check=check)


def test_a_damaged_cache_entry_is_asked_again(server: ServedModel, tmp_path: Path) -> None:
    _endpoint(server, cache=tmp_path).ask("completions", QUESTION)
    (entry,) = tmp_path.glob("??/*.json")
    whole = entry.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"[]", b'{"response": 3}', b"\xff\xfe"):
        entry.write_bytes(damage)
        _endpoint(server, cache=tmp_path).ask("completions", QUESTION)
        assert entry.read_bytes() == whole


def test_the_key_is_sent_and_written_nowhere(server: ServedModel, tmp_path: Path) -> None:
    endpoint = _endpoint(server, cache=tmp_path, api_key="secret-key")
    endpoint.ask("completions", QUESTION)
    assert server.headers[0]["Authorization"] == "Bearer secret-key"
    assert "secret-key" not in repr(endpoint)
    assert all(b"secret-key" not in path.read_bytes() for path in tmp_path.rglob("*.json"))
    (entry,) = tmp_path.glob("??/*.json")
    assert json.loads(entry.read_text())["request"]["model"] == "small"


def test_retry_after_is_what_is_waited(server: ServedModel) -> None:
    server.faults.append(429)
    server.retry_after = "0.4"
    started = time.monotonic()
    _endpoint(server, first_wait=30.0).ask("completions", QUESTION)
    assert 0.4 <= time.monotonic() - started < 10


def test_requests_are_spaced_out(server: ServedModel) -> None:
    endpoint = _endpoint(server, requests_per_minute=600, concurrency=4)
    started = time.monotonic()
    endpoint.ask_all("completions", [{**QUESTION, "prompt": [number]} for number in range(1, 6)])
    assert time.monotonic() - started >= 4 * 0.1


def test_the_budget_ends_a_run_before_the_next_request(server: ServedModel, tmp_path: Path) -> None:
    meter = CostMeter(prompt_price=1e6)  # a unit a token
    endpoint = _endpoint(server, cache=tmp_path, meter=meter, budget=5.0, concurrency=1)
    questions = [{**QUESTION, "prompt": [1, 2, number]} for number in range(1, 5)]
    with pytest.raises(BudgetExceeded, match=r"budget of 5 is spent \(6\)"):
        endpoint.ask_all("completions", questions)
    assert len(server.requests) == 2
    assert len(endpoint.responses) == 2


def test_threads_that_ask_for_the_same_wait_for_one_answer(server: ServedModel) -> None:
    server.faults.append("slow")
    endpoint = _endpoint(server)
    threads = [threading.Thread(target=endpoint.ask, args=("completions", QUESTION)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requests) == 1


def test_bad_arguments_are_named() -> None:
    for options, name in (
        ({"max_attempts": 0}, "max_attempts"),
        ({"timeout": 0.0}, "timeout"),
        ({"concurrency": 0}, "concurrency"),
        ({"requests_per_minute": 0.0}, "requests_per_minute"),
        ({"budget": -1.0}, "budget"),
    ):
        with pytest.raises(ValueError, match=f"`{name}`"):
            Endpoint("http://localhost/v1", "m", **options)  # type: ignore[arg-type]
