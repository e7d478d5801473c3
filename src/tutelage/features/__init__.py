"""Features: reading inside models (taps), bringing widths together (projectors), and feature-level objectives."""

from tutelage.features.observed import ObservedModel
from tutelage.features.projectors import FeatureProjector
from tutelage.features.taps import FeatureTaps

__all__ = ["FeatureProjector", "FeatureTaps", "ObservedModel"]
