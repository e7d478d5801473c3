import pytest
import torch

from tutelage.data import digit_scenes, load_data

SMALL = {"size": 32, "train": 12, "validation": 3, "test": 4, "count": (2, 4)}


def test_pictures_targets_and_boxes_belong_together() -> None:
    data = digit_scenes(**SMALL)
    batch = data.train.batch(torch.arange(12))
    assert data.task == "segmentation"
    assert data.num_classes == len(data.class_names) == 11
    assert batch.inputs.shape == (12, 1, 32, 32)
    assert 0 <= batch.inputs.min() <= batch.inputs.max() <= 1
    boxes, labels = batch.extras["boxes"], batch.extras["box_labels"]
    assert ((labels >= 0).sum(dim=1) >= 2).all()
    assert not boxes[labels < 0].any()
    for scene in range(12):
        covered = torch.zeros(32, 32, dtype=torch.bool)
        for (left, top, right, bottom), label in zip(boxes[scene].long().tolist(), labels[scene].tolist(), strict=True):
            if label < 0:
                continue
            assert 0 <= left < right <= 32
            assert 0 <= top < bottom <= 32
            assert max(right - left, bottom - top) <= 20
            covered[top:bottom, left:right] = True
            own = batch.target[scene] == label + 1
            outside = own.clone()
            outside[top:bottom, left:right] = False
            same = (labels[scene] == label).sum() > 1
            assert same or not outside.any()  # a digit's pixels lie in its box
        assert not (batch.target[scene] > 0)[~covered].any()


def test_the_last_digit_lies_on_top_and_fills_its_box() -> None:
    data = digit_scenes(**{**SMALL, "count": (4, 4)})
    batch = data.train.batch(torch.arange(12))
    for scene in range(12):
        left, top, right, bottom = batch.extras["boxes"][scene, -1].long().tolist()
        inside = batch.target[scene, top:bottom, left:right] == batch.extras["box_labels"][scene, -1] + 1
        assert inside.any(dim=0)[[0, -1]].all()
        assert inside.any(dim=1)[[0, -1]].all()


def test_ink_is_brighter_than_background() -> None:
    batch = digit_scenes(**SMALL, noise=0.0, clutter=0.1).train.batch(torch.arange(12))
    pictures = batch.inputs.squeeze(1)
    assert pictures[batch.target > 0].mean() > pictures[batch.target == 0].mean() + 0.3


def test_the_seed_fixes_everything_and_parts_stand_alone() -> None:
    first, again, other = (digit_scenes(**SMALL, seed=seed) for seed in (1, 1, 2))
    assert first.train.fingerprint() == again.train.fingerprint()
    assert first.train.fingerprint() != other.train.fingerprint()
    longer = digit_scenes(**{**SMALL, "train": 20}, seed=1)
    assert torch.equal(longer.test.batch(torch.arange(4)).inputs, first.test.batch(torch.arange(4)).inputs)
    indices = torch.cat([part.batch(torch.arange(len(part))).index for part in (first.train, first.validation)])
    assert len(indices.unique()) == 15


def test_found_by_name_and_bad_options_are_refused() -> None:
    assert load_data("digit_scenes", **SMALL).name == "digit_scenes"
    with pytest.raises(ValueError, match=r"`size` to hold a digit of 14.4 pixels, but got 12"):
        digit_scenes(size=12)
    with pytest.raises(ValueError, match="`count` to hold the least and the most"):
        digit_scenes(count=(5, 2))
    with pytest.raises(ValueError, match="`scale` to be positive"):
        digit_scenes(scale=(0.0, 1.0))
    with pytest.raises(ValueError, match="`train` to be at least 1"):
        digit_scenes(train=0)
