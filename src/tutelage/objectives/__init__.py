"""Objectives: what a student is asked to minimise. Each is a pure function with an `nn.Module` twin."""

from tutelage.objectives.objective import Objective, registered_objectives
from tutelage.objectives.schedules import Constant, CosineRamp, LinearRamp, LinearTemperatureAnnealing, Progress, Schedule

__all__ = [
    "Constant",
    "CosineRamp",
    "LinearRamp",
    "LinearTemperatureAnnealing",
    "Objective",
    "Progress",
    "Schedule",
    "registered_objectives",
]
