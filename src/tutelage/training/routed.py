"""A student that learns from several frozen teachers, of whom a router picks some for every sample."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_non_negative, check_option, check_positive
from tutelage.batch import Batch
from tutelage.data.samples import Samples
from tutelage.models.call import call_model
from tutelage.objectives.routing import (
    BalanceMode,
    InstanceRouter,
    load_balancing_loss,
    routed_distillation_loss,
    top_k_routing,
)
from tutelage.objectives.schedules import Progress, Schedule
from tutelage.training.method import BaseMethod

Routing = Literal["learned", "random", "aggregated"]
RoutingGradient = Literal["none", "weighted"]


@dataclass(frozen=True, slots=True)
class MultipliedEvery:
    """A number that is multiplied after every epoch whose index `every` divides, the first epoch's 0 included.

    start · factor^⌈epoch / every⌉: `start` holds for one epoch only.

    Args:
        start: The first epoch's value.
        factor: What it is multiplied by.
        every: Epochs between two multiplications.

    Source: the weights of the authors' code of MST-Distill.

    >>> [MultipliedEvery(1.0, 0.5, 30)(epoch) for epoch in (0, 1, 30, 31, 60, 61)]
    [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]
    """

    start: float
    factor: float
    every: int

    def __post_init__(self) -> None:
        check_non_negative(self.start, "start")
        check_positive(self.factor, "factor")
        check_at_least(self.every, "every", 1)

    def __call__(self, progress: Progress | float) -> float:
        """The value in this epoch (counted from 0), or at this place in the run."""
        epoch = math.floor((progress.epoch if isinstance(progress, Progress) else progress) + 1e-9)
        return self.start * self.factor ** math.ceil(epoch / self.every)


class TeacherGroup(nn.Module):
    """Networks that are frozen and asked together: logits `[batch, teachers, classes]` of a batch, without a gradient.

    Args:
        networks: The networks by name; their parameters stop requiring gradients.
        readers: What each is called with: the reader's name for `Batch.inputs_for`, by the network's name (`teacher`
            for those that are not named).

    >>> group = TeacherGroup({"wide": nn.Linear(4, 3), "other view": nn.Linear(2, 3)}, {"other view": "auxiliary"})
    >>> batch = Batch(torch.ones(5, 4), None, torch.arange(5), {"auxiliary.input": torch.ones(5, 2)})
    >>> group(batch).shape
    torch.Size([5, 2, 3])
    """

    def __init__(self, networks: Mapping[str, nn.Module], readers: Mapping[str, str] | None = None) -> None:
        super().__init__()
        if not networks:
            raise ValueError("Expected argument `networks` to hold at least one teacher, but it is empty.")
        self.names = tuple(networks)
        self.networks = nn.ModuleList(networks.values()).requires_grad_(False).eval()
        self._readers = [(readers or {}).get(name, "teacher") for name in self.names]
        self.register_buffer("_index", None, persistent=False)
        self.register_buffer("_logits", None, persistent=False)
        self._index: Tensor | None
        self._logits: Tensor | None

    def __len__(self) -> int:
        return len(self.names)

    def remember(self, samples: Samples, *, batch_size: int = 512) -> TeacherGroup:
        """Ask once about all samples, and from now on answer from memory, by their stable index.

        For samples that are the same each time they are drawn; float32, samples · teachers · classes numbers.
        """
        device = next(self.parameters()).device
        batches = [samples.batch(rows).to(device) for rows in torch.split(torch.arange(len(samples)), batch_size)]
        self._index = self._logits = None
        logits = torch.cat([self(batch) for batch in batches])
        self._index, order = torch.cat([batch.index for batch in batches]).sort()
        self._logits = logits[order]
        return self

    @torch.no_grad()
    def forward(self, batch: Batch) -> Tensor:
        """Logits `[batch, teachers, classes, …]`, without a gradient.

        Raises:
            ValueError: Teachers whose class counts differ, or a sample that they were not asked about.
        """
        if self._logits is not None and self._index is not None:
            rows = torch.searchsorted(self._index, batch.index).clamp(max=len(self._index) - 1)
            if not torch.equal(self._index[rows], batch.index):
                raise ValueError("Expected the batch to hold samples that the teachers were asked about before.")
            return self._logits[rows]
        if any(module.training for module in self.networks.modules()):
            self.networks.eval()
        told = [logits_of(network, batch, reader) for network, reader in zip(self.networks, self._readers, strict=True)]
        for name, logits in zip(self.names, told, strict=True):
            if logits.shape != told[0].shape:
                raise ValueError(
                    f"Expected all teachers to give logits of one shape, but {self.names[0]!r} gives "
                    f"{tuple(told[0].shape)} and {name!r} {tuple(logits.shape)}."
                )
        return torch.stack(told, dim=1)


class RoutedDistillation(BaseMethod):
    """A student learns from labels and, sample by sample, from the frozen teachers that a router picks for it.

    task_weight · CE + distillation_weight · `routed_distillation_loss` + balance_weight · `load_balancing_loss`.

    The router reads the student's logits. Its choice has no gradient, so with `routing_gradient="none"` (the authors'
    code) it only ever learns to spread the samples, and this balancing reaches the student too. With `"weighted"` the
    chosen teachers' divergences are weighted by the router's probabilities, renormalised over the chosen ones, and the
    router learns which of them the student can follow. With a single chosen teacher that weight is always 1.

    Args:
        teachers: A `TeacherGroup`, or networks by name.
        student: The network that learns; it is called with the batch's inputs.
        router: Gives `[batch, teachers]` probabilities for the student's logits; None makes an `InstanceRouter`.
        k: Teachers a sample.
        temperature: T of the divergence.
        routing: `"learned"` by the router; `"random"`: other teachers each time, without a router; `"aggregated"`:
            one divergence from the mean of all teachers' logits under the router's probabilities, detached.
        routing_gradient: `"none"` or `"weighted"`.
        task_weight: Of the cross-entropy; a number or a schedule.
        distillation_weight: Of the divergence. By default the authors': 1 in the first epoch, then halved, and again
            after every 30 epochs.
        balance_weight: Of the balancing. By default the authors': 1, times 0.9 after the first and every 10 epochs.
        balance_mode: See `load_balancing_loss`.

    Raises:
        ValueError: `k` outside 1 … teachers, an unknown option, or `routing_gradient="weighted"` where it would do
            nothing (`k=1`, or a routing that is not learned).

    Losses are named `task`, `distillation` and `balance`.

    Source: Li et al., "MST-Distill", arXiv 2507.07015, dynamic distillation, and the authors' code; `"weighted"` is
    ours.

    >>> method = RoutedDistillation({"one": nn.Linear(4, 3), "two": nn.Linear(4, 3)}, nn.Linear(4, 3))
    >>> batch = Batch(torch.ones(2, 4), torch.tensor([0, 1]), torch.arange(2))
    >>> method.setup(batch)
    >>> list(method.step(batch)), sum(method.take_routing_shares().values())
    (['task', 'distillation', 'balance'], 1.0)
    """

    def __init__(
        self,
        teachers: TeacherGroup | Mapping[str, nn.Module],
        student: nn.Module,
        router: nn.Module | None = None,
        *,
        k: int = 1,
        temperature: float = 4.0,
        routing: Routing = "learned",
        routing_gradient: RoutingGradient = "none",
        task_weight: float | Schedule = 1.0,
        distillation_weight: float | Schedule = MultipliedEvery(1.0, 0.5, 30),
        balance_weight: float | Schedule = MultipliedEvery(1.0, 0.9, 10),
        balance_mode: BalanceMode = "kl",
    ) -> None:
        check_option(routing, "routing", ("learned", "random", "aggregated"))
        check_option(routing_gradient, "routing_gradient", ("none", "weighted"))
        check_option(balance_mode, "balance_mode", ("kl", "cv"))
        check_positive(temperature, "temperature")
        self.teachers = teachers if isinstance(teachers, TeacherGroup) else TeacherGroup(teachers)
        if not 1 <= k <= len(self.teachers):
            raise ValueError(f"Expected argument `k` to be between 1 and {len(self.teachers)} teachers, but got {k}.")
        if routing_gradient == "weighted" and (k == 1 or routing != "learned"):
            raise ValueError(
                "Expected `routing_gradient='weighted'` only with learned routing and `k` of at least 2: the "
                f"renormalised weight of a single teacher is always 1; but got {routing!r} and k = {k}."
            )
        self.student = student
        self.router = router
        self.k, self.temperature = k, temperature
        self.routing: Routing = routing
        self.routing_gradient: RoutingGradient = routing_gradient
        self.balance_mode: BalanceMode = balance_mode
        self.weights = {"task": task_weight, "distillation": distillation_weight, "balance": balance_weight}
        self._counts = torch.zeros(len(self.teachers), dtype=torch.float64)
        self.advance(Progress(step=0, total_steps=1, steps_per_epoch=1))

    def setup(self, batch: Batch) -> None:
        """Make the router, unless it was given or none is needed."""
        if self.router is None and self.routing != "random":
            taught: Tensor = self.teachers(batch)
            self.router = InstanceRouter(taught.shape[2], len(self.teachers), dense=taught.ndim == 5).to(taught.device)

    def trainable(self) -> dict[str, nn.Module]:
        """The student, and the router where there is one."""
        return {"student": self.student} | ({} if self.router is None else {"router": self.router})

    def modules(self) -> dict[str, nn.Module]:
        """The teachers."""
        return {"teachers": self.teachers}

    def advance(self, progress: Progress) -> None:
        """Bring the weights to their values at this place in the run."""
        self._factors = {
            name: float(weight(progress)) if callable(weight) else weight for name, weight in self.weights.items()
        }

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted losses of a batch."""
        if batch.target is None:
            raise ValueError("Expected the samples to have a target, but they have none.")
        logits = logits_of(self.student, batch)
        taught: Tensor = self.teachers(batch)
        losses = {"task": F.cross_entropy(logits.float(), batch.target.long())}
        weights = None
        if self.routing == "random":
            chosen = torch.rand(taught.shape[:2], device=taught.device).topk(self.k, dim=1).indices
        else:
            if self.router is None:
                raise ValueError("Expected a router: give one, or call `setup` first, as a trainer does.")
            probabilities: Tensor = self.router(logits)
            chosen = top_k_routing(probabilities, self.k)
            losses["balance"] = load_balancing_loss(probabilities, mode=self.balance_mode)
            if self.routing_gradient == "weighted":
                weights = probabilities.gather(1, chosen)
                weights = weights / weights.sum(dim=1, keepdim=True)
        self._count(chosen)
        if self.routing == "aggregated":
            taught = torch.einsum("bt,bt...->b...", probabilities.detach().to(taught.dtype), taught).unsqueeze(1)
            chosen = torch.zeros_like(chosen[:, :1])
        losses["distillation"] = routed_distillation_loss(
            logits, taught, chosen, temperature=self.temperature, weights=weights
        )
        return {name: losses[name] * self._factors[name] for name in self.weights if name in losses}

    def _count(self, chosen: Tensor) -> None:
        self._counts += torch.bincount(chosen.flatten(), minlength=len(self.teachers)).cpu()

    def take_routing_shares(self) -> dict[str, float]:
        """How often each teacher was picked since the last call (`routing/NAME`), as shares; none without a step."""
        total = self._counts.sum().item()
        shares = {
            f"routing/{name}": count / total
            for name, count in zip(self.teachers.names, self._counts.tolist(), strict=True)
            if total
        }
        self._counts.zero_()
        return shares


def logits_of(network: nn.Module, batch: Batch, reader: str = "student") -> Tensor:
    """The logits of a network that sees a batch in its own way (`Batch.inputs_for`).

    >>> logits_of(nn.Linear(4, 3), Batch(torch.ones(2, 4), None, torch.arange(2))).shape
    torch.Size([2, 3])
    """
    logits = call_model(network, batch.inputs_for(reader)).logits
    if logits is None:
        raise ValueError(f"Expected {type(network).__name__} to give logits, but it gives none.")
    return logits


def routing_entropy(shares: Sequence[float]) -> float:
    """Entropy −Σ p ln p of routing shares in nats: 0 when one teacher gets all samples, ln N when all get as many.

    >>> round(routing_entropy([0.5, 0.5, 0.0]), 4)
    0.6931
    """
    return -sum(share * math.log(share) for share in shares if share > 0)
