"""What a compressed student is worth: its accuracy beside the teacher's, times how much smaller it is.

Source: Ashok et al., "N2N Learning", ICLR 2018, arXiv 1709.06030, section 3.3.
"""

from __future__ import annotations

from tutelage._checks import check_at_least, check_in_range, check_positive

INVALID_REWARD = -1.0
"""The reward of layers that make no network, or none that is smaller."""


def compression_reward(
    student_accuracy: float,
    student_size: float,
    teacher_accuracy: float,
    teacher_size: float,
    *,
    size_limit: float | None = None,
    accuracy_floor: float | None = None,
    relaxation: float = 0.0,
) -> float:
    """R = C(2 − C) · A_s / A_t, with the compression C = 1 − size_s / size_t.

    Steep at low compression, nearly flat at high: from C = 0.9 on accuracy decides. Under constraints, a student that
    breaks one gets (ε − 1) + ε·R.

    Args:
        student_accuracy: A_s, in the teacher's unit.
        student_size: Parameters.
        teacher_accuracy: A_t.
        teacher_size: Parameters.
        size_limit: Largest size allowed; equality is allowed.
        accuracy_floor: Least accuracy allowed; equality is allowed.
        relaxation: ε in [0, 1]: 1 is no constraint, 0 makes every breach −1. See `constraint_relaxation`.

    Raises:
        ValueError: The teacher's accuracy or size is not positive, or ε is not in [0, 1].

    >>> compression_reward(0.9, 500, 0.9, 1000)
    0.75
    >>> compression_reward(0.9, 500, 0.9, 1000, size_limit=400)
    -1.0
    """
    check_positive(teacher_accuracy, "teacher_accuracy")
    check_positive(teacher_size, "teacher_size")
    check_in_range(relaxation, "relaxation", 0.0, 1.0)
    compression = 1 - student_size / teacher_size
    reward = compression * (2 - compression) * student_accuracy / teacher_accuracy
    too_large = size_limit is not None and student_size > size_limit
    too_wrong = accuracy_floor is not None and student_accuracy < accuracy_floor
    return (relaxation - 1) + relaxation * reward if too_large or too_wrong else reward


def constraint_relaxation(iteration: int, *, horizon: int = 15, power: int = 4) -> float:
    """ε = max(0, 1 − iteration / horizon)^power: constraints count nothing at first and all from the horizon on.

    (In the official code the even power makes ε rise again after the horizon.)

    Args:
        iteration: From 0.
        horizon: From where on ε is 0.
        power: How fast it falls.

    Raises:
        ValueError: A negative iteration, or a horizon or power below 1.

    >>> constraint_relaxation(0), constraint_relaxation(15), constraint_relaxation(30)
    (1.0, 0.0, 0.0)
    """
    check_at_least(iteration, "iteration", 0)
    check_at_least(horizon, "horizon", 1)
    check_at_least(power, "power", 1)
    return float(max(0.0, 1 - iteration / horizon) ** power)
