"""Real English text with tags by its authors, that every Python has: the marks of code and terms in the help texts.

Writers of Python's language reference set code in one markup ("print") and a term where it is introduced in another
(*rich comparison*). Take the marks away, and finding them again is a tagging task like named-entity recognition: few
words are positive, the same word is often both (`for`, `object`), and habits of many writers leave some of it open.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tutelage._checks import check_at_least, check_same_length
from tutelage.data.arrays import IGNORE_INDEX, ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data
from tutelage.data.topics_text import read_topics

TAGS = ("O", "B-code", "I-code", "B-term", "I-term")

Passage = tuple[list[str], list[str]]
"""Words (and single punctuation marks) and a tag for each."""

SEPARATOR = 0
"""The token between passages and after the last one; its target is `IGNORE_INDEX`."""

_MARKED = re.compile(r'"([^"]+)"|\*\*([^*]+)\*\*|\*(\w[^*]*)\*')
_WORD = re.compile(r"\w+|[^\w\s]")
_PROSE = frozenset(("the", "a", "an", "of", "to", "be", "are", "this", "that"))
_SHAPES = ("number", "_name_", "snake_case", "UPPER", "Capital", "lower", "other")


def topics_tags(
    *, length: int = 64, fractions: Sequence[float] = (0.6, 0.2, 0.2), minimum_count: int = 2, seed: int = 0
) -> Data:
    """Words of the help texts and their tags, as rows of equal length: about 1 % of the words begin a term, 4 % code.

    Passages are drawn into the parts, and joined to rows with a separator between them. A word that the training part
    has less than `minimum_count` times becomes a token for its shape.

    Args:
        length: Tokens a row. A span that a row's end cuts is one in each row.
        fractions: Train, validation and test shares of the passages.
        minimum_count: How often a word of the vocabulary must occur.
        seed: Draws the parts.

    Returns:
        Inputs `[rows, length]` tokens; targets `[rows, length]` in the order of `TAGS`, or -100 at separators; extras
        `vocabulary`, the tokens in order. The text differs a little between Python versions.

    >>> data = topics_tags(length=32)
    >>> words = data.extras["vocabulary"]
    >>> batch = data.train.batch(torch.arange(1))
    >>> batch.inputs.shape, batch.target.shape, int(batch.inputs.max()) < len(words)
    (torch.Size([1, 32]), torch.Size([1, 32]), True)
    """
    check_at_least(length, "length", 2)
    check_at_least(minimum_count, "minimum_count", 1)
    if len(fractions) != 3 or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"Expected argument `fractions` to hold 3 positive numbers that sum to 1, but got {tuple(fractions)}."
        )
    passages = tagged_passages(read_topics())
    random.Random(f"topics_tags {seed}").shuffle(passages)
    cuts = [0, round(fractions[0] * len(passages)), round((fractions[0] + fractions[1]) * len(passages)), len(passages)]
    taken = {part: passages[cuts[at] : cuts[at + 1]] for at, part in enumerate(("train", "validation", "test"))}
    counts = Counter(word for words, _ in taken["train"] for word in words)
    kept = sorted(word for word, count in counts.items() if count >= minimum_count)
    vocabulary = ["[SEP]", *(f"[{shape}]" for shape in _SHAPES), *kept]
    parts, start = {}, 0
    for part, some in taken.items():
        tokens, target = encode_passages(some, vocabulary, length=length)
        parts[part] = ArraySamples(tokens, target, index=torch.arange(start, start + len(tokens)))
        start += len(tokens)
    return assemble(
        "topics_tags",
        parts,
        task="causal_lm",  # a target at every position
        num_classes=len(TAGS),
        class_names=TAGS,
        description=f"{len(passages)} passages of the Python language reference with the authors' marks as tags",
        extras={"vocabulary": vocabulary},
    )


def tagged_passages(text: str) -> list[Passage]:
    """Distinct passages of prose, without their marks and with these as tags.

    Left out are grammars, examples, passages of fewer than 6 words, and those whose marks cannot be told from what they
    stand for otherwise (a quotation mark within code). Marks of strong emphasis are taken away and give no tag.

    Args:
        text: Passages between blank lines, marked as the help texts are.

    >>> tagged_passages('A *view* of the data that "dict.keys" gives.')
    [(['A', 'view', 'of', 'the', 'data', 'that', 'dict', '.', 'keys', 'gives', '.'],
      ['O', 'B-term', 'O', 'O', 'O', 'O', 'B-code', 'I-code', 'I-code', 'O', 'O'])]
    """
    passages = []
    for written in dict.fromkeys(" ".join(block.split()) for block in re.split(r"\n\s*\n", text)):
        passage = written.removeprefix("* ")
        rest = _MARKED.sub(" ", passage)
        plain = rest.lower().split()
        prose = len(passage.split()) >= 6 and len(_PROSE.intersection(plain)) >= 2 and passage[-1] in ".:;"
        if not prose or any(mark in rest for mark in ('"', "*", "::=", ">>>")):
            continue
        words: list[str] = []
        tags: list[str] = []
        end = 0
        for mark in _MARKED.finditer(passage):
            _add(words, tags, passage[end : mark.start()])
            code, strong, term = mark.groups()
            _add(words, tags, code or strong or term, "code" if code else "term" if term else None)
            end = mark.end()
        _add(words, tags, passage[end:])
        passages.append((words, tags))
    return passages


def encode_passages(passages: Iterable[Passage], vocabulary: Sequence[str], *, length: int) -> tuple[Tensor, Tensor]:
    """Rows of tokens and targets from passages joined one after the other.

    Args:
        passages: Words and tags.
        vocabulary: Tokens in order: the separator, shapes in brackets, words.
        length: Tokens a row.

    Returns:
        Tokens and targets, both `[rows, length]`; the last row is filled with separators.

    >>> tokens, target = encode_passages([(["a", "B"], ["O", "B-code"])], ["[SEP]", "[Capital]", "a"], length=4)
    >>> tokens.tolist(), target.tolist()
    ([[2, 1, 0, 0]], [[0, 1, -100, -100]])
    """
    number = {token: at for at, token in enumerate(vocabulary)}
    tokens: list[int] = []
    target: list[int] = []
    for words, tags in passages:
        check_same_length(words, tags, "words", "tags")
        tokens += [number.get(word) or number[f"[{word_shape(word)}]"] for word in words]
        target += map(TAGS.index, tags)
        tokens.append(SEPARATOR)
        target.append(IGNORE_INDEX)
    missing = -len(tokens) % length
    rows = torch.tensor([tokens + [SEPARATOR] * missing, target + [IGNORE_INDEX] * missing])
    return rows[0].view(-1, length), rows[1].view(-1, length)


def word_shape(word: str) -> str:
    """What a word looks like, for words that a vocabulary does not have.

    >>> [word_shape(word) for word in ("3", "__add__", "max_len", "PEP", "Return", "tuple", "+")]
    ['number', '_name_', 'snake_case', 'UPPER', 'Capital', 'lower', 'other']
    """
    if word[0].isdigit():
        return "number"
    if "_" in word:
        return "_name_" if word.startswith("_") else "snake_case"
    if not word.isalpha():
        return "other"
    if word.isupper() and len(word) > 1:
        return "UPPER"
    return "lower" if word.islower() else "Capital"


def _add(words: list[str], tags: list[str], text: str, label: str | None = None) -> None:
    found = _WORD.findall(text)
    words += found
    tags += ["O" if label is None else f"{'I' if at else 'B'}-{label}" for at in range(len(found))]
