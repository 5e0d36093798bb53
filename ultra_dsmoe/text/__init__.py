"""Prompts, taxonomy and text vectors of a data set's classes; computed once, never inside the graph."""

from ultra_dsmoe.checks import class_names
from ultra_dsmoe.text.bank import TextBank, encode_bank, pool_prompts
from ultra_dsmoe.text.encoders import HashEncoder, TextEncoder, make_encoder
from ultra_dsmoe.text.models import CausalLMEncoder, SentenceEncoder
from ultra_dsmoe.text.prompts import class_prompts, read_prompts
from ultra_dsmoe.text.taxonomy import Taxonomy

__all__ = [
    "CausalLMEncoder",
    "HashEncoder",
    "SentenceEncoder",
    "Taxonomy",
    "TextBank",
    "TextEncoder",
    "class_names",
    "class_prompts",
    "encode_bank",
    "make_encoder",
    "pool_prompts",
    "read_prompts",
]
