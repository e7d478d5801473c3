from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tutelage.objectives import SpanExtractionHead, SpanLogits, dice_loss, span_extraction_loss


def labels() -> dict[str, torch.Tensor]:
    start, end, span = torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2, 5, 5)
    start[0, 1] = end[0, 3] = span[0, 1, 3] = 1
    return {"start": start, "end": end, "span": span, "mask": torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]])}


def test_a_span_is_a_network_of_both_ends() -> None:
    head = SpanExtractionHead(6, hidden_features=7, dropout=0.0, answerable=True).double()
    hidden = torch.randn(2, 4, 6, dtype=torch.float64)
    logits = head(hidden)
    layer = torch.cat([head.span_from.weight, head.span_to.weight], dim=1)
    pair = torch.cat([hidden[1, 3], hidden[1, 0]])
    expected = head.span[2](F.gelu(layer @ pair + head.span_from.bias))
    torch.testing.assert_close(logits.span[1, 3, 0], expected[0])
    assert logits.start.shape == logits.end.shape == (2, 4)
    assert logits.answerable is not None
    assert logits.answerable.shape == (2,)
    assert SpanExtractionHead(6)(hidden.float()).answerable is None


def test_the_loss_is_the_weighted_sum_over_counted_places() -> None:
    logits = SpanLogits(torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 5, 5), torch.randn(2))
    given = labels()
    counted = given["mask"].bool()
    possible = torch.zeros(2, 5, 5, dtype=torch.bool)
    for b in range(2):
        for i in range(5):
            for j in range(i, 5):
                possible[b, i, j] = counted[b, i] & counted[b, j]
    parts = [
        dice_loss(logits.start[counted], given["start"][counted]),
        dice_loss(logits.end[counted], given["end"][counted]),
        dice_loss(logits.span[possible], given["span"][possible]),
        dice_loss(logits.answerable, torch.tensor([1.0, 0.0])),
    ]
    expected = 2 * parts[0] + 3 * parts[1] + 0.2 * parts[2] + 0.5 * parts[3]
    loss = span_extraction_loss(
        logits, **given, loss=dice_loss, start_weight=2, end_weight=3, span_weight=0.2, answerable_weight=0.5
    )
    torch.testing.assert_close(loss, expected)


def test_confident_logits_are_read_as_spans_and_cost_little() -> None:
    given = labels()
    sure = {name: 20 * (2 * given[name] - 1) for name in ("start", "end", "span")}
    logits = SpanLogits(**sure)
    mask = given["mask"].bool()
    assert logits.spans(mask) == [{(1, 3)}, set()]
    assert span_extraction_loss(logits, **given, loss=dice_loss).item() < 1e-6
    backwards = SpanLogits(torch.ones(1, 2), torch.ones(1, 2), torch.ones(1, 2, 2))
    assert backwards.spans(torch.ones(1, 2).bool()) == [{(0, 0), (0, 1), (1, 1)}]


def test_gradients() -> None:
    shapes = ((2, 5), (2, 5), (2, 5, 5), (2,))
    logits = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    given = {name: value.double() for name, value in labels().items()}
    assert torch.autograd.gradcheck(lambda *said: span_extraction_loss(SpanLogits(*said), **given), logits)


def test_bad_input() -> None:
    logits = SpanLogits(torch.zeros(2, 5), torch.zeros(2, 5), torch.zeros(2, 5, 5))
    with pytest.raises(ValueError, match="`span_weight`"):
        span_extraction_loss(logits, **labels(), span_weight=-1.0)
    with pytest.raises(ValueError, match="`in_features`"):
        SpanExtractionHead(0)
