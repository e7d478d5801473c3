"""Language models through the whole run: cached likeliest tokens, a served teacher, own responses, adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.teachers.loopback import ServedModel
from tutelage.config import DistillConfig, parse_config
from tutelage.data import load_data
from tutelage.models import causal_lm, load_model
from tutelage.run import start_run
from tutelage.teachers import EndpointError

DATA = {"name": "arithmetic", "options": {"train": 40, "validation": 8, "test": 8, "style": "answer"}}
STUDENT = {
    "name": "causal_lm",
    "arguments": {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "eos_token_id": 2, "pad_token_id": 0},
}


def _config(**changes: Any) -> DistillConfig:
    plain = {
        "name": "sums",
        "data": DATA,
        "teacher": {**STUDENT, "train": {"epochs": 1}},
        "student": STUDENT,
        "training": {"epochs": 2, "batch_size": 20},
        "seeds": [0],
        "jobs": 1,
        "assessment": {"latency": False, "robustness": False},
    }
    return parse_config(plain | changes, DistillConfig)


@pytest.fixture(scope="module")
def server() -> Iterator[ServedModel]:
    torch.manual_seed(0)
    vocabulary = load_data("arithmetic", **DATA["options"]).num_classes  # type: ignore[arg-type]
    with ServedModel(causal_lm(vocabulary, hidden_size=8, num_layers=1, num_heads=1)) as served:
        yield served


def test_likeliest_tokens_are_cached_and_taught(tmp_path: Path) -> None:
    lines: list[str] = []
    config = _config(objectives=["top_k_forward_kl"], cache=True, cache_top_k=4)
    report = start_run(config, tmp_path / "run", announce=lines.append)
    assert any("bytes a sample" in line for line in lines)
    assert report.arms[0].cards[0].metrics["perplexity"] > 1


def test_a_served_teacher_is_asked_once_and_the_run_goes_on_after_it_failed(
    server: ServedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-key")
    endpoint = {
        "base_url": server.url,
        "api_key_variable": "MY_KEY",
        "top_k": 3,
        "max_attempts": 1,
        "prompt_price": 1.0,
    }
    config = _config(
        teacher={"name": "small", "kind": "served", "endpoint": endpoint}, objectives=["top_k_forward_kl"], cache=True
    )
    server.faults.extend([None] * 10 + [500])
    with pytest.raises(EndpointError, match="run again to go on"):
        start_run(config, tmp_path / "run", announce=lambda line: None)
    lines: list[str] = []
    server.faults.clear()
    start_run(config, tmp_path / "run", resume=True, announce=lines.append)
    asked = [str(request["prompt"]) for request in server.answered]
    assert len(asked) == len(set(asked)) == 40
    assert any("answers from disk, cost" in line for line in lines)
    assert all(b"secret-key" not in path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())


def test_a_student_learns_from_its_own_responses_with_adapters(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    config = _config(
        objectives=[{"name": "token_divergence", "arguments": {"kind": "jsd"}}],
        method={"name": "generalized_kd", "arguments": {"lmbda": 1.0, "max_new_tokens": 4}},
        student={**STUDENT, "lora": {"rank": 2}},
    )
    start_run(config, tmp_path / "run", announce=lambda line: None)
    student = load_model(tmp_path / "run")
    assert type(student).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["top_k_forward_kl"]}, "cache_top_k"),
        ({"cache_top_k": 3}, "needs `cache: true`"),
        ({"teacher": {"name": "m", "kind": "served"}}, "needs an `endpoint`"),
        (
            {"teacher": {"name": "m", "kind": "served", "endpoint": {"base_url": "http://h/v1", "top_k": 0}}},
            r"teacher.*top_k",
        ),
    ],
)
def test_what_can_not_work_is_found_first(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        start_run(_config(**changes), tmp_path / "run", announce=lambda line: None)


def test_a_key_that_is_not_there_is_named(server: ServedModel, tmp_path: Path) -> None:
    endpoint = {"base_url": server.url, "api_key_variable": "NO_SUCH_KEY"}
    config = _config(teacher={"name": "small", "kind": "served", "endpoint": endpoint}, objectives=["top_k_forward_kl"])
    with pytest.raises(ValueError, match="NO_SUCH_KEY to hold a key"):
        start_run(config, tmp_path / "run", announce=lambda line: None)
