"""Stages of the families that are promised, by name and by the shape of what a tap reads there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tutelage.features import FeatureTaps, ObservedModel
from tutelage.features.stages import stage_path, stage_paths
from tutelage.models import causal_lm, convnet, convnext, encoder_lm, mlp, resnet, swin, vit
from tutelage.models.pretrained import new_model

IMAGE = torch.zeros(2, 1, 8, 8)
TOKENS = torch.ones(2, 5, dtype=torch.int64)
SMALL = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}


def beit() -> nn.Module:
    return new_model("BeitForImageClassification", image_size=8, patch_size=4, num_channels=1, **SMALL)


def segformer() -> nn.Module:
    return new_model("SegformerForImageClassification", num_channels=1, hidden_sizes=[8, 16, 24, 32])


def albert() -> nn.Module:
    return new_model("AlbertForSequenceClassification", vocab_size=11, embedding_size=8, **SMALL)


FAMILIES: dict[str, tuple[Callable[[], nn.Module], Tensor, list[str], list[tuple[int, ...]]]] = {
    "resnet": (
        lambda: resnet((1, 8, 8), 3),
        IMAGE,
        [f"resnet.encoder.stages.{number}" for number in range(3)],
        [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)],
    ),
    "convnext": (
        lambda: convnext((1, 8, 8), 3),
        IMAGE,
        [f"convnext.encoder.stages.{number}" for number in range(3)],
        [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)],
    ),
    "swin": (  # the first stage at its own resolution: 8 × 8 patches, which are merged for the second
        lambda: swin((1, 8, 8), 3),
        IMAGE,
        ["swin.encoder.layers.0.blocks.1", "swin.encoder.layers.1"],
        [(2, 64, 32), (2, 16, 64)],
    ),
    "vit": (lambda: vit((1, 8, 8), 3), IMAGE, [f"vit.layers.{number}" for number in range(4)], [(2, 65, 64)] * 4),
    "beit": (beit, IMAGE, [f"beit.layers.{number}" for number in range(3)], [(2, 5, 16)] * 3),
    "segformer": (
        segformer,
        torch.zeros(2, 1, 32, 32),
        [f"segformer.stages.{number}" for number in range(4)],
        [(2, 8, 8, 8), (2, 16, 4, 4), (2, 24, 2, 2), (2, 32, 1, 1)],
    ),
    "bert": (lambda: encoder_lm(11, 3), TOKENS, ["bert.encoder.layer.0", "bert.encoder.layer.1"], [(2, 5, 64)] * 2),
    "albert": (albert, TOKENS, ["albert.encoder.albert_layer_groups.0"], [(2, 5, 16)]),
    "gpt2": (lambda: causal_lm(11), TOKENS, ["transformer.h.0", "transformer.h.1"], [(2, 5, 64)] * 2),
    "llama": (
        lambda: causal_lm(11, architecture="llama"),
        TOKENS,
        ["model.layers.0", "model.layers.1"],
        [(2, 5, 64)] * 2,
    ),
    "convnet": (
        lambda: convnet((1, 8, 8), 3),
        IMAGE,
        ["stage1", "stage2", "stage3"],
        [(2, 8, 8, 8), (2, 16, 4, 4), (2, 32, 2, 2)],
    ),
    "mlp": (
        lambda: mlp((1, 8, 8), 3, hidden=(7, 6), dropout=0.1),
        IMAGE,
        ["dropout1", "dropout2"],
        [(2, 7), (2, 6)],
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_stages_of_a_family(family: str) -> None:
    make, inputs, paths, shapes = FAMILIES[family]
    model = make().eval()
    assert stage_paths(model) == paths
    with torch.no_grad():
        outputs = ObservedModel(model, taps={str(n): f"stage:{n}" for n in range(len(paths))})(inputs)
    assert [tuple(outputs.features[str(n)].shape) for n in range(len(paths))] == shapes


def test_the_last_stage_of_swin_is_before_the_norm_and_the_first_before_merging() -> None:
    model = swin((1, 8, 8), 3).eval()
    taps = {"first": "stage:0", "merged": "swin.encoder.layers.0.downsample:input", "last": "stage:-1"}
    with FeatureTaps(model, taps | {"normed": "swin.layernorm:input"}) as read, torch.no_grad():
        model(IMAGE)
    torch.testing.assert_close(read.features["first"], read.features["merged"])
    torch.testing.assert_close(read.features["last"], read.features["normed"])


def test_residual_networks_of_numbered_layers_have_these_as_stages() -> None:
    """The form of torchvision's ResNet: a stem with numbers of its own, then `layer1` to `layer4`."""

    def layer(inside: int, outside: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inside, outside, 1), nn.Conv2d(outside, outside, 1))

    parts = OrderedDict(conv1=nn.Conv2d(1, 2, 1), bn1=nn.BatchNorm2d(2), relu=nn.ReLU())
    parts.update({f"layer{number}": layer(2 * number, 2 * number + 2) for number in range(1, 5)})
    parts["fc"] = nn.Linear(10, 3)
    assert stage_paths(nn.Sequential(parts)) == ["layer1", "layer2", "layer3", "layer4"]


def test_the_list_with_most_parameters_wins_wherever_it_lies() -> None:
    model = nn.ModuleDict(
        {
            "features": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)]),
            "encoder": nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])}),
        }
    )
    assert stage_paths(model) == ["encoder.layers.0", "encoder.layers.1"]


def test_two_runs_of_numbers_are_not_stages() -> None:
    parts = OrderedDict(conv1=nn.Linear(2, 2), conv2=nn.Linear(2, 2), fc1=nn.Linear(2, 2), fc2=nn.Linear(2, 2))
    assert stage_paths(nn.Sequential(OrderedDict(parts, act=nn.ReLU()))) == []


def test_errors_say_how_many_stages_there_are() -> None:
    model = convnet((1, 8, 8), 3)
    assert stage_path(model, "stage:-3") == "stage1"
    for wrong in ("stage:3", "stage:-4", "stage:last", "stage:"):
        with pytest.raises(ValueError, match=r"Sequential, which has 3 \(stage:0 to stage:2, .*but got 'stage:"):
            FeatureTaps(model, [wrong])
    with pytest.raises(ValueError, match="Expected Linear to have stages, for 'stage:0', but none were found"):
        FeatureTaps(nn.Linear(2, 2), ["stage:0"])


def test_wrappers_do_not_count() -> None:
    model = convnet((1, 8, 8), 3)
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    assert stage_paths(compiled) == ["stage1", "stage2", "stage3"]
    assert stage_paths(nn.DataParallel(model)) == ["stage1", "stage2", "stage3"]
    model.get_submodule("stage2").compile(backend="eager")
    model.stage1 = torch.compile(model.get_submodule("stage1"), backend="eager")  # type: ignore[assignment]
    assert stage_paths(model) == ["stage1", "stage2", "stage3"]
