"""Output layers that are wider than the classes: further outputs beside them, or several subclasses of each."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least
from tutelage.objectives.precision import at_least_float32


def expand_classifier(linear: nn.Linear, extra_outputs: int) -> nn.Linear:
    """A copy of an output layer with further outputs after its own.

    The own rows of weight and bias are copied bit for bit, so the first outputs stay what they were. The new rows are
    initialised as `nn.Linear` does it, from PyTorch's global generator.

    Args:
        linear: `[classes]` outputs from `[width]`; it is left as it is.
        extra_outputs: How many outputs come after the classes.

    Returns:
        A layer with `classes + extra_outputs` outputs, on the device and in the dtype of `linear`, with a bias if that
        has one.

    Raises:
        ValueError: No extra output.

    Source: "Multi-aspect Knowledge Distillation with Large Language Model", arXiv 2501.13341, whose extra outputs
    answer questions.

    >>> linear = nn.Linear(4, 3)
    >>> wider = expand_classifier(linear, 2)
    >>> wider.out_features, torch.equal(wider.weight[:3], linear.weight)
    (5, True)
    """
    check_at_least(extra_outputs, "extra_outputs", 1)
    weight = linear.weight
    wider = nn.Linear(
        linear.in_features,
        linear.out_features + extra_outputs,
        bias=linear.bias is not None,
        device=weight.device,
        dtype=weight.dtype,
    )
    with torch.no_grad():
        wider.weight[: linear.out_features] = weight
        if linear.bias is not None:
            wider.bias[: linear.out_features] = linear.bias
    return wider.train(linear.training)


class SubclassHead(nn.Linear):
    """An output layer with S outputs a class: subclass s of class c is output c · S + s.

    The probability of a class is the sum of its subclasses' (`class_scores`), so the largest of all outputs need not
    belong to the likeliest class.

    Args:
        in_features: Width of what comes in.
        num_classes: C.
        num_subclasses: S, the same for every class.
        bias: Whether every output has a bias.
        device: Where the weights are.
        dtype: Of the weights.

    Shape: `[…, in_features]` → `[…, num_classes * num_subclasses]`.

    Raises:
        ValueError: A size below 1.

    Source: "Subclass Distillation", arXiv 2002.03936.

    >>> linear = nn.Linear(4, 3)
    >>> head = SubclassHead.from_linear(linear, num_subclasses=2)
    >>> head(torch.zeros(5, 4)).shape, torch.equal(head.weight[2:4], linear.weight[[1, 1]])
    (torch.Size([5, 6]), True)
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        num_subclasses: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_at_least(in_features, "in_features", 1)
        check_at_least(num_classes, "num_classes", 1)
        check_at_least(num_subclasses, "num_subclasses", 1)
        super().__init__(in_features, num_classes * num_subclasses, bias=bias, device=device, dtype=dtype)
        self.num_classes = num_classes
        self.num_subclasses = num_subclasses

    @classmethod
    def from_linear(cls, linear: nn.Linear, num_subclasses: int) -> SubclassHead:
        """Widen an output layer: the rows of a class are copies of its one row, bit for bit.

        The probabilities of the classes thus stay what they were; targets that differ by subclass set the rows apart.

        Args:
            linear: `[classes]` outputs; it is left as it is.
            num_subclasses: S.

        Raises:
            ValueError: No subclass.
        """
        weight = linear.weight
        head = cls(
            linear.in_features,
            linear.out_features,
            num_subclasses,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        with torch.no_grad():
            head.weight.copy_(weight.repeat_interleave(num_subclasses, dim=0))
            if linear.bias is not None:
                head.bias.copy_(linear.bias.repeat_interleave(num_subclasses))
        return head.train(linear.training)

    def class_scores(self, logits: Float[Tensor, "... outputs"]) -> Float[Tensor, "... classes"]:
        """Logits of the classes: logsumexp over the subclasses of each, whose softmax sums subclass probabilities.

        Args:
            logits: `[…, num_classes * num_subclasses]`, what the layer gives.

        Returns:
            `[…, num_classes]`, in float32 or wider.

        >>> head = SubclassHead(4, num_classes=2, num_subclasses=2)
        >>> head.class_scores(torch.tensor([0.5, 0.25, 0.125, 0.125]).log()).exp()
        tensor([0.7500, 0.2500])
        """
        parts = at_least_float32(logits).reshape(*logits.shape[:-1], self.num_classes, self.num_subclasses)
        return parts.logsumexp(dim=-1)

    def extra_repr(self) -> str:
        """What `print` shows in the parentheses."""
        return f"{super().extra_repr()}, num_subclasses={self.num_subclasses}"
