import numpy as np
import pytest
import torch

from tutelage.data import load_data
from tutelage.data.two_views import av_mnist, two_views


def whole(data):
    parts = [part.batch(torch.arange(len(part))) for part in (data.train, data.validation, data.test)]
    order = torch.cat([part.index for part in parts]).argsort()
    return (
        torch.cat([part.inputs for part in parts])[order],
        torch.cat([part.target for part in parts])[order],
        {name: torch.cat([part.extras[name] for part in parts])[order] for name in parts[0].extras},
    )


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


@pytest.mark.parametrize("kind", ["same_scene", "same_class"])
@pytest.mark.parametrize("student", ["image", "signal"])
def test_student_sees_one_view_the_auxiliary_the_other_the_teacher_both(kind, student):
    data = load_data("two_views", kind=kind, student=student)
    batch = data.train.batch(torch.arange(9))
    both = batch.inputs_for("teacher")
    other = "image" if student == "signal" else "signal"
    assert torch.equal(batch.inputs, both[student])
    assert torch.equal(batch.inputs_for("auxiliary")["input"], both[other])
    assert [len(part) for part in (data.train, data.validation, data.test)] == pytest.approx([1078, 359, 360], abs=2)
    assert data.num_classes == 10


def test_both_sensors_see_the_same_scene(digits):
    pixels, target = digits
    signal, labels, extras = whole(two_views(noise=0.0, projections=5))
    assert labels.tolist() == target.tolist()
    weights, *_ = np.linalg.lstsq(np.c_[pixels / 16, np.ones(len(pixels))], signal.numpy(), rcond=None)
    fitted = np.c_[pixels / 16, np.ones(len(pixels))] @ weights
    assert np.abs(fitted - signal.numpy()).max() < 1e-4, "linear in the clean image"
    torch.testing.assert_close(signal.mean(dim=0), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(signal.std(dim=0), torch.ones(5), atol=1e-3, rtol=0)
    image = extras["teacher.image"].numpy()
    kept = image > 0
    assert np.allclose(image[kept], (pixels / 16)[kept])
    assert kept.sum() / (pixels > 0).sum() == pytest.approx(0.75, abs=0.01)


def test_noise_is_added_to_the_same_projections():
    clean, noisy = whole(two_views(noise=0.0))[0], whole(two_views(noise=0.5))[0]
    assert (noisy - clean).std().item() == pytest.approx(0.5, rel=0.02)
    assert abs((noisy - clean).mean().item()) < 0.02


def test_signals_of_a_class_are_dealt_out_once_each():
    from tutelage.data.mnist1d import mnist1d

    signal, target, _ = whole(two_views("same_class", seed=3))
    most = int(target.bincount().max())
    drawn = mnist1d(train=10 * most, validation=10, test=10, seed=3).train
    known = {tuple(row): int(label) for row, label in zip(drawn.inputs.tolist(), drawn.target, strict=True)}
    rows = [tuple(row) for row in signal.tolist()]
    assert len(set(rows)) == len(rows)
    assert [known[row] for row in rows] == target.tolist()


def test_seeds():
    one, again, other = (two_views(seed=seed).train.fingerprint() for seed in (1, 1, 2))
    assert one == again != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "same_sceen"}, "did you mean 'same_scene'"),
        ({"student": "both"}, "one of 'image', 'signal'"),
        ({"dropped": 1.5}, r"`dropped` to be in \[0.0, 1.0\]"),
        ({"projections": 0}, "`projections` to be at least 1"),
        ({"noise": -1.0}, "`noise` to be at least 0"),
    ],
)
def test_bad_options(options, message, monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        two_views(**options)


@pytest.mark.parametrize("heard", ["sound", "audio"])
def test_av_mnist_is_read_from_its_files(tmp_path, heard):
    generator = np.random.default_rng(0)
    labels = {"train": np.arange(30) % 10, "test": np.arange(20) % 10}
    for folder, width in (("image", 784), (heard, 112 * 112)):
        (tmp_path / folder).mkdir()
        for part, target in labels.items():
            np.save(tmp_path / folder / f"{part}_data.npy", generator.uniform(-3, 5, (len(target), width)))
    with pytest.raises(ValueError, match=r"train_labels.npy, but there is none"):
        av_mnist(tmp_path)
    for part, target in labels.items():
        np.save(tmp_path / f"{part}_labels.npy", target)
    data = av_mnist(tmp_path, student="sound")
    batch = data.train.batch(torch.arange(len(data.train)))
    assert batch.inputs.shape == (30, 1, 112, 112)
    assert batch.inputs_for("auxiliary")["input"].shape == (30, 1, 28, 28)
    assert torch.equal(batch.inputs_for("teacher")["sound"], batch.inputs)
    image = whole(data)[2]["teacher.image"]
    assert (image.min(), image.max()) == (0, 1)
