"""The loop that runs any method. It knows devices, checkpoints and logging, and nothing about distillation."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, patch_environment
from torch import Tensor, nn

from tutelage.batch import Batch
from tutelage.data.loader import BatchesInOrder, epoch_order, load_batches
from tutelage.data.samples import Samples
from tutelage.objectives.schedules import Progress
from tutelage.training.checkpoints import Checkpoint, load_latest, load_named_state, named_state, save_checkpoint
from tutelage.training.early_stopping import BestSoFar
from tutelage.training.interruption import Interrupted, LostProcess, StopRequest
from tutelage.training.method import BaseMethod, Method
from tutelage.training.monitors import Monitor, Record
from tutelage.training.optimizers import learning_rate_factor, make_optimizer
from tutelage.training.random_state import get_random_state, seeded, set_random_state
from tutelage.training.record import MetricsFile, RunningMean
from tutelage.training.settings import TrainingSettings
from tutelage.training.sharding import Shards, load_optimizer, whole_tree
from tutelage.training.trackers import Trackers

Evaluate = Callable[[], Mapping[str, float]]
"""Metrics by name at this moment of the run, on data that is held out."""


class NonFiniteLoss(ValueError):  # noqa: N818 - named after what happened
    """A loss became NaN or infinite; the text names the step, the term and the batch's stable indices."""


class Trainer:
    """Runs a method over samples.

    On one device, or on several processes under `torchrun` / `accelerate launch`, with the same losses; with
    `sharding: full` (or `accelerate launch --use_fsdp`) each process holds a share of what learns. A run that was
    stopped and resumed ends with the same bits as one that was not (on CPU), and may go on with other processes.

    Args:
        method: What is taught and how.
        train: What is learned from.
        settings: How the run goes.
        evaluate: Called at every evaluation, on every process alike; its metrics are logged with the losses.
        folder: Where `metrics.jsonl` and `checkpoints/` go; None writes nothing.
        monitors: What watches the run.

    >>> from tutelage.data import ArraySamples
    >>> from tutelage.objectives import CrossEntropy
    >>> from tutelage.training import Distillation
    >>> samples = ArraySamples(torch.randn(32, 4), torch.arange(32) % 2)
    >>> method = Distillation(None, nn.Linear(4, 2), CrossEntropy())
    >>> history = Trainer(method, samples, settings=TrainingSettings(epochs=3, batch_size=8)).run()
    >>> [record["step"] for record in history]
    [4, 8, 12]
    """

    def __init__(
        self,
        method: Method,
        train: Samples,
        *,
        settings: TrainingSettings | None = None,
        evaluate: Evaluate | None = None,
        folder: Path | str | None = None,
        monitors: Sequence[Monitor] = (),
    ) -> None:
        if len(train) == 0:
            raise ValueError("Expected argument `train` to hold at least one sample, but it is empty.")
        self.method = method
        self.train = train
        self.settings = settings or TrainingSettings()
        self.evaluate = evaluate
        self.folder = None if folder is None else Path(folder)
        self.monitors = list(monitors)
        self.history: list[Record] = []
        self.step = 0
        batches = math.ceil(len(train) / self.settings.batch_size)
        self.steps_per_epoch = math.ceil(batches / self.settings.gradient_accumulation)
        self.total_steps = self.settings.max_steps or self.settings.epochs * self.steps_per_epoch
        self._best = BestSoFar(self.settings)
        self._running = RunningMean()
        self._hooks: BaseMethod = method if isinstance(method, BaseMethod) else BaseMethod()

    @property
    def progress(self) -> Progress:
        """Where the run is."""
        return Progress(self.step, self.total_steps, self.steps_per_epoch)

    def stop(self) -> None:
        """End the run after this record, for good: a resumed run is over, too. For monitors, on the main process."""
        self._best.stopped = True

    def run(self, *, resume: bool = False) -> list[Record]:
        """Train to the end and give the history: one record a log or evaluation.

        Args:
            resume: Go on from the newest whole checkpoint in `folder`; from the start when there is none yet.

        Raises:
            NonFiniteLoss: A loss became NaN or infinite. Nothing of that step is kept.
            Interrupted: Ctrl-C or SIGTERM came. A checkpoint was written first.
            LostProcess: Another process of the run ended.
            ValueError: The checkpoint in `folder` is of another run, or the method cannot be sharded.
        """
        trackers = list(self.settings.trackers)
        AcceleratorState._reset_state()  # a run before this one may have had another precision
        self._shards: Shards | None = None
        asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true" or self.settings.sharding == "full"
        with patch_environment(ACCELERATE_USE_FSDP="false"):  # sharding is done here, and not by Accelerate
            self.accelerator = Accelerator(
                cpu=not torch.accelerator.is_available(),  # said aloud, since only then gloo joins processes on CPUs
                mixed_precision=self.settings.precision,
                log_with=trackers or None,
            )
        self._several = self.accelerator.num_processes > 1
        with (
            seeded(self.settings.seed + self.accelerator.process_index, self.accelerator.device),
            StopRequest() as stop,
        ):
            self._prepare(sharded=asked and self._several)
            self._trackers = Trackers(self.accelerator, self.settings) if trackers else None
            self._file = MetricsFile(self.folder if self.accelerator.is_main_process else None)
            self._restore(resume)
            self._watching = self.monitors if self.accelerator.is_main_process else []
            with self._whole():
                for monitor in self._watching:
                    monitor.on_start(self)
            try:
                self._loop(stop)
            except RuntimeError as error:
                if self._several and LostProcess.caused(error):
                    raise LostProcess(self.step, self.total_steps, self._kept()) from error
                raise
            finally:
                for monitor in self._watching:
                    monitor.on_end(self.history)
                if self._trackers is not None:
                    self._trackers.finish()
        return self.history

    def _loop(self, stop: StopRequest) -> None:
        """The whole training path: batches down, losses back, one optimiser step, and now and then a record."""
        last_checkpoint = started = time.monotonic()
        progress = self.progress
        while self.step < self.total_steps and not self._best.exhausted:
            for group in self._epoch(self.step // self.steps_per_epoch, self.step % self.steps_per_epoch):
                self._hooks.advance(progress)
                self._set_learning_rate(progress)
                values = self._optimizer_step(group)
                self.step += 1
                progress = self.progress
                with self._whole() if self._follows else contextlib.nullcontext():
                    self._hooks.after_step(progress)
                for monitor in self._watching:
                    monitor.on_step(progress, values)
                if self._due(self.settings.log_every) or self._due(self.settings.evaluate_every):
                    self._record(started)
                now = time.monotonic()
                due, stopped = self._agreed(self._checkpoint_due(now - last_checkpoint), stop.requested)
                if due:
                    self._checkpoint()
                    last_checkpoint = now
                if stopped:
                    kept = self._checkpoint()
                    self._end_sharding()
                    raise Interrupted(self.step, self.total_steps, kept, self.folder)
                if self.step >= self.total_steps or self._best.exhausted:
                    break
        self._best.put_back(self._modules)
        self._checkpoint()
        self._end_sharding()

    def _optimizer_step(self, group: Sequence[tuple[Batch, float, bool]]) -> dict[str, float]:
        """Forward and backward of every batch of a group, then one step of every optimiser."""
        values: dict[str, float] = {}
        for batch, weight, last in group:
            try:
                with self._exchanging(last):
                    values = self._forward_backward(batch, weight)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                raise torch.OutOfMemoryError(
                    f"Out of memory in step {self.step} with {len(batch)} samples a process: lower `batch_size` "
                    f"(now {self.settings.batch_size}) and raise `gradient_accumulation` "
                    f"(now {self.settings.gradient_accumulation}) by the same factor for the same result; "
                    f"{self._kept()}."
                ) from error
        for optimizer, parameters in self._optimizers.values():
            if self.settings.clip_norm is not None:
                self.accelerator.clip_grad_norm_(parameters, self.settings.clip_norm)
            optimizer.step()
            optimizer.zero_grad()
        return values

    def _forward_backward(self, batch: Batch, weight: float) -> dict[str, float]:
        losses: dict[str, Tensor] = self._step(batch)
        values = {name: loss.item() for name, loss in losses.items()}
        total_value = sum(values.values())
        if not math.isfinite(total_value) or (self.settings.max_loss and total_value > self.settings.max_loss):
            raise self._non_finite(values, batch)
        self._running.add(values, len(batch) if weight else 0)
        total = sum(losses.values())
        assert isinstance(total, Tensor)
        weighted = total if weight == 1.0 else total * weight
        if self._scales:
            self.accelerator.backward(weighted)
        else:
            weighted.backward()  # type: ignore[no-untyped-call]
        return values

    def _epoch(self, epoch: int, first: int) -> Iterator[list[tuple[Batch, float, bool]]]:
        """An epoch's groups from its `first` one on: for each optimiser step, (batch, weight, is the last) by batch.

        The weight makes the step's gradient that of the mean loss over all its samples, however they are split into
        batches and among processes.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        settings = self.settings
        order = epoch_order(len(self.train), seed=settings.seed, epoch=epoch, shuffle=settings.shuffle)
        batches = torch.split(order, settings.batch_size)[first * settings.gradient_accumulation :]
        if world > 1:
            shares = [rows[rank::world] if len(rows) >= world else rows[:1] for rows in batches]
        else:
            shares = list(batches)
        seed = ((settings.seed * 1_000_003 + epoch) * 1_000_003) * world + rank
        skipped = first * settings.gradient_accumulation
        loaded = load_batches(self.train, shares, num_workers=settings.num_workers, seed=seed, first=skipped)
        for start in range(0, len(batches), settings.gradient_accumulation):
            group = batches[start : start + settings.gradient_accumulation]
            samples = sum(len(rows) for rows in group)
            entries = []
            for number, rows in enumerate(group):
                batch = next(loaded)
                own = len(batch) if rank < len(rows) else 0  # fewer samples than processes: the others' weight is zero
                moved = batch if self._on_cpu else batch.to(self.accelerator.device, non_blocking=True)
                entries.append((moved, own * world / samples, number == len(group) - 1))
            yield entries

    def _prepare(self, *, sharded: bool) -> None:
        """Modules to the device, shape-dependent parts built, optimisers made, gradients synchronised."""
        device = self.accelerator.device
        for module in {**self.method.trainable(), **self._hooks.modules()}.values():
            module.to(device)
        rows = torch.arange(min(len(self.train), self.settings.batch_size))
        self._hooks.setup(self.train.batch(rows).to(device))
        self._modules = self.method.trainable()
        for module in self._modules.values():
            module.to(device).train()
        self._step: Any = self.method.step
        if sharded:
            self._check_sharding()
            self._step = _StepModule(self.method, self.accelerator.autocast)
            self._shards = Shards(self._step, device)
        elif self._several or self.settings.precision != "no":
            self._step = self.accelerator.prepare_model(_StepModule(self.method))
        self._follows = bool(self._hooks.stateful())  # what is kept besides (a moving average) follows whole weights
        self._optimizers: dict[str, tuple[torch.optim.Optimizer, list[nn.Parameter]]] = {}
        for name, module in self._modules.items():
            parameters = [value for value in module.parameters() if value.requires_grad]
            if parameters:
                optimizer = make_optimizer(parameters, self.settings)
                if self.settings.precision == "fp16":
                    optimizer = self.accelerator.prepare_optimizer(optimizer)
                self._optimizers[name] = (optimizer, parameters)
        if not self._optimizers:
            raise ValueError("Expected the method to have parameters that learn, but none requires a gradient.")
        self._on_cpu = device.type == "cpu"
        self._scales = self.settings.precision == "fp16"  # small gradients are scaled up, by Accelerate

    def _check_sharding(self) -> None:
        if not self._hooks.shardable:
            name = type(self.method).__name__
            raise ValueError(f"Expected `sharding` to be `none` for {name}, whose steps need whole modules.")
        if self.settings.precision == "fp16":
            raise ValueError("Expected `precision` to be `no` or `bf16` with `sharding: full`, but got `fp16`.")

    def _whole(self) -> contextlib.AbstractContextManager[None]:
        """Inside the block the modules that learn are whole, where they are sharded."""
        return contextlib.nullcontext() if self._shards is None else self._shards.whole()

    def _end_sharding(self) -> None:
        if self._shards is not None:
            self._shards.undo()
            self._shards = None

    def _exchanging(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Processes exchange gradients after the last batch of a step, and only then."""
        if self._shards is not None:
            self._shards.exchange_gradients(last)
        alone = self._shards is not None or not self._several or last
        return contextlib.nullcontext() if alone else self.accelerator.no_sync(self._step)  # type: ignore[no-any-return]

    def _agreed(self, *wishes: bool) -> list[bool]:
        """What any process wishes, all do: they write checkpoints, and stop, after the same step."""
        if not self._several:
            return list(wishes)
        told = torch.tensor(wishes, dtype=torch.float32, device=self.accelerator.device)
        return [count > 0 for count in self.accelerator.reduce(told, "sum").tolist()]

    def _set_learning_rate(self, progress: Progress) -> None:
        rate = self.settings.learning_rate * learning_rate_factor(self.settings, progress)
        for optimizer, _ in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        self._learning_rate = rate

    def _due(self, every: int | None) -> bool:
        return self.step % (every or self.steps_per_epoch) == 0 or self.step == self.total_steps

    def _checkpoint_due(self, seconds: float) -> bool:
        if self.settings.checkpoint_every is not None:
            return self.step % self.settings.checkpoint_every == 0
        return self.step % self.steps_per_epoch == 0 and seconds >= self.settings.checkpoint_seconds

    def _record(self, started: float) -> None:
        means = self._running.take(self.accelerator)
        record: Record = {
            "step": self.step,
            "epoch": round(self.progress.epoch, 6),
            "learning_rate": self._learning_rate,
        }
        record |= {"loss": sum(means.values()), **{f"loss/{name}": value for name, value in means.items()}}
        record |= self._hooks.figures()
        with self._whole():
            if self.evaluate is not None and self._due(self.settings.evaluate_every):
                modes = [(module, module.training) for owner in self._modules.values() for module in owner.modules()]
                record |= self.evaluate()
                for module, mode in modes:
                    module.training = mode
            record["seconds"] = round(time.monotonic() - started, 3)
            for monitor in self._watching:
                monitor.on_record(record)
        if self._several:  # only the main process has monitors, and its figures decide for all when the run ends
            told: list[Any] = [record, self._best.stopped]
            record, self._best.stopped = broadcast_object_list(told)
        self._best.see(record, self._modules)
        self.history.append(record)
        self._file.append(record)
        if self._trackers is not None:
            self._trackers.log(record)

    def _checkpoint(self) -> Path | None:
        if self.folder is None:
            return None
        running = self._running.state_dict(self.accelerator)
        learned: dict[str, Any] = {
            "modules": named_state(self._modules),
            "optimizers": {name: optimizer.state_dict() for name, (optimizer, _) in self._optimizers.items()},
            "best": self._best.state_dict(),
        }
        if self._shards is not None:
            learned = whole_tree(learned, keep=self.accelerator.is_main_process)
        if not self.accelerator.is_main_process:
            return None
        state = {
            "identity": self._identity(),
            "optimizers": learned["optimizers"],
            "method": {name: value.state_dict() for name, value in self._hooks.stateful().items()},
            "random": get_random_state(self.accelerator.device),
            "best": learned["best"],
            "running": running,
            "history": self.history,
        }
        checkpoint = Checkpoint(self.step, learned["modules"], state)
        return save_checkpoint(self.folder / "checkpoints", checkpoint, keep=self.settings.keep_checkpoints)

    def _restore(self, resume: bool) -> None:
        """Take up the newest checkpoint, or start the run where there is none."""
        checkpoint = load_latest(self.folder / "checkpoints") if resume and self.folder is not None else None
        if checkpoint is None:
            self._file.keep_until(0)
            settings, device = self.settings, self.accelerator.device
            self._hooks.prepare(
                BatchesInOrder(self.train, settings.batch_size, device, num_workers=settings.num_workers)
            )
            return
        theirs, ours = checkpoint.state["identity"], self._identity()
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise ValueError(
                    f"Expected the checkpoint in {self.folder} to be of this run, "
                    f"but its {name} is {theirs.get(name)!r} and not {value!r}."
                )
        load_named_state(self._modules, checkpoint.modules)
        for name, (optimizer, _) in self._optimizers.items():
            load_optimizer(optimizer, checkpoint.state["optimizers"][name])
        for name, value in self._hooks.stateful().items():
            value.load_state_dict(checkpoint.state["method"][name])
        self._best.load_state_dict(checkpoint.state["best"])
        if self.accelerator.is_main_process:
            self._running.load_state_dict(checkpoint.state["running"])
        self.history = list(checkpoint.state["history"])
        self.step = checkpoint.step
        if self.accelerator.is_main_process:
            set_random_state(checkpoint.state["random"], self.accelerator.device)
        else:
            torch.manual_seed(self.settings.seed + self.accelerator.process_index + 7919 * self.step)
        self._file.keep_until(self.step)

    def _identity(self) -> dict[str, Any]:
        """What must be alike for a checkpoint to be of this run; cadence and trackers may change."""
        free = {"num_workers", "sharding", "checkpoint_every", "checkpoint_seconds", "keep_checkpoints", "trackers"}
        chosen = self.settings.model_dump(mode="json", exclude=free | {"project"})
        return {**chosen, "samples": len(self.train), "data": self.train.fingerprint()}

    def _non_finite(self, values: Mapping[str, float], batch: Batch) -> NonFiniteLoss:
        limit = self.settings.max_loss or math.inf
        bad = [name for name, value in values.items() if not math.isfinite(value) or value > limit] or list(values)
        shown = ", ".join(str(index) for index in batch.index[:16].tolist()) + (", …" if len(batch) > 16 else "")
        return NonFiniteLoss(
            f"Step {self.step}: the loss of `{bad[0]}` became {values[bad[0]]} "
            f"on the samples with index {shown}; {self._kept()}."
        )

    def _kept(self) -> str:
        folder = None if self.folder is None else self.folder / "checkpoints"
        there = folder is not None and folder.exists()
        return f"the last good checkpoint is in {folder}" if there else "there is no checkpoint yet"


class _StepModule(nn.Module):
    """A method's step as a module of what learns, so that DDP and FSDP see just these parameters."""

    def __init__(self, method: Method, context: Callable[[], Any] = contextlib.nullcontext) -> None:
        super().__init__()
        self.learners = nn.ModuleDict(method.trainable())
        self._method = (method,)  # in a tuple: a method that is a module is not registered here
        self._context = context

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        with self._context():
            return self._method[0].step(batch)


def _out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch (on a CPU it raises an error of no kind of its own) or Python got no memory."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
