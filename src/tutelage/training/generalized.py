"""Distillation of language models on texts that the student writes itself."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.batch import Batch
from tutelage.objectives.divergences import TokenDivergence
from tutelage.teachers.cache import CachedTeacher
from tutelage.teachers.teacher import Teacher
from tutelage.training.distillation import Distillation, Objectives
from tutelage.training.responses import generate_responses, response_batch

Policy = Literal["student", "teacher"]
"""Who writes the responses that are not taken from the data."""


class GeneralizedKD(Distillation):
    """Generalized knowledge distillation (Agarwal et al. 2024): learn from the data, or from one's own responses.

    Every batch is, with probability `lmbda`, replaced by its prompts with fresh responses of the student (or of the
    teacher); then any objective compares student and teacher on it. `lmbda=0` is distillation on the data
    (off-policy), `lmbda=1` on-policy distillation, anything between is mixed. No gradient goes through sampling.

    A batch needs `extras["prompt_length"]`, as `completion_samples` gives it; texts are padded on the right.

    Args:
        teacher: A `Teacher` that can be asked about texts nobody has seen, a module, or None.
        student: The causal language model that learns.
        objectives: What is minimised; by default the Jensen–Shannon divergence `jsd` with `beta`.
        lmbda: Probability of a batch of fresh responses.
        beta: Of the default objective: β·KL(teacher ‖ m) + (1 − β)·KL(student ‖ m), m = β·teacher + (1 − β)·student.
        policy: Who writes them.
        max_new_tokens: The longest response, its end token included.
        temperature: At which responses are sampled, from the whole softmax.
        end_token: Ends a response; by default what the student's generation config says.
        padding_token: Fills up; likewise, else 0.

    Attributes:
        generated_tokens: How many tokens were sampled so far, the cost of being on-policy.

    Raises:
        ValueError: A number out of its range, a teacher that only knows the samples it was cached for, a policy
            `teacher` without a model to sample from, or a batch without prompt lengths.

    >>> from tutelage.models import causal_lm
    >>> models = [causal_lm(9, hidden_size=8, num_layers=1, num_heads=1, eos_token_id=2) for _ in range(2)]
    >>> method = GeneralizedKD(*models, lmbda=1.0, max_new_tokens=4)
    >>> batch = Batch({"input_ids": torch.ones(2, 5, dtype=torch.int64)}, None, torch.arange(2),
    ...               {"prompt_length": torch.tensor([3, 3])})
    >>> list(method.step(batch)), method.generated_tokens > 0
    (['token_divergence'], True)
    """

    shardable = False

    def __init__(
        self,
        teacher: Teacher | nn.Module | None,
        student: nn.Module,
        objectives: Objectives | None = None,
        *,
        lmbda: float = 0.5,
        beta: float = 0.5,
        policy: Policy = "student",
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        end_token: int | None = None,
        padding_token: int | None = None,
    ) -> None:
        check_in_range(lmbda, "lmbda", 0, 1)
        check_option(policy, "policy", ("student", "teacher"))
        check_at_least(max_new_tokens, "max_new_tokens", 1)
        if lmbda > 0 and isinstance(teacher, CachedTeacher):
            raise ValueError(
                "Expected a teacher that can be asked about fresh responses when `lmbda` is above 0, but a cache only "
                "knows the samples it was made from."
            )
        super().__init__(teacher, student, objectives or TokenDivergence(kind="jsd", beta=beta))
        self.writer: nn.Module | None = student if policy == "student" else getattr(self.teacher, "model", None)
        if self.writer is None:
            raise ValueError("Expected a teacher whose model is at hand for the policy 'teacher', but there is none.")
        settings = getattr(student, "generation_config", None)
        self.lmbda = lmbda
        self.max_new_tokens = max_new_tokens
        self.temperature = temperature
        self.end_token: int | None = getattr(settings, "eos_token_id", None) if end_token is None else end_token
        known = getattr(settings, "pad_token_id", None) if padding_token is None else padding_token
        self.padding_token: int = 0 if known is None else int(known)
        self.generated_tokens = 0

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Weighted losses by objective name, on the batch itself or on fresh responses to its prompts."""
        if self.lmbda > 0 and float(torch.rand(())) < self.lmbda:
            batch = self.respond(batch)
        return super().step(batch)

    def respond(self, batch: Batch) -> Batch:
        """The batch's prompts with fresh responses."""
        ids = batch.inputs["input_ids"] if isinstance(batch.inputs, dict) else batch.inputs
        length = batch.extras.get("prompt_length")
        if length is None:
            raise ValueError('Expected batches with `extras["prompt_length"]`, as `completion_samples` gives them.')
        prompts = ids[:, : int(length.max())]
        mask = torch.arange(prompts.shape[1], device=ids.device) < length.unsqueeze(1)
        assert self.writer is not None
        responses = generate_responses(
            self.writer,
            prompts,
            prompt_mask=mask,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            end_token=self.end_token,
            padding_token=self.padding_token,
        )
        self.generated_tokens += int(responses.mask.sum())
        return response_batch(responses, mask, batch.index, padding_token=self.padding_token)
