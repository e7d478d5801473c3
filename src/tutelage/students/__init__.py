"""Students: spaces of architectures, scores that need no training, and searches for the student to teach."""

from tutelage.students.compression import compression_reward, constraint_relaxation
from tutelage.students.compressor import (
    Candidate,
    NetworkCompressor,
    random_architecture_search,
    uniform_width_architecture,
)
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
from tutelage.students.layer_building import architecture_size, build_student, layered_student
from tutelage.students.layer_tracing import describe_layers
from tutelage.students.layers import (
    InvalidArchitecture,
    LayerSpec,
    apply_removal,
    apply_shrinkage,
    forced_entries,
    forced_keeps,
    layer_table,
)
from tutelage.students.pareto import pareto_front
from tutelage.students.policies import RemovalPolicy, RunningBaseline, ShrinkagePolicy, reinforce_loss
from tutelage.students.search_space import DepthSpace, PerceptronSpace, SearchSpace
from tutelage.students.short_distillation import ShortDistillation
from tutelage.students.stage_space import StageSpace
from tutelage.students.zero_cost import gradient_norm, naswot, synflow

__all__ = [
    "Candidate",
    "DepthSpace",
    "DisWOT",
    "DisWOTScore",
    "InvalidArchitecture",
    "LayerSpec",
    "NetworkCompressor",
    "PerceptronSpace",
    "RemovalPolicy",
    "RunningBaseline",
    "SearchSpace",
    "ShortDistillation",
    "ShrinkagePolicy",
    "StageSpace",
    "apply_removal",
    "apply_shrinkage",
    "architecture_size",
    "build_student",
    "classifier_gradient",
    "compression_reward",
    "constraint_relaxation",
    "describe_layers",
    "diswot_score",
    "evolutionary_search",
    "forced_entries",
    "forced_keeps",
    "gaussian_reinitialize",
    "gradient_norm",
    "layer_table",
    "layered_student",
    "naswot",
    "pareto_front",
    "partial_rank_correlation",
    "random_architecture_search",
    "random_search",
    "rank_correlation",
    "reinforce_loss",
    "relation_similarity",
    "semantic_similarity",
    "synflow",
    "uniform_width_architecture",
]
