"""F1: the threshold that makes it largest, and F1 of labelled spans in texts."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from tutelage._checks import check_finite, check_same_length, check_same_shape

Span = tuple[str, int, int]
"""Label, first token, last token."""


def best_f1_threshold(probs: Float[Tensor, "samples"], target: Shaped[Tensor, "samples"]) -> float:
    """The threshold t for which predicting positives where `probs >= t` has the largest F1 on these samples.

    For perfectly known probabilities it is half of that F1, so that it lies below ½: a fair comparison of losses tunes
    it for each of them, on validation data.

    Args:
        probs: The probability of being positive, or any score.
        target: Labels 0 and 1.

    Returns:
        One of the scores; the largest of those with the best F1.

    Raises:
        ValueError: Lengths differ, there is no positive sample, labels other than 0 and 1, or a score that is not
            finite.

    Source: Lipton et al., "Optimal Thresholding of Classifiers to Maximize F1 Measure", 2014 (for the half).

    >>> round(best_f1_threshold(torch.tensor([0.9, 0.4, 0.3, 0.1]), torch.tensor([1, 0, 1, 0])), 6)
    0.3
    """
    check_same_shape(probs, target, "probs", "target")
    check_same_length(probs, target, "probs", "target")
    check_finite(probs, "probs")
    if not ((target == 0) | (target == 1)).all() or not (target == 1).any():
        raise ValueError("Expected argument `target` to hold labels 0 and 1, and at least one 1, but it does not.")
    scores, order = probs.detach().double().sort(descending=True)
    hits = target[order].double().cumsum(dim=0)
    f1 = 2 * hits / (torch.arange(1, len(scores) + 1, device=scores.device) + hits[-1])
    last = torch.ones_like(scores, dtype=torch.bool)
    last[:-1] = scores[1:] < scores[:-1]  # equal scores are accepted together
    return float(scores[f1.masked_fill(~last, -1.0).argmax()])


def span_f1(
    pred_spans: Sequence[Iterable[Hashable]], gold_spans: Sequence[Iterable[Hashable]]
) -> dict[str, float | int]:
    """Precision, recall and F1 of spans over all texts (micro-averaged): a span counts only when all of it is right.

    Args:
        pred_spans: For each text, its predicted spans: anything hashable that tells one span from another, such as
            `(label, first, last)`. Repetitions count once.
        gold_spans: For each text, its true spans.

    Returns:
        `precision`, `recall`, `f1` (fractions; 0 where there is nothing to divide by), `true_positives`, `predicted`
        and `gold` (counts).

    Raises:
        ValueError: Another number of texts, or none.

    Source: Tjong Kim Sang and De Meulder, "Introduction to the CoNLL-2003 Shared Task", section 2.

    >>> span_f1([{("person", 0, 1), ("place", 4, 4)}], [{("person", 0, 1)}])["f1"]
    0.6666666666666666
    """
    check_same_length(pred_spans, gold_spans, "pred_spans", "gold_spans")
    hits = predicted = gold = 0
    for found, true in zip(pred_spans, gold_spans, strict=True):
        found_set, true_set = set(found), set(true)
        hits += len(found_set & true_set)
        predicted += len(found_set)
        gold += len(true_set)
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / gold if gold else 0.0,
        "f1": 2 * hits / (predicted + gold) if predicted + gold else 0.0,
        "true_positives": hits,
        "predicted": predicted,
        "gold": gold,
    }


def spans_from_tags(tags: Iterable[str]) -> set[Span]:
    """The spans of a text in B-, I- and O-tags, read as the CoNLL scorer does.

    A span starts at `B-X`, and also at an `I-X` that does not go on with a span of the same label.

    Args:
        tags: One tag a token: `"O"`, `"B-label"` or `"I-label"`.

    Returns:
        `(label, first token, last token)`.

    Raises:
        ValueError: Any other tag.

    >>> sorted(spans_from_tags(["B-per", "I-per", "O", "I-loc", "B-loc"]))
    [('loc', 3, 3), ('loc', 4, 4), ('per', 0, 1)]
    """
    spans: set[Span] = set()
    label: str | None = None
    first = 0
    for position, tag in enumerate([*tags, "O"]):
        kind, _, name = tag.partition("-")
        if tag != "O" and (kind not in ("B", "I") or not name):
            raise ValueError(f"Expected tags 'O', 'B-label' and 'I-label', but got {tag!r}.")
        if label is not None and not (kind == "I" and name == label):
            spans.add((label, first, position - 1))
            label = None
        if tag != "O" and label is None:
            label, first = name, position
    return spans
