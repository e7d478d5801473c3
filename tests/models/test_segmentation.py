import pytest
import torch

from tutelage.features import ObservedModel
from tutelage.models import (
    build_model,
    load_model,
    parameter_count,
    save_model,
    segmenter,
    transformers_segmenter,
)


@pytest.mark.parametrize("separable", [False, True])
def test_logits_of_every_pixel_and_scores_of_every_cell(separable: bool) -> None:
    model = segmenter((1, 32, 24), 5, widths=(4, 8, 12), separable=separable).eval()
    outputs = ObservedModel(model, taps={"score": "score"})(torch.randn(2, 1, 32, 24))
    assert outputs.logits is not None
    assert outputs.logits.shape == (2, 32, 24, 5)
    assert outputs.features["score"].shape == (2, 5, 8, 6)
    between = torch.nn.functional.interpolate(outputs.features["score"], (32, 24), mode="bilinear")
    torch.testing.assert_close(outputs.logits.movedim(-1, 1), between)


def test_separable_is_smaller_and_saving_keeps_everything(tmp_path) -> None:
    whole = segmenter((1, 32, 32), 11)
    small = build_model(
        {"name": "segmenter", "arguments": {"separable": True}}, num_classes=11, input_shape=(1, 32, 32)
    )
    assert parameter_count(small) < parameter_count(whole) / 4
    save_model(tmp_path / "model", small.eval())
    pictures = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(load_model(tmp_path / "model").eval()(pictures), small(pictures))


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="`widths` to hold at least 2 stages, but got 1"):
        segmenter((1, 32, 32), 3, widths=(8,))
    with pytest.raises(ValueError, match=r"`input_shape` to be \(channels, height, width\)"):
        segmenter((32, 32), 3)


def test_networks_of_transformers_take_our_form_and_can_be_saved(tmp_path) -> None:
    sizes = {"hidden_sizes": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "num_attention_heads": (1, 1, 1, 1)}
    model = transformers_segmenter((3, 32, 64), 5, decoder_hidden_size=8, **sizes).eval()
    pictures = torch.randn(1, 3, 32, 64)
    outputs = ObservedModel(model, taps={"score": "network.decode_head.classifier"})(pictures)
    assert outputs.logits is not None
    assert outputs.logits.shape == (1, 32, 64, 5)
    assert outputs.features["score"].shape == (1, 5, 8, 16)
    save_model(tmp_path / "model", model)
    torch.testing.assert_close(load_model(tmp_path / "model").eval()(pictures), model(pictures))
