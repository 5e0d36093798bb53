"""What a classifier knows of its images' texts, from the net itself or from a file exported from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.model.classifier import PairModel
from ultra_dsmoe.model.pair_text import PairText
from ultra_dsmoe.runtime.file_metadata import read_metadata

KEY = "dsmoe_pair"  # of an exported file's metadata


def entry_of(net: PairModel) -> str:
    """Return the entry of an exported file's metadata, JSON: when it wants texts, and how it gets them."""
    return json.dumps({"text_mode": net.pair_options.text_mode, "state": net.pair_text})


def texts_of(model: Any) -> PairText | None:
    """Return how a net's images get their texts; None for one that wants none.

    Args:
        model: A network, or the path of an exported file.

    Raises:
        TextError: If it wants texts and was never trained, or its entry is none.
    """
    wanted, state = _entry(model)
    if wanted != "always":
        return None
    if state is None:
        raise TextError("model", "one that was trained, which has its texts' encoder", "one that was not")
    texts = PairText.from_state(state)
    texts.named = named_encoder(model)
    return texts


def named_encoder(model: Any) -> str | None:
    """Return the name under which the user gives a net's text encoder in this call; ``model`` as of `texts_of`."""
    net = getattr(model, "module", model)
    return net.encoder_name if isinstance(net, PairModel) else None


def wants_texts(model: Any) -> bool:
    """Whether a net classifies no image without its texts; ``model`` as of `texts_of`."""
    return _entry(model)[0] == "always"


def _entry(model: Any) -> tuple[str | None, dict[str, Any] | None]:
    if isinstance(model, nn.Module):
        net = getattr(model, "module", model)
        return (net.pair_options.text_mode, net.pair_text) if isinstance(net, PairModel) else (None, None)
    if not isinstance(model, (str, Path)) or (text := read_metadata(Path(model)).get(KEY)) is None:
        return None, None
    try:
        entry = json.loads(text)
        return entry["text_mode"], entry["state"]
    except (ValueError, KeyError, TypeError) as e:
        raise TextError(f"{KEY} of {Path(model).name}", "what this package's export wrote", text) from e
