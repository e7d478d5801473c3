"""Wider output layers: what was there before stays to the bit, and class probabilities are sums over subclasses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.features import SubclassHead, expand_classifier
from tutelage.models import parameter_count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_expanding_keeps_the_classes_to_the_bit(bias: bool, dtype: torch.dtype) -> None:
    linear = nn.Linear(6, 3, bias=bias, dtype=dtype).eval()
    before = {name: value.clone() for name, value in linear.state_dict().items()}
    wider = expand_classifier(linear, 4)
    assert torch.equal(wider.weight[:3], linear.weight)
    assert (wider.bias is not None) == bias
    assert wider.weight.dtype == dtype
    assert not wider.training
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())
    assert parameter_count(wider) == parameter_count(linear) + 4 * (6 + bias)
    if bias:
        assert torch.equal(wider.bias[:3], linear.bias)
    inputs = torch.randn(5, 6, dtype=dtype)
    torch.testing.assert_close(wider(inputs)[:, :3], linear(inputs))


def test_new_outputs_are_initialised_like_a_fresh_layer() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(100, 2)
    wider = expand_classifier(linear, 50)
    bound = 1 / 100**0.5
    new = wider.weight[2:].detach()
    assert new.abs().max() <= bound
    assert new.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    wider.weight.data.zero_()
    assert linear.weight.any()  # nothing is shared


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_a_widened_head_keeps_the_class_probabilities(width: int, classes: int, subclasses: int, bias: bool) -> None:
    linear = nn.Linear(width, classes, bias=bias, dtype=torch.float64)
    head = SubclassHead.from_linear(linear, subclasses)
    inputs = torch.randn(7, width, dtype=torch.float64)
    logits = head(inputs)
    assert logits.shape == (7, classes * subclasses)
    scores = head.class_scores(logits)
    torch.testing.assert_close(scores.softmax(dim=1), linear(inputs).softmax(dim=1))
    torch.testing.assert_close(scores, linear(inputs) + torch.tensor(subclasses, dtype=torch.float64).log())
    for label in range(classes):  # class-major order, bit for bit
        for subclass in range(subclasses):
            assert torch.equal(head.weight[label * subclasses + subclass], linear.weight[label])
            if bias:
                assert torch.equal(head.bias[label * subclasses + subclass], linear.bias[label])


def test_the_largest_output_need_not_belong_to_the_likeliest_class() -> None:
    head = SubclassHead(1, num_classes=2, num_subclasses=3)
    logits = torch.tensor([[0.30, 0.25, 0.05, 0.40, 0.0, 0.0]]).log()
    assert logits.argmax() // 3 == 1
    assert head.class_scores(logits).argmax() == 0
    torch.testing.assert_close(head.class_scores(logits).exp(), torch.tensor([[0.6, 0.4]]))


def test_subclasses_of_a_class_part_when_their_targets_do() -> None:
    torch.manual_seed(0)
    head = SubclassHead.from_linear(nn.Linear(3, 2), 2)
    target = torch.tensor([[0.9, 0.1, 0.0, 0.0]])
    nn.functional.cross_entropy(head(torch.ones(1, 3)), target).backward()
    assert not torch.equal(head.weight.grad[0], head.weight.grad[1])


def test_a_head_says_what_it_is_and_keeps_its_mode_and_dtype() -> None:
    head = SubclassHead.from_linear(nn.Linear(3, 2, dtype=torch.float16).eval(), 5)
    assert (head.num_classes, head.num_subclasses, head.out_features) == (2, 5, 10)
    assert head.weight.dtype == torch.float16
    assert not head.training
    assert "out_features=10" in repr(head)
    assert "num_subclasses=5" in repr(head)
    assert isinstance(head, nn.Linear)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match="`extra_outputs` to be at least 1, but got 0"):
        expand_classifier(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="`num_subclasses` to be at least 1, but got 0"):
        SubclassHead.from_linear(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="`num_classes` to be at least 1, but got 0"):
        SubclassHead(2, 0, 3)
