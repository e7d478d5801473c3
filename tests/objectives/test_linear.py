"""Objectives that never build logits: the losses and gradients of those that do, and no tensor of that size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tutelage.batch import Batch
from tutelage.kernels.gathered import gathered_logits
from tutelage.models import add_lora, causal_lm
from tutelage.models.body import call_body, logits_of
from tutelage.models.pretrained import new_model
from tutelage.objectives import (
    CrossEntropy,
    LinearCrossEntropy,
    LinearDistillation,
    LinearTopKForwardKL,
    Objective,
    TokenDivergence,
    TopKForwardKL,
)
from tutelage.teachers import CachedTeacher, FrozenTeacher, build_cache
from tutelage.training import Distillation

VOCABULARY = 97


def _model(seed: int, width: int = 16, kind: str = "gpt2") -> nn.Module:
    torch.manual_seed(seed)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "num_key_value_heads": 1}
    if kind == "gemma2":
        return new_model(
            "Gemma2ForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=width,
            head_dim=8,
            final_logit_softcapping=2.0,
            attn_implementation="eager",
            **small,
        )
    if kind == "cohere":
        return new_model("CohereForCausalLM", vocab_size=VOCABULARY, hidden_size=width, logit_scale=0.25, **small)
    return causal_lm(VOCABULARY, architecture=kind, hidden_size=width, num_layers=1)  # type: ignore[arg-type]


def _batch() -> Batch:
    torch.manual_seed(9)
    ids = torch.randint(VOCABULARY, (3, 8))
    target = torch.randint(VOCABULARY, (3, 8)).masked_fill(torch.rand(3, 8) < 0.3, -100)
    return Batch({"input_ids": ids}, target, torch.arange(3))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "gemma2", "cohere"])
def test_hidden_states_and_head_stand_for_the_logits(kind: str) -> None:
    model, batch = _model(0, kind=kind).eval(), _batch()
    with torch.no_grad():
        outputs = call_body(model, batch.inputs)
        torch.testing.assert_close(logits_of(outputs), model(**batch.inputs).logits, atol=1e-5, rtol=1e-5)
    assert outputs.logits is None


PAIRS: list[tuple[Objective, Objective]] = [
    (LinearCrossEntropy(), CrossEntropy()),
    (LinearDistillation(), TokenDivergence()),
    (
        LinearDistillation(divergence="reverse_kl", temperature=2.0, scale_by_temperature_squared=True),
        TokenDivergence(kind="reverse_kl", temperature=2.0, scale_by_temperature_squared=True),
    ),
    (LinearDistillation(divergence="jsd", beta=0.3), TokenDivergence(kind="jsd", beta=0.3)),
]


@pytest.mark.parametrize(("linear", "dense"), PAIRS)
@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "cohere"])
def test_losses_and_gradients_are_those_of_the_dense_objective(linear: Objective, dense: Objective, kind: str) -> None:
    teacher, batch = _model(0, width=24, kind=kind), _batch()
    results = []
    for objective in (linear, dense):
        student = _model(1, kind=kind)
        (loss,) = Distillation(teacher if objective.needs_teacher else None, student, objective).step(batch).values()
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in student.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("rest", ["bucket", "ignore"])
def test_likeliest_tokens_from_a_cache(rest: Any, tmp_path: Path) -> None:
    from tutelage.data import ArraySamples

    batch = _batch()
    samples = ArraySamples(batch.inputs, batch.target)
    cache = build_cache(FrozenTeacher(_model(0)), samples, tmp_path, top_k=5, dtype="float32")
    results = []
    for objective in (LinearTopKForwardKL(rest=rest), TopKForwardKL(rest=rest)):
        student = _model(1)
        (loss,) = Distillation(CachedTeacher(cache), student, objective).step(batch).values()
        loss.backward()
        results.append((loss.detach(), [parameter.grad for parameter in student.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-6, rtol=1e-5)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for value in made if isinstance(made, tuple | list) else [made]:
            if isinstance(value, Tensor):
                self.largest = max(self.largest, value.numel())
        return made


def test_no_tensor_as_large_as_the_logits_is_made(tmp_path: Path) -> None:
    from tutelage.data import ArraySamples

    vocabulary, time = 6000, 64
    torch.manual_seed(0)
    models = [causal_lm(vocabulary, hidden_size=8, num_layers=1, num_heads=1, max_length=time) for _ in range(2)]
    ids = torch.randint(vocabulary, (8, time))
    batch = Batch({"input_ids": ids}, ids.roll(-1, 1), torch.arange(8))
    cache = build_cache(FrozenTeacher(models[0]), ArraySamples(batch.inputs, ids), tmp_path, top_k=4, batch_size=1)
    logits = ids.numel() * vocabulary
    for teacher, objectives in (
        (models[0], [LinearCrossEntropy(), LinearDistillation()]),
        (CachedTeacher(cache), [LinearCrossEntropy(), LinearTopKForwardKL()]),
    ):
        method = Distillation(teacher, models[1], objectives)
        with LargestTensor() as seen:
            total = sum(method.step(batch).values())
            assert isinstance(total, Tensor)
            total.backward()
        assert seen.largest < 0.6 * logits
    dense = Distillation(models[0], models[1], TokenDivergence())
    with LargestTensor() as seen:
        dense.step(batch)
    assert seen.largest >= logits


def test_adapters_train_through_the_body() -> None:
    pytest.importorskip("peft")
    student = add_lora(_model(1), rank=2)
    (loss,) = Distillation(_model(0), student, LinearDistillation()).step(_batch()).values()
    loss.backward()
    touched = [name for name, parameter in student.named_parameters() if parameter.grad is not None]
    assert touched
    assert all("lora" in name for name in touched)


def test_logits_are_there_too_when_another_objective_reads_them() -> None:
    method = Distillation(_model(0), _model(1), [LinearCrossEntropy(), TokenDivergence()])
    losses = method.step(_batch())
    assert set(losses) == {"linear_cross_entropy", "token_divergence"}


def test_gathered_products_and_their_gradients() -> None:
    hidden = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    tokens = torch.tensor([[0, 1], [1, 1], [6, 0], [2, 3], [0, 0]])
    assert torch.autograd.gradcheck(lambda one, other: gathered_logits(one, other, tokens), (hidden, weight))
    expected = (hidden @ weight.T).gather(1, tokens)
    torch.testing.assert_close(gathered_logits(hidden, weight, tokens), expected)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(ValueError, match="`hidden` and `head`"):
        call_body(nn.Linear(2, 3), torch.zeros(1, 2))
