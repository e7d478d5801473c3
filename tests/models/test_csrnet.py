from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tutelage.features import FeatureTaps
from tutelage.models import (
    CSRNET_TAPS,
    CSRNet,
    build_model,
    csrnet,
    load_model,
    multiply_adds,
    parameter_count,
    save_model,
)


def test_sizes_of_the_published_pair() -> None:
    with torch.device("meta"):
        teacher, student, image = CSRNet(), CSRNet(4), torch.zeros(1, 3, 576, 864)
        counts = [parameter_count(model) for model in (teacher, student)]
        work = [multiply_adds(model, image) for model in (teacher, student)]
    assert counts == [16_263_489, 1_017_681]
    assert [round(number / 1e9, 1) for number in work] == [205.5, 13.0]
    assert teacher.tap_channels == (64, 64, 128, 256, 512, 256)
    assert student.tap_channels == (16, 16, 32, 64, 128, 64)


@pytest.mark.parametrize(
    ("divisor", "widths"), [(2, [32, 64, 128, 256]), (3, [21, 43, 85, 171]), (5, [13, 26, 51, 102])]
)
def test_widths_of_the_released_students(divisor: int, widths: list[int]) -> None:
    with torch.device("meta"):
        model = CSRNet(divisor)
    found = [model.get_submodule(f"conv{stage}_0.0").out_channels for stage in range(4)]
    back_end = [model.get_submodule(f"conv4_{number}.0").out_channels for number in range(6)]
    assert found == widths
    assert back_end == [widths[index] for index in (3, 3, 3, 2, 1, 0)]


def test_the_density_has_an_eighth_of_the_size_rounded_up() -> None:
    model = CSRNet(32, in_channels=1)
    for height, width in [(21, 18), (8, 8), (9, 65), (1, 1)]:
        expected = [math.ceil(math.ceil(math.ceil(side / 2) / 2) / 2) for side in (height, width)]
        assert list(model(torch.zeros(1, 1, height, width)).shape) == [1, 1, *expected]


def test_features_are_what_taps_read() -> None:
    model = CSRNet(16).eval()
    image = torch.randn(2, 3, 32, 24)
    density, features = model(image, return_features=True)
    with FeatureTaps(model, CSRNET_TAPS) as taps:
        alone = model(image)
    assert torch.equal(density, alone)
    assert [tuple(value.shape[1:]) for value in features] == [
        (4, 32, 24), (4, 16, 12), (8, 8, 6), (16, 4, 3), (32, 4, 3), (16, 4, 3)
    ]  # fmt: skip
    for value, path in zip(features, CSRNET_TAPS, strict=True):
        assert torch.equal(value, taps.features[path])


def test_dilation_sees_far_and_the_output_may_be_negative() -> None:
    model = CSRNet(16)
    assert [model.get_submodule(f"conv4_{number}.0").dilation for number in range(6)] == [(2, 2)] * 6
    assert isinstance(list(model.children())[-1], nn.Conv2d)


def test_a_saved_model_is_read_again(tmp_path: Path) -> None:
    model = csrnet((1, 16, 16), width_divisor=32)
    save_model(tmp_path / "counter", model)
    again = load_model(tmp_path / "counter")
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(again(image), model(image))


def test_a_specification_names_it() -> None:
    built = build_model({"name": "csrnet", "arguments": {"width_divisor": 8}}, num_classes=36, input_shape=(1, 48, 48))
    assert isinstance(built, CSRNet)
    assert built(torch.zeros(1, 1, 48, 48)).shape == (1, 1, 6, 6)


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="`width_divisor` to be at least 1, but got 0"):
        CSRNet(0)
    with pytest.raises(ValueError, match="`in_channels` to be at least 1, but got 0"):
        CSRNet(in_channels=0)
    with pytest.raises(ValueError, match=r"\(channels, height, width\), but got \(3,\)"):
        csrnet((3,))
