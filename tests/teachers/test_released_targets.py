from __future__ import annotations

import math

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from tutelage.data import ArraySamples
from tutelage.models import causal_lm
from tutelage.objectives import swing_soft_targets
from tutelage.teachers import CachedTeacher, FrozenTeacher, release_soft_targets
from tutelage.teachers.released_targets import private_spans

ROWS = torch.arange(6)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return FrozenTeacher(causal_lm(12, hidden_size=16, num_layers=1))


@pytest.fixture(scope="module")
def samples():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(12, (6, 7), generator=generator)
    tokens[4] = tokens[1]  # the same text twice
    sensitivity = torch.zeros(6, 6)
    sensitivity[:, 2:4] = torch.tensor([1.0, 0.5])
    target = tokens[:, 1:].clone()
    target[5, 5] = -100
    return ArraySamples(tokens[:, :-1].contiguous(), target, index=ROWS + 10, extras={"sensitivity": sensitivity})


def released(teacher, samples, folder, **options):
    return release_soft_targets(teacher, samples, folder, dtype="float32", **options).read(ROWS + 10).logits.exp()


def test_without_noise_targets_are_those_of_the_formula(teacher, samples, tmp_path):
    options = {"base_temperature": 2.0, "max_temperature": 20.0, "exponent": 2.0}
    batch = samples.batch(ROWS)
    expected = swing_soft_targets(teacher(batch).logits, batch.extras["sensitivity"], **options)
    torch.testing.assert_close(released(teacher, samples, tmp_path, **options), expected)


def test_noise_falls_on_private_positions_only(teacher, samples, tmp_path):
    clean, noisy = (released(teacher, samples, tmp_path / str(e), epsilon=e) for e in (math.inf, 2.0))
    private = samples.extras["sensitivity"] > 0
    torch.testing.assert_close(noisy[~private], clean[~private])
    assert ((noisy - clean)[private].abs().sum(dim=-1) > 0.1).all()
    torch.testing.assert_close(noisy.sum(dim=-1), torch.ones(6, 6))
    everywhere = released(teacher, samples, tmp_path / "all", epsilon=2.0, noise_on="all")
    assert ((everywhere - clean).abs().sum(dim=-1) > 0.1).all()


def test_the_same_sample_and_position_get_the_same_noise_in_any_order_and_batch(teacher, samples, tmp_path):
    first = released(teacher, samples, tmp_path / "a", epsilon=2.0, seed=3)
    turned = samples.subset(ROWS.flip(0))
    second = released(teacher, turned, tmp_path / "b", epsilon=2.0, seed=3, batch_size=2)
    torch.testing.assert_close(first, second)
    other = released(teacher, samples, tmp_path / "c", epsilon=2.0, seed=4)
    assert not torch.allclose(first, other)


def test_a_released_teacher_says_the_same_every_time(teacher, samples, tmp_path):
    cached = CachedTeacher(release_soft_targets(teacher, samples, tmp_path, epsilon=2.0))
    batch = samples.batch(ROWS)
    assert torch.equal(cached(batch).logits, cached(batch).logits)


def test_copies_share_their_noise_by_content_but_not_by_position(teacher, samples, tmp_path):
    by_place = released(teacher, samples, tmp_path / "a", epsilon=2.0)
    by_content = released(teacher, samples, tmp_path / "b", epsilon=2.0, noise_key="content")
    assert not torch.allclose(by_place[1], by_place[4])
    torch.testing.assert_close(by_content[1], by_content[4])
    assert not torch.allclose(by_content[1], by_content[2])


def test_spans_are_runs_of_private_positions_that_count():
    sensitivity = torch.tensor([0.5, 1.0, 0.0, 1.0, 1.0, 1.0])
    target = torch.tensor([1, 2, 3, 4, -100, 6])
    spans = [(span.start, span.stop, tokens) for span, tokens in private_spans(sensitivity, target)]
    assert spans == [(0, 2, [1, 2]), (3, 4, [4]), (5, 6, [6])]
    assert list(private_spans(torch.zeros(3), torch.zeros(3))) == []


def test_gaussian_noise_takes_its_own_scale(teacher, samples, tmp_path):
    clean = released(teacher, samples, tmp_path / "a")
    none = released(teacher, samples, tmp_path / "b", law="gaussian", epsilon=0.1)
    torch.testing.assert_close(none, clean)
    noisy = released(teacher, samples, tmp_path / "c", law="gaussian", sigma=1.0)
    assert not torch.allclose(noisy, clean)


def test_top_targets_and_the_rest_can_be_kept_alone(teacher, samples, tmp_path):
    cache = release_soft_targets(teacher, samples, tmp_path, epsilon=2.0, top_k=3)
    probs = cache.read(ROWS + 10).logits.softmax(dim=-1)
    whole = released(teacher, samples, tmp_path / "whole", epsilon=2.0)
    torch.testing.assert_close(probs.topk(3).values, whole.topk(3).values, atol=2e-3, rtol=0)


def test_a_folder_of_other_noise_is_refused(teacher, samples, tmp_path):
    release_soft_targets(teacher, samples, tmp_path, epsilon=2.0, seed=1)
    release_soft_targets(teacher, samples, tmp_path, epsilon=2.0, seed=1)
    for options in ({"epsilon": 3.0, "seed": 1}, {"epsilon": 2.0, "seed": 2}, {"epsilon": 2.0, "max_temperature": 9.0}):
        with pytest.raises(ValueError, match="teacher"):
            release_soft_targets(teacher, samples, tmp_path, **options)


def test_mistakes_are_refused(teacher, samples, tmp_path):
    with pytest.raises(ValueError, match="the extra 'private'"):
        release_soft_targets(teacher, samples, tmp_path / "a", sensitivity="private")
    with pytest.raises(ValueError, match="`epsilon` to be positive"):
        release_soft_targets(teacher, samples, tmp_path / "b", epsilon=0.0)
    with pytest.raises((ValueError, TypeCheckError)):  # in tests the annotation speaks first
        release_soft_targets(teacher, samples, tmp_path / "c", noise_key="contents")
    with pytest.raises(ValueError, match="`sigma`"):
        release_soft_targets(teacher, samples, tmp_path / "d", law="gaussian", sigma=-1.0)
    with pytest.raises(ValueError, match="at least `base_temperature`"):
        release_soft_targets(teacher, samples, tmp_path / "e", base_temperature=4.0, max_temperature=2.0)
    with pytest.raises(ValueError, match="to give logits"):
        release_soft_targets(NoLogits(), samples, tmp_path / "f")


class NoLogits(nn.Module):
    def forward(self, batch):
        from tutelage.outputs import Outputs

        return Outputs()
