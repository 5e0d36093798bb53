"""One reader of what an export says about precision: the host's words in every spelling."""

from __future__ import annotations

from typing import Any

import pytest
from ultralytics import cfg

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.export import precision
from ultra_dsmoe.export.engine_export import precision_of
from ultra_dsmoe.export.precision import bits_of, scheme_of

CALLS = [
    ({}, 32),
    ({"quantize": None, "half": True}, 32),
    ({"quantize": 32}, 32),
    ({"quantize": "FP32"}, 32),
    ({"quantize": 16}, 16),
    ({"quantize": "FP16", "int8": True}, 16),
    ({"quantize": "w16a16"}, 16),
    ({"half": True}, 16),
    ({"half": ""}, 16),
    ({"half": "False"}, 32),
    ({"quantize": 8}, 8),
    ({"quantize": "int8"}, 8),
    ({"quantize": "W8A8"}, 8),
    ({"int8": True, "half": True}, 8),
]


@pytest.mark.parametrize(("call", "bits"), CALLS)
def test_gate_and_builder_read_the_same(call: dict[str, Any], bits: int) -> None:
    assert bits_of(call) == bits
    assert precision_of(call) == {32: "fp32", 16: "fp16", 8: "int8"}[bits]


@pytest.mark.parametrize(("call", "bits"), CALLS)
def test_the_host_reads_the_same(call: dict[str, Any], bits: int) -> None:
    if not hasattr(cfg, "QUANTIZE_ALIASES"):
        pytest.skip("a host without these words")
    given = cfg._handle_deprecation(dict(call))
    cfg.check_cfg(given)
    assert (given.get("quantize") or 32) == bits


def test_our_table_is_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(cfg, "QUANTIZE_ALIASES"):
        assert precision._WORDS == cfg.QUANTIZE_ALIASES
    monkeypatch.delattr(cfg, "QUANTIZE_ALIASES", raising=False)
    assert scheme_of({"quantize": "int8"}) == 8


def test_spaces_around_a_flag_do_not_count() -> None:
    assert [scheme_of({"half": flag}) for flag in (" False ", "0 ", " true")] == [32, 32, 16]


def test_mixed_and_unknown_words() -> None:
    assert bits_of({"quantize": "w8a16"}) == 8
    with pytest.raises(ConfigError, match="quantize: expected 8, 16 or 32 for an engine, got w8a16"):
        precision_of({"quantize": "w8a16"})
    for value in ("int4", True, 4):
        with pytest.raises(ConfigError, match=r"quantize: expected one of 8, 16, 32, int8"):
            bits_of({"quantize": value})
