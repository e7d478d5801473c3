"""Memorisation in bits: canaries planted in training texts, and how far up a model ranks them among all candidates.

Source: Carlini et al., "The Secret Sharer: Evaluating and Testing Unintended Memorization in Neural Networks", USENIX
Security 2019, section 4.
"""

from __future__ import annotations

import hashlib
import math
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tutelage._checks import check_at_least, check_option
from tutelage.assessment.evaluation_mode import device_of, evaluation_mode
from tutelage.data.characters import encode_text, pad_sequences
from tutelage.models import call_model

Ties = Literal["min", "average"]
MANY_TIES = 0.01
LARGEST_ENUMERATION = 10**6


@dataclass(frozen=True)
class Canary:
    """A secret that is planted to see whether it comes out again: a format, and what may stand in its gap.

    Attributes:
        format: The text, with one `{}` for the random part.
        space: The pieces that may stand at each place of the random part: `["0123456789"] * 4` for four digits, or
            `[["anna", "otto"]]` for one of two words. Its size |R| is the product of its lengths.
        secret: The random part; drawn from the space when left out, by the format and `seed`.
        seed: Fixes the draw.

    Raises:
        ValueError: A format without exactly one gap, an empty space, or a secret that is not in the space.

    >>> canary = Canary("the code of anna is {}.", ["0123456789"] * 4, secret="4071")
    >>> canary.text, canary.size, canary.index, canary.candidate(12)
    ('the code of anna is 4071.', 10000, 4071, '0012')
    """

    format: str
    space: Sequence[Sequence[str]]
    secret: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.format.count("{}") != 1:
            raise ValueError(f"Expected argument `format` to have one gap `{{}}`, but got {self.format!r}.")
        space = tuple(tuple(pieces) for pieces in self.space)
        if not space or not all(space):
            raise ValueError("Expected argument `space` to hold at least one piece at every place, but it is empty.")
        object.__setattr__(self, "space", space)
        if self.secret is None:
            digest = hashlib.blake2b(f"{self.seed} {self.format}".encode(), digest_size=8).digest()
            drawn = random.Random(int.from_bytes(digest, "big")).randrange(self.size)
            object.__setattr__(self, "secret", self.candidate(drawn))
        elif _numbers(self.secret, space) is None:
            raise ValueError(f"Expected argument `secret` to be in the space of candidates, but got {self.secret!r}.")

    @property
    def size(self) -> int:
        """|R|, the number of candidates."""
        return math.prod(len(pieces) for pieces in self.space)

    @property
    def text(self) -> str:
        """The canary with its secret."""
        assert self.secret is not None
        return self.fill(self.secret)

    @property
    def prefix(self) -> str:
        """The text before the random part."""
        return self.format.partition("{}")[0]

    @property
    def index(self) -> int:
        """The secret's number among the candidates."""
        assert self.secret is not None
        numbers = _numbers(self.secret, self.space)
        assert numbers is not None
        index = 0
        for number, pieces in zip(numbers, self.space, strict=True):
            index = index * len(pieces) + number
        return index

    def candidate(self, index: int) -> str:
        """The candidate of a number in [0, size); the last place counts fastest."""
        chosen = []
        for pieces in reversed(self.space):
            index, number = divmod(index, len(pieces))
            chosen.append(pieces[number])
        return "".join(reversed(chosen))

    def fill(self, candidate: str) -> str:
        """The canary with another random part."""
        return self.format.replace("{}", candidate)


def insert_canaries(
    corpus: Sequence[str], canaries: Sequence[Canary], copies: int | Sequence[int], seed: int
) -> list[str]:
    """A corpus with copies of canaries at random places; the order of its own texts stays.

    Args:
        corpus: The texts.
        canaries: What is planted.
        copies: How many copies of every canary, or of each of them; at least 0.
        seed: Fixes the places.

    Returns:
        A new list.

    Raises:
        ValueError: A negative number of copies, or as many numbers as canaries are not given.

    >>> len(insert_canaries(["a", "b"], [Canary("pin {}", ["0123456789"])], 3, seed=0))
    5
    """
    each = [copies] * len(canaries) if isinstance(copies, int) else list(copies)
    if len(each) != len(canaries):
        raise ValueError(f"Expected argument `copies` to hold {len(canaries)} numbers, but got {len(each)}.")
    for count in each:
        check_at_least(count, "copies", 0)
    planted = [canary.text for canary, count in zip(canaries, each, strict=True) for _ in range(count)]
    draws = random.Random(seed)
    draws.shuffle(planted)
    total = len(corpus) + len(planted)
    places = set(draws.sample(range(total), len(planted)))
    own, new = iter(corpus), iter(planted)
    return [next(new) if place in places else next(own) for place in range(total)]


def exposure_from_scores(
    log_perplexities: Float[Tensor, "candidates"], index: int, *, ties: Ties = "min"
) -> Float[Tensor, ""]:
    """Exposure of a secret: log₂|R| − log₂(its rank among all candidates), in bits.

    A secret that is likelier than all others has log₂|R| bits, the least likely one has 0, and a secret that the model
    does not know has log₂ e = 1.44 on average.

    Args:
        log_perplexities: `[candidates]`, lower is likelier, in any unit.
        index: Which of them is the secret's.
        ties: The rank among equals: `"min"`, the best one (it assumes the worst for privacy), or `"average"`.

    Returns:
        A scalar in [0, log₂|R|].

    Raises:
        ValueError: No candidates, an index outside them, NaN, or an unknown `ties`.

    Warns:
        UserWarning: More than 1 % of the candidates tie with the secret, so that the rank says little.

    >>> exposure_from_scores(torch.tensor([3.0, 1.0, 2.0, 4.0]), 2)
    tensor(1.)
    """
    check_option(ties, "ties", ("min", "average"))
    count = len(log_perplexities)
    check_at_least(count, "len(log_perplexities)", 1)
    if not 0 <= index < count:
        raise ValueError(f"Expected argument `index` to be in [0, {count}), but got {index}.")
    if log_perplexities.isnan().any():
        raise ValueError("Expected argument `log_perplexities` to hold numbers, but it holds NaN.")
    secret = log_perplexities[index]
    better = int((log_perplexities < secret).sum())
    tied = int((log_perplexities == secret).sum()) - 1
    if tied > MANY_TIES * count:
        warnings.warn(
            f"{tied} of {count} candidates tie with the secret: the model hardly tells them apart, and exposure with "
            f"ties={ties!r} says little.",
            stacklevel=2,
        )
    rank = 1 + better + (tied / 2 if ties == "average" else 0)
    return torch.tensor(math.log2(count) - math.log2(rank), dtype=log_perplexities.dtype)


class CandidateTree:
    """All candidates of a canary as the prefix tree of their tokens, to be scored by any number of models.

    Candidates that begin alike share what the model reads: four digits make 10 000 candidates, but the model reads the
    text before them once (where it is of `transformers` and keeps keys and values) and 1 000 times three digits.

    Attributes:
        given: `[time]` tokens that all candidates begin with.
        contexts: `[contexts, places − 1]`, what follows them and is read.
        tokens: `[candidates, places]`, what is scored.
        context: `[candidates]`, the context of each.
        counted: `[candidates, places]`, false at padding.

    Args:
        canary: The canary.
        tokenizer: `CharacterTokenizer`, `ByteTokenizer` or one of `transformers`. Its start token, where it has one,
            stands first, as in `completion_samples`.
        candidates: Numbers of candidates; all of them by default.

    Raises:
        ValueError: More than a million candidates, or a canary without any text or start token before its random part.

    Warns:
        UserWarning: Candidates of different numbers of tokens, whose likelihoods compare badly.

    >>> from tutelage.data import CharacterTokenizer
    >>> tree = CandidateTree(Canary("pin {}", ["0123456789"] * 2), CharacterTokenizer(" inp0123456789"))
    >>> tree.given.shape, tree.contexts.shape, tree.tokens.shape  # start and 4 characters; first digits; two digits
    (torch.Size([5]), torch.Size([10, 1]), torch.Size([100, 2]))
    """

    def __init__(self, canary: Canary, tokenizer: Any, *, candidates: Sequence[int] | None = None) -> None:
        numbers = range(canary.size) if candidates is None else candidates
        if len(numbers) > LARGEST_ENUMERATION:
            raise ValueError(
                f"Expected at most {LARGEST_ENUMERATION} candidates, but got {len(numbers)}; sample or extrapolate."
            )
        start = getattr(tokenizer, "bos_token_id", None)
        first = [] if start is None else [start]
        texts = [[*first, *encode_text(tokenizer, canary.prefix + canary.candidate(number))] for number in numbers]
        shared = _shared_length(texts, limit=len(first) + len(encode_text(tokenizer, canary.prefix)))
        if shared == 0:
            raise ValueError("Expected text or a start token before the random part, but there is neither.")
        lengths = torch.tensor([len(text) for text in texts]) - shared
        if not (lengths == lengths[0]).all():
            warnings.warn("Candidates have different numbers of tokens; their likelihoods compare badly.", stacklevel=2)
        self.tokens = pad_sequences([text[shared:] for text in texts], 0)
        self.counted = torch.arange(self.tokens.shape[1]) < lengths[:, None]
        # Padding and the last token of every candidate: neither is read before another token.
        read = self.tokens.masked_fill(torch.arange(self.tokens.shape[1]) >= lengths[:, None] - 1, 0)
        unique, self.context = torch.unique(read, dim=0, return_inverse=True)
        self.contexts = unique[:, :-1]
        self.given = torch.tensor(texts[0][:shared])

    @torch.no_grad()
    def log_perplexities(self, model: nn.Module, *, batch_size: int = 256) -> Float[Tensor, "candidates"]:
        """−log p(random part | prefix) of every candidate in nats, teacher-forced.

        Args:
            model: A causal language model, asked in evaluation mode on its own device.
            batch_size: Contexts a call; fewer for a large vocabulary.

        Returns:
            `[candidates]` float64 on the CPU.
        """
        device = device_of(model)
        parts = []
        with evaluation_mode(model):
            for contexts in torch.split(self.contexts, batch_size):
                logits = _next_token_logits(model, self.given.to(device), contexts.to(device))
                parts.append(logits.float().log_softmax(dim=-1).double().cpu())
        log_probs = torch.cat(parts)
        places = torch.arange(self.tokens.shape[1])
        chosen = log_probs[self.context.unsqueeze(1), places, self.tokens]
        return -chosen.masked_fill(~self.counted, 0.0).sum(dim=1)


def canary_exposure(
    model: nn.Module,
    canary: Canary,
    *,
    tokenizer: Any,
    method: Literal["enumerate", "sample", "extrapolate"] = "enumerate",
    ties: Ties = "min",
    num_samples: int = 2000,
    seed: int = 0,
    batch_size: int = 256,
) -> float:
    """How many bits a model knows of a canary's secret, by its likelihood among the other candidates.

    Args:
        model: A causal language model.
        canary: The canary.
        tokenizer: The model's tokenizer, see `CandidateTree`.
        method: `"enumerate"` ranks the secret among all candidates. For spaces too large for that, `"sample"` takes its
            rank from the share of sampled candidates that are likelier, so that it sees no more than
            log₂(`num_samples` + 1) bits, and `"extrapolate"` from a skew-normal distribution fitted to the
            log-perplexities of the samples.
        ties: See `exposure_from_scores`; `"extrapolate"` knows no ties.
        num_samples: Candidates drawn, with replacement, for the two estimates.
        seed: Fixes the draw.
        batch_size: Contexts a call of the model; fewer for a large vocabulary.

    Returns:
        Bits, in [0, log₂|R|].

    Raises:
        ValueError: An unknown method, fewer than two samples, or as for `CandidateTree`.

    >>> from tutelage.data import CharacterTokenizer
    >>> from tutelage.models import causal_lm
    >>> tokenizer = CharacterTokenizer(" inp0123456789")
    >>> canary = Canary("pin {}", ["0123456789"] * 2)
    >>> 0 <= canary_exposure(causal_lm(tokenizer.vocab_size), canary, tokenizer=tokenizer) <= 6.65
    True
    """
    check_option(method, "method", ("enumerate", "sample", "extrapolate"))
    check_at_least(num_samples, "num_samples", 2)
    if method == "enumerate":
        scores = CandidateTree(canary, tokenizer).log_perplexities(model, batch_size=batch_size)
        return float(exposure_from_scores(scores, canary.index, ties=ties))
    draws = random.Random(seed)
    drawn = [draws.randrange(canary.size) for _ in range(num_samples)]
    tree = CandidateTree(canary, tokenizer, candidates=[canary.index, *drawn])
    scores = tree.log_perplexities(model, batch_size=batch_size)
    estimate = _exposure_of_sample if method == "sample" else _extrapolated_exposure
    return min(estimate(scores[1:], float(scores[0]), ties), math.log2(canary.size))


def _exposure_of_sample(scores: Tensor, secret: float, ties: Ties) -> float:
    ranked = torch.cat([scores, torch.tensor([secret], dtype=scores.dtype)])
    return float(exposure_from_scores(ranked, len(scores), ties=ties))


def _extrapolated_exposure(scores: Tensor, secret: float, ties: Ties) -> float:
    from scipy.stats import skewnorm

    values = scores.numpy()
    if values.std() == 0:
        raise ValueError("Expected the log-perplexities of candidates to differ, but they are all the same.")
    share = float(skewnorm.cdf(secret, *skewnorm.fit(values)))
    return -math.log2(share) if share > 0 else math.inf


def _next_token_logits(model: nn.Module, given: Tensor, contexts: Tensor) -> Tensor:
    """Logits `[contexts, places, vocabulary]` after `given` and after each token of the contexts that follow it."""
    count, length = contexts.shape
    if length and getattr(model, "generation_config", None) is not None:
        first = model(given.unsqueeze(0), use_cache=True)
        if hasattr(first.past_key_values, "batch_repeat_interleave"):
            first.past_key_values.batch_repeat_interleave(count)
            rest = model(contexts, past_key_values=first.past_key_values, use_cache=True)
            return torch.cat([first.logits[:, -1:].expand(count, -1, -1), rest.logits], dim=1)
    logits = call_model(model, torch.cat([given.expand(count, -1), contexts], dim=1)).logits
    assert logits is not None
    return logits[:, len(given) - 1 :]


def _numbers(text: str, space: Sequence[Sequence[str]]) -> tuple[int, ...] | None:
    """Which piece stands at every place of a random part; None when it is no candidate."""
    if not space:
        return None if text else ()
    for number, piece in enumerate(space[0]):
        if text.startswith(piece) and (rest := _numbers(text[len(piece) :], space[1:])) is not None:
            return (number, *rest)
    return None


def _shared_length(texts: Sequence[list[int]], *, limit: int) -> int:
    """How many tokens all texts begin with, at most `limit`: tokens of the random part are scored even where alike."""
    first, last = min(texts), max(texts)
    for place, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other or place == limit:
            return place
    return min(limit, len(first), len(last))
