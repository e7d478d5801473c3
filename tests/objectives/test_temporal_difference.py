from __future__ import annotations

import pytest
import torch

from tutelage.objectives import conservative_q_regularizer, double_q_target, td_target


def test_targets_by_hand() -> None:
    reward, discount = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    torch.testing.assert_close(td_target(reward, discount, torch.tensor([4.0, 4.0])), torch.tensor([3.0, 2.0]))
    online = torch.tensor([[1.0, 3.0], [9.0, 0.0]], requires_grad=True)
    target = torch.tensor([[7.0, -2.0], [5.0, 6.0]], requires_grad=True)
    found = double_q_target(reward, discount, online, target)
    torch.testing.assert_close(found, torch.tensor([0.0, 2.0]))
    assert not found.requires_grad


def test_the_conservative_term() -> None:
    q = torch.tensor([[0.0, 0.0], [3.0, -1.0]], dtype=torch.float64, requires_grad=True)
    action = torch.tensor([0, 1])
    found = conservative_q_regularizer(q, action)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(q, action))
    torch.autograd.gradcheck(lambda values: conservative_q_regularizer(values, action), q)
    assert torch.isfinite(conservative_q_regularizer(1e4 * torch.tensor([[1.0, -1.0]]), torch.tensor([1])))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: td_target(torch.zeros(2), torch.full((2,), 1.5), torch.zeros(2)), "`discount`"),
        (lambda: conservative_q_regularizer(torch.zeros(1, 2), torch.tensor([2])), "`target`"),
    ],
)
def test_bad_input(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call()
