"""Features: reading inside models (taps), bringing widths together (projectors), and feature-level objectives."""

from tutelage.features.channel_wise import ChannelWiseDistillation, channel_wise_distillation
from tutelage.features.aspects import AspectDistillation, aspect_distillation, yes_no_probability
from tutelage.features.class_means import ClassConditionalMean, class_conditional_mean
from tutelage.features.feature_masks import FeatureMask, SpatialFeatureMask, SpecializedTeacher, feature_mask_for
from tutelage.features.heads import SubclassHead, expand_classifier
from tutelage.features.layouts import as_map, as_tokens, resize_map
from tutelage.features.matching import FeatureMatching, feature_matching
from tutelage.features.norm_direction import (
    DirectionLoss,
    FeatureNormLoss,
    NormDirectionLoss,
    direction_loss,
    feature_norm_loss,
    norm_direction_loss,
)
from tutelage.features.observed import ObservedModel
from tutelage.features.projectors import FeatureProjector, width_projector
from tutelage.features.relations import fsp_matrix
from tutelage.features.taps import FeatureTaps

__all__ = [
    "AspectDistillation",
    "ChannelWiseDistillation",
    "ClassConditionalMean",
    "DirectionLoss",
    "FeatureMask",
    "FeatureMatching",
    "FeatureNormLoss",
    "FeatureProjector",
    "FeatureTaps",
    "NormDirectionLoss",
    "ObservedModel",
    "SpatialFeatureMask",
    "SpecializedTeacher",
    "SubclassHead",
    "as_map",
    "as_tokens",
    "channel_wise_distillation",
    "aspect_distillation",
    "class_conditional_mean",
    "direction_loss",
    "expand_classifier",
    "feature_mask_for",
    "feature_matching",
    "feature_norm_loss",
    "fsp_matrix",
    "norm_direction_loss",
    "resize_map",
    "width_projector",
    "yes_no_probability",
]
