"""``dsmoe_parity`` on an export: which images, which precision and which split its gate looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ultra_dsmoe.errors import ConfigError, DataError
from ultra_dsmoe.export.precision import bits_of
from ultra_dsmoe.export.static_mode import data_of, require_references, size_of
from ultra_dsmoe.model.reference_row import has_reference, reference_channels

if TYPE_CHECKING:
    from torch import Tensor

    from ultra_dsmoe.export.parity import Suppression

IMAGES = 8  # to compare on (our choice: seconds at any size)


class ParityCheck:
    """The gate of one export; what it needs is checked before the export begins."""

    def __init__(self, model: Any, net: Any, wanted: bool | str, kwargs: dict[str, Any]) -> None:
        """Prepare the gate.

        Args:
            model: ``YOLO`` object.
            net: Its network.
            wanted: The checked key: False for no gate, True, or the split whose mAP is compared too.
            kwargs: The host's arguments of the export.

        Raises:
            ConfigError: If mAP is asked for without a data set or on oblong images, or the precision is unknown.
            DataError: If the named data set has no images.
        """
        self.model, self.net, self.wanted, self.kwargs = model, net, wanted, dict(kwargs)
        self.bits = bits_of(kwargs)
        self.size = size_of(model, net, kwargs)
        self.data = data_of(model, net, kwargs)
        self.files = self._files() if wanted else []
        self.images = [self._images(self.size)] if wanted else []
        if isinstance(wanted, str):
            self._check_split(wanted)

    def _files(self) -> list[str]:
        """Return files of the validation half, or none where it is not at hand and was not named in this call."""
        from ultra_dsmoe.export.images import split_images, spread

        if self.data is None:
            return []
        try:
            return spread(split_images(self.data.yaml), IMAGES)
        except DataError:
            if self.data.named:
                raise
            return []

    def _check_split(self, split: str) -> None:
        from ultra_dsmoe.export.images import split_images

        if self.data is None:
            raise ConfigError("data", f"a data YAML for the mAP of dsmoe_parity={split}", "none")
        if self.size[0] != self.size[1]:
            raise ConfigError("imgsz", f"a square for the mAP of dsmoe_parity={split}", f"{self.size}")
        split_images(self.data.yaml, split)
        self.data.require_local(split)
        require_references(self.net)

    def run(self, file: str) -> None:
        """Compare the exported file with the network.

        Raises:
            ParityError: If it does something else.
        """
        from ultra_dsmoe.export.parity_verdict import Export, check_export

        if not self.wanted or not file:
            return
        dynamic, batch = bool(self.kwargs.get("dynamic")), int(self.kwargs.get("batch") or 1)
        images = list(self.images)
        if dynamic:  # a size and a batch that the file was not traced with
            stride = int(max(self.net.stride))
            images.append(self._images((self.size[0] + stride, self.size[1])))
            batch += not self.kwargs.get("nms")  # a suppression inside is traced for so many images, at most
        split = None
        if isinstance(self.wanted, str):
            device = self.kwargs.get("device") or "cpu"
            assert self.data is not None  # or the split was refused at the start
            split = {"data": self.data.yaml, "split": self.wanted, "imgsz": self.size[0], "device": device}
        check_export(Export(self.model, file, batch, self.bits, suppression(self.kwargs)), images, split)

    def _images(self, size: tuple[int, int]) -> Tensor:
        from ultra_dsmoe.data.reference.in_force import current
        from ultra_dsmoe.export.images import channels_of, load_images

        if not self.files or (has_reference(self.net) and current() is None):
            return self._drawn(size)
        try:
            return load_images(self.files, size, channels_of(self.net))
        except DataError:
            if self.kwargs.get("data"):
                raise
            return self._drawn(size)

    def _drawn(self, size: tuple[int, int]) -> Tensor:
        from ultra_dsmoe.export.images import channels_of, drawn_images, drawn_pairs

        if has_reference(self.net):
            return drawn_pairs(IMAGES, size, reference_channels(self.net))
        return drawn_images(IMAGES, size, channels=channels_of(self.net))


def suppression(kwargs: dict[str, Any]) -> Suppression | None:
    """Return the settings of the suppression that is exported with the network, None without."""
    from ultra_dsmoe.export.parity import Suppression

    if not kwargs.get("nms"):
        return None
    names = {"conf": "conf", "iou": "iou", "max_det": "max_det", "agnostic": "agnostic_nms"}
    return Suppression(**{ours: kwargs[host] for ours, host in names.items() if kwargs.get(host) is not None})
