"""Features: reading inside models (taps), bringing widths together (projectors), and feature-level objectives."""

from tutelage.features.class_means import ClassConditionalMean, class_conditional_mean
from tutelage.features.heads import SubclassHead, expand_classifier
from tutelage.features.norm_direction import (
    DirectionLoss,
    FeatureNormLoss,
    NormDirectionLoss,
    direction_loss,
    feature_norm_loss,
    norm_direction_loss,
)
from tutelage.features.observed import ObservedModel
from tutelage.features.projectors import FeatureProjector
from tutelage.features.relations import fsp_matrix
from tutelage.features.taps import FeatureTaps

__all__ = [
    "ClassConditionalMean",
    "DirectionLoss",
    "FeatureNormLoss",
    "FeatureProjector",
    "FeatureTaps",
    "NormDirectionLoss",
    "ObservedModel",
    "SubclassHead",
    "class_conditional_mean",
    "direction_loss",
    "expand_classifier",
    "feature_norm_loss",
    "fsp_matrix",
    "norm_direction_loss",
]
