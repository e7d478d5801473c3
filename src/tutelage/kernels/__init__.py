"""Linear losses without logits: cross-entropy and distillation of a language model's output layer, block by block."""

from __future__ import annotations

from tutelage.kernels.causal_lm import CausalHead, patch_causal_lm, unpatch_causal_lm
from tutelage.kernels.cross_entropy import LinearCrossEntropyLoss, linear_cross_entropy
from tutelage.kernels.distillation import LinearDistillationLoss, linear_distillation
from tutelage.kernels.log_sum_exp import linear_log_sum_exp, linear_target_logit, z_loss
from tutelage.kernels.vocab_parallel import VocabParallel

__all__ = [
    "CausalHead",
    "LinearCrossEntropyLoss",
    "LinearDistillationLoss",
    "VocabParallel",
    "linear_cross_entropy",
    "linear_distillation",
    "linear_log_sum_exp",
    "linear_target_logit",
    "patch_causal_lm",
    "unpatch_causal_lm",
    "z_loss",
]
