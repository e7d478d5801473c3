import sys
from types import SimpleNamespace

import torch
from PIL import Image

from tutelage.data import ArraySamples
from tutelage.data.cifar import AugmentedImages, cifar100


def test_augmented_images_are_shifted_or_mirrored_copies():
    images = torch.arange(1.0, 1 + 2 * 3 * 5 * 6).reshape(2, 3, 5, 6)
    augmented = AugmentedImages(ArraySamples(images, torch.tensor([0, 1])))
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4))
    for _ in range(10):
        batch = augmented.batch(torch.tensor([0, 1]))
        assert batch.inputs.shape == images.shape
        for row in range(2):
            possible = [
                window if not mirrored else window.flip(-1)
                for down in range(9)
                for right in range(9)
                for mirrored in (False, True)
                for window in [padded[row, :, down : down + 5, right : right + 6]]
            ]
            assert any(torch.equal(batch.inputs[row], window) for window in possible)


def test_augmented_samples_have_a_fingerprint_of_their_own():
    plain = ArraySamples(torch.ones(2, 1, 4, 4), torch.tensor([0, 1]))
    assert AugmentedImages(plain).fingerprint() != plain.fingerprint()
    assert len(AugmentedImages(plain)) == 2


def test_cifar100_is_normalised_and_split(monkeypatch):
    """With a stand-in for the package: 5 010 grey images, of which the last 5 000 validate."""
    image = Image.new("RGB", (32, 32), (128, 128, 128))

    def load_dataset(name, split):
        assert name == "uoft-cs/cifar100"
        count = 5010 if split == "train" else 4
        return {"img": [image] * count, "fine_label": [row % 100 for row in range(count)]}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    data = cifar100()
    assert (len(data.train), len(data.validation), len(data.test), data.num_classes) == (10, 5000, 4, 100)
    batch = data.validation.batch(torch.tensor([0]))
    assert batch.index.tolist() == [10]
    expected = (128 / 255 - torch.tensor([0.5071, 0.4865, 0.4409])) / torch.tensor([0.2673, 0.2564, 0.2762])
    assert torch.allclose(batch.inputs[0].mean(dim=(1, 2)), expected, atol=1e-6)
