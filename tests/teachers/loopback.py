"""A real HTTP server on loopback that serves a small language model in the OpenAI form, and misbehaves on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from torch import Tensor, nn


class ServedModel:
    """Serves a model at `url`; `faults` are used up, one a request, before it answers properly.

    Faults: an integer (that status), `"slow"` (an answer after `delay` seconds), `"drip"` (a body that never ends),
    `"cut"` (the connection is closed within the body), `"reset"` (closed before the status line), `"not json"`,
    `"a list"`, `"short"` (a position less), `"few"` (fewer log-probabilities than asked for), `"no logprobs"`,
    `"nan"`.
    """

    def __init__(self, model: nn.Module, *, names: dict[int, str] | None = None, delay: float = 0.6) -> None:
        self.model = model.eval()
        self.names = names
        self.delay = delay
        self.faults: deque[Any] = deque()
        self.retry_after: str | None = None
        self.requests: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> ServedModel:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        served = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with served._lock:
                    served.requests.append(request)
                    served.headers.append(dict(self.headers))
                    served.at_once += 1
                    served.most_at_once = max(served.most_at_once, served.at_once)
                    fault = served.faults.popleft() if served.faults else None
                try:
                    self._respond(request, fault)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with served._lock:
                        served.at_once -= 1

            def _respond(self, request: dict[str, Any], fault: Any) -> None:
                if fault == "reset":
                    self.close_connection = True
                    self.connection.close()
                    return
                if isinstance(fault, int):
                    self._send(fault, b'{"error": {"message": "asked to fail"}}')
                    return
                if fault == "slow":
                    served._closed.wait(served.delay)
                if fault == "not json":
                    self._send(200, b"<html>busy</html>")
                    return
                if fault == "a list":
                    self._send(200, b"[1, 2]")
                    return
                answer = served.answer(request)
                _spoil(answer, fault)
                body = json.dumps(answer).encode()
                if fault == "cut":
                    self._send(200, body[: len(body) // 2], announced=len(body))
                    self.close_connection = True
                elif fault == "drip":
                    self._drip(body)
                else:
                    self._send(200, body)
                    if fault is None:
                        with served._lock:
                            served.answered.append(request)

            def _drip(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(10 * len(body)))
                self.end_headers()
                until = time.monotonic() + 10
                while time.monotonic() < until and not served._closed.is_set():
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(0.02)

            def _send(self, status: int, body: bytes, announced: int | None = None) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body) if announced is None else announced))
                if served.retry_after is not None and status == 429:
                    self.send_header("Retry-After", served.retry_after)
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        tokens = request["prompt"]
        count = int(request["logprobs"])
        with torch.no_grad(), self._lock:
            log_probs = self.model(torch.tensor([tokens])).logits[0].log_softmax(dim=-1)
        generated = int(log_probs[-1].argmax())
        usage = {"prompt_tokens": len(tokens), "completion_tokens": 1}
        if request.get("echo"):
            rows = [None, *({self._text(t): v for t, v in _top(row, count)} for row in log_probs)]
            logprobs = {"tokens": [self._text(token) for token in [*tokens, generated]], "top_logprobs": rows}
            return {"choices": [{"text": "", "logprobs": logprobs}], "usage": usage}
        prompt = [None, *(self._vllm(row, tokens[place + 1], count) for place, row in enumerate(log_probs[:-1]))]
        last = {f"token_id:{token}": value for token, value in _top(log_probs[-1], count)}
        choice = {"text": "", "logprobs": {"top_logprobs": [last]}, "prompt_logprobs": prompt}
        return {"choices": [choice], "usage": usage}

    def _vllm(self, row: Tensor, actual: int, count: int) -> dict[str, Any]:
        entries = dict(_top(row, count)) | {actual: float(row[actual])}
        return {str(token): {"logprob": value, "decoded_token": "?"} for token, value in entries.items()}

    def _text(self, token: int) -> str:
        return f"token_id:{token}" if self.names is None else self.names[token]


def _top(row: Tensor, count: int) -> list[tuple[int, float]]:
    values, tokens = row.topk(count)
    return list(zip(tokens.tolist(), values.tolist(), strict=True))


def _spoil(answer: dict[str, Any], fault: Any) -> None:
    choice = answer["choices"][0]
    rows = choice.get("prompt_logprobs") or choice["logprobs"]["top_logprobs"]
    if fault == "short":
        rows.pop()
    elif fault == "few":
        rows[-1].popitem()
        while len(rows[-1]) > 1:
            rows[-1].popitem()
    elif fault == "no logprobs":
        choice["logprobs"] = None
    elif fault == "nan":
        name = next(iter(rows[-1]))
        rows[-1][name] = {"logprob": float("nan")} if isinstance(rows[-1][name], dict) else float("nan")
