"""A served teacher says what the model behind it says, whatever the server does in between."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.teachers.loopback import ServedModel
from tutelage.batch import Batch
from tutelage.data import ArraySamples
from tutelage.models import causal_lm
from tutelage.objectives import TopKForwardKL, top_k_forward_kl
from tutelage.teachers import CachedTeacher, TeacherCache, build_cache
from tutelage.teachers.endpoint import Endpoint, EndpointError
from tutelage.teachers.served import ServedTeacher, token_text_ids
from tutelage.training import Distillation, Trainer, TrainingSettings

VOCABULARY = 12


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return causal_lm(VOCABULARY, hidden_size=16, num_layers=1, num_heads=2, max_length=16).eval()


@pytest.fixture(params=["vllm", "openai", "openai by text"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(model: nn.Module, form: str) -> Iterator[ServedModel]:
    names = {token: f"<{token}>" for token in range(VOCABULARY)} if form == "openai by text" else None
    with ServedModel(model, names=names) as served:
        yield served


def _teacher(server: ServedModel, form: str, **options: object) -> ServedTeacher:
    endpoint = Endpoint(server.url, "small", first_wait=0.0, max_attempts=4, timeout=5.0)
    token_ids = {name: token for token, name in (server.names or {}).items()}
    return ServedTeacher(
        endpoint,
        VOCABULARY,
        form="vllm" if form == "vllm" else "openai",
        token_ids=token_ids,
        **{"top_k": 3, **options},  # type: ignore[arg-type]
    )


def _samples(count: int = 4, length: int = 6) -> ArraySamples:
    torch.manual_seed(1)
    ids = torch.randint(VOCABULARY, (count, length))
    lengths = torch.tensor([length, 2, 1, 4])[torch.arange(count) % 4]
    mask = (torch.arange(length) < lengths[:, None]).long()
    target = torch.randint(VOCABULARY, (count, length)).masked_fill(mask == 0, -100)
    return ArraySamples({"input_ids": ids, "attention_mask": mask}, target)


def test_it_says_what_the_model_says(server: ServedModel, model: nn.Module, form: str) -> None:
    batch = _samples().batch(torch.arange(4))
    assert isinstance(batch.inputs, dict)
    top = _teacher(server, form)(batch).top
    assert top is not None
    with torch.no_grad():
        log_probs = model(**batch.inputs).logits.log_softmax(dim=-1)
    values, classes = log_probs.topk(3)
    counted = batch.inputs["attention_mask"] == 1
    torch.testing.assert_close(top.log_probs[counted], values[counted], atol=1e-5, rtol=1e-5)
    assert torch.equal(top.classes[counted], classes[counted])
    rest = 1 - values.exp().sum(dim=-1)
    torch.testing.assert_close(top.log_rest.exp()[counted], rest[counted], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("fault", ["short", "few", "no logprobs", "nan", "not json", 500, "cut"])
def test_an_answer_that_is_no_use_is_asked_again(server: ServedModel, model: nn.Module, form: str, fault: str) -> None:
    batch = _samples(1).batch(torch.arange(1))
    expected = _teacher(server, form)(batch).top
    server.faults.append(fault)
    teacher = _teacher(server, form)
    again = teacher(batch).top
    assert expected is not None
    assert again is not None
    assert torch.equal(again.log_probs, expected.log_probs)
    assert teacher.endpoint.meter.retries == 1


def test_it_says_what_was_wrong_when_it_gives_up(server: ServedModel, form: str) -> None:
    server.faults.extend(["few"] * 4)
    with pytest.raises(EndpointError, match=r"position \d holds \d log-probabilities in place of 3"):
        _teacher(server, form)(_samples(1).batch(torch.arange(1)))


def test_a_cache_of_it_is_built_after_faults_and_teaches(server: ServedModel, form: str, tmp_path: Path) -> None:
    samples = _samples(8)
    server.faults.extend([429, None, "cut", None, "short", 500])
    cache = build_cache(_teacher(server, form), samples, tmp_path / "cache", top_k=2, batch_size=3)
    assert len(server.answered) == len({str(request["prompt"]) for request in server.answered})
    batch = samples.batch(torch.arange(8))
    told, live = cache.read_top_classes(batch.index), _teacher(server, form)(batch).top
    assert live is not None
    assert isinstance(batch.inputs, dict)
    counted = batch.inputs["attention_mask"] == 1
    torch.testing.assert_close(told.log_probs[counted], live.log_probs[counted][:, :2], atol=1e-2, rtol=1e-3)
    student = causal_lm(VOCABULARY, hidden_size=8, num_layers=1, num_heads=1, max_length=16)
    method = Distillation(CachedTeacher(TeacherCache(tmp_path / "cache")), student, TopKForwardKL())
    history = Trainer(method, samples, settings=TrainingSettings(epochs=30, batch_size=8, learning_rate=0.02)).run()
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_objectives_read_the_same_from_it_and_from_its_cache(server: ServedModel, form: str, tmp_path: Path) -> None:
    samples = _samples(4)
    cache = build_cache(_teacher(server, form), samples, tmp_path / "cache", top_k=3, dtype="float32")
    batch = samples.batch(torch.arange(4))
    logits = torch.randn(4, 6, VOCABULARY)
    live, kept = _teacher(server, form)(batch).top, CachedTeacher(cache, dense=False)(batch)
    assert kept.logits is None
    assert live is not None
    assert kept.top is not None
    torch.testing.assert_close(top_k_forward_kl(logits, *live), top_k_forward_kl(logits, *kept.top))


def test_the_fingerprint_is_of_the_place_and_the_question(server: ServedModel, form: str) -> None:
    assert _teacher(server, form).fingerprint() == _teacher(server, form).fingerprint()
    assert _teacher(server, form).fingerprint() != _teacher(server, form, top_k=2).fingerprint()


def test_bad_batches_are_named() -> None:
    teacher = ServedTeacher(Endpoint("http://localhost:1/v1", "m"), VOCABULARY)
    ids = torch.ones(1, 3, dtype=torch.int64)
    left = Batch({"input_ids": ids, "attention_mask": torch.tensor([[0, 1, 1]])}, None, torch.tensor([7]))
    with pytest.raises(ValueError, match="padding on the right"):
        teacher(left)
    empty = Batch({"input_ids": ids, "attention_mask": torch.zeros_like(ids)}, None, torch.tensor([7]))
    with pytest.raises(ValueError, match="index 7 does not"):
        teacher(empty)
    with pytest.raises(ValueError, match="`top_k`"):
        ServedTeacher(Endpoint("http://localhost:1/v1", "m"), VOCABULARY, top_k=0)


def test_texts_that_several_tokens_share_have_no_id() -> None:
    class Tokenizer:
        def decode(self, tokens: list[int]) -> str:
            return ["a", "\ufffd", "\ufffd", "b"][tokens[0]]

        def __len__(self) -> int:
            return 4

    assert token_text_ids(Tokenizer()) == {"a": 0, "b": 3}
