"""An untrained teacher: what is learned from it comes from the dynamics of distillation alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import nn

from tutelage.teachers.frozen import FrozenTeacher


class RandomTeacher(FrozenTeacher):
    """A freshly initialised, frozen teacher in evaluation mode (Sarnthein et al. 2023, arXiv 2302.12091, section 3).

    Batch norm uses its initial running statistics (mean 0, variance 1). The global random state is left as it was.

    Args:
        model: A builder, called once; or a module, of which a copy is initialised anew (it stays untouched).
        seed: Seed of the initialisation: the same seed gives the same teacher.
        embedding: Also give `Outputs.embedding`.
        taps: Also give `Outputs.features`: module paths by feature name.

    Raises:
        ValueError: A module with parameters of its own cannot initialise itself (it has no `reset_parameters`).

    >>> layer = nn.Linear(2, 2)
    >>> one, same, other = (RandomTeacher(layer, seed=seed).model.weight for seed in (1, 1, 2))
    >>> torch.equal(one, same), torch.equal(one, other), torch.equal(one, layer.weight)
    (True, False, False)
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        seed: int = 0,
        *,
        embedding: bool = False,
        taps: Mapping[str, str] | None = None,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's only: models are made there
            built = _initialised_copy(model) if isinstance(model, nn.Module) else model()
        super().__init__(built, embedding=embedding, taps=taps)


def _initialised_copy(model: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(model).cpu()
    for path, module in fresh.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(
                f"Expected every module with parameters to have `reset_parameters`, but {path!r} "
                f"({type(module).__name__}) has none; give a builder instead of a model."
            )
    return fresh
