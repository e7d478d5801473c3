import pytest
import torch
from torch import nn
from transformers import BeitConfig, BeitForImageClassification, DeiTConfig, DeiTForImageClassification

from tutelage.features import FeatureTaps, TeacherStage, as_map, beit_last_stage, last_stage, swin_last_stage
from tutelage.models import mlp, swin, vit


def beit(**options: object) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 8, "intermediate_size": 16}
    model = BeitForImageClassification(
        BeitConfig(num_hidden_layers=3, num_attention_heads=2, layer_scale_init_value=0.5, **sizes, **options)
    )
    for name, value in model.named_parameters():  # biases of attention start at zero
        if "relative_position_bias_table" in name:
            nn.init.normal_(value)
    return model.eval()


def teachers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "patch_size": 2, "num_channels": 1, "hidden_size": 8, "intermediate_size": 16}
    return {
        "swin": swin((1, 16, 16), 5, patch_size=2, hidden_size=8, depths=(1, 2, 2), num_heads=(1, 2, 2), window_size=2),
        "vit": vit((1, 8, 8), 5, patch_size=2, hidden_size=8, num_layers=6, num_heads=2),
        "deit": DeiTForImageClassification(DeiTConfig(num_hidden_layers=3, num_attention_heads=2, **sizes)),
        "beit": beit(use_relative_position_bias=True),
    }


@pytest.mark.parametrize("shape", [(16, 16), (24, 24), (12, 20)])
def test_swins_last_stage_gives_the_models_own_last_map(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    model = swin(
        (1, *shape), 5, patch_size=2, hidden_size=8, depths=(1, 2, 2), num_heads=(1, 2, 2), window_size=1
    ).eval()
    stage = swin_last_stage(model, freeze=True)
    with FeatureTaps(model, {"before": "swin.encoder.layers.1.downsample:input", "after": stage.tap}) as taps:
        logits = model(torch.randn(3, 1, *shape)).logits
    mapped = stage(taps.features["before"])
    torch.testing.assert_close(mapped.flatten(2).transpose(1, 2), taps.features["after"])
    torch.testing.assert_close(model.classifier(mapped.mean((2, 3))), logits)
    assert stage.hw == (shape[0] // 4, shape[1] // 4)
    assert stage.dim == taps.features["before"].shape[2]


@pytest.mark.parametrize("name", ["swin", "vit", "deit", "beit"])
def test_gradients_reach_the_tokens_and_no_weight(name: str) -> None:
    model = teachers()[name]
    with pytest.raises(ValueError, match="`teacher` to be frozen, but its parameter"):
        last_stage(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stage = last_stage(model, freeze=True)
    model.train()
    tokens = torch.randn(3, stage.hw[0] * stage.hw[1], stage.dim, requires_grad=True)
    mapped = stage(tokens)
    assert not any(module.training for module in model.modules())
    mapped.square().mean().mul(mapped.std()).backward()
    assert tokens.grad.abs().sum() > 0
    assert all(value.grad is None for value in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with FeatureTaps(model, {"last": stage.tap}) as taps:
        model(torch.zeros(3, 1, *((16, 16) if name == "swin" else (8, 8))))
    assert as_map(taps.features["last"], extra_tokens=2 if name == "deit" else None).shape == mapped.shape
    with pytest.raises(ValueError, match="`tokens` to have shape"):
        stage(tokens[:, 1:])


def test_plain_transformers_go_on_from_any_block() -> None:
    """Without its class token the model's own blocks give the map; the last third of them by default."""
    model = vit((1, 8, 8), 5, patch_size=2, hidden_size=8, num_layers=6, num_heads=2).eval().requires_grad_(False)
    tokens = torch.randn(2, 16, 8)
    for count in (1, 2, 6):
        expected = tokens
        for block in model.vit.layers[-count:]:
            expected = block(expected)
        found = last_stage(model, num_blocks=count)(tokens)
        torch.testing.assert_close(found, model.vit.layernorm(expected).mT.unflatten(2, (4, 4)))
    torch.testing.assert_close(last_stage(model)(tokens), last_stage(model, num_blocks=2)(tokens))
    with pytest.raises(ValueError, match="`num_blocks` to be at most 6, but got 7"):
        last_stage(model, num_blocks=7)


def test_the_default_split_is_the_last_2_of_24_and_4_of_12() -> None:
    for layers, expected in [(24, 2), (12, 4), (2, 1)]:
        model = vit((1, 4, 4), 2, patch_size=2, hidden_size=4, num_layers=layers, num_heads=1).requires_grad_(False)
        tokens = torch.randn(1, 4, 4)
        torch.testing.assert_close(last_stage(model)(tokens), last_stage(model, num_blocks=expected)(tokens))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("pooling", [False, True])
def test_beits_biases_are_those_between_patches(shared: bool, pooling: bool) -> None:
    """With a class token that nobody can see, the model's own blocks give the same map."""
    model = beit(
        use_relative_position_bias=not shared, use_shared_relative_position_bias=shared, use_mean_pooling=pooling
    ).requires_grad_(False)
    tokens = torch.randn(2, 16, 8)
    hidden = torch.cat([torch.zeros(2, 1, 8), tokens], dim=1)
    unseen = torch.zeros(1, 1, 17, 17)
    unseen[..., 0] = -1e9
    if shared:
        unseen = unseen + model.beit.shared_position_bias((4, 4), dim_size=17)
    for block in model.beit.layers[-2:]:
        hidden = block(hidden, attention_mask=unseen, resolution=(8, 8))
    expected = model.beit.layernorm(hidden)[:, 1:].mT.unflatten(2, (4, 4))
    torch.testing.assert_close(beit_last_stage(model, num_blocks=2)(tokens), expected)


def test_headless_models_will_do() -> None:
    model = teachers()["swin"].swin
    stage = last_stage(model, freeze=True)
    assert stage.tap == "layernorm"
    assert stage(torch.randn(1, 16, 16)).shape == (1, 32, 2, 2)


def test_other_teachers_are_refused_and_can_be_given_as_functions() -> None:
    with pytest.raises(ValueError, match="`model` to be one of 'swin', 'vit', 'deit', 'beit', but got 'Sequential'"):
        last_stage(mlp(4, 2))
    with pytest.raises(ValueError, match="`num_blocks` to be None for Swin"):
        last_stage(teachers()["swin"], num_blocks=2, freeze=True)
    with pytest.raises(ValueError, match="at least 2 stages, but got 1"):
        last_stage(swin((1, 8, 8), 5, hidden_size=8, depths=(1,), num_heads=(1,)), freeze=True)
    layer = nn.Linear(3, 5)
    stage = TeacherStage(layer, lambda tokens: layer(tokens).mT.unflatten(2, (2, 2)), freeze=True)
    assert stage(torch.zeros(2, 4, 3)).shape == (2, 5, 2, 2)
    assert not layer.weight.requires_grad
