"""How a run goes: steps, optimiser, schedule, precision, cadence. One typed model behind YAML, CLI and Python."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator


class StrictModel(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class EarlyStopping(StrictModel):
    """Stop when a metric has not become better for some evaluations."""

    metric: str = Field(
        "validation_loss", description="Metric to watch, as logged; one with `loss` is better when lower."
    )
    patience: PositiveInt = Field(5, description="Evaluations without improvement before the run stops.")
    minimum_change: float = Field(0.0, ge=0, description="Improvements up to this size do not count.")

    @property
    def lower_is_better(self) -> bool:
        """Whether smaller values of the metric are better."""
        return any(word in self.metric for word in ("loss", "error", "perplexity"))


class TrainingSettings(StrictModel):
    """Settings of the trainer.

    A batch is split among processes, so `batch_size` is global: one process and several see the same batches and give
    the same losses. An optimiser step sees `batch_size * gradient_accumulation` samples, and its gradient is that of
    their mean loss, in a last, smaller batch too.
    """

    epochs: PositiveInt = Field(40, description="Passes over the training data.")
    max_steps: PositiveInt | None = Field(
        None, description="Optimiser steps; when given, it decides instead of `epochs`."
    )
    batch_size: PositiveInt = Field(64, description="Samples a batch, over all processes.")
    gradient_accumulation: PositiveInt = Field(1, description="Batches an optimiser step.")
    optimizer: str = Field("adamw", description="adamw, adam, sgd, rmsprop, or `module:attribute`.")
    learning_rate: PositiveFloat = Field(2e-3, description="Peak learning rate.")
    weight_decay: float = Field(0.01, ge=0, description="Weight decay of every parameter.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of sgd and rmsprop.")
    nesterov: bool = Field(False, description="Nesterov's momentum, for sgd.")
    betas: tuple[float, float] = Field((0.9, 0.999), description="Decay of adam's two averages.")
    scheduler: Literal["constant", "linear", "cosine", "step"] = Field(
        "cosine",
        description="Learning rate after the warm-up: as it is, to 0 in a line, to 0 in half a cosine, in steps.",
    )
    warmup: float = Field(0.0, ge=0, lt=1, description="Share of the run in which the learning rate rises from 0.")
    milestones: tuple[float, ...] = Field((0.6, 0.8), description="Shares of the run at which `step` lowers the rate.")
    decay: PositiveFloat = Field(0.1, description="What `step` multiplies the rate by at a milestone.")
    clip_norm: PositiveFloat | None = Field(None, description="Largest gradient norm of each module that learns.")
    sharding: Literal["none", "full"] = Field(
        "none", description="With several processes: all hold all that learns, or each a share of it (FSDP)."
    )
    precision: Literal["no", "bf16", "fp16"] = Field("no", description="Mixed precision of the forward pass.")
    seed: int = Field(0, ge=0, description="Order of the data, dropout, and whatever else is drawn.")
    shuffle: bool = Field(True, description="Whether every epoch has an order of its own.")
    num_workers: int = Field(0, ge=0, description="Processes that read data ahead; 0 is best for data in memory.")
    evaluate_every: PositiveInt | None = Field(
        None, description="Optimiser steps between evaluations; default: an epoch."
    )
    log_every: PositiveInt | None = Field(None, description="Optimiser steps between log records; default: an epoch.")
    checkpoint_every: PositiveInt | None = Field(
        None, description="Optimiser steps between checkpoints; default: by time."
    )
    checkpoint_seconds: PositiveFloat = Field(
        60.0, description="Seconds between checkpoints, when not counted in steps."
    )
    keep_checkpoints: PositiveInt = Field(2, description="Newest checkpoints that stay.")
    early_stopping: EarlyStopping | None = Field(None, description="Stop when a metric no longer becomes better.")
    keep_best: str | None = Field(None, description="Metric whose best evaluation's weights the student ends with.")
    trackers: tuple[str, ...] = Field((), description="Accelerate's trackers (`trackio`, `tensorboard`, `wandb` …).")
    project: str = Field("tutelage", description="Project name for trackers.")
    max_loss: PositiveFloat | None = Field(None, description="A finite loss above this also stops the run.")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> TrainingSettings:
        if self.nesterov and (self.optimizer != "sgd" or self.momentum == 0):
            raise ValueError(
                "nesterov needs `optimizer: sgd` and a momentum above 0, "
                f"but got {self.optimizer!r} with {self.momentum:g}"
            )
        return self

    @model_validator(mode="after")
    def _milestones_in_order(self) -> TrainingSettings:
        if any(not 0 < milestone < 1 for milestone in self.milestones) or list(self.milestones) != sorted(
            self.milestones
        ):
            raise ValueError(f"milestones must be rising shares in (0, 1), but got {list(self.milestones)}")
        return self
