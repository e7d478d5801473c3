from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tutelage.objectives import (
    CALIBRATION_LOSSES,
    SampleTemperatureCalibrator,
    TemperatureScaling,
    correctness_aware_loss,
    fit_calibrator,
    transformation_consistency_features,
)


def over_confident(samples: int = 400, scale: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `scale` times as large as those that the labels were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    true = 1.5 * torch.randn(samples, 5, generator=generator)
    return scale * true, torch.multinomial(true.softmax(1), 1, generator=generator).squeeze(1)


# ---- One temperature -------------------------------------------------------------------------------------------------


def test_a_new_one_changes_nothing() -> None:
    logits = torch.randn(4, 3)
    assert TemperatureScaling().temperature == 1.0
    assert torch.equal(TemperatureScaling()(logits), logits)


def test_four_samples_by_hand() -> None:
    scaling = TemperatureScaling().fit(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
    assert scaling.temperature == pytest.approx(4 / math.log(3), rel=1e-6)  # a confidence of 3/4


def test_the_scale_of_the_truth_is_found() -> None:
    logits, target = over_confident(20_000, scale=3.0)
    for loss in ("nll", "brier", "correctness_aware"):
        assert TemperatureScaling().fit(logits, target, loss).temperature == pytest.approx(3.0, rel=0.06)


@pytest.mark.parametrize("loss", ["nll", "brier", "correctness_aware"])
@pytest.mark.parametrize("seed", range(3))
def test_no_temperature_of_a_fine_grid_is_better(loss: str, seed: int) -> None:
    logits, target = over_confident(60, seed=seed)
    found = TemperatureScaling().fit(logits, target, loss)
    measure = CALIBRATION_LOSSES["cross_entropy" if loss == "nll" else loss]
    grid = torch.linspace(math.log(0.01), math.log(100), 2000, dtype=torch.float64).exp()
    best = min(measure(logits.double() / temperature, target).item() for temperature in grid)
    assert measure(logits.double() / found.temperature, target).item() <= best + 1e-7


def test_the_scale_of_the_logits_goes_into_the_temperature() -> None:
    logits, target = over_confident()
    one, other = (TemperatureScaling().fit(factor * logits, target).temperature for factor in (1.0, 2.5))
    assert other == pytest.approx(2.5 * one, rel=1e-4)


def test_a_classifier_without_errors_gets_the_least_temperature() -> None:
    scaling = TemperatureScaling().fit(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    assert 0.01 <= scaling.temperature * (1 + 1e-6) <= 0.1
    assert torch.isfinite(scaling(torch.tensor([[100.0, -100.0]]))).all()


def test_no_gradient_reaches_the_classifier() -> None:
    logits = torch.randn(6, 3, requires_grad=True)
    TemperatureScaling().fit(logits, torch.randint(3, (6,)))
    assert logits.grad is None


# ---- One temperature a sample ----------------------------------------------------------------------------------------


def test_the_formula() -> None:
    calibrator = SampleTemperatureCalibrator(6, 3).double()
    features = torch.rand(5, 6, dtype=torch.float64)
    with torch.no_grad():
        calibrator.output.weight.mul_(500)  # so that some temperatures are cut
    hidden = (features @ calibrator.hidden.weight.T + calibrator.hidden.bias).clamp(min=0)
    expected = (hidden @ calibrator.output.weight.T + calibrator.output.bias).squeeze(1).clamp(0.1, 10)
    torch.testing.assert_close(calibrator.temperature(features), expected)
    logits = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(calibrator(logits, features), logits / expected[:, None])


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_prediction_never_changes_and_temperatures_stay_in_their_range(seed: int) -> None:
    torch.manual_seed(seed)
    calibrator = SampleTemperatureCalibrator(4, t_min=0.2, t_max=3.0)
    with torch.no_grad():
        for parameter in calibrator.parameters():
            parameter.copy_(3 * torch.randn(parameter.shape))
    logits, features = 5 * torch.randn(16, 6), torch.rand(16, 4)
    temperature = calibrator.temperature(features)
    assert ((temperature >= 0.2) & (temperature <= 3.0)).all()
    assert torch.equal(calibrator(logits, features).argmax(1), logits.argmax(1))


@pytest.mark.parametrize("seed", range(5))
def test_a_new_one_starts_near_one_for_every_sample(seed: int) -> None:
    torch.manual_seed(seed)
    assert (SampleTemperatureCalibrator(12).temperature(torch.rand(100, 12)) - 1).abs().max() < 0.2


def test_informative_features_separate_right_from_wrong() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(200, 1)
    target = torch.tensor([0, 1] * 100)
    features = (target == 0).float()[:, None] * torch.ones(1, 4)
    calibrator = SampleTemperatureCalibrator(4)
    options = {"steps": 400, "lr": 0.02, "batch_size": 200, "generator": torch.Generator().manual_seed(0)}
    history = fit_calibrator(calibrator, logits, features, target, loss="correctness_aware", **options)
    confidence = calibrator(logits, features).softmax(1).amax(1)
    assert confidence[target == 0].min() > 0.95
    assert confidence[target == 1].max() < 0.45
    assert len(history) == 400
    assert history[-1] < 0.12 < history[0]


# ---- Features --------------------------------------------------------------------------------------------------------


def test_features_are_copy_by_copy_at_the_classes_of_the_original() -> None:
    original = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 0.0, 1.0, 2.0]])
    copies = torch.randn(3, 2, 4)
    features = transformation_consistency_features(original, copies, top_k=2)
    for sample, classes in enumerate([(1, 3), (0, 3)]):
        expected = [copy[sample].softmax(0)[label] for copy in copies for label in classes]
        torch.testing.assert_close(features[sample], torch.stack(expected))


def test_of_equal_logits_the_lower_class_comes_first() -> None:
    original = torch.tensor([[1.0, 2.0, 1.0, 2.0, 1.0]])
    copies = torch.arange(5.0).view(1, 1, 5)
    features = transformation_consistency_features(original, copies, top_k=4)
    torch.testing.assert_close(features, copies[0].softmax(1)[:, [1, 3, 0, 2]])


@given(seed=st.integers(0, 10**6), top_k=st.integers(1, 5))
@settings(max_examples=20, deadline=None)
def test_features_are_probabilities_and_follow_the_order_of_the_copies(seed: int, top_k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    original, copies = torch.randn(7, 5, generator=generator), 4 * torch.randn(3, 7, 5, generator=generator)
    features = transformation_consistency_features(original, copies, top_k=top_k)
    assert features.shape == (7, 3 * top_k)
    assert ((features >= 0) & (features <= 1)).all()
    swapped = transformation_consistency_features(original, copies[[1, 0, 2]], top_k=top_k)
    blocks = features.view(7, 3, top_k)
    torch.testing.assert_close(swapped.view(7, 3, top_k), blocks[:, [1, 0, 2]])
    same = transformation_consistency_features(original, original.expand(2, -1, -1), top_k=top_k)
    best = original.softmax(1).sort(dim=1, descending=True).values[:, :top_k]
    torch.testing.assert_close(same, torch.cat([best, best], dim=1))


# ---- Fitting ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["cross_entropy", "brier", "correctness_aware"])
def test_adam_finds_what_newton_finds(loss: str) -> None:
    logits, target = over_confident()
    by_adam = TemperatureScaling()
    options = {"steps": 600, "lr": 0.02, "batch_size": 10_000, "generator": torch.Generator()}
    fit_calibrator(by_adam, logits, None, target, loss=loss, **options)
    exact = TemperatureScaling().fit(logits, target, "nll" if loss == "cross_entropy" else loss)
    assert by_adam.temperature == pytest.approx(exact.temperature, rel=0.01)


def test_losses_by_name_and_by_function() -> None:
    logits, target = torch.randn(50, 4), torch.randint(4, (50,))
    probs = logits.softmax(1)
    expected = {
        "cross_entropy": F.cross_entropy(logits, target),
        "brier": (probs - F.one_hot(target, 4)).square().sum(1).mean(),
        "correctness_aware": correctness_aware_loss(logits, target),
        "correctness_aware_balanced": correctness_aware_loss(logits, target, class_balance=True),
    }
    assert set(CALIBRATION_LOSSES) == set(expected)
    options = {"steps": 1, "lr": 1e-3, "batch_size": 50, "generator": torch.Generator()}
    for name, value in expected.items():
        for loss in (name, CALIBRATION_LOSSES[name]):
            (first,) = fit_calibrator(TemperatureScaling(), logits, None, target, loss=loss, **options)
            assert first == pytest.approx(value.item(), rel=1e-5)


def test_batches_hold_every_sample_once_a_pass() -> None:
    seen: list[int] = []

    def note(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        seen.extend(target.tolist())
        return logits.sum() * 0

    options = {"steps": 6, "lr": 1e-3, "batch_size": 4, "generator": torch.Generator().manual_seed(3)}
    fit_calibrator(TemperatureScaling(), torch.zeros(10, 10), None, torch.arange(10), loss=note, **options)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_the_same_seed_gives_the_same_calibrator() -> None:
    logits, target = over_confident(90)
    fitted = []
    for _ in range(2):
        torch.manual_seed(1)
        calibrator = SampleTemperatureCalibrator(5)
        options = {"steps": 20, "lr": 1e-2, "batch_size": 32, "generator": torch.Generator().manual_seed(2)}
        history = fit_calibrator(calibrator, logits, logits.softmax(1), target, loss="brier", **options)
        fitted.append((history, calibrator.output.weight.tolist()))
    assert fitted[0] == fitted[1]


# ---- Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SampleTemperatureCalibrator(0), "`in_features` to be at least 1"),
        (lambda: SampleTemperatureCalibrator(3, t_min=0.0), "`t_min` to be positive, but got 0.0"),
        (lambda: SampleTemperatureCalibrator(3, t_min=2.0, t_max=2.0), "`t_max` to be above `t_min`"),
        (lambda: TemperatureScaling().fit(torch.zeros(2, 3), torch.tensor([0, 3])), "but got 3"),
        (
            lambda: TemperatureScaling().fit(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)),
            "at least one sample",
        ),
        (lambda: TemperatureScaling().fit(torch.full((1, 2), math.nan), torch.tensor([0])), "`logits` to be finite"),
        (lambda: features(torch.zeros(2, 3), torch.zeros(1, 2, 3), 4), "number of classes, 3, but got 4"),
        (lambda: features(torch.zeros(2, 3), torch.zeros(1, 2, 3), 0), "`top_k` to be at least 1"),
        (lambda: features(torch.zeros(2, 5), torch.zeros(0, 2, 5), 4), "one transformed copy, but got 2 and 0"),
        (lambda: features(torch.zeros(0, 5), torch.zeros(1, 0, 5), 4), "at least one sample"),
        (lambda: fit(loss="croos_entropy"), "did you mean 'cross_entropy'"),
        (lambda: fit(steps=0), "`steps` to be at least 1"),
        (lambda: fit(lr=0.0), "`lr` to be positive"),
        (lambda: fit(batch_size=0), "`batch_size` to be at least 1"),
    ],
)
def test_bad_input(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def features(original: torch.Tensor, copies: torch.Tensor, top_k: int) -> torch.Tensor:
    return transformation_consistency_features(original, copies, top_k=top_k)


def fit(**changed: object) -> None:
    options = {"loss": "brier", "steps": 1, "lr": 0.1, "batch_size": 2, "generator": torch.Generator(), **changed}
    fit_calibrator(TemperatureScaling(), torch.zeros(2, 3), None, torch.tensor([0, 1]), **options)
