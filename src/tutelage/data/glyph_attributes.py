"""What is true of rendered characters: answers to questions about the character, its font, and the resulting shape."""

from __future__ import annotations

import functools
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from tutelage.data.glyphs import ALPHABETS, glyphs

_OF_CHARACTERS = {
    "Is it a digit?": string.digits,
    "Is it an upper-case letter?": string.ascii_uppercase,
    "Is it a lower-case letter?": string.ascii_lowercase,
    "Is it a vowel?": "AEIOUaeiou",
    "Is it a letter of the first half of the alphabet?": "ABCDEFGHIJKLMabcdefghijklm",
    "Does the other case of this letter look the same?": "CcKkOoPpSsUuVvWwXxZz",
    "Is it made of straight strokes only?": "147AEFHIKLMNTVWXYZklvwxz",
    "Has it a diagonal stroke?": "1247AKMNQRVWXYZkvwxyz",
    "Has it an upright stroke?": "14BDEFHIJKLMNPRTUYabdfghijklmnpqrtu",
    "Has it a level stroke?": "2457AEFGHILTZeftz",
    "Has it a dot?": "ij",
    "Is it open to the right?": "CEFGKLXZcekxz",
}
_OF_SHAPES = (  # in the order in which `_shape` answers
    "Does it enclose a hole?",
    "Does it enclose two holes?",
    "Is it the same in a mirror?",
    "Is it the same upside down in a mirror?",
    "Is it the same after half a turn?",
    "Does it reach below the line?",
    "Does it reach up to the height of capitals?",
    "Is it about as wide as it is high?",
    "Is it narrow?",
    "Is there more ink in its upper half?",
    "Is there more ink in its left half?",
)
_OF_FONTS = {  # parts of the names of fonts for which the answer is yes
    "Is it bold?": ("Bold", "Bol", "cmb"),
    "Is it slanted?": ("Oblique", "Ita", "cmti"),
    "Has it serifs?": ("Serif", "STIX", "cmr", "cmb", "cmti", "cmtt"),
}

QUESTIONS = (*_OF_CHARACTERS, *_OF_SHAPES, *_OF_FONTS)
"""The questions, in the order of the attributes."""


def glyph_attributes(fonts: Sequence[str], *, size: int = 48) -> Bool[Tensor, "fonts characters questions"]:
    """The true answers to `QUESTIONS` for every letter and digit in every font.

    Questions about the character alone (is it a vowel?) have one answer in all fonts; those about its shape (does it
    enclose a hole?) are answered from a clean drawing, so fonts may differ; those about the font (is it bold?) have one
    answer for all of its characters.

    Args:
        fonts: Names of fonts, see `tutelage.data.glyphs.FONT_SETS`.
        size: Height and width of the drawings that are looked at.

    Returns:
        `[fonts, 62, questions]`; characters in the order of the alphabet `alphanumeric`: digits, capitals, small ones.

    >>> attributes = glyph_attributes(["DejaVuSans", "DejaVuSans-Bold"])
    >>> attributes.shape, attributes[:, 10, QUESTIONS.index("Is it bold?")].tolist()
    (torch.Size([2, 62, 26]), [False, True])
    """
    return torch.stack([_attributes_in(font, size) for font in fonts])


@functools.lru_cache(maxsize=64)
def _attributes_in(font: str, size: int) -> Tensor:
    """`[62, questions]` for one font."""
    characters = ALPHABETS["alphanumeric"]
    clean = glyphs(
        alphabet=characters,
        size=size,
        noise=0,
        affine=0,
        fonts=(font,),
        train_per_class=1,
        validation_per_class=1,  # only the training part is looked at
        test_per_class=1,
    )
    drawn = clean.train.batch(torch.arange(len(characters))).inputs
    assert isinstance(drawn, Tensor)
    of_character = torch.tensor([[character in yes for yes in _OF_CHARACTERS.values()] for character in characters])
    of_shape = torch.tensor([_shape(ink) for ink in (drawn[:, 0] > 0.5).numpy()])
    of_font = torch.tensor([any(mark in font for mark in marks) for marks in _OF_FONTS.values()])
    return torch.cat([of_character, of_shape, of_font.expand(len(characters), -1)], dim=1)


def _shape(ink: NDArray[Any]) -> list[bool]:
    """Answers to `_OF_SHAPES` from a clean drawing `[size, size]`, whose line lies at 0.76 of the height."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    holes = ndimage.label(~np.pad(ink, 1))[1] - 1  # what of the paper is cut off from the rest of it

    def same_as(other: NDArray[Any]) -> bool:
        return bool((box & other).sum() > 0.7 * (box | other).sum())

    size, (height, width) = len(ink), box.shape
    return [
        holes >= 1,
        holes >= 2,
        same_as(box[:, ::-1]),
        same_as(box[::-1]),
        same_as(box[::-1, ::-1]),
        bool(rows[-1] > 0.8 * size),
        bool(rows[0] < 0.33 * size),
        width > 0.95 * height,
        width < 0.55 * height,
        bool(box[: height // 2].sum() > box[height - height // 2 :].sum()),
        bool(box[:, : width // 2].sum() > box[:, width - width // 2 :].sum()),
    ]
