"""Training: methods (ways to teach), the trainer that runs them, checkpoints and monitors."""

from tutelage.training.adaptation import (
    BatchStatistics,
    EntropyMinimization,
    SlidingWindow,
    SourceModel,
    TestTimeAdaptation,
    configure_batch_statistics,
)
from tutelage.training.adversarial import AdversarialDistillation
from tutelage.training.balances import EntropyBalance, NormalizedLossBalance
from tutelage.training.bilevel import BilevelDistiller, lookahead_hypergradient
from tutelage.training.checkpoints import Checkpoint, load_checkpoint, load_latest, save_checkpoint
from tutelage.training.distillation import Distillation, Weighted
from tutelage.training.evaluation import evaluate_model
from tutelage.training.generalized import GeneralizedKD
from tutelage.training.gradient_balanced import GradientBalancedDistillation
from tutelage.training.interruption import Interrupted
from tutelage.training.method import BaseMethod, Method, Stateful
from tutelage.training.monitors import Monitor, ProgressMonitor
from tutelage.training.mst_distill import MSTDistill, TeacherSpecialization
from tutelage.training.multi_teacher_adversarial import MultiTeacherAdversarialDistillation
from tutelage.training.mutual import MutualDistillation
from tutelage.training.oracle_experiment import OracleDistillationExperiment
from tutelage.training.power_law_monitor import PowerLawMonitor
from tutelage.training.ratio_monitor import RatioMonitor
from tutelage.training.representation_tracker import RepresentationTracker
from tutelage.training.response_sources import MixedResponses, OfflineResponses, OnlineResponses
from tutelage.training.responses import Responses, generate_responses, response_batch
from tutelage.training.robust_mean_teacher import RobustMeanTeacher
from tutelage.training.routed import MultipliedEvery, RoutedDistillation, TeacherGroup
from tutelage.training.settings import EarlyStopping, TrainingSettings
from tutelage.training.teacher_fine_tuning import MCMIFineTuning, fine_tune_teacher
from tutelage.training.trainer import NonFiniteLoss, Trainer
from tutelage.training.trl import use_objectives

__all__ = [
    "AdversarialDistillation",
    "BaseMethod",
    "BatchStatistics",
    "BilevelDistiller",
    "Checkpoint",
    "Distillation",
    "EarlyStopping",
    "EntropyBalance",
    "EntropyMinimization",
    "GeneralizedKD",
    "GradientBalancedDistillation",
    "Interrupted",
    "MCMIFineTuning",
    "MSTDistill",
    "Method",
    "MixedResponses",
    "Monitor",
    "MultiTeacherAdversarialDistillation",
    "MultipliedEvery",
    "MutualDistillation",
    "NonFiniteLoss",
    "NormalizedLossBalance",
    "OfflineResponses",
    "OnlineResponses",
    "OracleDistillationExperiment",
    "PowerLawMonitor",
    "ProgressMonitor",
    "RatioMonitor",
    "RepresentationTracker",
    "Responses",
    "RobustMeanTeacher",
    "RoutedDistillation",
    "SlidingWindow",
    "SourceModel",
    "Stateful",
    "TeacherGroup",
    "TeacherSpecialization",
    "TestTimeAdaptation",
    "Trainer",
    "TrainingSettings",
    "Weighted",
    "configure_batch_statistics",
    "evaluate_model",
    "fine_tune_teacher",
    "generate_responses",
    "load_checkpoint",
    "load_latest",
    "lookahead_hypergradient",
    "response_batch",
    "save_checkpoint",
    "use_objectives",
]
