"""The catalogue of the 57 systems, and the search in it."""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Any

import yaml

from tutelage._checks import nearest
from tutelage.reproduction.system import System


@functools.cache
def systems() -> tuple[System, ...]:
    """All 57 systems, by number.

    >>> [system.name for system in systems()[:4]]
    ['DeAR', 'PLD', 'RMT', 'CCE']
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser is ten times as fast where it is built in
    text = resources.files("tutelage.reproduction").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = yaml.load(text, Loader=loader)
    return tuple(
        System(**{**entry, "blocks": tuple(entry["blocks"]), "headline": tuple(entry["headline"])}) for entry in entries
    )


def find_system(slug: str) -> System:
    """The system of that name.

    Raises:
        ValueError: There is none; the nearest names are suggested.

    >>> find_system("pld").venue
    'NeurIPS'
    >>> find_system("sinkdd")
    Traceback (most recent call last):
    ValueError: Expected the name of a system (`tutelage systems` lists them), but got 'sinkdd' (did you mean 'sinkd'?).
    """
    named = {system.slug: system for system in systems()}
    if slug not in named:
        hint = nearest(slug, named)
        raise ValueError(f"Expected the name of a system (`tutelage systems` lists them), but got {slug!r}{hint}.")
    return named[slug]


def search(text: str, *, limit: int | None = None) -> list[System]:
    """The systems that a text is about, best first.

    Ranked by the cosine of TF-IDF vectors over names, titles, summaries, families and block names: whole words and
    pairs of words, and beside them the letter groups inside words, so that a misspelt or inflected word still finds
    its systems. Systems that share nothing with the text, or hardly anything against the best one, are left out.

    Args:
        text: A few words.
        limit: At most this many systems; `None` for all that match.

    Raises:
        ValueError: The text holds no letter or digit.

    >>> search("optimal transport between batches")[0].slug
    'sinkd'
    """
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_union

    if not re.search(r"\w", text):
        raise ValueError(f"Expected argument `text` to hold a word, but got {text!r}.")
    documents = [_text(system) for system in systems()]
    words = TfidfVectorizer(ngram_range=(1, 2), stop_words="english", sublinear_tf=True)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True)
    vectors = make_union(words, letters).fit(documents)
    scores = np.asarray((vectors.transform(documents) @ vectors.transform([_spaced(text)]).T).todense()).ravel()
    order = np.argsort(-scores, kind="stable")
    found = [systems()[index] for index in order if scores[index] > 0.15 * scores.max()]
    return found[:limit]


def _text(system: System) -> str:
    # The name and the slug count twice: whoever types them wants that system.
    named = [system.name, system.slug] * 2
    return _spaced(" ".join([*named, system.title, system.family, system.summary, *system.blocks, *system.headline]))


def _spaced(text: str) -> str:
    """Words as a person would type them: `SinkhornDistillation` and `sinkhorn_plan` are two words each."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[_.\-/]", " ", text)
