"""Hold our keys in force during one call: the network has their values until the call ends, then its own again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.plugin import keys


@contextmanager
def in_force(net: Any, given: dict[str, Any]) -> Iterator[None]:
    """Give ``net`` the values of ``given`` (`keys.take`) for the length of the block.

    Raises:
        ConfigError: If a value does not suit the network.
    """
    if not given:
        yield
        return
    state = _remember(net)
    try:
        put(net, given)
        yield
    finally:
        _recall(net, state, text="dsmoe_prompts" in given)


def put(net: Any, given: dict[str, Any]) -> None:
    """Bring the values of our keys into a network of ours.

    Raises:
        ConfigError: If a value does not suit the network.
        TextError: If the prompts do not suit its classes.
    """
    if "dsmoe_text" in given:
        _same_encoder(net, given["dsmoe_text"])
    if "dsmoe_topk" in given:
        net.set_topk(given["dsmoe_topk"])
    if "dsmoe_moe" in given:
        net.set_moe_mode(given["dsmoe_moe"])
    if "dsmoe_prompts" in given:
        net.set_prompts(keys.read_prompts(given["dsmoe_prompts"]))


def _same_encoder(net: Any, spec: str) -> None:
    """Refuse another encoder than the one that a network's text side was trained on."""
    from ultra_dsmoe.text.encoders import make_encoder

    trained = (net.text_info or {}).get("encoder")
    if trained is None:
        raise ConfigError("dsmoe_text", "a model with text vectors", "one without")
    if spec not in ("auto", trained) and make_encoder(spec).id != trained:
        raise ConfigError("dsmoe_text", f"the encoder that the model was trained on, {trained}", spec)


def _remember(net: Any) -> dict[str, Any]:
    """Return what our keys may change in a network."""
    return {
        "topk": net.options.get("topk"),
        "k": [(m, m.k) for m in net.modules() if hasattr(m, "set_topk") and m is not net],
        "mode": [(m, m.mode) for m in net.modules() if hasattr(m, "set_mode")],
        "bank": [(m, m.bank) for m in net.modules() if hasattr(m, "set_bank") and m.text],
        "text_info": deepcopy(net.text_info),
    }


def _recall(net: Any, state: dict[str, Any], *, text: bool) -> None:
    """Give a network back what `_remember` returned."""
    for block, k in state["k"]:
        block.k = k
    if state["topk"] is None:
        net.options.pop("topk", None)
    else:
        net.options["topk"] = state["topk"]
    for block, mode in state["mode"]:
        block.set_mode(mode)
    if text:
        for block, bank in state["bank"]:
            block.set_bank(bank)
        net.text_info = state["text_info"]
        if any(getattr(m, "folded", False) for m in net.modules()):
            net.fold_text()
