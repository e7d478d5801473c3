"""Answers of an endpoint on disk, one JSON file each, found by a hash of what was asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tutelage.files import read_sealed_json, write_sealed_json


def response_key(base_url: str, path: str, payload: dict[str, Any]) -> str:
    """The SHA-256 of a request: equal requests have equal keys, in whatever order their entries stand.

    >>> first = response_key("http://a/v1", "completions", {"prompt": "x", "n": 1})
    >>> first == response_key("http://a/v1/", "completions", {"n": 1, "prompt": "x"})
    True
    """
    plain = json.dumps([base_url.rstrip("/"), path, payload], sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(plain.encode()).hexdigest()


class ResponseCache:
    """Answers by key. A file that is damaged counts as not there, so that its request is asked again.

    Args:
        folder: Where the answers lie, with the requests beside them; None keeps answers in memory.

    >>> cache = ResponseCache(None)
    >>> cache.write("ab", {"choices": []}, path="completions", payload={})
    >>> cache.read("ab"), cache.read("cd")
    ({'choices': []}, None)
    """

    def __init__(self, folder: Path | str | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._memory: dict[str, dict[str, Any]] = {}

    def read(self, key: str) -> dict[str, Any] | None:
        """The answer to a request, or None when it was never given."""
        if self.folder is None:
            return self._memory.get(key)
        place = self._place(key)
        if not place.is_file():
            return None
        try:
            answer = read_sealed_json(place).get("response")
        except (ValueError, OSError):
            return None
        return answer if isinstance(answer, dict) else None

    def write(self, key: str, answer: dict[str, Any], *, path: str, payload: dict[str, Any]) -> None:
        """Keep an answer; it is flushed to the disk when this returns."""
        if self.folder is None:
            self._memory[key] = answer
        else:
            write_sealed_json(self._place(key), {"path": path, "request": payload, "response": answer}, indent=None)

    def __len__(self) -> int:
        return len(self._memory) if self.folder is None else sum(1 for _ in self.folder.glob("??/*.json"))

    def _place(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.json"
