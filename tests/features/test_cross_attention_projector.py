import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tutelage.features import CrossAttentionProjector


def slow(projector: CrossAttentionProjector, x: Tensor, query: Tensor | None) -> Tensor:
    """The projector written out, one sample, head, query and key at a time."""
    height, width = projector.query_hw
    tokens = []
    maps = F.relu(projector.norm(projector.conv(x))) + projector.position
    for number, sample in enumerate(maps):
        given = projector.queries if query is None else query[number]
        image = given.T.reshape(1, -1, height, width)
        asked = projector.query(F.relu(projector.query_conv(image))[0].flatten(1).T)
        keys = projector.key(sample.flatten(1).T)
        values = projector.value(sample.flatten(1).T)
        size = keys.shape[1] // projector.num_heads
        rows = []
        for one in asked:
            heads = []
            for head in range(projector.num_heads):
                part = slice(head * size, (head + 1) * size)
                logits = torch.stack([(one[part] * key[part]).sum() for key in keys])
                share = (logits * size**-0.5 * projector.softmax_scale).softmax(0)
                heads.append((share[:, None] * values[:, part]).sum(0))
            rows.append(torch.cat(heads))
        attended = projector.output(torch.stack(rows))
        centred = attended - attended.mean(1, keepdim=True)
        y = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        y = y * projector.output_norm.weight + projector.output_norm.bias
        tokens.append(y + projector.mlp[2](F.relu(projector.mlp[0](y))))
    return torch.stack(tokens)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("norm", ["batch", "layer"])
def test_agrees_with_the_projector_written_out(given: bool, norm: str) -> None:
    torch.manual_seed(0)
    projector = CrossAttentionProjector(
        3, 8, query_hw=(2, 3), student_hw=(4, 5), num_heads=2, trainable_query=not given, norm=norm
    ).double()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    query = torch.randn(2, 6, 8, dtype=torch.float64) if given else None
    torch.testing.assert_close(projector(x, query), slow(projector, x, query))


def test_parameters_have_their_names_shapes_and_first_values() -> None:
    torch.manual_seed(0)
    projector = CrossAttentionProjector(6, 16, query_hw=(7, 8), student_hw=(14, 14), num_heads=4)
    shapes = {name: tuple(value.shape) for name, value in projector.named_parameters()}
    expected = {
        "conv": (6, 6, 3, 3),
        "norm": (6,),
        "query_conv": (16, 16, 1, 1),
        "query": (16, 16),
        "key": (16, 6),
        "value": (16, 6),
        "output": (16, 16),
        "output_norm": (16,),
        "mlp.0": (64, 16),
        "mlp.2": (16, 64),
    }
    assert shapes == {
        "position": (1, 6, 14, 14),
        "queries": (56, 16),
        **{f"{name}.weight": shape for name, shape in expected.items()},
        **{f"{name}.bias": shape[:1] for name, shape in expected.items()},
    }
    assert abs(projector.queries.std().item() - 1) < 0.1
    assert 0.015 < projector.position.std().item() < 0.025
    without = CrossAttentionProjector(6, 16, query_hw=(7, 8), student_hw=(14, 14), trainable_query=False)
    assert "queries" not in dict(without.named_parameters())


def test_resamples_from_one_grid_to_another_row_by_row() -> None:
    projector = CrossAttentionProjector(5, 8, query_hw=(7, 7), student_hw=(14, 14), num_heads=2)
    assert projector(torch.randn(2, 5, 14, 14)).shape == (2, 49, 8)
    # Token 7 · row + column belongs to its query alone: another query there changes that token and no other one.
    asking = CrossAttentionProjector(
        5, 8, query_hw=(7, 7), student_hw=(14, 14), num_heads=2, trainable_query=False
    ).eval()
    x, query = torch.randn(1, 5, 14, 14), torch.randn(1, 49, 8)
    changed = query.clone()
    changed[:, 7 * 2 + 3] = torch.randn(8)
    moved = (asking(x, query) - asking(x, changed)).abs().sum(2)[0] > 1e-6
    assert moved.nonzero().flatten().tolist() == [17]


def test_without_a_scale_attention_is_uniform_and_all_tokens_are_equal() -> None:
    projector = CrossAttentionProjector(4, 8, query_hw=(3, 3), student_hw=(4, 4), num_heads=2, softmax_scale=1e-9)
    tokens = projector(torch.randn(3, 4, 4, 4))
    torch.testing.assert_close(tokens, tokens[:, :1].expand(-1, 9, -1), rtol=0, atol=1e-5)
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3
    sharp = CrossAttentionProjector(4, 8, query_hw=(3, 3), student_hw=(4, 4), num_heads=2, softmax_scale=50.0)
    sharp.load_state_dict(projector.state_dict())
    tokens = sharp(torch.randn(3, 4, 4, 4))
    assert (tokens[:, :1] - tokens).abs().max() > 1e-2


def test_the_scale_multiplies_logits_over_the_root_of_the_heads_width() -> None:
    scaled = CrossAttentionProjector(4, 8, query_hw=(2, 2), student_hw=(3, 3), num_heads=2, softmax_scale=5.0).eval()
    plain = CrossAttentionProjector(4, 8, query_hw=(2, 2), student_hw=(3, 3), num_heads=2, softmax_scale=1.0).eval()
    plain.load_state_dict(scaled.state_dict())
    x = torch.randn(2, 4, 3, 3)
    assert (plain(x) - scaled(x)).abs().max() > 1e-4
    with torch.no_grad():
        plain.query.weight *= 5
        plain.query.bias *= 5
    torch.testing.assert_close(plain(x), scaled(x))


def test_gradients_reach_the_map_and_every_parameter() -> None:
    torch.manual_seed(0)
    projector = CrossAttentionProjector(3, 16, query_hw=(3, 3), student_hw=(4, 4), num_heads=4)
    x = torch.randn(4, 3, 4, 4, requires_grad=True)
    projector(x).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    # Equal shifts of all keys change no attention, so the key's bias has no gradient but rounding.
    silent = [
        name for name, value in projector.named_parameters() if value.grad is None or not value.grad.abs().sum() > 1e-7
    ]
    assert set(silent) <= {"key.bias"}


def test_gradients_are_right() -> None:
    torch.manual_seed(1)
    projector = CrossAttentionProjector(
        2, 4, query_hw=(2, 1), student_hw=(2, 2), num_heads=2, trainable_query=False
    ).double()
    x = torch.randn(2, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    query = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(projector, (x, query))


def test_samples_do_not_see_each_other_in_evaluation_mode() -> None:
    projector = CrossAttentionProjector(3, 8, query_hw=(2, 2), student_hw=(4, 4), num_heads=2).eval()
    x = torch.randn(5, 3, 4, 4)
    torch.testing.assert_close(projector(x)[2:3], projector(x[2:3]))


def test_a_narrow_query_path_can_be_dead() -> None:
    """The hazard that the documentation names: with every unit off, queries get no gradient."""
    projector = CrossAttentionProjector(3, 8, query_hw=(2, 2), student_hw=(4, 4), num_heads=2)
    with torch.no_grad():
        projector.query_conv.bias.fill_(-1e3)
    tokens = projector(torch.randn(2, 3, 4, 4))
    torch.testing.assert_close(tokens, tokens[:, :1].expand(-1, 4, -1))
    tokens.square().sum().backward()
    assert not projector.queries.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, "`num_heads` to divide `teacher_dim`, but got 3 heads for 8"),
        ({"num_heads": 0}, "`num_heads` to be at least 1"),
        ({"softmax_scale": 0.0}, "`softmax_scale` to be positive"),
    ],
)
def test_refuses_bad_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossAttentionProjector(4, 8, query_hw=(2, 2), student_hw=(3, 3), **{"num_heads": 2, **options})


def test_refuses_bad_calls() -> None:
    asking = CrossAttentionProjector(4, 8, query_hw=(2, 2), student_hw=(3, 3), trainable_query=False)
    x = torch.randn(2, 4, 3, 3)
    with pytest.raises(ValueError, match="`query` to be given, since the projector learns none"):
        asking(x)
    with pytest.raises(ValueError, match=r"`query` to have shape \(2, 4, 8\), but got \(2, 5, 8\)"):
        asking(x, torch.randn(2, 5, 8))
    with pytest.raises(ValueError, match=r"`x` to have shape \[batch, 4, 3, 3\], but got \(2, 4, 3, 4\)"):
        asking(torch.randn(2, 4, 3, 4), torch.randn(2, 4, 8))


def test_batch_normalisation_counts_the_batch_and_layer_normalisation_does_not() -> None:
    maps = {
        norm: CrossAttentionProjector(3, 8, query_hw=(2, 2), student_hw=(1, 1), norm=norm)
        for norm in ("batch", "layer")
    }
    with pytest.raises(ValueError, match="more than 1 value"):
        maps["batch"](torch.randn(1, 3, 1, 1))
    assert maps["layer"](torch.randn(1, 3, 1, 1)).shape == (1, 4, 8)
    assert math.isfinite(maps["batch"](torch.randn(2, 3, 1, 1)).sum().item())
