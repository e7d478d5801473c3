"""One hash for one teacher: the same weights and the same architecture give the same hash in every process."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn


def model_fingerprint(model: nn.Module) -> str:
    """The SHA-256 of a model's specification and of every parameter and buffer.

    The specification is the class and the printed architecture (`repr`), without memory addresses, so that two models
    with equal weights but another activation differ. Two models that differ in nothing of this have equal outputs,
    unless their `forward` reads plain attributes that `repr` does not show: give such a module an `extra_repr`.

    Args:
        model: Any module; neither its mode nor its device counts.

    Returns:
        64 hexadecimal digits.

    >>> layer = nn.Linear(2, 2)
    >>> before = model_fingerprint(layer)
    >>> with torch.no_grad():
    ...     _ = layer.weight[0, 0].add_(1)
    >>> before == model_fingerprint(layer), len(before)
    (False, 64)
    """
    digest = hashlib.sha256()
    specification = re.sub(r" at 0x[0-9a-fA-F]+", "", repr(model))
    digest.update(f"{type(model).__module__}.{type(model).__qualname__}\n{specification}\n".encode())
    for name, value in sorted(model.state_dict(keep_vars=False).items()):
        if not isinstance(value, torch.Tensor):  # `get_extra_state` may give anything
            digest.update(f"{name} {value!r}\n".encode())
            continue
        whole = value.detach().cpu().contiguous()
        digest.update(f"{name} {whole.dtype} {tuple(whole.shape)}\n".encode())
        digest.update(whole.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def teacher_fingerprint(teacher: object) -> str:
    """What identifies a teacher: its own `fingerprint()`, or `model_fingerprint` of a bare module.

    Raises:
        ValueError: It has neither.

    >>> teacher_fingerprint(nn.Linear(2, 2)) == teacher_fingerprint(nn.Linear(2, 2))
    False
    """
    own = getattr(teacher, "fingerprint", None)
    if callable(own):
        return str(own())
    if isinstance(teacher, nn.Module):
        return model_fingerprint(teacher)
    raise ValueError(
        f"Expected the teacher {type(teacher).__name__} to have a method `fingerprint()`, but it has none."
    )
