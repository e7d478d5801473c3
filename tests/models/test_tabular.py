from __future__ import annotations

import pytest
import torch

from tutelage.models import FeatureTokenizerTransformer


def test_rows_are_read_alone_and_every_feature_counts() -> None:
    torch.manual_seed(0)
    model = FeatureTokenizerTransformer(3, categories=(2, 5)).eval()
    numeric, categorical = torch.randn(4, 3), torch.tensor([[0, 4], [1, 0], [1, 2], [0, 3]])
    with torch.no_grad():
        logit, embedding = model(numeric, categorical)
        assert logit.shape == (4, 1)
        assert embedding.shape == (4, 32)
        torch.testing.assert_close(model(numeric[1:2], categorical[1:2])[1], embedding[1:2], atol=1e-5, rtol=0)
        for column in range(3):
            changed = numeric.clone()
            changed[:, column] += 1
            assert not torch.allclose(model(changed, categorical)[0], logit)
        for column in range(2):
            changed = categorical.clone()
            changed[:, column] = (changed[:, column] + 1) % 2
            assert not torch.allclose(model(numeric, changed)[0], logit)


def test_one_kind_of_feature_is_enough_and_gradients_are_right() -> None:
    torch.manual_seed(0)
    categorical = FeatureTokenizerTransformer(0, categories=(3,), width=4, num_layers=1, num_heads=1, head_width=2)
    assert categorical(None, torch.tensor([[2], [0]]))[0].shape == (2, 1)
    numeric = FeatureTokenizerTransformer(2, width=4, num_layers=1, num_heads=2, head_width=2, dropout=0.0).double()
    torch.autograd.gradcheck(lambda rows: numeric(rows)[0], torch.randn(2, 2, dtype=torch.float64, requires_grad=True))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = FeatureTokenizerTransformer(3, dropout=0.5)
    rows = torch.randn(4, 3)
    assert not torch.equal(model(rows)[0], model(rows)[0])
    model.eval()
    assert torch.equal(model(rows)[0], model(rows)[0])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "at least one feature"),
        ((-1,), {}, "`num_numeric` to be at least 0"),
        ((2, (0,)), {}, "`categories` to be a list of positive whole numbers"),
        ((2,), {"num_heads": 0}, "`num_heads` to be at least 1"),
        ((2,), {"dropout": -0.1}, "`dropout` to be in"),
    ],
)
def test_bad_sizes_are_named(arguments, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        FeatureTokenizerTransformer(*arguments, **options)


def test_missing_features_are_named() -> None:
    model = FeatureTokenizerTransformer(3, categories=(2,))
    with pytest.raises(ValueError, match="`numeric` to hold 3 features, but got 2"):
        model(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match="`categorical` to hold 1 features, but got 0"):
        model(torch.zeros(1, 3))
