"""Reproduction: the catalogue of published systems; running arms × seeds, judging claims, recording results."""

from tutelage.reproduction.catalogue import find_system, search, systems
from tutelage.reproduction.recipe import Arm, Claim, Context, Metrics, Needs, Recipe, Scale, load_recipe
from tutelage.reproduction.results import Judgement, Results
from tutelage.reproduction.runner import judge, run_recipe
from tutelage.reproduction.several_data_sets import arms_on, name_on, on_every_data_set
from tutelage.reproduction.system import System
from tutelage.reproduction.trial import TrialError

__all__ = [
    "Arm",
    "Claim",
    "Context",
    "Judgement",
    "Metrics",
    "Needs",
    "Recipe",
    "Results",
    "Scale",
    "System",
    "TrialError",
    "arms_on",
    "find_system",
    "judge",
    "load_recipe",
    "name_on",
    "on_every_data_set",
    "run_recipe",
    "search",
    "systems",
]
