"""Modules that learn, spread over processes: each keeps a share of weights, gradients and the optimiser's state."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks")
_TakenHook = tuple[dict[int, Any], int, Any]


class Shards:
    """Spreads the parameters below a module over all processes (PyTorch's FSDP2, `fully_shard`), and undoes it.

    Every process begins with the main process's weights. The blocks that a network repeats are gathered one after the
    other as they compute; all other parameters are whole while `root` is called, so that what reads them in there (an
    objective that works on a head's weights) finds ordinary tensors. Between two calls there are only shards.

    Args:
        root: A module that is called once a batch, and gives what the gradient starts from.
        device: Where its parameters are.

    Raises:
        ValueError: PyTorch cannot shard it; the text says why.
    """

    def __init__(self, root: nn.Module, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        self.root: Any = root
        share(*root.parameters(), *root.buffers())
        self._modules = list(root.modules())
        owners = [(module, name) for module in self._modules for name in module._parameters]
        plain = [module._parameters[name] for module, name in owners]
        self._attributes = [set(module.__dict__) for module in self._modules]
        self._blocks: list[Any] = [*repeated_blocks(root), root]
        self._classes = [type(module) for module in self._blocks]
        mesh = init_device_mesh(device.type, (dist.get_world_size(),))
        try:
            for module in self._blocks:
                fully_shard(module, mesh=mesh, reshard_after_forward=module is not root)
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(f"These modules cannot be sharded: {error} Use `sharding: none`.") from error
        self._sharded_classes = [type(module) for module in self._blocks]
        self._owners: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for (module, name), whole in zip(owners, plain, strict=True):
            shard = module._parameters[name]
            if whole is not None and shard is not None and shard is not whole:
                shard.__dict__.update(whole.__dict__)  # marks such as `no_weight_decay`
                whole.data = whole.data.new_empty(0)
                self._owners.append((module, name, whole, shard))

    def exchange_gradients(self, last: bool) -> None:
        """Before a call: whether its gradients are exchanged, or kept until those of a step's `last` batch are.

        Buffers (running statistics) become the main process's, as with DDP.
        """
        share(*self.root.buffers())
        self.root.set_requires_gradient_sync(last)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Inside the block every module is an ordinary one with all of its weights, on every process.

        All processes enter it together; inside, each does as it likes, but changes of weights are lost at its end.
        """
        hooks = self._gather()
        try:
            yield
        finally:
            for hooked, key, hook in hooks:
                hooked[key] = hook
                if hook.__name__ == "_pre_forward":  # weights are there before any other hook asks for them
                    hooked.move_to_end(key, last=False)  # type: ignore[attr-defined]
            for module, kind in zip(self._blocks, self._sharded_classes, strict=True):
                module.__class__ = kind
            for module, name, whole, shard in self._owners:
                module._parameters[name] = shard
                whole.data = whole.data.new_empty(0)

    def undo(self) -> None:
        """Make ordinary modules of them again, for good: the parameters that they had, with the newest weights."""
        from torch.distributed._composable_state import _module_state_mapping

        self._gather()
        for module, names in zip(self._modules, self._attributes, strict=True):
            for name in set(module.__dict__) - names:
                del module.__dict__[name]
        for module in self._blocks:
            _module_state_mapping.pop(module, None)  # else PyTorch refuses to shard it in another run

    def _gather(self) -> list[_TakenHook]:
        """Put whole parameters, plain classes and no hooks of PyTorch's into all modules."""
        share(*self.root.buffers())
        for module in self._blocks:
            module.reshard()
        gathered: set[int] = set()
        for module, name, whole, shard in self._owners:
            if id(whole) not in gathered:  # a tied parameter has several owners
                whole.data = whole_tensor(shard.data)
                gathered.add(id(whole))
            module._parameters[name] = whole
        for module, kind in zip(self._blocks, self._classes, strict=True):
            module.__class__ = kind
        return [hook for module in self._modules for hook in _take_hooks(module)]


def repeated_blocks(root: nn.Module) -> list[nn.Module]:
    """The blocks that networks repeat: members of an `nn.ModuleList` or `nn.Sequential` that have parts of their own.

    Of blocks inside each other only the outermost is given, and none that shares a parameter with what is outside it.

    >>> block = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> repeated_blocks(nn.Sequential(nn.Linear(2, 3), block)) == [block]
    True
    """
    found: list[nn.Module] = []
    uses: dict[int, int] = {}
    for module in root.modules():
        for value in module._parameters.values():
            uses[id(value)] = uses.get(id(value), 0) + 1
    inside: set[nn.Module] = set()
    for owner in root.modules():
        if owner in inside or not isinstance(owner, nn.ModuleList | nn.Sequential):
            continue
        for block in owner:
            own = [value for part in block.modules() for value in part._parameters.values() if value is not None]
            alone = all(uses[id(value)] == sum(value is other for other in own) for value in own)
            if own and alone and block not in inside and any(True for _ in block.children()):
                found.append(block)
                inside.update(block.modules())
    return found


def share(*tensors: Tensor) -> None:
    """Give every process the main process's values, in place."""
    for tensor in tensors:
        values = tensor.data.contiguous()
        dist.broadcast(values, src=0)
        if values is not tensor.data:
            tensor.data.copy_(values)


def whole_tensor(value: Tensor) -> Tensor:
    """All of a tensor that is spread over processes (they ask together); an ordinary one as it is."""
    from torch.distributed.tensor import DTensor

    return value.full_tensor() if isinstance(value, DTensor) else value


def spread_like(value: Tensor, other: Tensor) -> Tensor:
    """This process's share of a whole tensor when `other` is spread over processes; else the tensor as it is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(other, DTensor) or isinstance(value, DTensor) or value.shape != other.shape:
        return value
    here = value.to(other.device)
    return distribute_tensor(here, other.device_mesh, other.placements, src_data_rank=None)


def whole_tree(tree: Any, *, keep: bool = True) -> Any:
    """Nested state with every tensor whole (see `whole_tensor`), on the CPU; without `keep` only help the others."""
    if isinstance(tree, Tensor):
        value = whole_tensor(tree)
        return value.cpu() if keep else None
    if isinstance(tree, Mapping):
        return {key: whole_tree(entry, keep=keep) for key, entry in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(whole_tree(entry, keep=keep) for entry in tree)
    return tree


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load a state whose tensors are whole into an optimiser, whose parameters may be spread over processes."""
    parameters = [value for group in optimizer.param_groups for value in group["params"]]
    spread = {
        number: {
            name: spread_like(value, parameters[number]) if isinstance(value, Tensor) else value
            for name, value in entry.items()
        }
        for number, entry in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread})


def _take_hooks(module: nn.Module) -> Iterator[_TakenHook]:
    for kind in _HOOKS:
        hooks = getattr(module, kind)
        for key, hook in list(hooks.items()):
            if getattr(hook, "__module__", "").startswith("torch.distributed.fsdp"):
                yield hooks, key, hooks.pop(key)
