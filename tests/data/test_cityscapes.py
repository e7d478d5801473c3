import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.cityscapes import CLASSES, cityscapes


def photograph(root, part, city, name, labels):
    folders = [root / kind / part / city for kind in ("leftImg8bit", "gtFine")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    colours = np.repeat(labels[:, :, None], 3, axis=2)  # so that pictures and labels can be told to belong together
    Image.fromarray(colours).save(folders[0] / f"{name}_leftImg8bit.png")
    Image.fromarray(labels).save(folders[1] / f"{name}_gtFine_labelIds.png")


@pytest.fixture
def root(tmp_path):
    generator = np.random.default_rng(0)
    for part, city, count in (("train", "aachen", 3), ("train", "ulm", 2), ("val", "lindau", 2)):
        for number in range(count):
            labels = generator.integers(0, 34, (12, 20), dtype=np.uint8)
            photograph(tmp_path, part, city, f"{city}_{number}", labels)
    return tmp_path


def test_parts_labels_and_crops(root):
    data = cityscapes(root, crop=(8, 10), held_out=2)
    assert (len(data.train), len(data.validation), len(data.test)) == (3, 2, 2)
    assert data.num_classes == len(data.class_names) == 19
    whole = data.test.batch(torch.tensor([1, 0]))
    assert whole.inputs.shape == (2, 3, 12, 20)
    assert whole.index.tolist() == [6, 5]
    crop = data.train.batch(torch.tensor([0, 2]))
    assert crop.inputs.shape == (2, 3, 8, 10)
    for batch in (whole, crop):  # red channel back to the number in the file, and that to its class
        numbers = ((batch.inputs[:, 0] * 0.229 + 0.485) * 255).round().long()
        expected = torch.full((256,), -100)
        for place, number in enumerate(CLASSES):
            expected[number] = place
        assert torch.equal(batch.target, expected[numbers])
    assert data.train.fingerprint() != data.test.fingerprint()


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("CITYSCAPES_DATASET", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="CITYSCAPES_DATASET"):
        cityscapes()
