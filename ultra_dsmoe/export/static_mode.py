"""``dsmoe_moe=static`` on any verb: the validation images of the command's data set say which experts stay."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from ultra_dsmoe.data.source import DataSource
from ultra_dsmoe.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ultra_dsmoe.export.static_experts import Coverage


class KeptExperts:
    """The experts that static execution keeps during one call, found when they are first asked for."""

    def __init__(self, model: Any, net: Any, given: dict[str, Any], kwargs: dict[str, Any]) -> None:
        """Remember the call.

        Args:
            model: ``YOLO`` object.
            net: Its network, of ours.
            given: Our keys.
            kwargs: The host's arguments; ``data``, ``fraction`` and ``imgsz`` count.
        """
        self.model, self.net, self.given, self.kwargs = model, net, given, kwargs

    @functools.cached_property
    def coverage(self) -> list[Coverage]:
        """Kept experts and what they cover, one entry per gate.

        Raises:
            ConfigError: If no data set is named.
            DataError: If its validation images are missing, or its classes are others than the network's.
        """
        from ultra_dsmoe.export.images import split_images
        from ultra_dsmoe.export.static_experts import static_experts

        data = data_of(self.model, self.net, self.kwargs)
        if data is None:
            wanted = "a data YAML, whose validation images say which experts dsmoe_moe=static keeps (gather needs none)"
            raise ConfigError("data", wanted, "none")
        require_classes_of(self.net, data)
        require_references(self.net)
        fraction = self.kwargs.get("fraction") or 1.0
        files = split_images(data.yaml, "val", fraction, download=data.named)
        return static_experts(self.net, files, size_of(self.model, self.net, self.kwargs), self.given.get("dsmoe_keep"))

    def numbers(self) -> list[tuple[int, ...]]:
        """Return the kept experts, one tuple per gate."""
        return [c.kept for c in self.coverage]


def require_references(net: Any) -> None:
    """Refuse to look at the images of a data set with a net that compares where no references are in force.

    Raises:
        ConfigError: If it does, and there are none.
    """
    from ultra_dsmoe.data.reference.in_force import current
    from ultra_dsmoe.evaluate.reference_choice import missing
    from ultra_dsmoe.model.reference_row import has_reference

    if has_reference(net) and current() is None:
        raise missing("the net")


def require_classes_of(net: Any, data: DataSource) -> None:
    """Refuse a data set that a network was not trained for: its images say nothing about which experts stay.

    Raises:
        DataError: If its classes are others, as far as the network's have names.
    """
    from ultralytics.utils import YAML, checks

    from ultra_dsmoe.data.packaged import class_names

    file = checks.check_file(data.yaml, hard=False) if data.yaml.endswith((".yaml", ".yml")) else None
    content = YAML.load(file) if file else {}
    own = [str(name) for name in net.names.values()]
    unnamed = own == [str(i) for i in range(len(own))]  # built from a YAML and never trained: any set's images will do
    if unnamed or not content.get("names") or len(own) == 1:  # the reader of images looks closer; one: `single_cls`
        return
    names = class_names(content)
    if names != own:
        raise DataError("data", f"the classes that the net was trained on ({', '.join(own)})", ", ".join(names))


def data_of(model: Any, net: Any, kwargs: dict[str, Any]) -> DataSource | None:
    """Return the data set of a call, or else the one that the network was trained on, as far as it is on this disk."""
    own = getattr(net, "args", None) or {}
    return DataSource.choose(kwargs.get("data"), (model.overrides.get("data"), own.get("data")))


def size_of(model: Any, net: Any, kwargs: dict[str, Any]) -> tuple[int, int]:
    """Return height and width that a call runs at, in pixels, as the host rounds them."""
    from ultralytics.utils.checks import check_imgsz

    own = getattr(net, "args", None) or {}
    wanted = kwargs.get("imgsz") or model.overrides.get("imgsz") or own.get("imgsz") or 640
    height, width = check_imgsz(wanted, stride=net.stride, min_dim=2)
    return height, width
