"""A language model behind an OpenAI-compatible endpoint as a teacher: its likeliest next tokens at every position."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_option
from tutelage.batch import Batch
from tutelage.outputs import Outputs, TopClasses
from tutelage.teachers.endpoint import Endpoint

Form = Literal["vllm", "openai"]
"""How log-probabilities of given tokens are asked for: vLLM's `prompt_logprobs`, or `echo` with `logprobs`."""

_LOWEST = -65504.0
_TOLERANCE = 1e-2
_ID_PREFIX = "token_id:"


class ServedTeacher:
    """A teacher that is served elsewhere: it never enters this process's memory, and is asked over HTTP.

    It gives `Outputs.top`: the log-probabilities of the `top_k` likeliest next tokens at every position, and what is
    left for all others. `build_cache(teacher, samples, folder, top_k=…)` asks it once about every sample and keeps
    them; training then reads the cache at the speed of the disk. Used as a teacher directly, it is asked again in
    every epoch, of which all but the first are answered by the endpoint's own cache.

    The teacher must share the student's tokenizer, since tokens are sent as ids. For another tokenizer let it write
    texts, or match chunks of text.

    Args:
        endpoint: Where it is served.
        vocab_size: Tokens in all.
        top_k: How many of the likeliest are told; servers limit it (vLLM: `--max-logprobs`).
        form: `"vllm"`: `prompt_logprobs`, by token id; `"openai"`: `echo` with `logprobs`, by token text.
        token_ids: With `"openai"`, ids by token text (see `token_text_ids`). Entries like `token_id:7` need none; what
            is not in it counts as one of the others.

    Raises:
        ValueError: `vocab_size` below 2, `top_k` below 1, or an unknown form.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        vocab_size: int,
        *,
        top_k: int = 20,
        form: Form = "vllm",
        token_ids: Mapping[str, int] | None = None,
    ) -> None:
        check_at_least(vocab_size, "vocab_size", 2)
        check_at_least(top_k, "top_k", 1)
        check_option(form, "form", ("vllm", "openai"))
        self.endpoint = endpoint
        self.vocab_size = vocab_size
        self.top_k = min(top_k, vocab_size - 1)
        self.form: Form = form
        self.token_ids = dict(token_ids or {})

    def __call__(self, batch: Batch) -> Outputs:
        """What the teacher expects after every token of a batch.

        Args:
            batch: Inputs `input_ids` and, where there is padding on the right, `attention_mask`, `[batch, time]`; or
                the ids alone.

        Returns:
            `top` with `[batch, time, top_k]`, on the batch's device; at padding all tokens are equally likely.

        Raises:
            EndpointError: The endpoint refused, or gave no usable answer after several tries.
            ValueError: A text without tokens, or padding on the left.
        """
        ids, lengths = _ids_and_lengths(batch)
        texts = [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]

        def check(number: int, answer: dict[str, Any]) -> None:
            self._distributions(answer, len(texts[number]))

        answers = self.endpoint.ask_all("completions", [self._request(text) for text in texts], check=check)
        log_probs = torch.full((*ids.shape, self.top_k), -math.log(self.vocab_size))
        classes = torch.arange(self.top_k).repeat(*ids.shape, 1)
        for row, (answer, text) in enumerate(zip(answers, texts, strict=True)):
            told, tokens = self._distributions(answer, len(text))
            log_probs[row, : len(text)], classes[row, : len(text)] = told, tokens
        log_rest = (-torch.expm1(log_probs.logsumexp(dim=-1).clamp(max=0.0))).log().clamp(min=_LOWEST)
        device = batch.index.device
        return Outputs(top=TopClasses(log_probs.to(device), classes.to(device), log_rest.to(device)))

    def fingerprint(self) -> str:
        """The hash of where and how the teacher is asked; what stands behind the endpoint can not be seen from here."""
        described = [self.endpoint.base_url, self.endpoint.model, self.form, self.top_k, self.vocab_size]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()

    def _request(self, tokens: list[int]) -> dict[str, Any]:
        # One token is generated: its distribution is what the teacher expects after the last token of the text.
        request: dict[str, Any] = {"prompt": tokens, "max_tokens": 1, "temperature": 0.0, "logprobs": self.top_k}
        if self.form == "vllm":
            return {**request, "prompt_logprobs": self.top_k, "return_tokens_as_token_ids": True}
        return {**request, "echo": True}

    def _distributions(self, answer: dict[str, Any], length: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and tokens `[length, top_k]` of an answer, likeliest first.

        Raises:
            ValueError: The answer has another number of positions or of tokens, or numbers that are no
                log-probabilities.
        """
        try:
            choice = answer["choices"][0]
            told = choice["logprobs"]["top_logprobs"]
            if self.form == "vllm":
                positions = [*choice["prompt_logprobs"][1:], told[-1]] if told else []
            else:
                positions = list(told)[1:]  # the first token was predicted by nothing
        except (KeyError, IndexError, TypeError) as error:
            raise ValueError(f"log-probabilities are not where they should be: {error!r}") from error
        if len(positions) != length:
            raise ValueError(f"log-probabilities of {len(positions)} positions where {length} were asked for")
        pairs = [self._likeliest(position, place) for place, position in enumerate(positions)]
        log_probs = torch.tensor([[value for value, _ in row] for row in pairs])
        return log_probs, torch.tensor([[token for _, token in row] for row in pairs])

    def _likeliest(self, position: Any, place: int) -> list[tuple[float, int]]:
        if not isinstance(position, Mapping):
            raise ValueError(f"position {place} holds a {type(position).__name__} in place of log-probabilities")
        if len(position) < self.top_k:
            raise ValueError(f"position {place} holds {len(position)} log-probabilities in place of {self.top_k}")
        known: dict[int, float] = {}
        for name, value in position.items():
            number = value.get("logprob") if isinstance(value, Mapping) else value
            if not isinstance(number, int | float) or math.isnan(number) or number > _TOLERANCE:
                raise ValueError(f"position {place} holds {number!r}, which is no log-probability")
            token = self._token(name)
            if token is not None:
                known[token] = max(min(float(number), 0.0), _LOWEST)
        likeliest = sorted(((value, token) for token, value in known.items()), key=lambda pair: (-pair[0], pair[1]))
        unknown = iter(token for token in range(self.vocab_size) if token not in known)
        while len(likeliest) < self.top_k:  # token texts without an id: others stand in, with no probability
            likeliest.append((_LOWEST, next(unknown)))
        return likeliest[: self.top_k]

    def _token(self, name: str) -> int | None:
        """A token's id from its name in an answer; None when the name stands for no single token."""
        if name.startswith(_ID_PREFIX):
            name = name.removeprefix(_ID_PREFIX)
        elif self.form == "openai":
            return self.token_ids.get(name)
        if not name.isdecimal() or int(name) >= self.vocab_size:
            raise ValueError(f"{name!r} is not one of the {self.vocab_size} tokens")
        return int(name)


def token_text_ids(tokenizer: Any, tokens: Iterable[int] | None = None) -> dict[str, int]:
    """Ids by the text of each token, for endpoints that name tokens by their text.

    Texts that several tokens share (parts of one character) are left out: what is said of them can not be told apart.

    Args:
        tokenizer: One of `transformers` or of this toolkit.
        tokens: The ids; by default all.

    >>> from tutelage.data.characters import CharacterTokenizer
    >>> token_text_ids(CharacterTokenizer("ab"))
    {'a': 3, 'b': 4}
    """
    texts = {token: tokenizer.decode([token]) for token in (range(len(tokenizer)) if tokens is None else tokens)}
    counts: dict[str, int] = {}
    for text in texts.values():
        counts[text] = counts.get(text, 0) + 1
    return {text: token for token, text in texts.items() if counts[text] == 1}


def _ids_and_lengths(batch: Batch) -> tuple[Tensor, list[int]]:
    inputs = batch.inputs if isinstance(batch.inputs, dict) else {"input_ids": batch.inputs}
    if "input_ids" not in inputs:
        raise ValueError(f"Expected a batch with `input_ids`, but got {', '.join(inputs)}.")
    ids = inputs["input_ids"].cpu()
    mask = inputs.get("attention_mask")
    counted = torch.ones_like(ids) if mask is None else mask.cpu().long()
    lengths = counted.sum(dim=1)
    if not torch.equal(counted, (torch.arange(ids.shape[1]) < lengths.unsqueeze(1)).long()):
        raise ValueError("Expected padding on the right alone, but `attention_mask` has zeros before ones.")
    if int(lengths.min()) < 1:
        empty = int(batch.index[int(lengths.argmin())])
        raise ValueError(f"Expected every text to hold a token, but that of index {empty} does not.")
    return ids, lengths.tolist()
