"""Hold our keys in force during one call: the network has their values until the call ends, then its own again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from ultra_dsmoe.errors import ConfigError

Kept = Callable[[], Sequence[Sequence[int]]]


@contextmanager
def in_force(net: Any, given: dict[str, Any], kept: Kept | None = None) -> Iterator[None]:
    """Give ``net`` the values of ``given`` (`keys.pop_keys`) for the length of the block.

    Args:
        net: Network of ours.
        given: Checked keys.
        kept: Returns the experts that ``dsmoe_moe=static`` keeps; called when all other keys are in force.

    Raises:
        ConfigError: If a value does not suit the network.
    """
    if not given:
        yield
        return
    own = read(net)
    try:
        apply_keys(net, given, kept)
        yield
    finally:
        write(net, own)


def apply_keys(net: Any, given: dict[str, Any], kept: Kept | None = None) -> None:
    """Bring the values of our keys into a network of ours; arguments as of `in_force`.

    Raises:
        ConfigError: If a value does not suit the network.
        TextError: If the prompts do not suit its classes.
    """
    if "dsmoe_text" in given:
        _same_encoder(net, given["dsmoe_text"])
        if given["dsmoe_text"] != "auto":
            net.name_encoder(given["dsmoe_text"])
    if "dsmoe_moe" in given:
        net.set_moe_mode("gather")  # experts kept by hand would bound k
    if "dsmoe_topk" in given:
        net.set_topk(given["dsmoe_topk"])
    if "dsmoe_gamma" in given:
        _set_gamma(net, given["dsmoe_gamma"])
    if "dsmoe_dynamic_conv" in given:
        net.set_dynamic_conv(given["dsmoe_dynamic_conv"])
    if "dsmoe_prompts" in given:
        from ultra_dsmoe.text.prompts import read_prompt_file  # late: every process with the host loads this module

        spec = given.get("dsmoe_text", "auto")
        net.set_prompts(read_prompt_file(given["dsmoe_prompts"]), None if spec == "auto" else spec)
    mode = given.get("dsmoe_moe")
    if "dsmoe_keep" in given and mode != "static":
        raise ConfigError("dsmoe_keep", "this key beside dsmoe_moe=static", f"dsmoe_moe={mode}")
    if mode is not None:
        net.set_moe_mode(mode, kept() if mode == "static" and kept else None)


def _set_gamma(net: Any, gamma: float) -> None:
    """Give a network another gray transform, with a warning: it suits images that were transformed before."""
    if gamma != net.gamma:
        from ultralytics.utils import LOGGER

        LOGGER.warning(f"dsmoe_gamma={gamma:g}: the net has the gray transform of exponent {net.gamma:g}")
    net.set_gamma(gamma)


def _same_encoder(net: Any, spec: str) -> None:
    """Refuse another encoder than the one that a network's text side was trained on.

    A folder may be the model of a hub id that a checkpoint remembers: its vectors of the trained prompts tell, or that
    of the one sentence that a classifier keeps for it.
    """
    from ultra_dsmoe.text.bank import gives_same
    from ultra_dsmoe.text.encoders import make_encoder

    trained = (net.text_info or {}).get("encoder")
    if trained is None:
        raise ConfigError("dsmoe_text", "a model with text vectors", "one without")
    if spec in ("auto", trained):
        return
    named = make_encoder(spec, local_only=True)
    if named.id == trained:
        return
    is_folder = "@" in named.id and "@" not in trained and named.id.partition(":")[0] == trained.partition(":")[0]
    bank = net.text_bank() if is_folder else None
    if is_folder and bank is None:
        expected = f"the id {trained}: this checkpoint keeps nothing to know a folder by (one trained anew does)"
        raise ConfigError("dsmoe_text", expected, spec)
    if bank is None or not gives_same(named, bank):
        raise ConfigError("dsmoe_text", f"the encoder that the model was trained on, {trained}", spec)


def align(copy: Any, net: Any) -> None:
    """Give a copy of ``net``, as the host's predictor may keep one between calls, the settings that ``net`` has now."""
    if copy is not None and copy is not net:
        write(copy, read(net))


def read(net: Any) -> dict[str, Any]:
    """Return what may be changed in a network for one call, block by block."""
    return {
        "yaml": deepcopy(net.yaml),
        "blocks": [m.read_settings() for m in _blocks(net)],
        "text": net.text_state(),
    }


def write(net: Any, settings: dict[str, Any]) -> None:
    """Give a network what `read` returned, of itself or of another of the same build."""
    if net.yaml != settings["yaml"]:
        net.yaml = deepcopy(settings["yaml"])
    for block, values in zip(_blocks(net), settings["blocks"], strict=True):
        block.write_settings(values)
    net.write_text(settings["text"])


def _blocks(net: Any) -> list[Any]:
    """Return the blocks of a network that have settings, in order."""
    from ultra_dsmoe.nn.base import SettingsMixin  # late: every process with the host loads this module

    return [m for m in net.modules() if isinstance(m, SettingsMixin)]
