"""Cityscapes from a folder of the user's own, with the 19 classes that its benchmark counts."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from tutelage.batch import Batch
from tutelage.data.images import read_image, read_numbers
from tutelage.data.samples import Data

CLASSES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    12: "wall",
    13: "fence",
    17: "pole",
    19: "traffic light",
    20: "traffic sign",
    21: "vegetation",
    22: "terrain",
    23: "sky",
    24: "person",
    25: "rider",
    26: "car",
    27: "truck",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}
"""The classes that count, by their number in the files of labels."""

_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, which backbones are trained with


class CityscapesSamples:
    """Photographs of streets with a class a pixel, read when they are asked for; -100 marks what does not count.

    Args:
        files: The photographs, `…/leftImg8bit/PART/CITY/NAME_leftImg8bit.png`; labels lie beside under `gtFine`.
        crop: Height and width of a random crop, mirrored half of the time; None gives whole photographs.
        start: The stable index of the first.
    """

    def __init__(self, files: list[Path], *, crop: tuple[int, int] | None = None, start: int = 0) -> None:
        self.files, self.crop, self.start = files, crop, start

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, rows: Tensor) -> Batch:
        """The given photographs; crops are drawn from PyTorch's global generator, which the trainer seeds."""
        pairs = [self._read(self.files[row]) for row in rows.tolist()]
        return Batch(
            torch.stack([image for image, _ in pairs]), torch.stack([label for _, label in pairs]), rows + self.start
        )

    def fingerprint(self) -> str:
        """A hash of the files' names and sizes and of the crop."""
        listed = "|".join(f"{file.name} {file.stat().st_size}" for file in self.files)
        return hashlib.sha256(f"{listed}|{self.crop}".encode()).hexdigest()

    def _read(self, file: Path) -> tuple[Tensor, Tensor]:
        image = read_image(file, size=None, mode="RGB")
        image = (image - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_DEVIATION)[:, None, None]
        numbers = read_numbers(label_file(file))
        if numbers.shape != image.shape[1:]:
            raise ValueError(f"Expected {label_file(file)} to be as large as {file}, but it is not.")
        table = torch.full((256,), -100)
        table[torch.tensor(list(CLASSES))] = torch.arange(len(CLASSES))
        label = table[numbers]
        if self.crop is not None:
            top, left = (
                int(torch.randint(1 + max(0, whole - part), ()))
                for whole, part in zip(label.shape, self.crop, strict=True)
            )
            rows, columns = slice(top, top + self.crop[0]), slice(left, left + self.crop[1])
            image, label = image[:, rows, columns], label[rows, columns]
            if torch.rand(()) < 0.5:
                image, label = image.flip(-1), label.flip(-1)
        return image, label


def label_file(file: Path) -> Path:
    """Where the labels of a photograph lie."""
    name = file.name.replace("_leftImg8bit", "_gtFine_labelIds")
    return file.parents[3] / "gtFine" / file.parts[-3] / file.parts[-2] / name


def cityscapes(root: str | Path | None = None, *, crop: tuple[int, int] = (512, 1024), held_out: int = 275) -> Data:
    """Cityscapes: training on random crops; the benchmark's validation part, whose labels are public, tests.

    Args:
        root: The folder with `leftImg8bit` and `gtFine`; by default the one that the environment variable
            `CITYSCAPES_DATASET` names. It takes an account at cityscapes-dataset.com to have it.
        crop: Height and width of training crops.
        held_out: How many training photographs, the last by name, validate.

    Raises:
        FileNotFoundError: There is no such folder, or it holds too few photographs.

    Source:
        Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
    """
    folder = Path(root or os.environ.get("CITYSCAPES_DATASET", "cityscapes")) / "leftImg8bit"
    train, test = (sorted((folder / part).glob("*/*_leftImg8bit.png")) for part in ("train", "val"))
    if len(train) <= held_out or not test:
        raise FileNotFoundError(
            f"Expected Cityscapes in {folder} (see CITYSCAPES_DATASET), but it holds {len(train)} photographs to train "
            f"on and {len(test)} to test on."
        )
    kept, validation = train[:-held_out], train[-held_out:]
    return Data(
        "cityscapes",
        CityscapesSamples(kept, crop=crop),
        CityscapesSamples(validation, start=len(kept)),
        CityscapesSamples(test, start=len(train)),
        task="segmentation",
        num_classes=len(CLASSES),
        class_names=tuple(CLASSES.values()),
        description=f"{len(train) + len(test)} photographs of streets, a class a pixel",
    )
