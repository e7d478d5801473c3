"""A client of any OpenAI-compatible endpoint that pays for nothing twice and loses no answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage._checks import check_at_least, check_non_negative, check_positive
from tutelage.teachers.response_cache import ResponseCache, response_key

Check = Callable[[dict[str, Any]], None]
"""Raises `ValueError` when an answer is not what was asked for; it is then asked again, and never kept."""

NumberedCheck = Callable[[int, dict[str, Any]], None]
"""The same for one of several requests, called with its number too."""

LARGEST_ANSWER = 256 << 20
"""Bytes of an answer that are read at most."""

_CHUNK = 1 << 16
_WORTH_ANOTHER_TRY = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class EndpointError(RuntimeError):
    """The endpoint refused a request, or gave no usable answer however often it was asked; the text says which."""


class BudgetExceeded(EndpointError):  # noqa: N818 - named after what happened
    """The next request would be made after the budget was spent."""


@dataclass(slots=True)
class CostMeter:
    """What an endpoint was asked for and what that cost.

    Attributes:
        prompt_price: Price of a million prompt tokens, in any currency.
        completion_price: Price of a million completion tokens.
        requests: Answers that were paid for, unusable ones included where the endpoint says what they took.
        retries: Tries after the first one.
        from_cache: Answers that were read from disk.
        prompt_tokens: Tokens sent, as the endpoint counts them.
        completion_tokens: Tokens received.

    >>> meter = CostMeter(prompt_price=2.0, completion_price=6.0)
    >>> meter.add({"prompt_tokens": 500_000, "completion_tokens": 100_000})
    >>> meter.cost
    1.6
    """

    prompt_price: float = 0.0
    completion_price: float = 0.0
    requests: int = 0
    retries: int = 0
    from_cache: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def cost(self) -> float:
        """Money spent so far, in the currency of the prices."""
        return (self.prompt_tokens * self.prompt_price + self.completion_tokens * self.completion_price) / 1e6

    def add(self, usage: Any) -> None:
        """Count an answer by its `usage`, the token counts that the endpoint reports."""
        self.requests += 1
        if isinstance(usage, dict):
            self.prompt_tokens += _count(usage.get("prompt_tokens"))
            self.completion_tokens += _count(usage.get("completion_tokens"))


@dataclass
class Endpoint:
    """An OpenAI-compatible endpoint, asked politely and never twice for the same.

    A request is tried again after the statuses 408, 409, 425, 429, 5xx, a time-out, a cut connection, an answer that is
    not JSON and one that the caller's check refuses; the wait doubles each time (with jitter) or is what `Retry-After`
    says. Other statuses (a wrong key, a wrong model) end it at once. Every usable answer is on disk before it is given
    out, so what was paid for outlives a crash, and equal requests are asked once, in one run and over all runs.

    Args:
        base_url: Such as `http://localhost:8000/v1`; request paths are appended.
        model: The model's name there.
        api_key: Sent as a bearer token; it is never written anywhere.
        cache: Folder of the answers; None keeps them in memory for as long as this object lives.
        max_attempts: Tries of a request in all.
        timeout: Longest wait for an answer, in seconds, from the first byte sent to the last one received.
        first_wait: Seconds before the second try.
        longest_wait: The most that is waited between two tries.
        requests_per_minute: Requests are spaced out to stay below it; None does not.
        concurrency: Requests under way at the same time in `ask_all`.
        meter: Counts tokens and money.
        budget: Money (by the meter's prices) after which no further request is made; None is no limit.

    Raises:
        ValueError: A base URL that is not http(s), or a number out of its range.

    >>> Endpoint("ftp://models", "m")
    Traceback (most recent call last):
    ValueError: Expected argument `base_url` to start with http:// or https://, but got 'ftp://models'.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    cache: Path | str | None = None
    max_attempts: int = 6
    timeout: float = 120.0
    first_wait: float = 0.5
    longest_wait: float = 60.0
    requests_per_minute: float | None = None
    concurrency: int = 8
    meter: CostMeter = field(default_factory=CostMeter)
    budget: float | None = None

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"Expected argument `base_url` to start with http:// or https://, but got {self.base_url!r}."
            )
        check_at_least(self.max_attempts, "max_attempts", 1)
        check_at_least(self.concurrency, "concurrency", 1)
        check_positive(self.timeout, "timeout")
        check_non_negative(self.first_wait, "first_wait")
        check_non_negative(self.longest_wait, "longest_wait")
        if self.requests_per_minute is not None:
            check_positive(self.requests_per_minute, "requests_per_minute")
        if self.budget is not None:
            check_non_negative(self.budget, "budget")
        self.responses = ResponseCache(self.cache)
        self._lock = threading.Lock()
        self._under_way: dict[str, threading.Lock] = {}
        self._not_before = 0.0

    def ask(self, path: str, payload: dict[str, Any], *, check: Check | None = None) -> dict[str, Any]:
        """The answer to one request, from the cache if it was ever given.

        Args:
            path: Below the base URL, such as `completions`.
            payload: The request; the model's name is added.
            check: Refuses answers that are not what was asked for.

        Raises:
            EndpointError: Refused, or no usable answer after `max_attempts` tries.
            BudgetExceeded: The budget is spent.
        """
        whole = {"model": self.model, **payload}
        key = response_key(self.base_url, path, whole)
        with self._lock:
            mine = self._under_way.setdefault(key, threading.Lock())
        with mine:  # an equal request that is under way is waited for, not asked again
            kept = self.responses.read(key)
            if kept is not None and _accepted(kept, check):
                with self._lock:
                    self.meter.from_cache += 1
                return kept
            answer = self._ask_until_usable(path, whole, check)
            self.responses.write(key, answer, path=path, payload=whole)
        with self._lock:
            self._under_way.pop(key, None)
        return answer

    def ask_all(
        self,
        path: str,
        payloads: Sequence[dict[str, Any]],
        *,
        check: Callable[[int, dict[str, Any]], None] | None = None,
    ) -> list[dict[str, Any]]:
        """The answers to several requests in their order, several under way at a time.

        When one fails for good, those under way are still waited for and kept, no further one is begun, and then the
        error is raised: asking again goes on from there.

        Args:
            path: Below the base URL.
            payloads: The requests.
            check: Called with a request's number and its answer.
        """
        failed = threading.Event()

        def one(number: int) -> dict[str, Any]:
            if failed.is_set():
                raise EndpointError("Not asked, since an earlier request failed.")
            try:
                checked = None if check is None else lambda answer: check(number, answer)
                return self.ask(path, payloads[number], check=checked)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(min(self.concurrency, max(1, len(payloads)))) as pool:
            asked = [pool.submit(one, number) for number in range(len(payloads))]
        errors = [error for future in asked if (error := future.exception()) is not None]
        if errors:
            raise next((error for error in errors if not str(error).startswith("Not asked")), errors[0])
        return [future.result() for future in asked]

    def _ask_until_usable(self, path: str, payload: dict[str, Any], check: Check | None) -> dict[str, Any]:
        body = json.dumps(payload).encode()
        for attempt in range(1, self.max_attempts + 1):
            self._wait_for_turn()
            wait: float | None = None
            try:
                answer = self._post(path, body)
                with self._lock:
                    self.meter.add(answer.get("usage"))
                if check is not None:
                    check(answer)
                return answer
            except urllib.error.HTTPError as error:
                problem = f"status {error.code} ({_first_line(_read(error))})"
                if error.code not in _WORTH_ANOTHER_TRY:
                    raise EndpointError(f"{self._place(path)} refused the request: {problem}.") from error
                wait = _seconds(error.headers.get("Retry-After"))
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                problem = f"no answer ({getattr(error, 'reason', None) or error or type(error).__name__})"
            except ValueError as error:
                problem = f"an answer that is no use ({error})"
            if attempt < self.max_attempts:
                self._rest(attempt, wait)
        raise EndpointError(
            f"{self._place(path)} gave no usable answer in {self.max_attempts} tries; the last was {problem}. "
            "Answers so far are kept: run again to go on."
        )

    def _post(self, path: str, body: bytes) -> dict[str, Any]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.api_key is not None:
            headers["Authorization"] = f"Bearer {self.api_key}"
        request = urllib.request.Request(f"{self.base_url.rstrip('/')}/{path}", body, headers, method="POST")
        late = threading.Event()
        with _cut_off_after(self.timeout, late) as opener, opener.open(request, timeout=self.timeout) as response:
            received = bytearray()
            while chunk := response.read1(_CHUNK):
                received += chunk
                if len(received) > LARGEST_ANSWER:
                    raise ValueError(f"more than {LARGEST_ANSWER} bytes")
            if late.is_set():
                raise TimeoutError(f"not whole after {self.timeout:g} s")
            if response.length:  # what the header announced and never came
                raise http.client.IncompleteRead(bytes(received), response.length)
        try:
            answer = json.loads(received)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ValueError(f"a {type(answer).__name__} in place of an object")
        return answer

    def _wait_for_turn(self) -> None:
        with self._lock:
            if self.budget is not None and self.meter.cost >= self.budget:
                raise BudgetExceeded(
                    f"The budget of {self.budget:g} is spent ({self.meter.cost:.4g}); answers so far are kept."
                )
            now = time.monotonic()
            turn = max(now, self._not_before)
            if self.requests_per_minute is not None:
                self._not_before = turn + 60 / self.requests_per_minute
        time.sleep(max(0.0, turn - now))

    def _rest(self, attempt: int, asked_for: float | None) -> None:
        wait = min(self.longest_wait, self.first_wait * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
        with self._lock:
            self.meter.retries += 1
            if asked_for is not None:  # the endpoint is busy for everybody, so all requests wait
                wait = min(asked_for, self.longest_wait)
                self._not_before = max(self._not_before, time.monotonic() + wait)
        time.sleep(wait)

    def _place(self, path: str) -> str:
        return f"{self.base_url.rstrip('/')}/{path}"


@contextlib.contextmanager
def _cut_off_after(seconds: float, late: threading.Event) -> Iterator[urllib.request.OpenerDirector]:
    """Opens URLs; when time is up, `late` is set and the connections are shut, whatever still drips from them."""
    sockets: list[socket.socket] = []

    class Plain(http.client.HTTPConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class Secure(http.client.HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            sockets.append(self.sock)

    class OpenPlain(urllib.request.HTTPHandler):
        def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, request)

    class OpenSecure(urllib.request.HTTPSHandler):
        def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, request)

    def cut() -> None:
        late.set()
        for one in sockets:
            with contextlib.suppress(OSError):  # it has ended already
                one.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield urllib.request.build_opener(OpenPlain, OpenSecure)
    finally:
        timer.cancel()


def _accepted(answer: dict[str, Any], check: Check | None) -> bool:
    try:
        if check is not None:
            check(answer)
    except ValueError:
        return False
    return True


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _seconds(value: str | None) -> float | None:
    try:
        return None if value is None else max(0.0, float(value))
    except ValueError:  # a date; our own back-off does
        return None


def _read(error: urllib.error.HTTPError) -> str:
    try:
        return error.read(2000).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        return ""


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or ["no text"])[0][:300]
