"""Students: spaces of architectures, scores that need no training, and searches for the student to teach."""

from tutelage.students.correlation import partial_rank_correlation, rank_correlation
from tutelage.students.diswot import (
    DisWOT,
    DisWOTScore,
    classifier_gradient,
    diswot_score,
    relation_similarity,
    semantic_similarity,
)
from tutelage.students.evolution import evolutionary_search, random_search
from tutelage.students.initialization import gaussian_reinitialize
from tutelage.students.pareto import pareto_front
from tutelage.students.search_space import DepthSpace, PerceptronSpace, SearchSpace
from tutelage.students.zero_cost import gradient_norm, naswot, synflow

__all__ = [
    "DepthSpace",
    "DisWOT",
    "DisWOTScore",
    "PerceptronSpace",
    "SearchSpace",
    "classifier_gradient",
    "diswot_score",
    "evolutionary_search",
    "gaussian_reinitialize",
    "gradient_norm",
    "naswot",
    "pareto_front",
    "partial_rank_correlation",
    "random_search",
    "rank_correlation",
    "relation_similarity",
    "semantic_similarity",
    "synflow",
]
