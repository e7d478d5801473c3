import numpy as np
import pytest
import torch
from scipy.stats import binom, ttest_rel
from torch import nn

from tutelage.data.arrays import ArraySamples
from tutelage.data.samples import Data
from tutelage.models import mlp, save_model
from tutelage.reporting import mcnemar_comparison, report_on_models, report_on_saved_models
from tutelage.reporting.saved_models import model_names, parse_options, sample_scores


def data_of(inputs, target, task="classification"):
    samples = ArraySamples(inputs, target)
    return Data("made", samples, samples, samples, task, num_classes=3, class_names=("x", "y", "z"))


def test_mcnemar_agrees_with_the_binomial_tail():
    rng = np.random.default_rng(0)
    first, second = rng.random(300) < 0.8, rng.random(300) < 0.7
    compared = mcnemar_comparison(first, second)
    better, worse = int((first & ~second).sum()), int((~first & second).sum())
    tail = 2 * binom.cdf(min(better, worse), better + worse, 0.5)
    assert compared.p_value == pytest.approx(min(tail, 1.0))
    assert compared.difference == pytest.approx(first.mean() - second.mean())
    assert compared.ci_low < compared.difference < compared.ci_high


def test_mcnemar_of_equals_and_of_nothing():
    assert mcnemar_comparison([1, 0], [1, 0]).p_value == 1.0
    with pytest.raises(ValueError, match="`first` to be at least 1"):
        mcnemar_comparison([], [])


def test_scores_average_to_the_card():
    torch.manual_seed(1)
    data = data_of(torch.randn(700, 4), torch.randint(3, (700,)))
    models = {"a": mlp(4, 3), "b": mlp(4, 3)}
    report = report_on_models(models, data, robustness=False)
    scores = {name: sample_scores(model, data.test) for name, model in models.items()}
    for arm in report.arms:
        for metric, values in scores[arm.name].items():
            assert np.concatenate(values).mean() == pytest.approx(arm.cards[0].metrics[metric], rel=1e-5)
    accuracy, loss = report.comparisons
    assert accuracy["difference"] == pytest.approx(
        report.arms[0].values("accuracy")[0] - report.arms[1].values("accuracy")[0]
    )
    assert (loss["metric"], loss["arm"], loss["baseline"]) == ("negative_log_likelihood", "a", "b")
    expected = ttest_rel(*(np.concatenate(scores[name]["negative_log_likelihood"]) for name in "ab")).pvalue
    assert loss["p_value"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("outputs", [1, 2])
def test_regression(outputs):
    inputs = torch.randn(40, 4)
    target = torch.randn(40) if outputs == 1 else torch.randn(40, 2)
    report = report_on_models({"a": mlp(4, outputs), "b": mlp(4, outputs)}, data_of(inputs, target, "regression"))
    (compared,) = report.comparisons
    assert compared["metric"] == "mean_squared_error"
    values = [arm.values("mean_squared_error")[0] for arm in report.arms]
    assert compared["difference"] == pytest.approx(values[0] - values[1], rel=1e-4)


class Tokens(nn.Module):
    """A language model that knows every token's own distribution of the next."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(5, 5)

    def forward(self, inputs):
        return self.table(inputs)


def test_language_models_are_compared_over_tokens_by_sample():
    target = torch.randint(5, (12, 6))
    target[:, 4:] = -100
    data = data_of(torch.randint(5, (12, 6)), target, "causal_lm")
    report = report_on_models({"a": Tokens(), "b": Tokens()}, data)
    assert [compared["metric"] for compared in report.comparisons] == ["token_accuracy", "negative_log_likelihood"]
    for compared in report.comparisons:
        values = [arm.values(compared["metric"])[0] for arm in report.arms]
        assert compared["difference"] == pytest.approx(values[0] - values[1], rel=1e-4)
        assert "clustered" in compared["method"]


def test_saved_models_with_their_teacher(tmp_path):
    for name in ("first", "second", "teacher"):
        save_model(tmp_path / name, mlp(4, 3))
    paths = [tmp_path / "first", tmp_path / "second" / "model.safetensors"]
    report = report_on_saved_models(
        paths, "iris", teacher=tmp_path / "teacher", environment={"cores": 2}, robustness=False
    )
    assert [arm.name for arm in report.arms] == ["first", "second"]
    assert report.title == "first and second on iris"
    assert report.teacher is not None
    assert report.teacher.name == "teacher"
    assert "teacher_agreement" in report.arms[0].cards[0].metrics
    assert report.environment["cores"] == 2
    assert "data: iris" in report.config_text


def test_a_model_that_does_not_take_the_data_is_named(tmp_path):
    save_model(tmp_path / "flat", mlp(64, 10))
    with pytest.raises(ValueError, match="model 'flat' to take the data's samples"):
        report_on_saved_models([tmp_path / "flat"], "digits", robustness=False)
    report = report_on_saved_models([tmp_path / "flat"], "digits", data_options={"flat": True}, robustness=False)
    assert report.comparisons == []


def test_the_same_model_twice_has_two_names():
    assert model_names(["run", "run"]) != ["run", "run"]
    assert len(set(model_names(["run", "run"]))) == 2


@pytest.mark.parametrize("text", ["flat", "=1", "a=[1"])
def test_options_that_are_none(text):
    with pytest.raises(ValueError, match="Expected an option as `key=value`"):
        parse_options([text])
