"""Blocks of the papers as ordinary modules; importing this package enrols them for the model YAMLs."""

from ultra_dsmoe.nn.attention.cbam import CBAM
from ultra_dsmoe.nn.attention.dual_attention import DualAttention
from ultra_dsmoe.nn.backbone.dsa import DSA
from ultra_dsmoe.nn.backbone.gad import GAD
from ultra_dsmoe.nn.backbone.mobile_sam import MobileSAM
from ultra_dsmoe.nn.backbone.residual_fusion import ResidualFusion
from ultra_dsmoe.nn.backbone.swin import SwinStage
from ultra_dsmoe.nn.base import AuxLossMixin, SettingsMixin, TextFoldMixin
from ultra_dsmoe.nn.contract import AuxTerm, Option
from ultra_dsmoe.nn.folding import LinearFoldMixin
from ultra_dsmoe.nn.fusion.cmaf import CMAF
from ultra_dsmoe.nn.fusion.image_vector import ImageProjection
from ultra_dsmoe.nn.fusion.split_text import SplitText
from ultra_dsmoe.nn.fusion.text_adapter import TextAdapter
from ultra_dsmoe.nn.head.decoupled_detect import DecoupledDetect
from ultra_dsmoe.nn.head.dual_attention_detect import DualAttentionDetect
from ultra_dsmoe.nn.head.pair_classify import PairClassify, PairOutputs
from ultra_dsmoe.nn.knockout import Knockout, Record
from ultra_dsmoe.nn.neck.allocate import Allocate
from ultra_dsmoe.nn.neck.band_split import BandSplit
from ultra_dsmoe.nn.neck.channel_sync import ChannelSync
from ultra_dsmoe.nn.neck.expert_ensemble import ExpertEnsemble
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.feature_aggregation import FeatureAggregation
from ultra_dsmoe.nn.neck.fgpem import FGPEM
from ultra_dsmoe.nn.neck.hub_fusion import HubFusion
from ultra_dsmoe.nn.neck.hub_inject import HubInject
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.mfa import MFA
from ultra_dsmoe.nn.neck.neck_block import NeckBlock
from ultra_dsmoe.nn.neck.pick import Pick
from ultra_dsmoe.nn.neck.space_broadcast import SpaceBroadcast
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.nn.reference.feature_difference import FeatureDifference
from ultra_dsmoe.nn.reference.reference import Reference
from ultra_dsmoe.nn.registry import LAYERS, RowContext, RowPlan, register

__all__ = [
    "CBAM",
    "CMAF",
    "DSA",
    "FGPEM",
    "GAD",
    "LAYERS",
    "MFA",
    "Allocate",
    "AuxLossMixin",
    "AuxTerm",
    "BandSplit",
    "ChannelSync",
    "DecoupledDetect",
    "DualAttention",
    "DualAttentionDetect",
    "ExpertEnsemble",
    "ExpertGate",
    "FeatureAggregation",
    "FeatureDifference",
    "HubFusion",
    "HubInject",
    "HyperbolicFusion",
    "ImageProjection",
    "Knockout",
    "LinearFoldMixin",
    "MobileSAM",
    "NeckBlock",
    "Option",
    "PairClassify",
    "PairOutputs",
    "Pick",
    "Record",
    "Reference",
    "ResidualFusion",
    "RowContext",
    "RowPlan",
    "SettingsMixin",
    "SpaceBroadcast",
    "SparseMoE",
    "SplitText",
    "SwinStage",
    "TextAdapter",
    "TextFoldMixin",
    "TextSemantics",
    "register",
]
