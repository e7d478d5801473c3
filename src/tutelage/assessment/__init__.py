"""Assessment: what was learned, in numbers and examples, and whether a difference is more than chance."""

from tutelage.assessment.accuracy import accuracy, negative_log_likelihood, rank_agreement, top_k_accuracy
from tutelage.assessment.agreement import (
    Agreement,
    Fidelity,
    answer_agreement,
    cohen_kappa,
    disagreement_breakdown,
    fleiss_kappa,
    krippendorff_alpha,
    pabak,
    prediction_fidelity,
    quadratic_weighted_kappa,
)
from tutelage.assessment.assess import assess
from tutelage.assessment.calibration import (
    ReliabilityCurve,
    brier_score,
    classwise_calibration_error,
    confidence_auroc,
    expected_calibration_error,
    kolmogorov_smirnov_calibration_error,
    maximum_calibration_error,
    narrow_misclassification_mask,
    reliability_curve,
    top_label_brier_score,
)
from tutelage.assessment.canaries import (
    Canary,
    CandidateTree,
    canary_exposure,
    exposure_from_scores,
    insert_canaries,
)
from tutelage.assessment.coverage import coverage_from_log_prob, pass_at_k
from tutelage.assessment.eigen_cam import eigen_cam
from tutelage.assessment.latency import LatencyDistribution, latency_distribution
from tutelage.assessment.mutual_information import conditional_mutual_information
from tutelage.assessment.probes import knn_probe, linear_probe
from tutelage.assessment.recall import per_class_recall, zero_shot_recall
from tutelage.assessment.report_card import ReportCard
from tutelage.assessment.robustness import (
    RobustAccuracyCurve,
    fgsm_attack,
    pgd_attack,
    projected_gradient_ascent,
    robust_accuracy_curve,
    weighted_robust_accuracy,
)
from tutelage.assessment.statistics import (
    Interval,
    PairedComparison,
    benjamini_hochberg,
    best_of_budget,
    bootstrap_interval,
    clustered_comparison,
    holm_correction,
    paired_t_test,
    selection_adjusted,
    sign_flip_test,
    wilcoxon_test,
)

__all__ = [
    "Agreement",
    "Canary",
    "CandidateTree",
    "Fidelity",
    "Interval",
    "LatencyDistribution",
    "PairedComparison",
    "ReliabilityCurve",
    "ReportCard",
    "RobustAccuracyCurve",
    "accuracy",
    "answer_agreement",
    "assess",
    "benjamini_hochberg",
    "best_of_budget",
    "bootstrap_interval",
    "brier_score",
    "canary_exposure",
    "classwise_calibration_error",
    "clustered_comparison",
    "cohen_kappa",
    "conditional_mutual_information",
    "confidence_auroc",
    "coverage_from_log_prob",
    "disagreement_breakdown",
    "eigen_cam",
    "expected_calibration_error",
    "exposure_from_scores",
    "fgsm_attack",
    "fleiss_kappa",
    "holm_correction",
    "insert_canaries",
    "knn_probe",
    "kolmogorov_smirnov_calibration_error",
    "krippendorff_alpha",
    "latency_distribution",
    "linear_probe",
    "maximum_calibration_error",
    "narrow_misclassification_mask",
    "negative_log_likelihood",
    "pabak",
    "paired_t_test",
    "pass_at_k",
    "per_class_recall",
    "pgd_attack",
    "prediction_fidelity",
    "projected_gradient_ascent",
    "quadratic_weighted_kappa",
    "rank_agreement",
    "reliability_curve",
    "robust_accuracy_curve",
    "selection_adjusted",
    "sign_flip_test",
    "top_k_accuracy",
    "top_label_brier_score",
    "weighted_robust_accuracy",
    "wilcoxon_test",
    "zero_shot_recall",
]
