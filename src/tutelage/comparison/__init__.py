"""The tournament that answers which method is best for one's own problem (`tutelage compare`)."""

from tutelage.comparison.applicability import Applicable, Problem, declared_gaps
from tutelage.comparison.crossed import crossed_comparison
from tutelage.comparison.halving import Plan, Round, best_settings, fit_plan, make_rounds, survivors
from tutelage.comparison.lessons import Lesson, Setting, catalogue
from tutelage.comparison.planning import list_methods
from tutelage.comparison.ranking import Finalist, Ranking, closing_sentence, rank
from tutelage.comparison.settings import ComparisonConfig, MethodChoice, comparison_from_options
from tutelage.comparison.tournament import resume_comparison, start_comparison

__all__ = [
    "Applicable",
    "ComparisonConfig",
    "Finalist",
    "Lesson",
    "MethodChoice",
    "Plan",
    "Problem",
    "Ranking",
    "Round",
    "Setting",
    "best_settings",
    "catalogue",
    "closing_sentence",
    "comparison_from_options",
    "crossed_comparison",
    "declared_gaps",
    "fit_plan",
    "list_methods",
    "make_rounds",
    "rank",
    "resume_comparison",
    "start_comparison",
    "survivors",
]
