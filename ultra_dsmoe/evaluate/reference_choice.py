"""Which known-good pictures a detector works with in one call: the user's, its data set's, or none where it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from ultralytics.utils import LOGGER

from ultra_dsmoe.data.reference.choice import SECTION, require_no_list
from ultra_dsmoe.data.reference.references import References
from ultra_dsmoe.data.reference.spec import ReferenceSpec, is_nothing, read_spec
from ultra_dsmoe.data.source import NETWORK_SHARE, DataSource, table_of
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.reference_row import has_reference, reference_channels
from ultra_dsmoe.runtime.file_metadata import read_metadata
from ultra_dsmoe.runtime.reference_entry import BLANK, KEY, ReferenceEntry, read_entry

WAYS = f"{KEY}= with a folder, CSV, picture or pattern (or {KEY}='{{missing: blank}}' to go without)"


class NoReferences(References):
    """Blank references for all images."""

    def __init__(self, channels: int) -> None:
        """Remember the channels of an image."""
        super().__init__(ReferenceSpec(missing=BLANK, argument=KEY), channels)

    def require(self, images: Sequence[str | Path]) -> None:
        """Say that there is none."""
        LOGGER.warning(f"{KEY}: no references for {len(images)} images; they go with a blank reference")


class ListedReferences(References):
    """References given one by one, in the order of the sources.

    Attributes:
        each: One per source.
    """

    def __init__(self, each: Sequence[References], channels: int) -> None:
        """Remember them."""
        super().__init__(ReferenceSpec(argument=KEY), channels)
        self.each = list(each)

    def require(self, images: Sequence[str | Path]) -> None:
        """Check that there are as many as images, and each of them.

        Raises:
            DSMoEError: If there are not, or one does not suit its image.
        """
        require_length(self, len(images))
        for references, image in zip(self.each, images, strict=True):
            references.require([image])


def require_length(listed: ListedReferences, images: int) -> None:
    """Refuse a list of another length than there are images.

    Raises:
        ConfigError: If it has.
    """
    if len(listed.each) != images:
        raise ConfigError(KEY, f"as many references as images, {images}", f"a list of {len(listed.each)}")


def entry_of(model: Any) -> ReferenceEntry | None:
    """Return what a network or an exported file says about its references, None where it takes none.

    Args:
        model: A network, or the path of an exported file.

    Raises:
        WeightsError: If a file's entry is damaged.
    """
    if isinstance(model, (str, Path)):
        return read_entry(read_metadata(Path(model)), Path(model).name)
    net = getattr(model, "module", model)
    if not isinstance(net, nn.Module) or not has_reference(net):
        return None
    info: dict[str, Any] = getattr(net, "reference_info", None) or {}
    spec = info.get("spec") or {}
    options = {name: spec[name] for name in ("missing", "align") if name in spec}
    row: Any = net.model[0]  # type: ignore[index]  # a sequence of rows
    return ReferenceEntry(channels=reference_channels(net), limit=info.get("limit"), form=row.form, **options)


def spec_of_data(source: DataSource | None) -> ReferenceSpec | None:
    """Return what a data YAML on this disk says about references, None where it says nothing.

    Raises:
        DSMoEError: If it says something else.
    """
    if source is None or not source.yaml.endswith((".yaml", ".yml")) or "://" in source.yaml:
        return None
    content, root = table_of(source.yaml)
    return read_spec(SECTION, content.get(SECTION), root)


def spec_of_net(net: Any) -> ReferenceSpec | None:
    """Return where the training of a network had its references, as far as that is on this disk.

    A checkpoint comes from anywhere: what it names is an existing folder or file, or nothing.
    """
    state = dict((getattr(net, "reference_info", None) or {}).get("spec") or {})
    place = str(state.get("folder") or state.get("csv") or state.get("file") or "")
    fixed, brace, _ = place.partition("{")  # of a template
    if not place or place.startswith(NETWORK_SHARE) or not (Path(fixed).parent if brace else Path(place)).exists():
        return None
    return read_spec(SECTION, state, Path())


def choose(
    entry: ReferenceEntry, given: Any, source: DataSource | None, remembered: ReferenceSpec | None = None
) -> References | None:
    """Return the references of a call, or None where nobody names any and the detector may not be without.

    Args:
        entry: Of the network or file.
        given: The key on the command line, None without; it wins over the data set.
        source: Data set of the call.
        remembered: Where the network's own training had them; counts where the user names no data set.

    Raises:
        DSMoEError: If key or data set say something that cannot be meant.
    """
    own = ReferenceSpec(missing=entry.missing, align=entry.align, argument=KEY)
    base = spec_of_data(source)
    if base is None and not (source is not None and source.named):
        base = remembered
    if isinstance(given, (list, tuple)):
        return ListedReferences([_one(entry, value, base or own) for value in given], entry.channels)
    spec = base if given is None else read_spec(KEY, given, Path(), base or own)
    if spec is None and (base or own).missing == BLANK:
        return NoReferences(entry.channels)
    return None if spec is None else _made(entry, spec)


def references_of(net: Any, given: Any, source: DataSource | None, name: str) -> References | None:
    """Return the references that a network needs, None for one that needs none.

    Args:
        net: The network, or the path of an exported file.
        given: The key, None without; no list, since the images are those of the data set.
        source: Data set.
        name: Of the network, for errors.

    Raises:
        DSMoEError: If it compares and has nothing to compare with, or the other way round.
    """
    entry = entry_of(net)
    if entry is None:
        if given is not None and not is_nothing(given):
            raise without_row(name, given)
        return None
    require_no_list(given, name)
    found = choose(entry, given, source, spec_of_net(net))
    if found is None:
        raise missing(name)
    return found


def _one(entry: ReferenceEntry, value: Any, base: ReferenceSpec) -> References:
    """Return the reference of one image of several."""
    spec = read_spec(KEY, value, Path(), base)
    made = _made(entry, spec if spec is not None else replace(base, folder=None, csv=None, pattern=None, file=None))
    if made is None:
        raise ConfigError(KEY, "a picture for each image", value)
    return made


def _made(entry: ReferenceEntry, spec: ReferenceSpec) -> References | None:
    """Return the references of a spec; of one without a place blank ones, where that is permitted."""
    is_placed = any(getattr(spec, place) is not None for place in ("folder", "csv", "pattern", "file", "image"))
    if is_placed:
        return References(spec, entry.channels)
    return NoReferences(entry.channels) if spec.missing == BLANK else None


def missing(what: str) -> ConfigError:
    """Return the error for a detector that compares and has nothing to compare with.

    Args:
        what: Its name.
    """
    return ConfigError(KEY, f"known-good pictures for {what}, which compares: {WAYS}", "none")


def without_row(what: str, given: Any) -> ConfigError:
    """Return the error for references that a detector cannot use."""
    shown = f"an array {given.shape}" if isinstance(given, np.ndarray) else f"{KEY}={given}"
    return ConfigError(KEY, "a detector trained with references (a Reference row)", f"{what}, which has none; {shown}")
