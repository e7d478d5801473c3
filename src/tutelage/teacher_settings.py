"""What a config says about a teacher: a model, an endpoint that serves one, and where its knowledge comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from tutelage.models.specification import BUILDERS, ModelSpecification
from tutelage.teachers import CostMeter, Endpoint, ServedTeacher
from tutelage.training.settings import StrictModel, TrainingSettings


class EndpointSettings(StrictModel):
    """Where a served teacher is asked, how politely, and what that costs."""

    base_url: str = Field(description="Such as `http://localhost:8000/v1`.")
    api_key_variable: str | None = Field(
        None, description="Name of the environment variable that holds the key; the key itself is never in a config."
    )
    form: Literal["vllm", "openai"] = Field("vllm", description="`prompt_logprobs`, or `echo` with `logprobs`.")
    top_k: PositiveInt = Field(20, description="Likeliest tokens asked for at every position.")
    timeout: PositiveFloat = Field(120.0, description="Longest wait for an answer, in seconds.")
    max_attempts: PositiveInt = Field(6, description="Tries of a request before the run gives up.")
    requests_per_minute: PositiveFloat | None = Field(None, description="Requests are spaced out to stay below it.")
    concurrency: PositiveInt = Field(8, description="Requests under way at the same time.")
    prompt_price: NonNegativeFloat = Field(0.0, description="Price of a million prompt tokens.")
    completion_price: NonNegativeFloat = Field(0.0, description="Price of a million completion tokens.")
    budget: NonNegativeFloat | None = Field(None, description="Money after which no further request is made.")

    def connect(self, model: str, responses: Path | str | None) -> Endpoint:
        """The endpoint, with its answers kept in a folder.

        Raises:
            ValueError: The environment variable of the key is not set.
        """
        key = None
        if self.api_key_variable is not None:
            key = os.environ.get(self.api_key_variable)
            if not key:
                raise ValueError(
                    f"Expected the environment variable {self.api_key_variable} to hold a key, but it is empty."
                )
        return Endpoint(
            self.base_url,
            model,
            api_key=key,
            cache=responses,
            timeout=self.timeout,
            max_attempts=self.max_attempts,
            requests_per_minute=self.requests_per_minute,
            concurrency=self.concurrency,
            meter=CostMeter(self.prompt_price, self.completion_price),
            budget=self.budget,
        )


class TeacherSettings(ModelSpecification):
    """A teacher: a model (see `ModelSpecification`), and where its knowledge comes from."""

    kind: Literal["frozen", "random", "moving_average", "online", "served"] = Field(
        "frozen",
        description="A frozen model, an untrained one, the student's own moving average, one that learns with it, or "
        "one that is asked over HTTP (`name` is then its name at the `endpoint`).",
    )
    train: TrainingSettings | None = Field(None, description="Train it on the labels first, with these settings.")
    decay: float = Field(0.999, ge=0, le=1, description="Momentum of a `moving_average` teacher.")
    endpoint: EndpointSettings | None = Field(None, description="Where a `served` teacher is asked.")

    @model_validator(mode="after")
    def _served_teachers_have_an_endpoint(self) -> TeacherSettings:
        if (self.kind == "served") != (self.endpoint is not None):
            raise ValueError("a teacher of kind `served` needs an `endpoint`, and no other kind has one")
        if self.kind == "served" and self.train is not None:
            raise ValueError("a `served` teacher can not be trained from here")
        return self

    @model_validator(mode="after")
    def _frozen_teachers_know_something(self) -> TeacherSettings:
        unknowing = self.kind == "frozen" and self.name in BUILDERS and self.weights is None and self.train is None
        if unknowing:
            raise ValueError(
                f"`{self.name}` begins with random weights: give its `weights` (a safetensors file), `train: {{}}` to "
                "train it on the labels first, or `kind: random` if it is meant to know nothing"
            )
        return self

    def served(self, vocab_size: int, responses: Path | str | None) -> ServedTeacher:
        """The teacher behind the endpoint, for a student with so many tokens."""
        assert self.endpoint is not None
        endpoint = self.endpoint.connect(self.name, responses)
        return ServedTeacher(endpoint, vocab_size, top_k=self.endpoint.top_k, form=self.endpoint.form)
