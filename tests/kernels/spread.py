"""Run by torchrun: a vocabulary that is spread over ranks, or tokens that are, against one process that has all."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tutelage.kernels import VocabParallel, linear_cross_entropy


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in ((2, 6, 4), (11, 4), (11,))
    )
    target = torch.randint(11, (2, 6), generator=generator)
    target[0, 3] = -100
    return hidden, weight, bias, target


def vocabulary() -> None:
    hidden, weight, bias, target = problem()
    shard = VocabParallel.from_vocab(11)
    part = slice(shard.start, shard.stop)
    for settings in (
        {},
        {"softcap": 2.0, "shift": 1},
        {"label_smoothing": 0.1},
        {"filter_eps": 0.05, "block_size": (4, 1), "sort_vocabulary": False},
    ):
        whole = linear_cross_entropy(hidden, weight, target, bias=bias, mode="recompute", return_lse=True, **settings)  # type: ignore[arg-type]
        local_hidden, local_weight, local_bias = (
            value.detach().clone().requires_grad_() for value in (hidden, weight[part], bias[part])
        )
        found = linear_cross_entropy(
            local_hidden,
            local_weight,
            target,
            bias=local_bias,
            return_lse=True,
            vocab_parallel=shard,
            **settings,  # type: ignore[arg-type]
        )
        torch.testing.assert_close(tuple(found), tuple(whole))
        by_whole = torch.autograd.grad(whole[0] + whole[1].square().mean(), (hidden, weight, bias))
        by_part = torch.autograd.grad(found[0] + found[1].square().mean(), (local_hidden, local_weight, local_bias))
        torch.testing.assert_close(by_part, (by_whole[0], by_whole[1][part], by_whole[2][part]))
    apart = VocabParallel(shard.start, shard.stop, reduce_hidden_grad=False)
    loss = linear_cross_entropy(local_hidden, local_weight, target, vocab_parallel=apart)
    by_hidden = torch.autograd.grad(loss, local_hidden)[0]  # type: ignore[arg-type]
    dist.all_reduce(by_hidden)
    expected = torch.autograd.grad(linear_cross_entropy(hidden, weight, target), hidden)[0]  # type: ignore[arg-type]
    torch.testing.assert_close(by_hidden, expected)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.body, self.head = nn.Linear(4, 4).double(), nn.Linear(4, 11).double()

    def forward(self, inputs: Tensor, target: Tensor) -> Tensor:
        loss = linear_cross_entropy(self.body(inputs), self.head.weight, target, bias=self.head.bias, reduction="sum")
        assert isinstance(loss, Tensor)
        return loss


def data() -> None:
    inputs, _, _, target = problem()
    inputs = inputs.detach()
    alone = Model()
    alone(inputs, target).backward()
    model = DistributedDataParallel(Model())
    mine = slice(dist.get_rank(), None, dist.get_world_size())
    (model(inputs[mine], target[mine]) * dist.get_world_size()).backward()  # gradients are averaged
    for one, other in zip(alone.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    {"vocabulary": vocabulary, "data": data}[sys.argv[1]]()
    dist.destroy_process_group()
    print("the same")
