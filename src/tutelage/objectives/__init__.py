"""Objectives: what a student is asked to minimise. Each is a pure function with an `nn.Module` twin."""

from tutelage.objectives.balanced_divergence import (
    BalancedDivergence,
    balanced_divergence,
    divergence_weights,
)
from tutelage.objectives.classic import (
    DecoupledDistillation,
    DistDistillation,
    KnowledgeDistillation,
    LogitMSE,
    UniversalLogitDistance,
    decoupled_distillation,
    dist_distillation,
    knowledge_distillation,
    logit_mse,
    universal_logit_distance,
)
from tutelage.objectives.cross_entropy import (
    CrossEntropy,
)
from tutelage.objectives.divergences import (
    ForwardKL,
    JensenShannon,
    ReverseKL,
    SoftCrossEntropy,
    TokenDivergence,
    TotalVariation,
    forward_kl,
    jensen_shannon,
    predictive_confidence,
    predictive_entropy,
    reverse_kl,
    soft_cross_entropy,
    token_divergence,
    total_variation,
)
from tutelage.objectives.fusion_ratio import (
    FusedDistillationLoss,
    FusionRatioController,
    WeightedSoftLabels,
    fused_distillation_loss,
    weighted_soft_label_ratio,
)
from tutelage.objectives.mcmi import (
    ClassCentroids,
    MCMILoss,
    mcmi_loss,
)
from tutelage.objectives.objective import (
    Objective,
    registered_objectives,
)
from tutelage.objectives.pairwise_l1 import (
    pairwise_l1_distance,
)
from tutelage.objectives.plackett_luce import (
    PlackettLuceDistillation,
    list_wise_retrieval_distillation,
    plackett_luce_distillation,
    plackett_luce_log_likelihood,
    teacher_optimal_permutation,
)
from tutelage.objectives.ranking import (
    listmle,
)
from tutelage.objectives.regression import (
    MeanSquaredError,
)
from tutelage.objectives.schedules import (
    Constant,
    CosineRamp,
    LinearRamp,
    LinearTemperatureAnnealing,
    Progress,
    Schedule,
)
from tutelage.objectives.sinkhorn import (
    SinkhornDistillation,
    sinkhorn_distance,
    sinkhorn_distillation,
    sinkhorn_plan,
)
from tutelage.objectives.swing import (
    SwingDistillation,
    perturb_distribution,
    swing_distillation,
    swing_soft_targets,
    swing_temperature,
)
from tutelage.objectives.trilateral import (
    trilateral_edge_lengths,
    trilateral_features,
)

__all__ = [
    "BalancedDivergence",
    "ClassCentroids",
    "Constant",
    "CosineRamp",
    "CrossEntropy",
    "DecoupledDistillation",
    "DistDistillation",
    "ForwardKL",
    "FusedDistillationLoss",
    "FusionRatioController",
    "JensenShannon",
    "KnowledgeDistillation",
    "LinearRamp",
    "LinearTemperatureAnnealing",
    "LogitMSE",
    "MCMILoss",
    "MeanSquaredError",
    "Objective",
    "PlackettLuceDistillation",
    "Progress",
    "ReverseKL",
    "Schedule",
    "SinkhornDistillation",
    "SoftCrossEntropy",
    "SwingDistillation",
    "TokenDivergence",
    "TotalVariation",
    "UniversalLogitDistance",
    "WeightedSoftLabels",
    "balanced_divergence",
    "decoupled_distillation",
    "dist_distillation",
    "divergence_weights",
    "forward_kl",
    "fused_distillation_loss",
    "jensen_shannon",
    "knowledge_distillation",
    "list_wise_retrieval_distillation",
    "listmle",
    "logit_mse",
    "mcmi_loss",
    "pairwise_l1_distance",
    "perturb_distribution",
    "plackett_luce_distillation",
    "plackett_luce_log_likelihood",
    "predictive_confidence",
    "predictive_entropy",
    "registered_objectives",
    "reverse_kl",
    "sinkhorn_distance",
    "sinkhorn_distillation",
    "sinkhorn_plan",
    "soft_cross_entropy",
    "swing_distillation",
    "swing_soft_targets",
    "swing_temperature",
    "teacher_optimal_permutation",
    "token_divergence",
    "total_variation",
    "trilateral_edge_lengths",
    "trilateral_features",
    "universal_logit_distance",
    "weighted_soft_label_ratio",
]
