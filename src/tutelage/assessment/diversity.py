"""How diverse a set of prompts and responses is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from tutelage._checks import check_at_least, check_same_shape


@dataclass(frozen=True)
class DiversityReport:
    """Figures about a data set of prompts and responses.

    Attributes:
        size: Pairs of prompt and response.
        distinct_prompts: Different prompts.
        generations_per_prompt: Pairs a different prompt, on average.
        distinct_n: For every n, the share of different ones among all n-grams of the responses.
        self_overlap: Among responses to the same prompt, the mean share of a response's n-grams (n = the largest asked
            for) that another one of them has too; 0 where every prompt has one response.
        duplicate_pairs: The share of pairs that stood in the data before.
    """

    size: int
    distinct_prompts: int
    generations_per_prompt: float
    distinct_n: dict[int, float]
    self_overlap: float
    duplicate_pairs: float


def diversity_report(
    dataset: Iterable[tuple[Tensor, Tensor, Tensor]], *, orders: Sequence[int] = (1, 2, 3)
) -> DiversityReport:
    """Count what repeats in prompts and responses.

    Args:
        dataset: One or more groups of prompts `[pairs, prompt]`, responses `[pairs, response]` and the mask of the
            tokens that count `[pairs, response]`: a list of `Responses`, or any response source.
        orders: The n of the n-grams; they do not cross from one response into another.

    Raises:
        ValueError: No pair, shapes that differ, or an n below 1.

    Source: distinct-n is that of Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models",
    NAACL 2016; the self-overlap is ours, in the manner of self-BLEU.

    >>> import torch
    >>> asked, answered = torch.tensor([[1], [1], [2]]), torch.tensor([[5, 6], [5, 6], [5, 7]])
    >>> report = diversity_report([(asked, answered, torch.ones(3, 2, dtype=torch.bool))], orders=(1, 2))
    >>> report.distinct_prompts, report.generations_per_prompt, report.distinct_n[1], report.self_overlap
    (2, 1.5, 0.5, 1.0)
    """
    for order in orders:
        check_at_least(order, "orders", 1)
    pairs: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for prompts, responses, mask in dataset:
        check_same_shape(responses, mask, "responses", "mask")
        rows = zip(prompts.tolist(), responses.tolist(), mask.bool().tolist(), strict=True)
        for prompt, response, kept in rows:
            pairs.append((tuple(prompt), tuple(token for token, keep in zip(response, kept, strict=True) if keep)))
    if not pairs:
        raise ValueError("Expected argument `dataset` to hold at least one response, but it is empty.")
    by_prompt: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for asked, answered in pairs:
        by_prompt.setdefault(asked, []).append(answered)
    distinct = {}
    for order in orders:
        grams = [gram for _, answered in pairs for gram in _grams(answered, order)]
        distinct[order] = len(set(grams)) / len(grams) if grams else 0.0
    overlaps = [share for group in by_prompt.values() for share in _overlaps(group, max(orders))]
    return DiversityReport(
        size=len(pairs),
        distinct_prompts=len(by_prompt),
        generations_per_prompt=len(pairs) / len(by_prompt),
        distinct_n=distinct,
        self_overlap=sum(overlaps) / len(overlaps) if overlaps else 0.0,
        duplicate_pairs=1 - len(set(pairs)) / len(pairs),
    )


def _grams(tokens: tuple[int, ...], order: int) -> list[tuple[int, ...]]:
    return [tokens[start : start + order] for start in range(len(tokens) - order + 1)]


def _overlaps(group: Sequence[tuple[int, ...]], order: int) -> list[float]:
    """For each response of several, the share of its n-grams that another one has."""
    if len(group) < 2:
        return []
    sets = [set(_grams(response, order)) for response in group]
    holders = Counter(gram for grams in sets for gram in grams)
    return [sum(holders[gram] > 1 for gram in grams) / len(grams) for grams in sets if grams]
