import pytest
import torch

from tutelage.assessment import diversity_report
from tutelage.models import causal_lm
from tutelage.training import MixedResponses, OfflineResponses, OnlineResponses

PROMPTS = torch.cartesian_prod(torch.arange(3), torch.arange(4))  # 12 different ones
ROWS = torch.tensor([7, 0, 3])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return causal_lm(9, hidden_size=8, num_layers=1, num_heads=2, max_length=12, dropout=0.1)


def ids(source, rows=ROWS):
    return source.batch(rows).inputs["input_ids"]


def test_offline_gives_the_same_tokens_every_epoch(model):
    source = OfflineResponses(model, PROMPTS, max_new_tokens=4)
    assert torch.equal(ids(source), ids(source))
    told = source.responses(ROWS)
    assert torch.equal(told.prompt_ids, PROMPTS[ROWS])
    assert torch.equal(ids(source), torch.cat([told.prompt_ids, told.response_ids], dim=1)[:, :-1])
    assert torch.equal(source.batch(ROWS).target[:, 1:], told.response_ids)
    assert bool((source.batch(ROWS).target[:, :1] == -100).all())
    assert source.generated_tokens == 12 * 4


@pytest.mark.parametrize("policy", ["teacher", "student"])
def test_online_differs_with_the_visit_and_repeats_with_the_seed(model, policy):
    def visits(seed):
        generator = torch.Generator().manual_seed(seed)
        source = OnlineResponses(model, PROMPTS, policy=policy, max_new_tokens=4, generator=generator)
        return [ids(source) for _ in range(3)]

    first, again, other = visits(1), visits(1), visits(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], other[0])


def test_online_follows_the_seed_of_pytorch(model):
    drawn = []
    for _ in range(2):
        torch.manual_seed(5)
        drawn.append(ids(OnlineResponses(model, PROMPTS, max_new_tokens=4)))
    assert torch.equal(*drawn)


def test_a_teacher_writes_for_all_prompts_at_once_and_hands_out_each_response_once(model):
    source = OnlineResponses(model, PROMPTS, policy="teacher", max_new_tokens=4)
    source.batch(torch.arange(6))
    source.batch(torch.arange(6, 12))
    assert source.generated_tokens == 12 * 4
    source.batch(ROWS)
    assert source.generated_tokens == 2 * 12 * 4
    twice = ids(source, torch.tensor([1] * 40))
    assert len(torch.unique(twice, dim=0)) > 1


def test_the_student_writes_with_the_weights_of_the_moment():
    torch.manual_seed(0)
    model = causal_lm(9, hidden_size=8, num_layers=1, num_heads=2, tie_word_embeddings=False)
    source = OnlineResponses(model, PROMPTS, policy="student", max_new_tokens=3, temperature=0)
    before = source.responses(ROWS).response_ids
    with torch.no_grad():
        model.get_output_embeddings().weight.neg_()
    assert not torch.equal(source.responses(ROWS).response_ids, before)


def test_sampling_leaves_neither_a_graph_nor_another_mode(model):
    source = OnlineResponses(model.train(), PROMPTS, max_new_tokens=3)
    batch = source.batch(ROWS)
    assert model.training
    assert not any(value.requires_grad for value in batch.inputs.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    OfflineResponses(model.eval(), PROMPTS, max_new_tokens=3)
    assert not model.training


@pytest.mark.parametrize(
    ("generations", "fraction", "size", "distinct"), [(1, 1.0, 12, 12), (3, 1 / 3, 12, 4), (3, 1.0, 36, 12)]
)
def test_sizes_of_the_data_set(model, generations, fraction, size, distinct):
    source = OfflineResponses(
        model, PROMPTS, max_new_tokens=4, generations_per_prompt=generations, prompt_fraction=fraction
    )
    report = diversity_report(source)
    assert (len(source), report.size, report.distinct_prompts) == (size, size, distinct)
    assert report.generations_per_prompt == generations


@pytest.mark.parametrize("k", [2, 3, 4, 6, 12])
def test_a_kth_of_the_prompts_with_k_generations_keeps_the_size(model, k):
    source = OfflineResponses(model, PROMPTS, max_new_tokens=1, generations_per_prompt=k, prompt_fraction=1 / k)
    assert len(source) == len(PROMPTS)


def test_responses_end_at_their_end_token(model):
    source = OfflineResponses(model, PROMPTS.repeat(4, 1), max_new_tokens=6, end_token=2)
    for told in source:
        ended = (told.response_ids == 2).long().cumsum(dim=1)
        assert bool((told.mask == (ended - (told.response_ids == 2).long() == 0)).all())
    assert source.generated_tokens == int(told.mask.sum()) < 48 * 6


@pytest.mark.parametrize(("fraction", "changed"), [(0.0, (0, 0)), (1.0, (400, 400)), (0.5, (150, 250))])
def test_a_mixture_is_fresh_as_often_as_it_says(fraction, changed):
    torch.manual_seed(0)
    model = causal_lm(99, hidden_size=8, num_layers=1, num_heads=2)  # a fresh response is hardly ever the fixed one
    prompts = torch.arange(400).remainder(99).unsqueeze(1)
    fixed = OfflineResponses(model, prompts, max_new_tokens=8)
    fresh = OnlineResponses(model, prompts, policy="teacher", max_new_tokens=8)
    source = MixedResponses(fixed, fresh, fraction_online=fraction, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(400)
    other = (source.responses(rows).response_ids != fixed.responses(rows).response_ids).any(dim=1)
    assert changed[0] <= int(other.sum()) <= changed[1]
    assert torch.equal(fixed.responses(rows).response_ids, OfflineResponses.responses(fixed, rows).response_ids)
    assert source.generated_tokens >= 400 * 8
    assert torch.equal(source.batch(rows).index, rows)


def test_fixed_and_fresh_responses_of_other_lengths_are_padded(model):
    prompts = PROMPTS[:4]
    fixed = OfflineResponses(model, prompts, max_new_tokens=1)
    fresh = OnlineResponses(model, prompts, max_new_tokens=3)
    source = MixedResponses(fixed, fresh, fraction_online=0.5, generator=torch.Generator().manual_seed(1))
    told = source.responses(torch.arange(4))
    assert sorted(set(told.mask.sum(dim=1).tolist())) == [1, 3]
    assert source.batch(torch.arange(4)).inputs["input_ids"].shape[1] <= 4


def test_bad_input(model):
    with pytest.raises(ValueError, match=r"leave at least one prompt, but 0\.05 of 12"):
        OfflineResponses(model, PROMPTS, max_new_tokens=2, prompt_fraction=0.05)
    with pytest.raises(ValueError, match="prompt_fraction"):
        OfflineResponses(model, PROMPTS, max_new_tokens=2, prompt_fraction=1.5)
    with pytest.raises(ValueError, match="generations_per_prompt"):
        OfflineResponses(model, PROMPTS, max_new_tokens=2, generations_per_prompt=0)
    with pytest.raises(ValueError, match="at least one prompt"):
        OnlineResponses(model, PROMPTS[:0], max_new_tokens=2)
    fixed, fresh = (
        OfflineResponses(model, PROMPTS, max_new_tokens=2),
        OnlineResponses(model, PROMPTS[:3], max_new_tokens=2),
    )
    with pytest.raises(ValueError, match="same prompts"):
        MixedResponses(fixed, fresh, fraction_online=0.5)
    with pytest.raises(ValueError, match="fraction_online"):
        MixedResponses(fixed, OnlineResponses(model, PROMPTS, max_new_tokens=2), fraction_online=2.0)
