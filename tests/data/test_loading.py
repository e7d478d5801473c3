from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from tutelage.data import BUILT_IN, Data, load_data


def test_digits() -> None:
    data = load_data("digits")
    assert data.train.inputs.shape[1:] == (1, 8, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (1168, 180, 449)
    assert float(data.train.inputs.max()) == 1.0
    index = torch.cat([part.index for part in (data.train, data.validation, data.test)])
    assert sorted(index.tolist()) == list(range(1797))
    for part in (data.train, data.validation, data.test):
        share = part.target.bincount(minlength=10) / len(part)
        assert float(share.min()) > 0.08
    sized = load_data("digits", flat=True, fractions=(1000, 200, 597))
    assert (len(sized.train), len(sized.validation), len(sized.test)) == (1000, 200, 597)
    assert sized.train.inputs.shape == (1000, 64)


def test_every_built_in_set_is_made() -> None:
    for name in BUILT_IN:
        data = load_data(name)
        assert isinstance(data, Data)
        assert data.name == name
        assert data.description
        for part in (data.train, data.validation, data.test):
            assert len(part.batch(torch.tensor([0]))) == 1


def test_csv_and_parquet(tmp_path: Path) -> None:
    table = pandas.DataFrame({"a": np.arange(40.0), "b": ["x", "y"] * 20})
    table.to_csv(tmp_path / "mine.csv", index=False)
    table.to_parquet(tmp_path / "mine.parquet")
    from_csv, from_parquet = (load_data(tmp_path / f"mine.{kind}", target_column="b") for kind in ("csv", "parquet"))
    assert from_csv.train.fingerprint() == from_parquet.train.fingerprint()
    assert from_csv.class_names == ("x", "y")
    folder = tmp_path / "parts"
    folder.mkdir()
    table.to_csv(folder / "train.csv", index=False)
    table[:10].to_csv(folder / "test.csv", index=False)
    data = load_data(folder, target_column="b")
    assert (data.name, len(data.test)) == ("parts", 10)


def test_bad_tables(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "ragged.csv").write_text("a,b\n1,2\n1,2,3\n")
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "binary.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    for name in ("empty.csv", "ragged.csv", "text.parquet", "binary.csv"):
        with pytest.raises(ValueError, match=f"{name} to be a .* table, but it cannot be read") as caught:
            load_data(tmp_path / name, target_column="b")
        assert "\n" not in str(caught.value)
    (tmp_path / "header.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="at least one row"):
        load_data(tmp_path / "header.csv", target_column="b")
    with pytest.raises(ValueError, match="`target_column` for the table 'header': one of 'a', 'b'"):
        load_data(tmp_path / "header.csv")


def test_saved_hugging_face_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_dict({"x": np.random.rand(40, 3).tolist(), "label": [0, 1] * 20})
    whole = whole.cast_column("label", datasets.ClassLabel(names=["no", "yes"]))
    whole.save_to_disk(str(tmp_path / "one"))
    data = load_data(tmp_path / "one")
    assert data.train.inputs.shape == (28, 3)
    assert data.class_names == ("no", "yes")
    words = datasets.Dataset.from_dict({"text": ["good", "bad"] * 10, "label": [1, 0] * 10})
    datasets.DatasetDict({"train": words, "test": words}).save_to_disk(str(tmp_path / "two"))
    data = load_data(tmp_path / "two", target_column="label", text_column="text")
    assert len(data.test) == 20
    assert set(data.test.inputs) == {"input_ids", "attention_mask"}


def test_factories(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_data_module.py").write_text(
        "import torch\n"
        "from tutelage.data import ArraySamples, load_data\n"
        "def samples(size=30):\n    return ArraySamples(torch.rand(size, 2), torch.arange(size) % 3)\n"
        "def pairs():\n    return [(torch.zeros(2), row % 2) for row in range(20)]\n"
        "def data():\n    return load_data('iris')\n"
        "nothing = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_data("my_data_module:samples", size=60).num_classes == 3
    assert len(load_data("my_data_module:pairs").train) == 14
    assert load_data("my_data_module:data").name == "iris"
    with pytest.raises(ValueError, match=r"`size`, but got `sise` .did you mean 'size'"):
        load_data("my_data_module:samples", sise=60)
    with pytest.raises(ValueError, match="to be a function, but got int"):
        load_data("my_data_module:nothing")
    with pytest.raises(ValueError, match="to be importable"):
        load_data("my_data_modul:samples")


def test_wrong_names(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'glyphs'"):
        load_data("glyfs")
    (tmp_path / "signals.npz").touch()
    with pytest.raises(ValueError, match=r"no such file or folder .did you mean '.*signals\.npz'"):
        load_data(tmp_path / "signal.npz")
    with pytest.raises(ValueError, match="empty name"):
        load_data("")
    with pytest.raises(ValueError, match=r"right types for the data 'digits', but got fractions=0\.5"):
        load_data("digits", fractions=0.5)
    with pytest.raises(ValueError, match="no such file"):
        load_data("nowhere/at/all.csv")
    (tmp_path / "model.pt").touch()
    with pytest.raises(ValueError, match=r"'model.pt' .pickles"):
        load_data(tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"but got `flatt` .did you mean 'flat'"):
        load_data("digits", flatt=True)


def test_importing_the_room_loads_no_heavy_package() -> None:
    heavy = ("sklearn", "pandas", "PIL", "matplotlib", "scipy", "datasets", "transformers", "tokenizers", "pyarrow")
    program = f"import sys, tutelage.data; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_generated_data_are_the_same_in_another_process() -> None:
    """Recorded results name the data by fingerprint; what is generated must not drift between processes."""
    program = (
        "from tutelage.data import load_data\n"
        "for name in ('arithmetic', 'glyphs', 'mnist1d'): print(load_data(name).train.fingerprint())"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.split() == [load_data(name).train.fingerprint() for name in ("arithmetic", "glyphs", "mnist1d")]
