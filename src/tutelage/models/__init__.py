"""Models: small builders, one way to call any of them, specifications, saving, export and sizes.

`transformers` and the exporters are imported when a function that needs them is called.
"""

from __future__ import annotations

from tutelage.models.byte_expansion import ByteInputExpansion, LongestTokens, expand_byte_inputs
from tutelage.models.call import call_model, head_path
from tutelage.models.csrnet import CSRNET_TAPS, CSRNet, csrnet
from tutelage.models.detection import CentreDetector, centre_detector, decode_centres
from tutelage.models.export import example_inputs, export_model
from tutelage.models.fusion import FusionNetwork
from tutelage.models.language import causal_lm, encoder_lm
from tutelage.models.list_ranker import ListTransformerRanker
from tutelage.models.lora import add_lora, merge_lora
from tutelage.models.mixer import MLPMixer, mlp_mixer
from tutelage.models.plain import convnet, mlp
from tutelage.models.pretrained import load_pretrained
from tutelage.models.saving import load_model, load_weights, save_model
from tutelage.models.segmentation import PretrainedSegmenter, Segmenter, segmenter, transformers_segmenter
from tutelage.models.sentence_encoder import sentence_embeddings
from tutelage.models.sizes import multiply_adds, parameter_count
from tutelage.models.specification import BUILDERS, ModelSpecification, build_model, specification_of
from tutelage.models.tabular import FeatureTokenizerTransformer
from tutelage.models.token_ensemble import TokenLevelEnsemble, token_level_ensemble
from tutelage.models.vision import convnext, resnet, swin, vit
from tutelage.models.vocabulary_transfer import fast_vocabulary_transfer, transfer_vocabulary

__all__ = [
    "BUILDERS",
    "CSRNET_TAPS",
    "ByteInputExpansion",
    "CSRNet",
    "CentreDetector",
    "FeatureTokenizerTransformer",
    "FusionNetwork",
    "ListTransformerRanker",
    "LongestTokens",
    "MLPMixer",
    "ModelSpecification",
    "PretrainedSegmenter",
    "Segmenter",
    "TokenLevelEnsemble",
    "add_lora",
    "build_model",
    "call_model",
    "causal_lm",
    "centre_detector",
    "convnet",
    "convnext",
    "csrnet",
    "decode_centres",
    "encoder_lm",
    "example_inputs",
    "expand_byte_inputs",
    "export_model",
    "fast_vocabulary_transfer",
    "head_path",
    "load_model",
    "load_pretrained",
    "load_weights",
    "merge_lora",
    "mlp",
    "mlp_mixer",
    "multiply_adds",
    "parameter_count",
    "resnet",
    "save_model",
    "segmenter",
    "sentence_embeddings",
    "specification_of",
    "swin",
    "token_level_ensemble",
    "transfer_vocabulary",
    "transformers_segmenter",
    "vit",
]
