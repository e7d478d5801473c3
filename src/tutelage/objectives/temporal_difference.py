"""What a value network is to predict: bootstrapped targets, and a term that keeps it low on actions never seen."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_same_shape, check_target, check_unit_interval
from tutelage.objectives.precision import at_least_float32


def td_target(
    reward: Float[Tensor, "batch"], discount: Float[Tensor, "batch"], next_values: Float[Tensor, "batch"]
) -> Float[Tensor, "batch"]:
    """The bootstrapped target r + γ (1 − done) V(s'), a scalar also when V is read off a histogram.

    Args:
        reward: r; for n steps their discounted sum.
        discount: γ (1 − done), by item, in [0, 1]; for n steps γ^n (1 − done).
        next_values: V(s'): for Q-learning the target network's largest value.

    Returns:
        `[batch]`, in float32 or wider, without a gradient.

    Raises:
        ValueError: Shapes that differ, or a discount outside [0, 1].

    >>> import torch
    >>> td_target(torch.tensor([1.0, 1.0]), torch.tensor([0.9, 0.0]), torch.tensor([10.0, 10.0]))
    tensor([10.,  1.])
    """
    check_same_shape(reward, discount, "reward", "discount")
    check_same_shape(reward, next_values, "reward", "next_values")
    check_unit_interval(discount, "discount", tolerance=0.0)
    return at_least_float32(reward.detach()) + discount.detach() * next_values.detach()


def double_q_target(
    reward: Float[Tensor, "batch"],
    discount: Float[Tensor, "batch"],
    online_next: Float[Tensor, "batch actions"],
    target_next: Float[Tensor, "batch actions"],
) -> Float[Tensor, "batch"]:
    """Double Q-learning: the online network chooses the next action, the target network says what it is worth.

    Args:
        reward: r.
        discount: γ (1 − done), by item, in [0, 1].
        online_next: The online network's values of the next state.
        target_next: The target network's.

    Returns:
        `[batch]`, in float32 or wider, without a gradient.

    Raises:
        ValueError: Shapes that do not match, or a discount outside [0, 1].

    Source: van Hasselt et al., "Deep Reinforcement Learning with Double Q-learning", AAAI 2016.

    >>> import torch
    >>> one = torch.ones(1)
    >>> double_q_target(one, one, torch.tensor([[0.0, 5.0]]), torch.tensor([[9.0, 2.0]]))
    tensor([3.])
    """
    check_same_shape(online_next, target_next, "online_next", "target_next")
    best = online_next.detach().argmax(dim=1, keepdim=True)
    return td_target(reward, discount, target_next.gather(1, best)[:, 0])


def conservative_q_regularizer(
    q_values: Float[Tensor, "batch actions"], action: Int[Tensor, "batch"]
) -> Float[Tensor, ""]:
    """CQL's term: the mean of logsumexp_a Q(s, a) − Q(s, a_data), on scalar values and without its factor α.

    Args:
        q_values: Q of every action.
        action: The action in the data.

    Returns:
        A scalar of at least 0, in float32 or wider.

    Raises:
        ValueError: Actions of another length or outside the values' range.

    Source: Kumar et al., "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020, equation 4.

    >>> import torch
    >>> conservative_q_regularizer(torch.zeros(1, 2), torch.tensor([0]))
    tensor(0.6931)
    """
    check_target(action, q_values.shape[1], shape=q_values.shape[:1])
    value = at_least_float32(q_values)
    return (value.logsumexp(dim=1) - value.gather(1, action.long()[:, None])[:, 0]).mean()
