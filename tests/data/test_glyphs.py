from __future__ import annotations

import pytest
import torch

from tutelage.data import load_data
from tutelage.data.glyphs import FONT_SETS


def small(**options):
    settings = {"alphabet": "uppercase", "train_per_class": 3, "validation_per_class": 1, "test_per_class": 2}
    return load_data("glyphs", **{**settings, **options})


def test_shapes_classes_and_range() -> None:
    data = small(size=16)
    assert data.train.inputs.shape == (78, 1, 16, 16)
    assert data.train.target.bincount().tolist() == [3] * 26
    assert data.class_names[0] == "A"
    assert float(data.train.inputs.min()) >= 0
    assert float(data.train.inputs.max()) <= 1
    assert small(flat=True).train.inputs.shape == (78, 144)
    assert load_data("glyphs", train_per_class=1, validation_per_class=1, test_per_class=1).num_classes == 62


def test_parts_do_not_share_indices_or_images() -> None:
    data = small()
    index = torch.cat([part.index for part in (data.train, data.validation, data.test)])
    assert index.unique().numel() == 26 * 6
    assert not torch.equal(data.train.inputs[:26], data.validation.inputs)


def test_reproducible_and_seeded() -> None:
    assert small().train.fingerprint() == small().train.fingerprint() != small(seed=1).train.fingerprint()


def test_a_larger_training_part_leaves_the_test_part() -> None:
    assert torch.equal(small().test.inputs, small(train_per_class=9).test.inputs)


def test_without_affine_and_noise_a_font_gives_one_image_a_class() -> None:
    data = small(affine=0.0, noise=0.0, fonts="DejaVuSans")
    images = data.train.inputs.view(3, 26, -1)
    assert torch.equal(images[0], images[1])
    distance = torch.cdist(images[0], images[0]) + 10 * torch.eye(26)
    assert float(distance.min()) > 0.3  # characters differ
    upright = images[0][0].view(12, 12)  # 'A': mirror symmetric, so orientation and centring show
    assert float((upright - upright.flip(1)).abs().mean()) < 0.05
    rows = upright.sum(1).nonzero().flatten()
    assert 1 <= int(rows[0]) <= 4
    assert float(upright[int(rows[0])].sum()) < float(upright[int(rows[-1]) - 1].sum()) + 2  # the apex is on top
    letter_l = images[0][11].view(12, 12)
    assert float(letter_l[:, :6].sum()) > float(letter_l[:, 6:].sum())  # not mirrored
    assert float(letter_l[6:].sum()) > float(letter_l[:6].sum())  # not upside down


def test_fonts_are_recorded_and_held_out() -> None:
    data = small(fonts="dejavu_sans", test_fonts="stix")
    fonts = data.extras["fonts"]
    assert {fonts[row] for row in data.train.extras["font"].tolist()} <= set(FONT_SETS["dejavu_sans"])
    assert {fonts[row] for row in data.test.extras["font"].tolist()} <= set(FONT_SETS["stix"])


def test_every_font_has_every_character() -> None:
    data = load_data(
        "glyphs", fonts="all", noise=0.0, affine=0.0, train_per_class=1, validation_per_class=1, test_per_class=1
    )
    assert len(data.extras["fonts"]) == 21
    assert float(data.train.inputs.flatten(1).sum(1).min()) > 0.5  # no blank glyph


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": "AA"}, "distinct"),
        ({"alphabet": "A漢"}, "lacks '漢'"),
        ({"fonts": "dejavo"}, "did you mean 'dejavu'"),
        ({"fonts": []}, "at least one font"),
        ({"size": 2}, "`size` to be at least 4"),
        ({"noise": -0.1}, "`noise`"),
        ({"test_per_class": 0}, "`test_per_class`"),
    ],
)
def test_bad_input(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)
