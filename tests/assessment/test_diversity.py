import pytest
import torch

from tutelage.assessment import diversity_report


def group(prompts, responses, mask=None):
    responses = torch.tensor(responses)
    mask = torch.ones_like(responses, dtype=torch.bool) if mask is None else torch.tensor(mask)
    return torch.tensor(prompts), responses, mask


def test_figures_by_hand():
    report = diversity_report(
        [group([[1], [1], [2]], [[5, 6, 7], [5, 6, 8], [5, 6, 7]]), group([[3]], [[9, 9, 9]])], orders=(1, 2)
    )
    assert report.size == 4
    assert report.distinct_prompts == 3
    assert report.generations_per_prompt == pytest.approx(4 / 3)
    assert report.distinct_n[1] == pytest.approx(5 / 12)
    assert report.distinct_n[2] == pytest.approx(4 / 8)  # 56, 67, 68, 99
    assert report.self_overlap == pytest.approx(0.5)  # of 56 and 67 (or 68) the first is shared
    assert report.duplicate_pairs == 0


def test_padding_and_order_do_not_count():
    padded = group([[1], [2]], [[5, 6, 0], [5, 6, 7]], [[True, True, False], [True, True, True]])
    swapped = tuple(value.flip(0) for value in padded)
    report = diversity_report([padded])
    assert report == diversity_report([swapped])
    assert report.distinct_n[3] == 1
    assert report.distinct_n[1] == pytest.approx(3 / 5)


def test_repeating_data_lowers_diversity():
    once = group([[1], [2]], [[5, 6], [7, 8]])
    first, second = diversity_report([once]), diversity_report([once, once])
    assert second.distinct_n[1] == first.distinct_n[1] / 2
    assert (first.duplicate_pairs, second.duplicate_pairs) == (0, 0.5)
    assert (first.self_overlap, diversity_report([once, once], orders=(1,)).self_overlap) == (0, 1)


def test_bad_input():
    with pytest.raises(ValueError, match="empty"):
        diversity_report([])
    with pytest.raises(ValueError, match="orders"):
        diversity_report([group([[1]], [[5]])], orders=(0,))
    with pytest.raises(ValueError, match="mask"):
        diversity_report([(torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 3))])
