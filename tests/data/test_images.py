from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data import SubsetSamples, load_data
from tutelage.data.images import read_image


def write(
    root: Path, classes=("cat", "dog"), count: int = 6, size: tuple[int, int] = (8, 6), mode: str = "RGB"
) -> None:
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = np.full((*size, 3), 40 * label + number, dtype=np.uint8)
            Image.fromarray(pixels).convert(mode).save(root / name / f"{number:02d}.png")


def test_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "pets", count=20)
    (tmp_path / "pets" / ".cache").mkdir()
    data = load_data(tmp_path / "pets")
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.validation), len(data.test)) == (28, 4, 8)
    batch = data.train.batch(torch.arange(28))
    assert batch.inputs.shape == (28, 3, 8, 6)
    expected = 40 * batch.target + batch.index % 20
    assert torch.allclose(batch.inputs[:, 0, 0, 0] * 255, expected.float(), atol=1e-3)


@pytest.mark.parametrize("in_memory", [True, False])
def test_part_folders(tmp_path: Path, in_memory: bool) -> None:
    for part, count in (("train", 6), ("val", 2), ("test", 3)):
        write(tmp_path / part, count=count)
    data = load_data(tmp_path, size=4, mode="L", in_memory=in_memory)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 6)
    batch = data.test.batch(torch.tensor([5]))
    assert batch.inputs.shape == (1, 1, 4, 4)
    assert batch.target.tolist() == [1]
    assert float(batch.inputs[0, 0, 0, 0]) * 255 == pytest.approx(42, abs=0.01)


def test_lazy_and_held_images_agree(tmp_path: Path) -> None:
    write(tmp_path, count=10)
    held, lazy = (load_data(tmp_path, in_memory=choice) for choice in (True, False))
    assert isinstance(lazy.train, SubsetSamples)
    rows = torch.tensor([3, 1])
    assert torch.equal(held.train.batch(rows).inputs, lazy.train.batch(rows).inputs)
    assert torch.equal(held.train.batch(rows).index, lazy.train.batch(rows).index)
    first = lazy.train.fingerprint()
    assert first == load_data(tmp_path, in_memory=False).train.fingerprint()
    Image.new("RGB", (6, 8), "white").save(tmp_path / "cat" / "00.png")
    assert load_data(tmp_path, in_memory=False).train.fingerprint() != first


def test_modes(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "1"):
        write(tmp_path / mode, mode=mode, count=10)
        assert load_data(tmp_path / mode).train.inputs.shape[1] == 3
    deep = np.full((4, 4), 40_000, dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    image = read_image(tmp_path / "deep.png", size=None, mode="L")
    assert torch.allclose(image * 255, torch.full((1, 4, 4), 40_000.0 // 256))


def test_damaged_images_are_named(tmp_path: Path) -> None:
    write(tmp_path, count=10)
    (tmp_path / "cat" / "03.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat/03\.png to be a whole image, but it is no image"):
        load_data(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat" / "03.png")
    whole = (tmp_path / "cat" / "03.png").read_bytes()
    (tmp_path / "cat" / "03.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cat/03\.png to be a whole image"):
        load_data(tmp_path)


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 2 classes, but got 0"):
        load_data(tmp_path)
    write(tmp_path / "pets", count=10)
    (tmp_path / "pets" / "emu").mkdir()
    with pytest.raises(ValueError, match=r"one image in .*emu"):
        load_data(tmp_path / "pets")
    write(tmp_path / "pets", classes=("emu",), size=(5, 5), count=9)
    with pytest.raises(ValueError, match="images of one size"):
        load_data(tmp_path / "pets")
    write(tmp_path / "parts" / "train")
    write(tmp_path / "parts" / "test", classes=("cat", "emu"))
    with pytest.raises(ValueError, match="adds 'emu'"):
        load_data(tmp_path / "parts")
    with pytest.raises(ValueError, match="`size` to be positive"):
        load_data(tmp_path / "parts", size=0)


def test_huge_images_are_refused(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path, count=10)
    monkeypatch.setattr("tutelage.data.images._MOST_PIXELS", 40)
    with pytest.raises(ValueError, match="6 × 8 pixels"):
        load_data(tmp_path)
