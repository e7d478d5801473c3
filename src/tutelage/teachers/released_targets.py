"""A teacher's soft targets as they may leave the house: hot and noisy where private, drawn once, stored."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_non_negative, check_option
from tutelage.batch import Batch
from tutelage.data.samples import Samples
from tutelage.objectives.swing import NoiseLaw, NoiseOn, perturb_distribution, swing_soft_targets
from tutelage.outputs import Outputs
from tutelage.teachers.cache import TeacherCache
from tutelage.teachers.cache_format import StoredDtype
from tutelage.teachers.cache_writer import build_cache
from tutelage.teachers.fingerprint import teacher_fingerprint
from tutelage.teachers.teacher import Teacher

SKIPPED = -100
"""The target of positions that do not count."""


def release_soft_targets(
    teacher: Teacher,
    samples: Samples,
    folder: Path | str,
    *,
    base_temperature: float = 1.0,
    max_temperature: float = 64.0,
    exponent: float = 1.0,
    epsilon: float = math.inf,
    noise_on: NoiseOn = "private",
    law: NoiseLaw = "laplace",
    sigma: float = 0.0,
    noise_key: Literal["position", "content"] = "position",
    seed: int = 0,
    sensitivity: str = "sensitivity",
    top_k: int | None = None,
    dtype: StoredDtype = "float16",
    batch_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> TeacherCache:
    """Ask a teacher once about every sample and store its soft targets as swing distillation lets them out.

    The cache's logits are the logarithms of the targets (`swing_soft_targets`), so a student's process needs neither
    the teacher nor its raw outputs: `SwingDistillation(released=True)` takes them as they are. The noise of a position
    depends on the seed, the sample's stable index and the position alone: it is the same in every epoch, however often
    targets are released. **Whoever knows the seed can take the noise off again: draw a large one and keep it.**

    Copies of one secret in several samples get noise of their own each, which averages out over them. With
    `noise_key="content"` the noise of a private span (positions in a row with a sensitivity above 0) depends on the
    span's tokens instead of its place, so that all its copies get the same.

    Args:
        teacher: Any teacher of a language model; logits `[batch, time, vocabulary]`.
        samples: What it is asked; batches have the sensitivities of their target tokens among their extras.
        folder: Where the cache goes; see `build_cache`.
        base_temperature: The temperature of public tokens.
        max_temperature: The temperature of private tokens.
        exponent: See `swing_temperature`.
        epsilon: ε: Laplace noise of scale 2p/ε, with p the sensitivity; infinity for none.
        noise_on: `"private"` scales the noise by p, `"all"` gives every token the noise of p = 1.
        law: `"laplace"`, or `"gaussian"` for normal noise of standard deviation p · `sigma`.
        sigma: For `law="gaussian"`, in place of `epsilon`.
        noise_key: `"position"` or `"content"`.
        seed: Fixes all noise.
        sensitivity: The extra that holds the sensitivities `[batch, time]`.
        top_k: Keep the k likeliest tokens and the total of the others.
        dtype: Precision of the stored logarithms.
        batch_size: Samples in a call of the teacher.
        progress: See `build_cache`.

    Returns:
        The cache, opened.

    Raises:
        ValueError: A batch without sensitivities, a setting outside its range, or as for `build_cache`.

    >>> import tempfile
    >>> from tutelage.data import ArraySamples
    >>> from tutelage.teachers import FrozenTeacher
    >>> texts = ArraySamples(torch.eye(3).unsqueeze(0), extras={"sensitivity": torch.tensor([[0.0, 0.0, 1.0]])})
    >>> teacher = FrozenTeacher(nn.Linear(3, 4))
    >>> cache = release_soft_targets(teacher, texts, tempfile.mkdtemp(), epsilon=2.0, dtype="float32")
    >>> released = cache.read(torch.tensor([0])).logits.softmax(dim=-1)
    >>> raw = teacher(texts.batch(torch.tensor([0]))).logits.softmax(dim=-1)
    >>> [bool(torch.allclose(released[0, position], raw[0, position])) for position in range(3)]
    [True, True, False]
    """
    check_option(noise_key, "noise_key", ("position", "content"))
    check_option(noise_on, "noise_on", ("private", "all"))
    check_option(law, "law", ("laplace", "gaussian"))
    check_non_negative(sigma, "sigma")
    if not epsilon > 0:
        raise ValueError(f"Expected argument `epsilon` to be positive, or infinite for no noise, but got {epsilon}.")
    releasing = _ReleasingTeacher(
        teacher,
        sensitivity,
        {"base_temperature": base_temperature, "max_temperature": max_temperature, "exponent": exponent},
        scale=sigma if law == "gaussian" else 2 / epsilon,
        law=law,
        noise_on=noise_on,
        noise_key=noise_key,
        seed=seed,
    )
    first = next(teacher.parameters(), None) if isinstance(teacher, nn.Module) else None
    return build_cache(
        releasing,
        samples,
        folder,
        top_k=top_k,
        dtype=dtype,
        batch_size=batch_size,
        device=None if first is None else first.device,
        progress=progress,
    )


class _ReleasingTeacher:
    """Gives the logarithms of a teacher's released targets."""

    def __init__(
        self,
        teacher: Teacher,
        sensitivity: str,
        temperatures: dict[str, Any],
        *,
        scale: float,
        law: NoiseLaw,
        noise_on: NoiseOn,
        noise_key: str,
        seed: int,
    ) -> None:
        self.teacher = teacher
        self.sensitivity = sensitivity
        self.temperatures = temperatures
        self.scale = scale
        self.law: NoiseLaw = law
        self.noise_on = noise_on
        self.noise_key = noise_key
        self.seed = seed

    def __call__(self, batch: Batch) -> Outputs:
        sensitivity = batch.extras.get(self.sensitivity)
        if sensitivity is None:
            raise ValueError(f"Expected batches to have the extra {self.sensitivity!r}, but they have none.")
        logits = self.teacher(batch).logits
        if logits is None:
            raise ValueError("Expected the teacher to give logits, but it gives none.")
        probs = swing_soft_targets(logits, sensitivity, **self.temperatures).cpu()
        return Outputs(logits=self._noisy(probs, sensitivity.cpu(), batch).log().to(logits.device))

    def fingerprint(self) -> str:
        """The hash of the teacher and of everything that decides what is released."""
        settings: list[Any] = [
            *(self.sensitivity, sorted(self.temperatures.items()), self.scale),
            *(self.law, self.noise_on, self.noise_key, self.seed),
        ]
        return hashlib.sha256(f"released {teacher_fingerprint(self.teacher)} {settings}".encode()).hexdigest()

    def _noisy(self, probs: Tensor, sensitivity: Tensor, batch: Batch) -> Tensor:
        if self.scale == 0:
            return probs
        scale = self.scale * (sensitivity if self.noise_on == "private" else torch.ones_like(sensitivity))
        noisy = probs.clone()
        for row, index in enumerate(batch.index.tolist()):
            if not scale[row].any():
                continue
            noisy[row] = self._perturbed(probs[row], scale[row], f"{self.seed} sample {index}")
            if self.noise_key == "content":
                assert batch.target is not None
                for span, tokens in private_spans(sensitivity[row], batch.target[row].cpu()):
                    key = f"{self.seed} span {tokens}"
                    noisy[row, span] = self._perturbed(probs[row, span], scale[row, span], key)
        return noisy

    def _perturbed(self, probs: Tensor, scale: Tensor, key: str) -> Tensor:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big", signed=True))
        return perturb_distribution(probs, scale=scale, law=self.law, generator=generator)


def private_spans(sensitivity: Tensor, target: Tensor) -> Iterator[tuple[slice, list[int]]]:
    """Positions in a row with a sensitivity above 0, and the tokens that stand there.

    >>> list(private_spans(torch.tensor([0.0, 1.0, 0.5, 0.0]), torch.tensor([7, 8, 9, -100])))
    [(slice(1, 3, None), [8, 9])]
    """
    private = ((sensitivity > 0) & (target != SKIPPED)).tolist()
    start = 0
    while True in private[start:]:
        start = private.index(True, start)
        stop = private.index(False, start) if False in private[start:] else len(private)
        yield slice(start, stop), target[start:stop].tolist()
        start = stop
