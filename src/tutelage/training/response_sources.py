"""Where the responses come from that a language model is distilled on: a fixed set, fresh ones, or a mixture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_in_range, check_option
from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples, fingerprint_of
from tutelage.training.responses import Responses, generate_responses, response_batch

_ROWS_A_CALL = 1024


class OfflineResponses(ArraySamples):
    """One response (or a few) to each prompt, sampled once and read again in every epoch.

    It is an ordinary data set in memory: it can be cached, recorded and split. Repeating it for many epochs is what
    makes a student learn an imperfect teacher's responses by heart; more generations a prompt and, even more so, more
    prompts put that off.

    Args:
        writer: The language model that writes, as a rule the teacher.
        prompts: `[prompts, time]` tokens.
        prompt_mask: `[prompts, time]`, true where a token belongs to the prompt; by default all do.
        max_new_tokens: The longest response, its end token included.
        generations_per_prompt: Responses to every prompt; multiplies the size of the data set.
        prompt_fraction: The share of the prompts that is used, from the first on. With a fraction of 1 / k and k
            generations, the data set is as large as with all prompts and one generation, and less diverse.
        temperature: Of the softmax.
        end_token: Ends a response; None never does.
        padding_token: What follows the end.
        generator: Where chance comes from; by default PyTorch's own.

    Attributes:
        generated_tokens: How many tokens were sampled.

    Raises:
        ValueError: No prompt is left by the fraction, or a number is out of its range.

    >>> from tutelage.models import causal_lm
    >>> source = OfflineResponses(causal_lm(9), torch.ones(6, 3, dtype=torch.int64), max_new_tokens=2,
    ...                           generations_per_prompt=3, prompt_fraction=1 / 3)
    >>> len(source), source.responses(torch.tensor([0])).response_ids.shape
    (6, torch.Size([1, 2]))
    """

    def __init__(
        self,
        writer: nn.Module,
        prompts: Int[Tensor, "prompts time"],
        *,
        prompt_mask: Tensor | None = None,
        max_new_tokens: int,
        generations_per_prompt: int = 1,
        prompt_fraction: float = 1.0,
        temperature: float = 1.0,
        end_token: int | None = None,
        padding_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        check_at_least(generations_per_prompt, "generations_per_prompt", 1)
        check_in_range(prompt_fraction, "prompt_fraction", 0, 1)
        used = int(prompt_fraction * len(prompts) + 1e-9)
        if used < 1:
            raise ValueError(
                f"Expected `prompt_fraction` to leave at least one prompt, but {prompt_fraction} of {len(prompts)} "
                "leaves none."
            )
        kept = torch.ones_like(prompts, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
        self.prompts = prompts[:used].repeat_interleave(generations_per_prompt, dim=0)
        self.prompt_mask = kept[:used].repeat_interleave(generations_per_prompt, dim=0)
        options = (max_new_tokens, temperature, end_token, padding_token)
        self._drawn = _draw(writer, self.prompts, self.prompt_mask, *options, generator)
        self.generated_tokens = int(self._drawn.mask.sum())
        index = torch.arange(len(self.prompts))
        batch = response_batch(self._drawn, self.prompt_mask, index, padding_token=padding_token)
        super().__init__(batch.inputs, batch.target, index=index, extras=batch.extras)

    def responses(self, rows: Tensor) -> Responses:
        """Prompts, responses and mask of the given rows: the same ones at every call."""
        return Responses(self.prompts[rows], self._drawn.response_ids[rows], self._drawn.mask[rows])

    def __iter__(self) -> Iterator[Responses]:
        """All of them, in one group."""
        yield self.responses(torch.arange(len(self)))


class OnlineResponses:
    """Fresh responses at every visit of a prompt: samples whose batches are written when they are asked for.

    With the policy `"student"` the writer is the model that learns, and writes with the weights it has at that moment;
    keep `num_workers` at 0, since another process would have a copy that never learns. No gradient goes through
    sampling. With the policy `"teacher"` the writer never changes, so responses to all prompts are drawn in one call,
    and each is handed out once.

    Chance comes from PyTorch's own generator unless one is given, and so from the trainer's seed: a run can be
    repeated. (One with the policy `"student"` can be resumed to the same bits, too.)

    Args:
        writer: The language model that writes.
        prompts: `[prompts, time]` tokens; a sample is a prompt.
        policy: `"student"` or `"teacher"`: who the writer is.
        prompt_mask: `[prompts, time]`, true where a token belongs to the prompt; by default all do.
        max_new_tokens: The longest response, its end token included.
        temperature: Of the softmax.
        end_token: Ends a response; None never does.
        padding_token: What follows the end.
        generator: Where chance comes from.

    Attributes:
        generated_tokens: How many tokens were sampled so far, the cost of being online.

    >>> from tutelage.models import causal_lm
    >>> source = OnlineResponses(causal_lm(9), torch.ones(6, 3, dtype=torch.int64), max_new_tokens=2)
    >>> batch = source.batch(torch.tensor([4, 0]))
    >>> batch.inputs["input_ids"].shape, source.generated_tokens
    (torch.Size([2, 4]), 4)
    """

    def __init__(
        self,
        writer: nn.Module,
        prompts: Int[Tensor, "prompts time"],
        *,
        policy: Literal["teacher", "student"] = "student",
        prompt_mask: Tensor | None = None,
        max_new_tokens: int,
        temperature: float = 1.0,
        end_token: int | None = None,
        padding_token: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        check_option(policy, "policy", ("teacher", "student"))
        if not len(prompts):
            raise ValueError("Expected argument `prompts` to hold at least one prompt, but it is empty.")
        self.writer = writer
        self.prompts = prompts
        self.prompt_mask = torch.ones_like(prompts, dtype=torch.bool) if prompt_mask is None else prompt_mask.bool()
        self.policy = policy
        self.padding_token = padding_token
        self.generated_tokens = 0
        self._options = (max_new_tokens, temperature, end_token, padding_token)
        self._generator = generator
        self._ahead: Responses | None = None
        self._fresh = torch.zeros(len(prompts), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.prompts)

    def __iter__(self) -> Iterator[Responses]:
        """A fresh response to every prompt, in one group."""
        yield self.responses(torch.arange(len(self)))

    def responses(self, rows: Tensor) -> Responses:
        """Fresh responses to the prompts in the given rows."""
        if self.policy == "student":
            return self._write(rows)
        if len(torch.unique(rows)) < len(rows):  # a prompt twice at once needs two responses
            return self._write(rows)
        if not bool(self._fresh[rows].all()):
            self._ahead = self._write(torch.arange(len(self)))
            self._fresh[:] = True
        assert self._ahead is not None
        self._fresh[rows] = False
        return Responses(*(value[rows] for value in self._ahead))

    def batch(self, rows: Tensor) -> Batch:
        """The same as a batch that teaches them; its targets are -100 on prompts and padding."""
        return response_batch(self.responses(rows), self.prompt_mask[rows], rows, padding_token=self.padding_token)

    def fingerprint(self) -> str:
        """A hash of the prompts; the writer's weights do not count."""
        return fingerprint_of({"prompts": self.prompts, "mask": self.prompt_mask})

    def _write(self, rows: Tensor) -> Responses:
        drawn = _draw(self.writer, self.prompts[rows], self.prompt_mask[rows], *self._options, self._generator)
        self.generated_tokens += int(drawn.mask.sum())
        return drawn


class MixedResponses:
    """Each prompt of a batch online with some probability, else offline.

    Args:
        offline: Fixed responses; with one generation a prompt.
        online: Fresh responses to the same prompts in the same order.
        fraction_online: Probability of a fresh response.
        generator: Where the choice comes from; by default PyTorch's own.

    Raises:
        ValueError: The prompts differ, or a fraction outside [0, 1].

    >>> from tutelage.models import causal_lm
    >>> model, prompts = causal_lm(9), torch.ones(6, 3, dtype=torch.int64)
    >>> offline, online = (kind(model, prompts, max_new_tokens=2) for kind in (OfflineResponses, OnlineResponses))
    >>> source = MixedResponses(offline, online, fraction_online=0.5)
    >>> source.batch(torch.arange(6)).inputs["input_ids"].shape
    torch.Size([6, 4])
    """

    def __init__(
        self,
        offline: OfflineResponses,
        online: OnlineResponses,
        *,
        fraction_online: float,
        generator: torch.Generator | None = None,
    ) -> None:
        check_in_range(fraction_online, "fraction_online", 0, 1)
        if not torch.equal(offline.prompts, online.prompts):
            raise ValueError(
                "Expected `offline` and `online` to hold the same prompts in the same order, but they differ."
            )
        self.offline = offline
        self.online = online
        self.fraction_online = fraction_online
        self._generator = generator

    def __len__(self) -> int:
        return len(self.offline)

    def __iter__(self) -> Iterator[Responses]:
        """One response to every prompt, in one group."""
        yield self.responses(torch.arange(len(self)))

    @property
    def generated_tokens(self) -> int:
        """How many tokens were sampled so far."""
        return self.offline.generated_tokens + self.online.generated_tokens

    def responses(self, rows: Tensor) -> Responses:
        """A response to each prompt in the given rows, fixed or fresh."""
        fixed = self.offline.responses(rows)
        fresh_here = (torch.rand(len(rows), generator=self._generator) < self.fraction_online).nonzero().flatten()
        if not len(fresh_here):
            return fixed
        fresh = self.online.responses(rows[fresh_here])
        width = max(fixed.response_ids.shape[1], fresh.response_ids.shape[1])
        ids, mask = _widened(fixed, width, self.online.padding_token)
        ids[fresh_here], mask[fresh_here] = _widened(fresh, width, self.online.padding_token)
        return Responses(fixed.prompt_ids, ids, mask)

    def batch(self, rows: Tensor) -> Batch:
        """The same as a batch that teaches them; its targets are -100 on prompts and padding."""
        padding = self.online.padding_token
        return response_batch(self.responses(rows), self.online.prompt_mask[rows], rows, padding_token=padding)

    def fingerprint(self) -> str:
        """A hash of the fixed responses."""
        return self.offline.fingerprint()


def _draw(
    writer: nn.Module,
    prompts: Tensor,
    prompt_mask: Tensor,
    max_new_tokens: int,
    temperature: float,
    end_token: int | None,
    padding_token: int,
    generator: torch.Generator | None,
) -> Responses:
    """Responses to any number of prompts, a bounded number a call."""
    parts = [
        generate_responses(
            writer,
            asked,
            prompt_mask=mask,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            end_token=end_token,
            padding_token=padding_token,
            generator=generator,
        )
        for asked, mask in zip(torch.split(prompts, _ROWS_A_CALL), torch.split(prompt_mask, _ROWS_A_CALL), strict=True)
    ]
    width = max(part.response_ids.shape[1] for part in parts)
    ids, masks = zip(*(_widened(part, width, padding_token) for part in parts), strict=True)
    return Responses(prompts, torch.cat(ids), torch.cat(masks))


def _widened(responses: Responses, width: int, padding_token: int) -> tuple[Tensor, Tensor]:
    """New tensors of response tokens and mask, padded on the right."""
    missing = (0, width - responses.response_ids.shape[1])
    pad = torch.nn.functional.pad
    ids, mask = pad(responses.response_ids, missing, value=padding_token), pad(responses.mask, missing)
    return (ids, mask) if missing[1] else (ids.clone(), mask.clone())
