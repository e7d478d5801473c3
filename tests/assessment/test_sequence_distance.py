import math

import pytest
import torch
from torch import nn

from tutelage.assessment import exact_sequence_kl, mean_and_error, response_log_probabilities, sequence_kl
from tutelage.models import causal_lm
from tutelage.training import generate_responses


def constant(probabilities):
    """A model that predicts the same at every place."""
    return nn.Embedding.from_pretrained(torch.tensor([probabilities] * len(probabilities)).log())


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(0)
    made = [causal_lm(4, hidden_size=8, num_layers=1, num_heads=2, max_length=8) for _ in range(2)]
    with torch.no_grad():
        for model in made:
            for parameter in model.parameters():
                parameter.mul_(5)
    return made


def test_known_answers_of_one_step():
    first, second = constant([0.7, 0.2, 0.1]), constant([0.4, 0.4, 0.2])
    asked = torch.tensor([[0]])
    found = {name: float(sequence_kl(first, second, asked, asked, direction=name)) for name in ("forward", "reverse")}
    assert found["forward"] == pytest.approx(0.1837869, abs=1e-6)
    assert found["reverse"] == pytest.approx(0.1920420, abs=1e-6)
    both = float(sequence_kl(first, second, asked, asked, direction="jeffreys"))
    assert both == pytest.approx(0.1837869 + 0.1920420, abs=1e-6)
    assert float(exact_sequence_kl(first, second, asked, 1)) == pytest.approx(0.1837869, abs=1e-6)


def test_samples_converge_to_the_exact_value(models):
    oracle, student = models
    prompts = torch.tensor([[0, 1], [3, 2]])
    exact = exact_sequence_kl(oracle, student, prompts, 3)
    generator = torch.Generator().manual_seed(0)
    for prompt, value in zip(prompts, exact.tolist(), strict=True):
        asked = prompt.expand(4000, 2)
        told = generate_responses(oracle, asked, max_new_tokens=3, generator=generator).response_ids
        mean, error = mean_and_error(sequence_kl(oracle, student, asked, told))
        assert abs(mean - value) < 3 * error
        assert error < 0.2 * value


def test_chain_rule(models):
    """Exact sequence KL = Σ over all prefixes of their probability times the KL of the next token."""
    oracle, student = models
    prompts = torch.tensor([[2, 0]])
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    asked = prompts.expand(len(every), -1)
    log = response_log_probabilities(oracle, asked, every)
    probability = log.gather(2, every.unsqueeze(2)).squeeze(2).sum(dim=1).exp()
    expected = (probability * sequence_kl(oracle, student, asked, every)).sum()
    torch.testing.assert_close(exact_sequence_kl(oracle, student, prompts, 3)[0], expected, rtol=1e-4, atol=1e-6)


def test_a_model_is_not_far_from_itself(models):
    prompts = torch.randint(4, (5, 3))
    for direction in ("forward", "reverse", "jeffreys"):
        torch.testing.assert_close(
            sequence_kl(models[0], models[0], prompts, prompts, direction=direction), torch.zeros(5), atol=1e-6, rtol=0
        )


def test_masked_tokens_do_not_count_and_lengths_normalise(models):
    prompts, told = torch.randint(4, (6, 3)), torch.randint(4, (6, 4))
    mask = torch.tensor([[True, True, False, False]] * 6)
    short = sequence_kl(*models, prompts, told[:, :2])
    torch.testing.assert_close(sequence_kl(*models, prompts, told, mask=mask), short)
    torch.testing.assert_close(sequence_kl(*models, prompts, told, mask=mask, length_normalized=True), short / 2)


def test_recorded_references_and_small_calls_give_the_same(models):
    prompts, told = torch.randint(4, (7, 3)), torch.randint(4, (7, 4))
    recorded = response_log_probabilities(models[0], prompts, told, batch_size=2)
    torch.testing.assert_close(
        sequence_kl(recorded, models[1], prompts, told, batch_size=3), sequence_kl(*models, prompts, told)
    )


def test_the_models_keep_their_modes_and_get_no_gradient(models):
    models[1].train()
    rows = sequence_kl(*models, torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    assert models[1].training
    assert not rows.requires_grad


def test_impossible_tokens_add_nothing_or_everything():
    sure, open_minded = constant([1.0, 0.0]), constant([0.5, 0.5])
    asked = torch.tensor([[0]])
    assert float(sequence_kl(sure, open_minded, asked, asked)) == pytest.approx(math.log(2))
    assert float(exact_sequence_kl(sure, open_minded, asked, 2)) == pytest.approx(2 * math.log(2))
    assert float(sequence_kl(open_minded, sure, asked, asked)) == math.inf


def test_bad_input(models):
    two, three, asked = constant([0.5, 0.5]), constant([0.5, 0.25, 0.25]), torch.tensor([[0]])
    with pytest.raises(ValueError, match="share a vocabulary, but got 2, 3"):
        sequence_kl(two, three, asked, asked)
    with pytest.raises(ValueError, match="share a vocabulary"):
        exact_sequence_kl(two, three, asked, 1)
    with pytest.raises(ValueError, match="at most 2000000 sequences"):
        exact_sequence_kl(two, two, asked, 21)
    with pytest.raises(ValueError, match="at least one token"):
        sequence_kl(two, two, asked, torch.zeros(1, 0, dtype=torch.int64))
    with pytest.raises(ValueError, match="at least one token"):
        sequence_kl(two, two, asked, asked, mask=torch.tensor([[False]]))
    with pytest.raises(ValueError, match="multiple of 2"):
        mean_and_error(torch.ones(3), responses_per_prompt=2)


def test_responses_to_a_prompt_are_averaged_before_the_error():
    values = torch.tensor([0.0, 10.0, 1.0, 11.0, 2.0, 12.0])
    assert mean_and_error(values, responses_per_prompt=2) == pytest.approx((6.0, 1 / math.sqrt(3)))
