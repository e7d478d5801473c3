"""Rendered letters and digits: as many classes as an alphabet has, in the fonts that matplotlib ships."""

from __future__ import annotations

import functools
import importlib.util
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tutelage._checks import check_at_least, check_non_negative, nearest
from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import assemble
from tutelage.data.samples import Data

ALPHABETS = {
    "digits": string.digits,
    "uppercase": string.ascii_uppercase,
    "lowercase": string.ascii_lowercase,
    "letters": string.ascii_uppercase + string.ascii_lowercase,
    "uppercase_digits": string.ascii_uppercase + string.digits,
    "alphanumeric": string.digits + string.ascii_uppercase + string.ascii_lowercase,
}
"""Alphabets by name; any string of distinct characters is one too."""

_SHARED = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
)
FONT_SETS = {
    "dejavu": _SHARED,
    "dejavu_sans": _SHARED[:4],
    "dejavu_mono": _SHARED[4:8],
    "dejavu_serif": _SHARED[8:],
    "stix": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
    "computer_modern": ("cmr10", "cmb10", "cmss10", "cmti10", "cmtt10"),
}
"""Fonts of text by family, as matplotlib names their files."""
FONT_SETS["all"] = (*FONT_SETS["dejavu"], *FONT_SETS["stix"], *FONT_SETS["computer_modern"])

_OVERSAMPLING = 2  # images are warped at twice the size, then averaged down, so that thin strokes do not flicker
_CHUNK = 4096


def glyphs(
    *,
    alphabet: str = "alphanumeric",
    size: int = 12,
    noise: float = 0.1,
    affine: float = 1.0,
    fonts: str | Sequence[str] = "dejavu",
    test_fonts: str | Sequence[str] | None = None,
    train_per_class: int = 80,
    validation_per_class: int = 20,
    test_per_class: int = 40,
    flat: bool = False,
    seed: int = 0,
) -> Data:
    """Rendered characters under random affine maps and noise; a class a character.

    Each character is drawn once a font; an image is one drawing under a random rotation, scale, shear and shift, with
    Gaussian noise, clipped to [0, 1] (ink is 1). Batches carry `extras["font"]`, the row of `data.extras["fonts"]`.

    Args:
        alphabet: A name in `ALPHABETS`, or the characters themselves.
        size: Height and width in pixels.
        noise: Standard deviation of the noise.
        affine: Strength of the maps: rotations up to 12° times this, scales up to 12 %, shears up to 0.12, shifts up to
            8 % of the size, all uniform; 0 switches them off.
        fonts: A name in `FONT_SETS`, or font names.
        test_fonts: Fonts of the test part, when it is to be written in unseen ones.
        train_per_class: Training images a class.
        validation_per_class: Validation images a class.
        test_per_class: Test images a class.
        flat: Images as `[size²]` in place of `[1, size, size]`.
        seed: Fixes every draw. Parts draw independently, so a larger training part leaves the others as they were.

    Raises:
        ValueError: Characters that repeat or that a font lacks, an unknown font, or a size below 4.

    >>> data = glyphs(alphabet="uppercase", train_per_class=2, validation_per_class=1, test_per_class=1)
    >>> len(data.train), data.train.batch(slice(0, 4)).inputs.shape, data.class_names[:3]
    (52, torch.Size([4, 1, 12, 12]), ('A', 'B', 'C'))
    """
    characters = ALPHABETS.get(alphabet, alphabet)
    if len(characters) < 2 or len(set(characters)) != len(characters):
        raise ValueError(
            f"Expected argument `alphabet` to be one of {', '.join(map(repr, ALPHABETS))} or at least 2 distinct "
            f"characters, but got {alphabet!r}."
        )
    check_at_least(size, "size", 4)
    check_non_negative(noise, "noise")
    check_non_negative(affine, "affine")
    names = _font_names(fonts, "fonts")
    test_names = names if test_fonts is None else _font_names(test_fonts, "test_fonts")
    every = tuple(dict.fromkeys((*names, *test_names)))
    base = torch.stack([_draw(name, characters, 2 * _OVERSAMPLING * size) for name in every])
    plans = {
        "train": (train_per_class, names),
        "validation": (validation_per_class, names),
        "test": (test_per_class, test_names),
    }
    parts, start = {}, 0
    for stream, (part, (per_class, used)) in enumerate(plans.items()):
        check_at_least(per_class, f"{part}_per_class", 1)
        generator = torch.Generator().manual_seed(3 * seed + stream)
        count = per_class * len(characters)
        target = torch.arange(count) % len(characters)
        choices = torch.tensor([every.index(name) for name in used])
        font = choices[torch.randint(len(used), (count,), generator=generator)]
        images = render(base, font, target, size=size, affine=affine, noise=noise, generator=generator)
        parts[part] = ArraySamples(
            images.flatten(1) if flat else images,
            target,
            index=torch.arange(start, start + count),
            extras={"font": font},
        )
        start += count
    return assemble(
        "glyphs",
        parts,
        num_classes=len(characters),
        class_names=list(characters),
        description=f"{start} rendered characters of {len(characters)} classes in {len(every)} fonts, {size} × {size}",
        extras={"fonts": every},
    )


def render(
    drawings: Float[Tensor, "fonts characters canvas canvas"],
    font: Int[Tensor, "samples"],
    character: Int[Tensor, "samples"],
    *,
    size: int,
    affine: float,
    noise: float,
    generator: torch.Generator,
) -> Float[Tensor, "samples 1 size size"]:
    """Images of given characters in given fonts under random affine maps and noise, in [0, 1]."""
    count = len(font)
    draws = affine * (2 * torch.rand(5, count, generator=generator) - 1)
    angle = draws[0] * (12 * torch.pi / 180)
    scale = torch.exp(0.12 * draws[1])
    shear = 0.12 * draws[2]
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    theta = torch.stack(
        [
            torch.stack([cosine, shear * cosine - sine, 0.16 * draws[3]], dim=1),
            torch.stack([sine, shear * sine + cosine, 0.16 * draws[4]], dim=1),
        ],
        dim=1,
    )
    images = torch.empty(count, 1, size, size)
    warped = _OVERSAMPLING * size
    for rows in torch.split(torch.arange(count), _CHUNK):
        grid = F.affine_grid(theta[rows], [len(rows), 1, warped, warped], align_corners=False)
        source = drawings[font[rows], character[rows]].unsqueeze(1)
        images[rows] = F.avg_pool2d(F.grid_sample(source, grid, align_corners=False), _OVERSAMPLING)
    if noise:
        images += noise * torch.randn(images.shape, generator=generator)
    return images.clamp_(0, 1)


@functools.lru_cache(maxsize=64)
def _draw(name: str, characters: str, canvas: int) -> Tensor:
    """Every character in one font, `[characters, canvas, canvas]` in [0, 1]: one baseline, centred across."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(_font_folder() / f"{name}.ttf"), round(0.72 * canvas))
    absent = font.getmask("\uffff")
    drawings = np.zeros((len(characters), canvas, canvas), dtype=np.float32)
    for row, character in enumerate(characters):
        mask = font.getmask(character)
        if mask.size == absent.size and bytes(mask) == bytes(absent):
            raise ValueError(f"Expected the font {name!r} to have every character, but it lacks {character!r}.")
        image = Image.new("L", (canvas, canvas))
        left, _, right, _ = font.getbbox(character, anchor="ls")
        position = ((canvas - left - right) / 2, 0.76 * canvas)
        ImageDraw.Draw(image).text(position, character, fill=255, font=font, anchor="ls")
        drawings[row] = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(drawings)


def _font_folder() -> Path:
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise ImportError("The data set `glyphs` draws in the fonts of matplotlib; install it: pip install matplotlib")
    return Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"


def _font_names(fonts: str | Sequence[str], argument: str) -> tuple[str, ...]:
    if isinstance(fonts, str):
        fonts = FONT_SETS.get(fonts, (fonts,))
    if not fonts:
        raise ValueError(f"Expected argument `{argument}` to name at least one font, but it is empty.")
    for name in fonts:
        if name not in FONT_SETS["all"]:
            options = (*FONT_SETS, *FONT_SETS["all"])
            raise ValueError(
                f"Expected argument `{argument}` to be one of {', '.join(map(repr, FONT_SETS))} or names of their "
                f"fonts, but got {name!r}{nearest(name, options)}."
            )
    return tuple(fonts)
