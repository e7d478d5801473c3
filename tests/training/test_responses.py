"""Sampling responses: against `generate`, without keys and values, from one seed, and as a batch to learn from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tutelage.data import CharacterTokenizer, completion_samples
from tutelage.models import causal_lm
from tutelage.training import Responses, generate_responses, response_batch

VOCABULARY = 13


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return causal_lm(
        VOCABULARY, architecture=request.param, hidden_size=16, num_layers=2, num_heads=2, max_length=40, pad_token_id=0
    )


class Uncached(nn.Module):
    """The same model without keys and values: reads the whole text again for every token, one text at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            told = self.inner(ids[mask.bool()].unsqueeze(0)).logits[0]
            rows.append(torch.cat([torch.zeros(len(ids) - len(told), told.shape[-1]), told]))
        return torch.stack(rows)


def _prompts() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(3, VOCABULARY, (4, 6))
    mask = torch.arange(6) < torch.tensor([6, 2, 4, 1])[:, None]
    return ids.masked_fill(~mask, 0), mask


def test_the_likeliest_tokens_are_those_of_generate(model: nn.Module) -> None:
    ids, mask = _prompts()
    for row in range(len(ids)):
        prompt = ids[row : row + 1, : int(mask[row].sum())]
        told = generate_responses(model, prompt, max_new_tokens=7, temperature=0)
        expected = model.generate(  # type: ignore[operator]
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=7, do_sample=False, eos_token_id=None
        )
        assert torch.equal(told.response_ids, expected[:, prompt.shape[1] :])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_keys_and_values_and_padding_change_nothing(model: nn.Module, temperature: float) -> None:
    ids, mask = _prompts()
    told = [
        generate_responses(
            writer,
            ids,
            prompt_mask=mask,
            max_new_tokens=8,
            temperature=temperature,
            generator=torch.Generator().manual_seed(5),
        ).response_ids
        for writer in (model, Uncached(model))
    ]
    assert torch.equal(told[0], told[1])


def test_padding_may_stand_on_either_side(model: nn.Module) -> None:
    ids, mask = _prompts()
    right = generate_responses(model, ids, prompt_mask=mask, max_new_tokens=5, temperature=0)
    left = generate_responses(model, ids.flip(1), prompt_mask=mask.flip(1), max_new_tokens=5, temperature=0)
    mirrored = torch.stack([row.flip(0) for row in ids])
    assert torch.equal(left.prompt_ids, mirrored)
    own_order = generate_responses(
        model,
        torch.stack([torch.cat([row[~kept], row[kept]]) for row, kept in zip(ids, mask, strict=True)]),
        prompt_mask=mask.flip(1),
        max_new_tokens=5,
        temperature=0,
    )
    assert torch.equal(own_order.response_ids, right.response_ids)


def test_one_seed_gives_one_text_and_chance_is_the_softmax(model: nn.Module) -> None:
    prompt = torch.tensor([[4, 5, 6]]).repeat(4000, 1)
    first, again = (
        generate_responses(model, prompt, max_new_tokens=1, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )
    assert torch.equal(first.response_ids, again.response_ids)
    share = first.response_ids.flatten().bincount(minlength=VOCABULARY) / 4000
    with torch.no_grad():
        expected = model(prompt[:1]).logits[0, -1].softmax(dim=-1)
    assert float((share - expected).abs().max()) < 4 * (0.25 / 4000) ** 0.5


def test_mode_and_graph_are_left_as_they_were(model: nn.Module) -> None:
    ids, mask = _prompts()
    for training in (True, False):
        model.train(training)
        told = generate_responses(model, ids, prompt_mask=mask, max_new_tokens=3)
        assert model.training == training
        assert not told.response_ids.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


class Ends(nn.Module):
    """Counts on from the last token, so that every text ends in 9 at another place."""

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot((ids + 1).clamp(max=9), 10) * 100.0


def test_responses_end_at_the_end_token() -> None:
    told = generate_responses(
        Ends(), torch.tensor([[5], [7], [2]]), max_new_tokens=5, temperature=0, end_token=9, padding_token=1
    )
    assert told.response_ids.tolist() == [[6, 7, 8, 9, 1], [8, 9, 1, 1, 1], [3, 4, 5, 6, 7]]
    assert told.mask.sum(dim=1).tolist() == [4, 2, 5]


def test_a_batch_of_responses_is_what_completion_samples_gives() -> None:
    tokenizer = CharacterTokenizer("0123456789+=")
    prompts, completions = ["1+2=", "10+20=", "3+3="], ["3", "30", "6"]
    batch = completion_samples(prompts, completions, tokenizer).batch(torch.arange(3))
    assert isinstance(batch.inputs, dict)
    length = batch.extras["prompt_length"]
    ids = batch.inputs["input_ids"][:, : int(length.max())]
    mask = torch.arange(ids.shape[1]) < length[:, None]
    answers = [[*tokenizer.encode(text), tokenizer.eos_token_id] for text in completions]
    responses = torch.tensor([[*answer, 0, 0][:3] for answer in answers])
    counted = torch.tensor([[place < len(answer) for place in range(3)] for answer in answers])
    made = response_batch(Responses(ids.masked_fill(~mask, 0), responses, counted), mask, batch.index)
    assert isinstance(made.inputs, dict)
    assert torch.equal(made.inputs["input_ids"], batch.inputs["input_ids"])
    assert torch.equal(made.inputs["attention_mask"], batch.inputs["attention_mask"])
    assert batch.target is not None
    assert made.target is not None
    assert torch.equal(made.target, batch.target)
    assert torch.equal(made.extras["prompt_length"], length)


def test_bad_input_is_named(model: nn.Module) -> None:
    ids, mask = _prompts()
    with pytest.raises(ValueError, match="all padding"):
        generate_responses(model, ids, prompt_mask=mask & False, max_new_tokens=1)
    with pytest.raises(ValueError, match="`max_new_tokens`"):
        generate_responses(model, ids, max_new_tokens=0)
    with pytest.raises(ValueError, match="`temperature`"):
        generate_responses(model, ids, max_new_tokens=1, temperature=-1.0)
