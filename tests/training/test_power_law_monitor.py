import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tutelage.data import ArraySamples
from tutelage.objectives import CrossEntropy
from tutelage.training import Distillation, PowerLawMonitor, Trainer, TrainingSettings

STEPS = sorted({int(step) for step in np.geomspace(1, 1000, 40)} | set(range(50, 1001, 50)))


def watch(values, **options):
    monitor = PowerLawMonitor(metric="proxy", **options)
    for step, value in zip(STEPS, values, strict=True):
        monitor.observe(step, float(value), total_steps=1000)
    return monitor


def kinked(step, at, exponent=0.4):
    """A power law that turns around at a step."""
    return step**-exponent if step <= at else at**-exponent * (step / at) ** 0.2


@settings(max_examples=8, deadline=None)
@given(st.floats(0.02, 1.5), st.floats(0.01, 100), st.booleans())
def test_never_fires_on_an_exact_power_law(exponent, coefficient, constant):
    floor = 0.3 * coefficient if constant else 0.0
    monitor = watch([floor + coefficient * step**-exponent for step in STEPS], constant=constant)
    assert monitor.fired_at is None
    assert monitor.law is not None


def test_fires_after_a_kink_and_says_when():
    monitor = watch([kinked(step, 600) for step in STEPS])
    off = [step for step in STEPS if step > 600]
    assert monitor.fired_at == off[2]  # the third evaluation in a row
    assert watch([kinked(step, 600) for step in STEPS], patience=5).fired_at == off[4]


def test_a_kink_inside_the_window_hides_unless_the_window_ends_before_it():
    values = [kinked(step, 200) for step in STEPS]
    assert watch(values).fired_at is None
    assert watch(values, fit_window=(0.05, 0.2)).fired_at is not None


def test_does_not_fire_on_noise_or_on_a_run_that_gets_better_than_its_law():
    generator = np.random.default_rng(0)
    noisy = [step**-0.4 * np.exp(generator.normal(0, 0.03)) for step in STEPS]
    assert watch(noisy).fired_at is None
    assert watch([step**-0.4 * (1 if step < 500 else 0.5) for step in STEPS]).fired_at is None


def test_does_not_fire_where_a_metric_stays_as_it_is():
    generator = np.random.default_rng(1)
    monitor = watch(1 + generator.normal(0, 0.02, len(STEPS)))
    assert monitor.fired_at is None


def test_fires_on_a_metric_that_rises_all_along():
    monitor = watch([step**0.3 for step in STEPS])
    assert monitor.law is None
    assert monitor.fired_at is not None


def test_three_off_must_follow_each_other():
    off = [k for k, step in enumerate(STEPS) if step > 500]
    values = np.array([step**-0.4 for step in STEPS])
    values[off[0::3]] *= 2
    values[off[1::3]] *= 2
    assert watch(values).fired_at is None
    values[off[2]] *= 2
    assert watch(values).fired_at == STEPS[off[2]]


def test_too_few_evaluations_say_nothing():
    monitor = PowerLawMonitor(metric="proxy")
    for step in (200, 400, 700, 800, 900, 1000):
        assert not monitor.observe(step, float(step), total_steps=1000)


def trainer(monitor, losses, folder=None, steps=40):
    """A run whose logged metric is given."""
    torch.manual_seed(0)
    samples = ArraySamples(torch.randn(16, 3), torch.arange(16) % 2)
    values = iter(losses)
    return Trainer(
        Distillation(None, nn.Linear(3, 2), CrossEntropy()),
        samples,
        settings=TrainingSettings(max_steps=steps, batch_size=8, evaluate_every=1),
        evaluate=lambda: {"validation_loss": next(values)},
        monitors=[monitor],
        folder=folder,
    )


CURVE = [kinked(step, 25) for step in range(1, 41)]


def test_warns_in_a_run_and_logs_what_was_expected(capsys):
    monitor = PowerLawMonitor(patience=2)
    history = trainer(monitor, CURVE).run()
    assert len(history) == 40
    assert monitor.fired_at == 27
    assert "power_law/expected" not in history[19]
    assert history[20]["power_law/expected"] == pytest.approx(21**-0.4)
    assert [record["power_law/fired"] for record in history[24:28]] == [0.0, 0.0, 1.0, 1.0]
    assert history[-1]["power_law/deviation"] > 3
    warned = capsys.readouterr().err
    assert warned.count("Step 27") == 1
    assert "`validation_loss`" in warned


def test_stops_the_run_for_good(tmp_path):
    monitor = PowerLawMonitor(patience=2, stop=True)
    assert [record["step"] for record in trainer(monitor, CURVE, tmp_path).run()][-1] == 27
    resumed = trainer(PowerLawMonitor(patience=2, stop=True), CURVE, tmp_path)
    assert [record["step"] for record in resumed.run(resume=True)][-1] == 27


def test_a_resumed_run_remembers_what_was_seen(tmp_path):
    class HaltError(RuntimeError):
        pass

    def breaking():
        yield from CURVE[:23]
        raise HaltError

    first = trainer(PowerLawMonitor(patience=2), breaking(), tmp_path)
    first.settings = first.settings.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(HaltError):
        first.run()
    monitor = PowerLawMonitor(patience=2)
    trainer(monitor, CURVE[23:], tmp_path).run(resume=True)
    assert monitor.fired_at == 27


@pytest.mark.parametrize(
    "options",
    [
        {"fit_window": (0.5, 0.1)},
        {"fit_window": (0.1, 1.0)},
        {"fit_window": [0.1]},
        {"threshold": -1.0},
        {"patience": 0},
        {"least_deviation": 0.0},
    ],
)
def test_bad_input(options):
    with pytest.raises(ValueError, match="Expected argument"):
        PowerLawMonitor(**options)


def test_a_metric_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="`proxy` to be positive"):
        watch([0.0] * len(STEPS))
