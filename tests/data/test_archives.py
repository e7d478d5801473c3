from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tutelage.data import load_data


def test_one_piece_is_split(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", inputs=np.random.rand(50, 4), target=np.arange(50) % 5)
    data = load_data(tmp_path / "mine.npz")
    assert (data.name, data.num_classes, len(data.train), len(data.test)) == ("mine", 5, 35, 10)
    assert data.train.inputs.dtype == torch.float32


@pytest.mark.parametrize("form", ["{part}_{key}", "{key}_{part}"])
def test_parts(tmp_path: Path, form: str) -> None:
    arrays = {}
    for part, size in (("train", 20), ("test", 6)):
        arrays[form.format(part=part, key="x")] = np.full((size, 3, 3), 255, dtype=np.uint8)
        arrays[form.format(part=part, key="y")] = np.arange(size) % 2
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    data = load_data(tmp_path / "mine.npz")
    assert (len(data.train) + len(data.validation), len(data.test)) == (20, 6)
    assert float(data.train.inputs.max()) == 1.0
    index = torch.cat([part.index for part in (data.train, data.validation, data.test)])
    assert index.unique().numel() == 26


def test_tasks(tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", x=np.random.rand(30, 2), y=(np.arange(30) % 3).astype(float)[:, None])
    assert load_data(tmp_path / "real.npz").task == "regression"
    assert load_data(tmp_path / "real.npz", task="classification").num_classes == 3


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({"a": np.zeros(3)}, {}, "'inputs' and 'target'"),
        ({"x": np.zeros((3, 1))}, {}, "'target' beside"),
        ({"x": np.zeros((0, 1)), "y": np.zeros(0, dtype=int)}, {}, "at least one sample"),
        ({"x": np.zeros((30, 1)), "y": np.arange(30) % 3 - 1}, {}, "but got -1"),
        ({"x": np.zeros((30, 1)), "y": np.arange(30) % 3}, {"num_classes": 2}, r"\[0, 2\), but got 2"),
        ({"x": np.zeros((30, 1)), "y": np.arange(30) / 2}, {"task": "classification"}, "integer classes, but got 0.5"),
        ({"x": np.full((30, 1), np.nan), "y": np.arange(30) % 2}, {}, "NaN"),
        ({"x": np.zeros((30, 1)), "y": np.zeros(29, dtype=int)}, {}, "but got 29"),
        ({"x": np.array([{}, {}]), "y": np.zeros(2, dtype=int)}, {}, "never unpickled"),
        ({"x": np.zeros((1000, 10)), "y": np.zeros(1000, dtype=int)}, {"max_bytes": 10_000}, "max_bytes=10000"),
    ],
)
def test_bad_input(tmp_path: Path, arrays, options, message) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "bad.npz", **options)


def test_a_bomb_is_refused_from_its_headers(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        archive.writestr("x.npy", header.getvalue())
    with pytest.raises(ValueError, match="'x' has 0 bytes where its header says 8796093022208"):
        load_data(tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", x=np.zeros((200, 4)), y=np.arange(200) % 2)
    with pytest.raises(ValueError, match="max_bytes=1000"):
        load_data(tmp_path / "large.npz", max_bytes=1000)
    with zipfile.ZipFile(tmp_path / "zeros.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes(1 << 20))
    with pytest.raises(ValueError, match="NumPy archive"):
        load_data(tmp_path / "zeros.npz")


def test_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "whole.npz", x=np.random.rand(200, 4), y=np.arange(200) % 2)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:3000])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(ValueError, match=f"{name} to be a NumPy archive"):
            load_data(tmp_path / name)
