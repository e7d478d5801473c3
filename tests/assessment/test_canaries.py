from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import nn

from tutelage.assessment import Canary, CandidateTree, canary_exposure, exposure_from_scores, insert_canaries
from tutelage.data import CharacterTokenizer, train_bpe
from tutelage.models import causal_lm

TOKENIZER = CharacterTokenizer("abcdefghijklmnopqrstuvwxyz0123456789 .")
DIGITS = "0123456789"


def canary(places: int = 2, **options) -> Canary:
    return Canary("the pin of anna is {}.", [DIGITS] * places, **options)


class Knowing(nn.Module):
    """A language model that predicts each next token of one text, by position; uniform elsewhere."""

    def __init__(self, text: str, sureness: float) -> None:
        super().__init__()
        ids = torch.tensor(TOKENIZER.encode(text))
        self.register_buffer("logits", sureness * nn.functional.one_hot(ids, TOKENIZER.vocab_size).float())

    def forward(self, inputs):
        return self.logits[: inputs.shape[1]].expand(len(inputs), -1, -1)


# ── Canaries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_candidates_are_numbered_in_order():
    planted = Canary("{} likes tea", [["anna", "otto"], ["1", "2", "3"]], secret="otto2")
    assert planted.size == 6
    assert [planted.candidate(number) for number in range(6)] == ["anna1", "anna2", "anna3", "otto1", "otto2", "otto3"]
    assert planted.index == 4
    assert planted.text == "otto2 likes tea"


def test_a_secret_is_drawn_by_format_and_seed():
    secrets = {Canary(f"pin of {name} {{}}", [DIGITS] * 4, seed=seed).secret for name in "abcd" for seed in range(5)}
    assert len(secrets) > 15
    assert canary(4).secret == canary(4).secret
    many = [int(Canary(f"{number} {{}}", [DIGITS]).secret) for number in range(500)]
    assert min(many.count(digit) for digit in range(10)) > 25


def test_wrong_canaries_are_refused():
    with pytest.raises(ValueError, match="one gap"):
        Canary("no gap", [DIGITS])
    with pytest.raises(ValueError, match="one gap"):
        Canary("{} and {}", [DIGITS])
    with pytest.raises(ValueError, match="it is empty"):
        Canary("{}", [])
    with pytest.raises(ValueError, match="it is empty"):
        Canary("{}", [DIGITS, ""])
    for secret in ("1", "123", "1x"):
        with pytest.raises(ValueError, match="in the space of candidates"):
            canary(2, secret=secret)


def test_copies_are_planted_among_texts_that_keep_their_order():
    corpus = [f"text {number}" for number in range(50)]
    first, second = canary(2), Canary("code {}", [DIGITS])
    planted = insert_canaries(corpus, [first, second], [3, 5], seed=1)
    assert len(planted) == 58
    assert planted.count(first.text) == 3
    assert planted.count(second.text) == 5
    assert [text for text in planted if text.startswith("text")] == corpus
    assert planted == insert_canaries(corpus, [first, second], [3, 5], seed=1)
    assert planted != insert_canaries(corpus, [first, second], [3, 5], seed=2)
    assert insert_canaries(corpus, [first], 0, seed=0) == corpus


def test_wrong_numbers_of_copies_are_refused():
    with pytest.raises(ValueError, match="hold 1 numbers, but got 2"):
        insert_canaries([], [canary()], [1, 2], seed=0)
    with pytest.raises(ValueError, match="`copies` to be at least 0"):
        insert_canaries([], [canary()], -1, seed=0)


# ── Exposure from scores ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("rank", "bits"), [(1, 13.2877), (100, 6.6439), (10_000, 0.0)])
def test_exposure_of_known_ranks(rank, bits):
    scores = torch.arange(10_000, dtype=torch.float64)
    for ties in ("min", "average"):
        assert exposure_from_scores(scores, rank - 1, ties=ties).item() == pytest.approx(bits, abs=5e-5)


def test_a_secret_that_is_not_known_has_log2_e_bits_on_average():
    def expected(size: int) -> float:
        return math.log2(size) - math.lgamma(size + 1) / math.log(2) / size

    scores = torch.arange(300, dtype=torch.float64)
    mean = sum(exposure_from_scores(scores, rank).item() for rank in range(300)) / 300
    assert mean == pytest.approx(expected(300), abs=1e-9)
    assert expected(10_000) == pytest.approx(1.4419, abs=5e-5)
    assert expected(10_000) == pytest.approx(math.log2(math.e), abs=1e-3)


def test_ties_count_for_the_best_rank_or_the_average_one():
    scores = torch.zeros(10_000)
    with pytest.warns(UserWarning, match="9999 of 10000 candidates tie"):
        assert exposure_from_scores(scores, 17).item() == pytest.approx(13.2877, abs=5e-5)
    with pytest.warns(UserWarning, match="tie with the secret"):
        assert exposure_from_scores(scores, 17, ties="average").item() == pytest.approx(1.0, abs=1e-3)


def test_a_few_ties_raise_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = torch.arange(1000.0)
        scores[:5] = 3.0
        assert exposure_from_scores(scores, 0) == pytest.approx(math.log2(1000))
        assert exposure_from_scores(scores, 0, ties="average") == pytest.approx(math.log2(1000 / 3))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40, unique=True), st.data())
def test_exposure_follows_the_order_of_scores_alone(scores, data):
    index = data.draw(st.integers(0, len(scores) - 1))
    values = torch.tensor(scores, dtype=torch.float64)
    rank = sorted(scores).index(scores[index]) + 1
    exposure = exposure_from_scores(values, index)
    assert exposure.item() == pytest.approx(math.log2(len(scores) / rank), abs=1e-9)
    assert torch.equal(exposure, exposure_from_scores(values * 3 + 1, index))


def test_wrong_scores_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        exposure_from_scores(torch.zeros(0), 0)
    with pytest.raises(ValueError, match=r"`index` to be in \[0, 3\)"):
        exposure_from_scores(torch.zeros(3), 3)
    with pytest.raises(ValueError, match="it holds NaN"):
        exposure_from_scores(torch.tensor([0.0, math.nan]), 0)
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        exposure_from_scores(torch.zeros(3), 0, ties="max")


# ── Models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def slow_scores(model: nn.Module, planted: Canary, tokenizer, candidates=None) -> list[float]:
    """Every candidate by itself, as a whole text."""
    prefix = len(tokenizer.encode(planted.prefix)) + 1
    scores = []
    for number in range(planted.size) if candidates is None else candidates:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(planted.prefix + planted.candidate(number))]
        with torch.no_grad():
            log_probs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        scores.append(-sum(log_probs[place - 1, ids[place]].item() for place in range(prefix, len(ids))))
    return scores


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("places", [1, 2])
def test_the_tree_gives_what_each_candidate_has_by_itself(architecture, places):
    model = causal_lm(TOKENIZER.vocab_size, architecture=architecture, hidden_size=16, num_layers=2)
    planted = canary(places)
    scores = CandidateTree(planted, TOKENIZER).log_perplexities(model, batch_size=7)
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(slow_scores(model, planted, TOKENIZER), abs=1e-5)


def test_keys_and_values_are_shared_only_to_save_time():
    model = causal_lm(TOKENIZER.vocab_size, hidden_size=16, num_layers=1)
    tree = CandidateTree(canary(3), TOKENIZER)
    assert len(tree.contexts) == 100
    fast = tree.log_perplexities(model)
    plain = nn.Module()
    plain.forward = lambda inputs: model(inputs).logits
    torch.testing.assert_close(tree.log_perplexities(plain), fast, atol=1e-5, rtol=1e-5)


def test_words_of_different_lengths_are_scored_whole_with_a_warning():
    model = causal_lm(TOKENIZER.vocab_size, hidden_size=16, num_layers=1)
    planted = Canary("it is {}", [["ann", "anna", "bob", "b"]], secret="bob")
    with pytest.warns(UserWarning, match="different numbers of tokens"):
        tree = CandidateTree(planted, TOKENIZER)
    scores = tree.log_perplexities(model)
    assert scores.tolist() == pytest.approx(slow_scores(model, planted, TOKENIZER), abs=1e-5)


def test_pieces_that_merge_with_the_text_before_are_scored_too():
    tokenizer = train_bpe(["pin 12", "pin 34", "pin 12 pin 13"] * 5, 275)
    planted = Canary("pin {}", [DIGITS] * 2, secret="12")
    model = causal_lm(len(tokenizer), hidden_size=16, num_layers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = CandidateTree(planted, tokenizer, candidates=[12, 13, 99])
    scores = tree.log_perplexities(model)
    whole = []
    for number in (12, 13, 99):
        ids = [1, *tokenizer.encode(f"pin {number}", add_special_tokens=False)]
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        whole.append(-sum(log_probs[place - 1, ids[place]].item() for place in range(len(tree.given), len(ids))))
    assert scores.tolist() == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("method", ["enumerate", "sample", "extrapolate"])
def test_a_memorised_secret_is_exposed_by_every_method(method):
    planted = canary(4, secret="4071")
    model = Knowing(planted.text, sureness=8.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such a model gives equal scores to candidates that are as wrong
        bits = canary_exposure(model, planted, tokenizer=TOKENIZER, method=method, num_samples=500)
    assert bits == pytest.approx({"enumerate": 13.2877, "sample": math.log2(501)}.get(method, 13.2877), abs=1e-3)


def test_estimates_are_near_the_enumeration_for_secrets_of_middling_rank():
    model = causal_lm(TOKENIZER.vocab_size, hidden_size=16, num_layers=1)
    planted = canary(3)
    scores = CandidateTree(planted, TOKENIZER).log_perplexities(model)
    middling = Canary(planted.format, planted.space, secret=planted.candidate(int(scores.argsort()[100])))
    exact = canary_exposure(model, middling, tokenizer=TOKENIZER)
    assert exact == pytest.approx(math.log2(1000 / 101))
    for method, tolerance in (("sample", 0.5), ("extrapolate", 1.0)):
        assert canary_exposure(model, middling, tokenizer=TOKENIZER, method=method) == pytest.approx(
            exact, abs=tolerance
        )


def test_a_constant_model_looks_exposed_and_is_warned_about():
    model = Knowing("a" * 30, sureness=0.0)
    with pytest.warns(UserWarning, match="hardly tells them apart"):
        assert canary_exposure(model, canary(2), tokenizer=TOKENIZER) == pytest.approx(math.log2(100))
    with pytest.warns(UserWarning, match="hardly tells them apart"):
        assert canary_exposure(model, canary(2), tokenizer=TOKENIZER, ties="average") == pytest.approx(1.0, abs=0.02)
    with pytest.raises(ValueError, match="all the same"):
        canary_exposure(model, canary(2), tokenizer=TOKENIZER, method="extrapolate", num_samples=20)


def test_the_model_keeps_its_mode():
    model = causal_lm(TOKENIZER.vocab_size, hidden_size=16, num_layers=1, dropout=0.5).train()
    first = canary_exposure(model, canary(2), tokenizer=TOKENIZER)
    assert model.training
    assert first == canary_exposure(model, canary(2), tokenizer=TOKENIZER)


def test_a_space_too_large_to_enumerate_is_sampled():
    planted = canary(9)
    with pytest.raises(ValueError, match="sample or extrapolate"):
        canary_exposure(nn.Linear(1, 1), planted, tokenizer=TOKENIZER)
    model = causal_lm(TOKENIZER.vocab_size, hidden_size=16, num_layers=1)
    bits = canary_exposure(model, planted, tokenizer=TOKENIZER, method="extrapolate", num_samples=50)
    assert 0 <= bits <= math.log2(10**9)


def test_wrong_arguments_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):
        canary_exposure(nn.Linear(1, 1), canary(), tokenizer=TOKENIZER, method="samples")
    with pytest.raises(ValueError, match="`num_samples`"):
        canary_exposure(nn.Linear(1, 1), canary(), tokenizer=TOKENIZER, num_samples=1)
