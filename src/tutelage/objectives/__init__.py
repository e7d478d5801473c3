"""Objectives: what a student is asked to minimise. Each is a pure function with an `nn.Module` twin."""

from tutelage.data.byte_level import boundary_token_mask, byte_level_tokens
from tutelage.objectives.adversarial import (
    PGDAdversarialTrainingLoss,
    SmoothAdversarialCompSumLoss,
    TradesLoss,
    margin_change,
    margin_vector,
    pgd_adversarial_training_loss,
    rho_margin_loss,
    smooth_adversarial_comp_sum_loss,
    trades_loss,
)
from tutelage.objectives.aligned_logits import (
    AlignedUniversalLogitDistance,
    MinimumEditDistanceDistillation,
    aligned_predictions,
)
from tutelage.objectives.alignment import align_tokens, alignment_matrices
from tutelage.objectives.balanced_divergence import (
    BalancedDivergence,
    balanced_divergence,
    divergence_weights,
)
from tutelage.objectives.calibrators import (
    CALIBRATION_LOSSES,
    SampleTemperatureCalibrator,
    TemperatureScaling,
    fit_calibrator,
    transformation_consistency_features,
)
from tutelage.objectives.chunk_states import ChunkHiddenStates, chunk_hidden_state_loss
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
from tutelage.objectives.comp_sum import (
    CompSumLoss,
    GeneralizedCrossEntropy,
    MeanAbsoluteErrorLoss,
    comp_sum_loss,
    generalized_cross_entropy,
    mean_absolute_error_loss,
)
from tutelage.objectives.contrastive import multi_view_contrastive_loss
from tutelage.objectives.correctness_aware import (
    CorrectnessAwareLoss,
    correctness_aware_loss,
)
from tutelage.objectives.coverage import (
    DirectCoverageLoss,
    approximate_coverage_loss,
    coverage_gradient_factor,
    coverage_optimal_distribution,
    direct_coverage_optimization_loss,
    estimate_mode_confidence,
    stepwise_direct_coverage_loss,
)
from tutelage.objectives.coverage_sampling import (
    CoverageFilteredSampler,
)
from tutelage.objectives.cross_entropy import (
    CrossEntropy,
)
from tutelage.objectives.cross_tokenizer import ApproximateLikelihoodMatching
from tutelage.objectives.detection import CentreDetection, centre_detection_loss
from tutelage.objectives.dice import (
    DiceLoss,
    SelfAdjustingDiceLoss,
    TverskyLoss,
    dice_loss,
    self_adjusting_dice_loss,
    tversky_loss,
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
from tutelage.objectives.edit_distance import minimum_edit_distance_mapping
from tutelage.objectives.focal import (
    FocalLoss,
    binary_focal_loss,
    focal_loss,
)
from tutelage.objectives.fusion_ratio import (
    FusedDistillationLoss,
    FusionRatioController,
    WeightedSoftLabels,
    fused_distillation_loss,
    weighted_soft_label_ratio,
)
from tutelage.objectives.gradient_magnitude import gradient_magnitude_weights
from tutelage.objectives.h_consistency import (
    approximate_comp_sum_transform_inverse,
    comp_sum_conditional_risk,
    comp_sum_min_conditional_risk,
    comp_sum_transform,
    comp_sum_transform_inverse,
    h_consistency_bound,
    minimizability_gap,
    minimizability_gap_upper_bound,
)
from tutelage.objectives.hard_examples import (
    online_hard_example_mask,
)
from tutelage.objectives.histogram import (
    HLGaussLoss,
    c51_loss,
    categorical_expectation,
    categorical_projection,
    hl_gauss_loss,
    hl_gauss_target,
    two_hot_loss,
    two_hot_target,
)
from tutelage.objectives.histogram_heads import (
    CategoricalValueHead,
    HistogramHead,
)
from tutelage.objectives.histogram_supports import (
    AtomSupport,
    HistogramSupport,
)
from tutelage.objectives.label_distributional_robustness import (
    AdaptiveLDRLoss,
    LabelDistributionallyRobustLoss,
    adaptive_label_distributionally_robust_loss,
    adaptive_ldr_temperature,
    label_distributionally_robust_loss,
    normalize_scores,
)
from tutelage.objectives.likelihood_matching import (
    approximate_likelihood_matching,
    binary_divergence,
    boundary_log_prob,
    chunk_log_probs,
    merge_chunks,
)
from tutelage.objectives.linear import LinearCrossEntropy, LinearDistillation, LinearTopKForwardKL
from tutelage.objectives.mcmi import (
    ClassCentroids,
    MCMILoss,
    mcmi_loss,
)
from tutelage.objectives.multi_teacher_adversarial import multi_teacher_adversarial_distillation
from tutelage.objectives.multiclass_margin import (
    CrammerSingerLoss,
    WestonWatkinsLoss,
    crammer_singer_loss,
    weston_watkins_loss,
)
from tutelage.objectives.noisy_labels import (
    ActivePassiveLoss,
    JensenShannonLabelLoss,
    RobustLogLoss,
    SquaredErrorLoss,
    active_passive_loss,
    jensen_shannon_label_loss,
    robust_log_loss,
    squared_error_loss,
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
from tutelage.objectives.profit_aware import (
    ProfitAwareBoostingObjective,
    ProfitAwarePairwiseLoss,
    profit_aware_pairwise_gradients,
    profit_aware_pairwise_loss,
)
from tutelage.objectives.ranking import (
    LambdaLoss,
    ListwiseSoftmaxLoss,
    RanknetLoss,
    lambda_loss,
    listmle,
    listwise_softmax_loss,
    ranknet_loss,
)
from tutelage.objectives.regression import (
    MeanSquaredError,
)
from tutelage.objectives.routing import (
    InstanceRouter,
    load_balancing_loss,
    mutual_distillation_loss,
    routed_distillation_loss,
    top_k_routing,
)
from tutelage.objectives.schedules import (
    Constant,
    CosineRamp,
    LinearRamp,
    LinearTemperatureAnnealing,
    Progress,
    Schedule,
)
from tutelage.objectives.sequences import (
    perturb_logits,
    sequence_level_kd,
    sequence_log_prob,
    token_entropy,
    token_log_probs,
)
from tutelage.objectives.sinkhorn import (
    SinkhornDistillation,
    sinkhorn_distance,
    sinkhorn_distillation,
    sinkhorn_plan,
)
from tutelage.objectives.span_extraction import (
    SpanExtractionHead,
    SpanLogits,
    span_extraction_loss,
)
from tutelage.objectives.swing import (
    SwingDistillation,
    perturb_distribution,
    swing_distillation,
    swing_soft_targets,
    swing_temperature,
)
from tutelage.objectives.symmetric import (
    SymmetricCrossEntropy,
    SymmetricCrossEntropyLoss,
    symmetric_cross_entropy,
    symmetric_cross_entropy_loss,
)
from tutelage.objectives.temporal_difference import (
    conservative_q_regularizer,
    double_q_target,
    td_target,
)
from tutelage.objectives.top_classes import TopKForwardKL, top_k_forward_kl
from tutelage.objectives.trilateral import (
    trilateral_edge_lengths,
    trilateral_features,
)

__all__ = [
    "CALIBRATION_LOSSES",
    "ActivePassiveLoss",
    "AdaptiveLDRLoss",
    "AlignedUniversalLogitDistance",
    "ApproximateLikelihoodMatching",
    "AtomSupport",
    "BalancedDivergence",
    "CategoricalValueHead",
    "CentreDetection",
    "ChunkHiddenStates",
    "ClassCentroids",
    "CompSumLoss",
    "Constant",
    "CorrectnessAwareLoss",
    "CosineRamp",
    "CoverageFilteredSampler",
    "CrammerSingerLoss",
    "CrossEntropy",
    "DecoupledDistillation",
    "DiceLoss",
    "DirectCoverageLoss",
    "DistDistillation",
    "FocalLoss",
    "ForwardKL",
    "FusedDistillationLoss",
    "FusionRatioController",
    "GeneralizedCrossEntropy",
    "HLGaussLoss",
    "HistogramHead",
    "HistogramSupport",
    "InstanceRouter",
    "JensenShannon",
    "JensenShannonLabelLoss",
    "KnowledgeDistillation",
    "LabelDistributionallyRobustLoss",
    "LambdaLoss",
    "LinearCrossEntropy",
    "LinearDistillation",
    "LinearRamp",
    "LinearTemperatureAnnealing",
    "LinearTopKForwardKL",
    "ListwiseSoftmaxLoss",
    "LogitMSE",
    "MCMILoss",
    "MeanAbsoluteErrorLoss",
    "MeanSquaredError",
    "MinimumEditDistanceDistillation",
    "Objective",
    "PGDAdversarialTrainingLoss",
    "PlackettLuceDistillation",
    "ProfitAwareBoostingObjective",
    "ProfitAwarePairwiseLoss",
    "Progress",
    "RanknetLoss",
    "ReverseKL",
    "RobustLogLoss",
    "SampleTemperatureCalibrator",
    "Schedule",
    "SelfAdjustingDiceLoss",
    "SinkhornDistillation",
    "SmoothAdversarialCompSumLoss",
    "SoftCrossEntropy",
    "SpanExtractionHead",
    "SpanLogits",
    "SquaredErrorLoss",
    "SwingDistillation",
    "SymmetricCrossEntropy",
    "SymmetricCrossEntropyLoss",
    "TemperatureScaling",
    "TokenDivergence",
    "TopKForwardKL",
    "TotalVariation",
    "TradesLoss",
    "TverskyLoss",
    "UniversalLogitDistance",
    "WeightedSoftLabels",
    "WestonWatkinsLoss",
    "active_passive_loss",
    "adaptive_label_distributionally_robust_loss",
    "adaptive_ldr_temperature",
    "align_tokens",
    "aligned_predictions",
    "alignment_matrices",
    "approximate_comp_sum_transform_inverse",
    "approximate_coverage_loss",
    "approximate_likelihood_matching",
    "balanced_divergence",
    "binary_divergence",
    "binary_focal_loss",
    "boundary_log_prob",
    "boundary_token_mask",
    "byte_level_tokens",
    "c51_loss",
    "categorical_expectation",
    "categorical_projection",
    "centre_detection_loss",
    "chunk_hidden_state_loss",
    "chunk_log_probs",
    "comp_sum_conditional_risk",
    "comp_sum_loss",
    "comp_sum_min_conditional_risk",
    "comp_sum_transform",
    "comp_sum_transform_inverse",
    "conservative_q_regularizer",
    "correctness_aware_loss",
    "coverage_gradient_factor",
    "coverage_optimal_distribution",
    "crammer_singer_loss",
    "decoupled_distillation",
    "dice_loss",
    "direct_coverage_optimization_loss",
    "dist_distillation",
    "divergence_weights",
    "double_q_target",
    "estimate_mode_confidence",
    "fit_calibrator",
    "focal_loss",
    "forward_kl",
    "fused_distillation_loss",
    "generalized_cross_entropy",
    "gradient_magnitude_weights",
    "h_consistency_bound",
    "hl_gauss_loss",
    "hl_gauss_target",
    "jensen_shannon",
    "jensen_shannon_label_loss",
    "knowledge_distillation",
    "label_distributionally_robust_loss",
    "lambda_loss",
    "list_wise_retrieval_distillation",
    "listmle",
    "listwise_softmax_loss",
    "load_balancing_loss",
    "logit_mse",
    "margin_change",
    "margin_vector",
    "mcmi_loss",
    "mean_absolute_error_loss",
    "merge_chunks",
    "minimizability_gap",
    "minimizability_gap_upper_bound",
    "minimum_edit_distance_mapping",
    "multi_teacher_adversarial_distillation",
    "multi_view_contrastive_loss",
    "mutual_distillation_loss",
    "normalize_scores",
    "online_hard_example_mask",
    "pairwise_l1_distance",
    "perturb_distribution",
    "perturb_logits",
    "pgd_adversarial_training_loss",
    "plackett_luce_distillation",
    "plackett_luce_log_likelihood",
    "predictive_confidence",
    "predictive_entropy",
    "profit_aware_pairwise_gradients",
    "profit_aware_pairwise_loss",
    "ranknet_loss",
    "registered_objectives",
    "reverse_kl",
    "rho_margin_loss",
    "robust_log_loss",
    "routed_distillation_loss",
    "self_adjusting_dice_loss",
    "sequence_level_kd",
    "sequence_log_prob",
    "sinkhorn_distance",
    "sinkhorn_distillation",
    "sinkhorn_plan",
    "smooth_adversarial_comp_sum_loss",
    "soft_cross_entropy",
    "span_extraction_loss",
    "squared_error_loss",
    "stepwise_direct_coverage_loss",
    "swing_distillation",
    "swing_soft_targets",
    "swing_temperature",
    "symmetric_cross_entropy",
    "symmetric_cross_entropy_loss",
    "td_target",
    "teacher_optimal_permutation",
    "token_divergence",
    "token_entropy",
    "token_log_probs",
    "top_k_forward_kl",
    "top_k_routing",
    "total_variation",
    "trades_loss",
    "transformation_consistency_features",
    "trilateral_edge_lengths",
    "trilateral_features",
    "tversky_loss",
    "two_hot_loss",
    "two_hot_target",
    "universal_logit_distance",
    "weighted_soft_label_ratio",
    "weston_watkins_loss",
]
