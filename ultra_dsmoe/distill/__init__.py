"""Distillation by attention and by outputs: masks, attentions, terms, their weights. Tensors only, no trainer.

The trainer's side, which runs teacher and student, is `ultra_dsmoe.train.distill_wrapper`.
"""

from ultra_dsmoe.distill.adapter import Adapter
from ultra_dsmoe.distill.adaptive import AdaptiveWeights
from ultra_dsmoe.distill.attention import ActivationAttention, attention_mask, neck_attention
from ultra_dsmoe.distill.config import KDConfig, resolve
from ultra_dsmoe.distill.enhanced_kl import bernoulli_kl, box_divergence, class_divergence
from ultra_dsmoe.distill.feature_losses import attention_loss, foreground_loss, global_loss, mimic_loss
from ultra_dsmoe.distill.feature_method import FeatureMethod
from ultra_dsmoe.distill.levels import Level, match_levels
from ultra_dsmoe.distill.masks import cell_boxes, foreground_mask, scale_mask
from ultra_dsmoe.distill.method import METHODS, Method, Pair, Seen, register_method
from ultra_dsmoe.distill.output_method import OutputMethod
from ultra_dsmoe.distill.terms import distillation_terms

__all__ = [
    "METHODS",
    "ActivationAttention",
    "Adapter",
    "AdaptiveWeights",
    "FeatureMethod",
    "KDConfig",
    "Level",
    "Method",
    "OutputMethod",
    "Pair",
    "Seen",
    "attention_loss",
    "attention_mask",
    "bernoulli_kl",
    "box_divergence",
    "cell_boxes",
    "class_divergence",
    "distillation_terms",
    "foreground_loss",
    "foreground_mask",
    "global_loss",
    "match_levels",
    "mimic_loss",
    "neck_attention",
    "register_method",
    "resolve",
    "scale_mask",
]
