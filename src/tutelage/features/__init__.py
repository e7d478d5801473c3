"""Features: reading inside models (taps), bringing widths together (projectors), and feature-level objectives."""

from tutelage.features.acam import ACAMDistillation, AdaptiveMaskDistillation
from tutelage.features.adaptive_masks import (
    AdaptiveMasks,
    channel_masked_mse,
    mask_diversity_loss,
    spatial_masked_mse,
)
from tutelage.features.aspects import AspectDistillation, aspect_distillation, yes_no_probability
from tutelage.features.channel_wise import ChannelWiseDistillation, channel_wise_distillation
from tutelage.features.class_means import ClassConditionalMean, class_conditional_mean
from tutelage.features.cross_attention_fusion import StudentTeacherCrossAttention
from tutelage.features.cross_attention_projector import CrossAttentionProjector
from tutelage.features.dual_view import (
    DualViewFeatureMimicking,
    alternative_feature_loss,
    direct_feature_loss,
    remove_direct_component,
)
from tutelage.features.embedding_moments import EmbeddingMoments
from tutelage.features.embedding_projection import EmbeddingLinearProjection, LinearProjectionDistillation
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
from tutelage.features.prototypes import nearest_prototype
from tutelage.features.relation_objectives import ChannelRelationDistance, SampleRelationDistance
from tutelage.features.relations import channel_relation_distance, fsp_matrix, sample_relation_distance
from tutelage.features.scalekd import ScaleKD, ScaleKDObjective
from tutelage.features.stages import stage_paths
from tutelage.features.structured_transfer import (
    StructuredKnowledgeTransfer,
    StructuredTransfer,
    dense_fsp_loss,
    intra_layer_pattern_loss,
)
from tutelage.features.subclass_classifier import SubclassClassifier, subclass_classifier
from tutelage.features.subclass_targets import ClusterSubclassTargets, RandomSubclassTargets, SubclassTargets
from tutelage.features.subclasses import SubclassDistillation, class_log_probabilities, subclass_distillation
from tutelage.features.taps import FeatureTaps
from tutelage.features.teacher_stage import (
    TeacherStage,
    beit_last_stage,
    last_stage,
    swin_last_stage,
    vit_last_stage,
)

__all__ = [
    "ACAMDistillation",
    "AdaptiveMaskDistillation",
    "AdaptiveMasks",
    "AspectDistillation",
    "ChannelRelationDistance",
    "ChannelWiseDistillation",
    "ClassConditionalMean",
    "ClusterSubclassTargets",
    "CrossAttentionProjector",
    "DirectionLoss",
    "DualViewFeatureMimicking",
    "EmbeddingLinearProjection",
    "EmbeddingMoments",
    "FeatureMask",
    "FeatureMatching",
    "FeatureNormLoss",
    "FeatureProjector",
    "FeatureTaps",
    "LinearProjectionDistillation",
    "NormDirectionLoss",
    "ObservedModel",
    "RandomSubclassTargets",
    "SampleRelationDistance",
    "ScaleKD",
    "ScaleKDObjective",
    "SpatialFeatureMask",
    "SpecializedTeacher",
    "StructuredKnowledgeTransfer",
    "StructuredTransfer",
    "StudentTeacherCrossAttention",
    "SubclassClassifier",
    "SubclassDistillation",
    "SubclassHead",
    "SubclassTargets",
    "TeacherStage",
    "alternative_feature_loss",
    "as_map",
    "as_tokens",
    "aspect_distillation",
    "beit_last_stage",
    "channel_masked_mse",
    "channel_relation_distance",
    "channel_wise_distillation",
    "class_conditional_mean",
    "class_log_probabilities",
    "dense_fsp_loss",
    "direct_feature_loss",
    "direction_loss",
    "expand_classifier",
    "feature_mask_for",
    "feature_matching",
    "feature_norm_loss",
    "fsp_matrix",
    "intra_layer_pattern_loss",
    "last_stage",
    "mask_diversity_loss",
    "nearest_prototype",
    "norm_direction_loss",
    "remove_direct_component",
    "resize_map",
    "sample_relation_distance",
    "spatial_masked_mse",
    "stage_paths",
    "subclass_classifier",
    "subclass_distillation",
    "swin_last_stage",
    "vit_last_stage",
    "width_projector",
    "yes_no_probability",
]
