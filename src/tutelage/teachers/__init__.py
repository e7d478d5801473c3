"""Teachers: what gives signals for a batch, live, averaged, random, in concert, or read from disk."""

from tutelage.assessment.encoder_probe import probe_encoder
from tutelage.assessment.landscape import linear_mode_connectivity, parameter_plane
from tutelage.outputs import TopClasses
from tutelage.teachers.aspect_answers import (
    AnsweredSamples,
    AspectAnswerer,
    AttributeOracle,
    CachedAnswers,
    answered_data,
)
from tutelage.teachers.aspect_questions import AspectQuestionSet, build_question_prompts, generate_questions
from tutelage.teachers.bottleneck_head import L2BottleneckHead
from tutelage.teachers.cache import CachedTeacher, TeacherCache
from tutelage.teachers.cache_writer import build_cache
from tutelage.teachers.endpoint import BudgetExceeded, CostMeter, Endpoint, EndpointError
from tutelage.teachers.ensemble import EnsembleTeacher
from tutelage.teachers.fingerprint import model_fingerprint, teacher_fingerprint
from tutelage.teachers.frozen import FrozenTeacher
from tutelage.teachers.image_text_answerer import TransformersAnswerer
from tutelage.teachers.initializations import interpolated_initialization, neighborhood_initialization
from tutelage.teachers.moving_average import ExponentialMovingAverage, MovingAverageTeacher
from tutelage.teachers.pruning import PruningRound, iterative_magnitude_pruning
from tutelage.teachers.random import RandomTeacher
from tutelage.teachers.random_distillation import RandomDistillation, distill_random_teacher
from tutelage.teachers.recorded import RecordedTeacher, record_logits
from tutelage.teachers.released_targets import release_soft_targets
from tutelage.teachers.served import ServedTeacher, token_text_ids
from tutelage.teachers.teacher import Teacher, TeacherModule

__all__ = [
    "AnsweredSamples",
    "AspectAnswerer",
    "AspectQuestionSet",
    "AttributeOracle",
    "BudgetExceeded",
    "CachedAnswers",
    "CachedTeacher",
    "CostMeter",
    "Endpoint",
    "EndpointError",
    "EnsembleTeacher",
    "ExponentialMovingAverage",
    "FrozenTeacher",
    "L2BottleneckHead",
    "MovingAverageTeacher",
    "PruningRound",
    "RandomDistillation",
    "RandomTeacher",
    "RecordedTeacher",
    "ServedTeacher",
    "Teacher",
    "TeacherCache",
    "TeacherModule",
    "TopClasses",
    "TransformersAnswerer",
    "answered_data",
    "build_cache",
    "build_question_prompts",
    "distill_random_teacher",
    "generate_questions",
    "interpolated_initialization",
    "iterative_magnitude_pruning",
    "linear_mode_connectivity",
    "model_fingerprint",
    "neighborhood_initialization",
    "parameter_plane",
    "probe_encoder",
    "record_logits",
    "release_soft_targets",
    "teacher_fingerprint",
    "token_text_ids",
]
