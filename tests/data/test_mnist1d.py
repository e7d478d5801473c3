from __future__ import annotations

import numpy as np
import pytest
import torch

from tutelage.data import load_data
from tutelage.data.mnist1d import render_signals, templates


def test_rendering_agrees_with_the_public_package() -> None:
    reference = pytest.importorskip("mnist1d.data")
    transform = pytest.importorskip("mnist1d.transform").transform
    state = np.random.get_state()
    try:
        arguments = reference.get_dataset_args()
        shapes = reference.get_templates()
        np.testing.assert_allclose(templates(), shapes["x"], atol=1e-12)
        for seed in range(20):
            label = seed % 10
            np.random.seed(seed)
            expected, _ = transform(shapes["x"][label], shapes["t"], arguments)
            np.random.seed(seed)  # the package's order of draws
            padding = 36 + int(np.random.rand() * 25)
            amplitude = 1 + 0.4 * (np.random.rand() - 0.5)
            translation = np.random.choice(48)
            correlated = 0.25 * np.random.randn(72)
            white = 0.02 * np.random.randn(72)
            slope = 0.75 * (np.random.rand() - 0.5)
            ours = render_signals(
                np.array([label]),
                length=40,
                padding=np.array([padding]),
                amplitude=np.array([amplitude]),
                translation=np.array([translation]),
                correlated_noise=correlated[None],
                white_noise=white[None],
                slope=np.array([slope]),
            )
            np.testing.assert_allclose(ours[0], expected, atol=1e-9)
    finally:
        np.random.set_state(state)


def test_it_is_as_hard_for_a_linear_model_as_published() -> None:
    from sklearn.linear_model import LogisticRegression

    data = load_data("mnist1d")
    train, test = data.train.batch(slice(None)), data.test.batch(slice(None))
    model = LogisticRegression(max_iter=300).fit(train.inputs.numpy(), train.target.numpy())
    # the package's README reports 32 % for logistic regression on 4 000 signals
    assert 0.27 < model.score(test.inputs.numpy(), test.target.numpy()) < 0.38


def test_parts_are_balanced_standardised_and_reproducible() -> None:
    data, again, other = (load_data("mnist1d", train=200, validation=50, test=100, seed=seed) for seed in (1, 1, 2))
    assert data.train.fingerprint() == again.train.fingerprint() != other.train.fingerprint()
    assert data.train.target.bincount().tolist() == [20] * 10
    assert abs(float(data.train.inputs.mean())) < 1e-5
    assert float(data.train.inputs.std(correction=0)) == pytest.approx(1, abs=1e-4)
    index = torch.cat([part.index for part in (data.train, data.validation, data.test)])
    assert index.unique().numel() == 350
    assert load_data("mnist1d", train=20, channel=True).train.inputs.shape == (20, 1, 40)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="`train` to be at least 1"):
        load_data("mnist1d", train=0)
    with pytest.raises(ValueError, match="`noise` to be at least 0"):
        load_data("mnist1d", noise=-1.0)
