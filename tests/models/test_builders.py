"""The builders: shapes, determinism, and sizes that cannot be."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.models import (
    BUILDERS,
    build_model,
    call_model,
    causal_lm,
    convnet,
    convnext,
    encoder_lm,
    mlp,
    mlp_mixer,
    parameter_count,
    resnet,
    swin,
    vit,
)

IMAGE_BUILDERS = [mlp, mlp_mixer, convnet, resnet, vit, swin, convnext]


@pytest.mark.parametrize("builder", IMAGE_BUILDERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12), (1, 28, 28), (3, 32, 32)])
def test_image_builders_map_small_images_to_classes(builder, shape):
    if builder is swin and shape == (3, 16, 12):
        shape = (3, 16, 16)  # windows do not suit this oblong; the refusal is tested below
    model = builder(shape, 5)
    logits = call_model(model, torch.randn(2, *shape)).logits
    assert logits.shape == (2, 5)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("builder", IMAGE_BUILDERS)
def test_the_seed_decides_the_weights(builder):
    def build(seed):
        torch.manual_seed(seed)
        return builder((1, 8, 8), 3).state_dict()

    first, again, other = build(1), build(1), build(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@settings(max_examples=15, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 9), max_size=3),
    features=st.integers(1, 6),
    classes=st.integers(1, 5),
    normalization=st.sampled_from([None, "batch", "layer"]),
)
def test_mlp_has_the_layers_it_was_asked_for(hidden, features, classes, normalization):
    model = mlp(features, classes, hidden=hidden, normalization=normalization)
    widths = [features, *hidden, classes]
    expected = sum((a + 1) * b for a, b in pairwise(widths))
    expected += 2 * sum(hidden) if normalization else 0
    assert parameter_count(model) == expected
    assert model(torch.randn(3, features)).shape == (3, classes)


def test_mlp_without_hidden_layers_is_linear_and_names_its_layers():
    assert [name for name, _ in mlp(4, 2, hidden=()).named_children()] == ["head"]
    names = [name for name, _ in mlp((2, 2), 2, hidden=(3,), dropout=0.1, normalization="layer").named_children()]
    assert names == ["flatten", "linear1", "normalization1", "activation1", "dropout1", "head"]


def test_convnet_of_a_signal_and_without_normalization():
    model = convnet((2, 40), 4, channels=(3, 5), normalization=None, dropout=0.5)
    assert model(torch.randn(2, 2, 40)).shape == (2, 4)
    assert parameter_count(model) == (2 * 3 + 1) * 3 + (3 * 3 + 1) * 5 + (5 + 1) * 4
    assert model.stage2.convolution.stride == (2,)


def test_the_small_stem_keeps_the_size_and_the_standard_one_quarters_it():
    images = torch.randn(1, 3, 32, 32)
    for stem, side in (("small", 32), ("standard", 8)):
        model = resnet((3, 32, 32), 10, stem=stem)
        assert model.resnet.embedder(images).shape[-2:] == (side, side)


def test_resnet_20_has_the_published_size():
    # He et al. 2016, table 6: 0.27 M parameters for 20 layers (there with parameter-free shortcuts).
    assert parameter_count(resnet((3, 32, 32), 10, depths=(3, 3, 3))) == pytest.approx(0.27e6, rel=0.03)


def test_default_patches_are_the_smallest_that_make_few_enough():
    for shape, patch in [((1, 8, 8), 1), ((1, 16, 16), 2), ((1, 28, 28), 4), ((1, 32, 32), 4), ((1, 7, 7), 1)]:
        assert vit(shape, 2).config.patch_size == patch


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_causal_models_are_causal_and_tied_as_asked(architecture):
    model = causal_lm(13, architecture=architecture, num_layers=1).eval()
    tokens = torch.randint(13, (1, 6))
    changed = tokens.clone()
    changed[0, 4] = (changed[0, 4] + 1) % 13
    difference = (model(tokens).logits - model(changed).logits).abs().amax(-1)[0]
    assert (difference[:4] == 0).all()
    assert difference[4] > 0
    assert model.lm_head.weight is model.get_input_embeddings().weight
    untied = causal_lm(13, architecture=architecture, num_layers=1, tie_word_embeddings=False)
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
    assert parameter_count(untied) - parameter_count(model) == 13 * 64


def test_causal_models_cache_only_when_they_generate():
    model = causal_lm(13, num_layers=1, eos_token_id=0, pad_token_id=0).eval()
    tokens = torch.randint(1, 13, (1, 3))
    assert model(tokens).past_key_values is None
    seen = []
    model.transformer.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    model.generate(tokens, attention_mask=torch.ones_like(tokens), min_new_tokens=3, max_new_tokens=3, do_sample=False)
    assert seen == [3, 1, 1]


def test_encoder_leaves_masked_padding_out():
    model = encoder_lm(11, 3).eval()
    tokens = torch.tensor([[4, 5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    short = call_model(model, {"input_ids": tokens[:, :3], "attention_mask": mask[:, :3]}).logits
    torch.testing.assert_close(call_model(model, {"input_ids": tokens, "attention_mask": mask}).logits, short)


def test_every_registered_builder_is_a_function_of_that_name():
    for name, builder in BUILDERS.items():
        assert builder.__name__ == name


def test_sizes_that_cannot_be():
    for call, message in [
        (lambda: mlp(0, 2), "`input_shape` to be a list of positive whole numbers"),
        (lambda: mlp(2, 0), "`num_classes` to be at least 1, but got 0"),
        (lambda: mlp(2, 2, hidden=(4, -1)), "`hidden`"),
        (lambda: mlp(2, 2, dropout=1.5), r"`dropout` to be in \[0.0, 1.0\], but got 1.5"),
        (lambda: convnet((8,), 2), r"\(channels, height, width\) or \(channels, length\), but got \(8,\)"),
        (lambda: convnet((1, 8, 8), 2, channels=()), "`channels`"),
        (lambda: convnet((1, 8, 8), 2, kernel_size=2), "`kernel_size` to be odd"),
        (lambda: resnet((8, 8), 2), r"\(channels, height, width\), but got \(8, 8\)"),
        (lambda: resnet((1, 8, 8), 2, widths=(4,), depths=(1, 1)), "got 1 and 2 entries"),
        (lambda: vit((1, 8, 8), 2, patch_size=3), "`patch_size` to divide the image's 8×8 pixels, but got 3"),
        (lambda: vit((1, 8, 8), 2, hidden_size=10, num_heads=4), "got 4 heads for 10"),
        (lambda: swin((1, 8, 8), 2, num_heads=(3, 6)), "got 3 heads for 32"),
        (lambda: swin((3, 16, 12), 2), "`window_size` to fit the last stage's 4×3 patches, but got 4"),
        (lambda: swin((1, 8, 8), 2, patch_size=2), "`window_size` to fit the last stage's 2×2 patches, but got 4"),
        (lambda: convnext((1, 2, 2), 2), "fewer stages than 3"),
        (lambda: causal_lm(5, eos_token_id=5), r"`eos_token_id` to be a token in \[0, 5\), but got 5"),
        (lambda: causal_lm(5, num_layers=0), "`num_layers` to be at least 1"),
        (lambda: encoder_lm(5, 2, pad_token_id=-1), "`pad_token_id`"),
        (
            lambda: build_model({"name": "mlp", "arguments": {"hidden": [1.5]}}, num_classes=2, input_shape=(2,)),
            "hidden",
        ),
    ]:
        with pytest.raises(Exception, match=message):
            call()


def test_plain_builders_are_plain():
    assert type(mlp(2, 2)) is nn.Sequential
    assert type(convnet((1, 8, 8), 2)) is nn.Sequential


def test_a_model_remembers_the_fields_of_a_specification_and_no_others() -> None:
    from tutelage.models import ModelSpecification, build_model, specification_of

    class Teacher(ModelSpecification):
        kind: str = "frozen"

    remembered = specification_of(build_model(Teacher(name="mlp"), num_classes=3, input_shape=(4,)))
    assert type(remembered) is ModelSpecification
    assert "kind" not in remembered.model_dump()
