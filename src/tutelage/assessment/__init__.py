"""Assessment: what was learned, in numbers and examples, and whether a difference is more than chance."""

from tutelage.assessment.accuracy import (
    accuracy,
    balanced_top_k_accuracy,
    negative_log_likelihood,
    rank_agreement,
    top_k_accuracy,
)
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
from tutelage.assessment.calibrated_model import (
    CalibratedModel,
    calibrate_model,
    load_calibrated,
    save_calibrator,
)
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
from tutelage.assessment.counting import counting_errors
from tutelage.assessment.coverage import (
    calibration_curve_of_greedy,
    coverage_from_log_prob,
    greedy_confidence,
    pass_at_k,
)
from tutelage.assessment.detection import box_iou, detection_average_precision
from tutelage.assessment.diffusion_entropy import (
    adjacency_spectral_entropy,
    diffusion_spectral_entropy,
    matrix_entry_entropy,
    shannon_histogram_entropy,
)
from tutelage.assessment.diffusion_estimate import EntropyEstimate, estimate_diffusion_spectral_entropy
from tutelage.assessment.diffusion_information import diffusion_spectral_mutual_information
from tutelage.assessment.diffusion_spectrum import diffusion_spectrum, median_bandwidth
from tutelage.assessment.diversity import DiversityReport, diversity_report
from tutelage.assessment.eigen_cam import eigen_cam
from tutelage.assessment.encoder_probe import probe_encoder
from tutelage.assessment.f1 import (
    best_f1_threshold,
    span_f1,
    spans_from_tags,
)
from tutelage.assessment.fidelity import FidelityTally
from tutelage.assessment.improvements import ImprovementTable, generalization_fidelity_report, holm_over_tasks
from tutelage.assessment.intrinsic_dimension import two_nearest_neighbour_dimension
from tutelage.assessment.landscape import Connectivity, ParameterPlane, linear_mode_connectivity, parameter_plane
from tutelage.assessment.latency import LatencyDistribution, latency_distribution
from tutelage.assessment.mutual_information import conditional_mutual_information
from tutelage.assessment.named_attacks import AttackAccuracies, attack_accuracies
from tutelage.assessment.probes import knn_probe, linear_probe
from tutelage.assessment.proxy_golden import ProxyGoldenCurve
from tutelage.assessment.ranking import (
    captured_amount,
    mean_reciprocal_rank,
    misclassification_cost,
    ndcg_at_k,
    top_fraction_decision,
)
from tutelage.assessment.rationales import rationale_fidelity
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
from tutelage.assessment.segmentation import confusion_matrix, iou_from_confusion, mean_iou
from tutelage.assessment.sequence_distance import (
    exact_sequence_kl,
    mean_and_error,
    response_log_probabilities,
    sequence_kl,
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
    "AttackAccuracies",
    "CalibratedModel",
    "Canary",
    "CandidateTree",
    "Connectivity",
    "DiversityReport",
    "EntropyEstimate",
    "Fidelity",
    "FidelityTally",
    "ImprovementTable",
    "Interval",
    "LatencyDistribution",
    "PairedComparison",
    "ParameterPlane",
    "ProxyGoldenCurve",
    "ReliabilityCurve",
    "ReportCard",
    "RobustAccuracyCurve",
    "accuracy",
    "adjacency_spectral_entropy",
    "answer_agreement",
    "assess",
    "attack_accuracies",
    "balanced_top_k_accuracy",
    "benjamini_hochberg",
    "best_f1_threshold",
    "best_of_budget",
    "bootstrap_interval",
    "box_iou",
    "brier_score",
    "calibrate_model",
    "calibration_curve_of_greedy",
    "canary_exposure",
    "captured_amount",
    "classwise_calibration_error",
    "clustered_comparison",
    "cohen_kappa",
    "conditional_mutual_information",
    "confidence_auroc",
    "confusion_matrix",
    "counting_errors",
    "coverage_from_log_prob",
    "detection_average_precision",
    "diffusion_spectral_entropy",
    "diffusion_spectral_mutual_information",
    "diffusion_spectrum",
    "disagreement_breakdown",
    "diversity_report",
    "eigen_cam",
    "estimate_diffusion_spectral_entropy",
    "exact_sequence_kl",
    "expected_calibration_error",
    "exposure_from_scores",
    "fgsm_attack",
    "fleiss_kappa",
    "generalization_fidelity_report",
    "greedy_confidence",
    "holm_correction",
    "holm_over_tasks",
    "insert_canaries",
    "iou_from_confusion",
    "knn_probe",
    "kolmogorov_smirnov_calibration_error",
    "krippendorff_alpha",
    "latency_distribution",
    "linear_mode_connectivity",
    "linear_probe",
    "load_calibrated",
    "matrix_entry_entropy",
    "maximum_calibration_error",
    "mean_and_error",
    "mean_iou",
    "mean_reciprocal_rank",
    "median_bandwidth",
    "misclassification_cost",
    "narrow_misclassification_mask",
    "ndcg_at_k",
    "negative_log_likelihood",
    "pabak",
    "paired_t_test",
    "parameter_plane",
    "pass_at_k",
    "per_class_recall",
    "pgd_attack",
    "prediction_fidelity",
    "probe_encoder",
    "projected_gradient_ascent",
    "quadratic_weighted_kappa",
    "rank_agreement",
    "rationale_fidelity",
    "reliability_curve",
    "response_log_probabilities",
    "robust_accuracy_curve",
    "save_calibrator",
    "selection_adjusted",
    "sequence_kl",
    "shannon_histogram_entropy",
    "sign_flip_test",
    "span_f1",
    "spans_from_tags",
    "top_fraction_decision",
    "top_k_accuracy",
    "top_label_brier_score",
    "two_nearest_neighbour_dimension",
    "weighted_robust_accuracy",
    "wilcoxon_test",
    "zero_shot_recall",
]
