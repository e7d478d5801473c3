"""Folders of images as data: a folder a class, in memory when the set is small, read when asked for when it is not."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tutelage._checks import check_option
from tutelage.batch import Batch
from tutelage.data.arrays import ArraySamples
from tutelage.data.parts import FRACTIONS, assemble
from tutelage.data.samples import Data, Samples
from tutelage.files import sha256_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
PART_FOLDERS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "val": "validation",
    "valid": "validation",
    "dev": "validation",
    "test": "test",
}
"""Folder names of parts."""
_MOST_PIXELS = 1 << 26  # an image beyond this is a mistake or an attack
_SMALL = 512 << 20  # bytes of float32 that are kept in memory without asking


class ImageSamples:
    """Images in files, decoded when a batch asks for them.

    Args:
        files: The images.
        target: `[files]` classes.
        size: Height and width that every image is resized to (bilinear); None leaves them as they are.
        mode: `"RGB"` (`[3, height, width]`) or `"L"` (grey, `[1, height, width]`); values in [0, 1].
        index: Stable indices; the row by default.
    """

    def __init__(
        self,
        files: Sequence[Path],
        target: Tensor,
        *,
        size: tuple[int, int] | None = None,
        mode: Literal["RGB", "L"] = "RGB",
        index: Tensor | None = None,
    ) -> None:
        if not files:
            raise ValueError("Expected argument `files` to hold at least one image, but it is empty.")
        self.files = list(files)
        self.targets = target
        self.size = size
        self.mode = mode
        self.index = torch.arange(len(self.files)) if index is None else index
        self._fingerprint: str | None = None

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, rows: Tensor) -> Batch:
        """The given rows as a batch.

        Raises:
            ValueError: A damaged image, or images of different sizes; the message names the file.
        """
        images = [read_image(self.files[row], size=self.size, mode=self.mode) for row in rows.tolist()]
        for row, image in zip(rows.tolist(), images, strict=True):
            if image.shape != images[0].shape:
                raise ValueError(
                    f"Expected images of one size, but {self.files[row]} has {tuple(image.shape[1:])} and another "
                    f"{tuple(images[0].shape[1:])}; pass size= to resize them."
                )
        return Batch(torch.stack(images), self.targets[rows], self.index[rows])

    def fingerprint(self) -> str:
        """SHA-256 over the files' bytes, the classes and how images are read; computed once."""
        if self._fingerprint is None:
            digest = hashlib.sha256(f"{self.size}|{self.mode}|{self.targets.tolist()}|{self.index.tolist()}".encode())
            for file in self.files:
                digest.update(sha256_of(file).encode())
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def image_folder_data(
    root: Path | str,
    *,
    size: int | tuple[int, int] | None = None,
    mode: Literal["RGB", "L"] = "RGB",
    in_memory: bool | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> Data:
    """Data from `root/CLASS/*` or `root/train/CLASS/*` (and `validation`, `test`); classes are the sorted folder names.

    Args:
        root: The folder.
        size: Height and width that images are resized to, needed when they differ; one number makes squares.
        mode: `"RGB"`, or `"L"` for grey.
        in_memory: Decode everything at once; by default when that takes at most 512 MiB.
        fractions: Train, validation and test shares, where parts are missing.
        seed: Fixes the cut.

    Raises:
        ValueError: No class folders, a class without images, classes that differ among the parts, or a damaged image.
    """
    root = Path(root)
    check_option(mode, "mode", ("RGB", "L"))
    shape = (size, size) if isinstance(size, int) else size
    if shape is not None and (len(shape) != 2 or min(shape) < 1):
        raise ValueError(f"Expected argument `size` to be positive, but got {size}.")
    folders = _folders(root)
    names: list[str] = []
    parts: dict[str, Samples] = {}
    start = 0
    for part, folder in sorted(folders.items(), key=lambda item: item[0] != "train"):
        classes = _class_folders(folder)
        found = [one.name for one in classes]
        if part == "train":
            names = found
        elif set(found) - set(names):
            extra = sorted(set(found) - set(names))[0]
            raise ValueError(f"Expected {folder} to hold the classes of {folders['train']}, but it adds {extra!r}.")
        files, labels = [], []
        for one in classes:
            images = sorted(file for file in one.rglob("*") if file.suffix.lower() in SUFFIXES and _shown(file))
            if not images:
                raise ValueError(f"Expected at least one image in {one}, but there is none.")
            files += images
            labels += [names.index(one.name)] * len(images)
        index = torch.arange(start, start + len(files))
        parts[part] = ImageSamples(files, torch.tensor(labels), size=shape, mode=mode, index=index)
        start += len(files)
    if in_memory is None:
        first = parts["train"].batch(torch.tensor([0])).inputs
        in_memory = isinstance(first, Tensor) and start * first.nbytes <= _SMALL
    if in_memory:
        parts = {part: _decoded(samples) for part, samples in parts.items()}
    return assemble(
        root.name,
        parts,
        num_classes=len(names),
        class_names=names,
        description=f"{start} images in {len(names)} classes",
        fractions=fractions,
        seed=seed,
    )


def read_image(file: Path, *, size: tuple[int, int] | None, mode: str) -> Tensor:
    """One image `[channels, height, width]` in [0, 1], turned upright as its camera says.

    Raises:
        ValueError: The file is no image, is damaged, or has more than 67 million pixels.
    """
    from PIL import Image, ImageOps

    with _opened(file) as opened:
        image: Any = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert(mode)
        if size is not None and image.size != (size[1], size[0]):
            image = image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.float32) / 255
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def read_numbers(file: Path) -> Tensor:
    """The numbers that the pixels of a grey or palette image hold `[height, width]`, int64, as they are stored.

    Raises:
        ValueError: As for `read_image`, or the image has colours.
    """
    with _opened(file) as opened:
        if opened.mode not in ("L", "P", "1"):
            raise ValueError("it has colours where numbers were expected")
        return torch.from_numpy(np.array(opened).astype(np.int64))


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """An image that is open inside the block; an error there is told as one of the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"it has {opened.width} × {opened.height} pixels")
            yield opened
    except Exception as error:  # decoders raise whatever comes of damaged bytes
        cause = "it is no image" if isinstance(error, UnidentifiedImageError) else " ".join(str(error).split())
        raise ValueError(f"Expected {file} to be a whole image, but {cause}.") from error


def _decoded(samples: Samples) -> Samples:
    batch = samples.batch(torch.arange(len(samples)))
    return ArraySamples(batch.inputs, batch.target, index=batch.index)


def _folders(root: Path) -> dict[str, Path]:
    inside = {folder.name.lower(): folder for folder in root.iterdir() if folder.is_dir() and _shown(folder)}
    parts = {PART_FOLDERS[name]: folder for name, folder in inside.items() if name in PART_FOLDERS}
    return parts if "train" in parts else {"train": root}


def _class_folders(folder: Path) -> list[Path]:
    classes = sorted(one for one in folder.iterdir() if one.is_dir() and _shown(one))
    if len(classes) < 2:
        raise ValueError(f"Expected {folder} to hold a folder for each of at least 2 classes, but got {len(classes)}.")
    return classes


def _shown(path: Path) -> bool:
    return not path.name.startswith((".", "__"))
