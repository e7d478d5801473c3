"""Data: samples that give batches for any rows, small data sets by name, and users' own files and data sets."""

from tutelage.data.adapters import DatasetSamples, as_samples
from tutelage.data.arithmetic import (
    ArithmeticProblem,
    answer_of,
    arithmetic_reward,
    generate_problems,
    step_is_right,
)
from tutelage.data.arrays import ArraySamples
from tutelage.data.byte_level import boundary_token_mask, byte_level_tokens
from tutelage.data.characters import ByteTokenizer, CharacterTokenizer, completion_samples, train_bpe
from tutelage.data.corruptions import CORRUPTIONS, corrupt
from tutelage.data.crowds import crowds, density_map, downsample_density
from tutelage.data.digit_scenes import digit_scenes
from tutelage.data.image_transforms import (
    IMAGE_TRANSFORMS,
    Blur,
    ColorJitter,
    Greyscale,
    ImageTransform,
    Rotation,
    build_image_transform,
    default_image_transforms,
    describe_image_transform,
)
from tutelage.data.imbalance import imbalanced_table, oversample_classes
from tutelage.data.loader import epoch_order, load_batches
from tutelage.data.loading import BUILT_IN, load_data
from tutelage.data.outliers import add_outliers
from tutelage.data.packing import pack_samples
from tutelage.data.parts import assemble
from tutelage.data.ranking_lists import make_ranking_lists, pad_lists, unpad_lists
from tutelage.data.samples import Data, Samples, Task
from tutelage.data.sensitivity import (
    PRIVATE_PATTERNS,
    combine_sensitivity,
    document_frequency,
    pattern_sensitivity,
    rarity_sensitivity,
    token_spans,
)
from tutelage.data.stream_augmentation import test_time_augmentation
from tutelage.data.streams import InputStream, read_stream
from tutelage.data.subsets import SubsetSamples, split, subset, targets_of
from tutelage.data.texts import text_data
from tutelage.data.transforms import (
    StreamBatch,
    add_class_dependent_label_noise,
    add_uniform_label_noise,
    corruption_stream,
    drop_classes,
    few_shot_subset,
)

__all__ = [
    "BUILT_IN",
    "CORRUPTIONS",
    "IMAGE_TRANSFORMS",
    "PRIVATE_PATTERNS",
    "ArithmeticProblem",
    "ArraySamples",
    "Blur",
    "ByteTokenizer",
    "CharacterTokenizer",
    "ColorJitter",
    "Data",
    "DatasetSamples",
    "Greyscale",
    "ImageTransform",
    "InputStream",
    "Rotation",
    "Samples",
    "StreamBatch",
    "SubsetSamples",
    "Task",
    "add_class_dependent_label_noise",
    "add_outliers",
    "add_uniform_label_noise",
    "answer_of",
    "arithmetic_reward",
    "as_samples",
    "assemble",
    "boundary_token_mask",
    "build_image_transform",
    "byte_level_tokens",
    "combine_sensitivity",
    "completion_samples",
    "corrupt",
    "corruption_stream",
    "crowds",
    "default_image_transforms",
    "density_map",
    "describe_image_transform",
    "digit_scenes",
    "document_frequency",
    "downsample_density",
    "drop_classes",
    "epoch_order",
    "few_shot_subset",
    "generate_problems",
    "imbalanced_table",
    "load_batches",
    "load_data",
    "make_ranking_lists",
    "oversample_classes",
    "pack_samples",
    "pad_lists",
    "pattern_sensitivity",
    "rarity_sensitivity",
    "read_stream",
    "split",
    "step_is_right",
    "subset",
    "targets_of",
    "test_time_augmentation",
    "text_data",
    "token_spans",
    "train_bpe",
    "unpad_lists",
]
