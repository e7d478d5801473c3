import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tutelage.students import compression_reward, constraint_relaxation


@pytest.mark.parametrize(
    ("accuracy", "compression", "expected"), [(1.0, 0.5, 0.75), (1.0, 0.9, 0.99), (1.0, 0.0, 0.0), (0.8, 0.8, 0.768)]
)
def test_known_rewards(accuracy, compression, expected):
    reward = compression_reward(accuracy * 0.9, (1 - compression) * 1000, 0.9, 1000)
    assert reward == pytest.approx(expected)


def test_a_broken_limit_counts_more_and_more():
    students = {"student_accuracy": 0.8, "student_size": 4000, "teacher_accuracy": 0.9, "teacher_size": 10_000}
    free = compression_reward(**students)
    assert free == pytest.approx(0.84 * 8 / 9)

    def at(iteration, **limits):
        return compression_reward(**students, **limits, relaxation=constraint_relaxation(iteration))

    assert at(0, size_limit=3000) == pytest.approx(free)
    for iteration in (15, 20, 30, 1000):
        assert at(iteration, size_limit=3000) == -1
        assert at(iteration, accuracy_floor=0.81) == -1
        assert at(iteration, size_limit=4000, accuracy_floor=0.8) == free  # equality satisfies
    epsilon = (2 / 3) ** 4
    assert at(5, size_limit=3000) == pytest.approx(epsilon - 1 + epsilon * free)


@settings(max_examples=25)
@given(st.floats(0.01, 1), st.floats(0.01, 1), st.integers(1, 999))
def test_better_and_smaller_is_worth_more(accuracy, teacher_accuracy, size):
    reward = compression_reward(accuracy, size, teacher_accuracy, 1000)
    assert compression_reward(accuracy + 0.01, size, teacher_accuracy, 1000) > reward
    assert compression_reward(accuracy, size + 1, teacher_accuracy, 1000) < reward
    slope = (compression_reward(1, size, 1, 1000) - compression_reward(1, size + 1e-3, 1, 1000)) / 1e-6
    assert slope == pytest.approx(2 * size / 1000, abs=1e-3)  # dR_c/dC = 2(1 − C)


def test_relaxation_never_comes_back():
    values = [constraint_relaxation(iteration) for iteration in range(40)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 1
    assert set(values[15:]) == {0.0}


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: compression_reward(0.5, 1, 0.0, 10), "teacher_accuracy"),
        (lambda: compression_reward(0.5, 1, 0.5, 0), "teacher_size"),
        (lambda: compression_reward(0.5, 1, 0.5, 10, relaxation=1.5), "relaxation"),
        (lambda: constraint_relaxation(-1), "iteration"),
        (lambda: constraint_relaxation(1, horizon=0), "horizon"),
    ],
)
def test_bad_input(call, name):
    with pytest.raises(ValueError, match=name):
        call()
