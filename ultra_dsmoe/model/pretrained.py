"""What ``pretrained=`` names: where the file lies and whether it can be loaded, said before a run folder exists."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ultralytics.nn.tasks import load_checkpoint
from ultralytics.utils import SETTINGS, checks
from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from ultra_dsmoe.causes import reading
from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model import torchvision_weights
from ultra_dsmoe.nn.backbone.mobile_sam import MobileSAM
from ultra_dsmoe.nn.backbone.mobile_sam_keys import is_mobile_sam_checkpoint

FETCHED = "yolo"  # how the host's own weights begin that a net of ours can take over
SUFFIX = "-dsmoe.yaml"  # of our nets around one of the host's
_STOCK = re.compile(r"(?P<family>yolo(?:v|e-)?\d+)(?P<scale>[nslmx])[._]")  # yolov8n.yaml, yolo26s.pt
ENCODER = "mobile_sam.pt"  # an asset of the host's, too


class EncoderFile(os.PathLike[str]):
    """A checkpoint of an encoder, or its name, on its way to our trainer.

    Hosts load whatever is text or a `Path` as a whole detector, some of them before there is a trainer.
    """

    def __init__(self, path: str) -> None:
        """Remember the path."""
        self.path = path

    def __fspath__(self) -> str:
        """Return the path."""
        return self.path

    __str__ = __fspath__


def find(given: str | Path) -> str:
    """Return the file that ``pretrained`` names, looked for as the host does: here, then in its folder of weights.

    The released MobileSAM is fetched from the host's assets where it is in neither.

    Returns:
        Its path; the bare name of YOLO weights that are not on this disk, which the host fetches.

    Raises:
        WeightsError: If it is neither.
    """
    name = str(given).strip()
    if "://" in name:
        return str(checks.check_file(name, download_dir=SETTINGS["weights_dir"]))
    folder = str(SETTINGS["weights_dir"])
    if found := next(filter(os.path.isfile, (name, os.path.join(folder, name))), None):
        return found
    asset = Path(name).name
    if asset in GITHUB_ASSETS_NAMES and asset.startswith(FETCHED):
        return name
    reason = "which is not a file"
    if asset == ENCODER:
        try:
            return attempt_download_asset(name)
        except Exception as e:  # of any kind: the host raises what its download comes upon
            reason = f"which cannot be fetched ({str(e).splitlines()[0] if str(e) else type(e).__name__})"
    raise WeightsError("pretrained", f"an existing checkpoint, here or in {folder}", f"{name}, {reason}")


def find_encoder(given: Any) -> str | None:
    """Return the path of the MobileSAM checkpoint that ``pretrained`` names, None where it names none.

    Raises:
        WeightsError: If it names a file that does not exist.
    """
    file = find(given) if isinstance(given, (str, Path)) else None
    return file if file is not None and is_mobile_sam_checkpoint(file) else None


def suited_net(source: Any) -> str | None:
    """Return the model YAML of ours that takes over the weights of a net of the host's, None where there is none."""
    file = getattr(source, "yaml", {}).get("yaml_file") or getattr(source, "pt_path", None) or ""
    if (match := _STOCK.match(Path(file).name)) is None:
        return None
    family = checks.check_file(f"{match['family']}{SUFFIX}", hard=False)  # which finds the packaged ones
    return f"{match['family']}{match['scale']}{SUFFIX}" if family else None


def encoders(net: Any, given: Any) -> list[MobileSAM]:
    """Return the MobileSAM rows of a net.

    Raises:
        WeightsError: If it has none; ``given`` says what they were wanted for.
    """
    if found := net.blocks(MobileSAM):
        return found
    raise WeightsError("pretrained", "a model with a MobileSAM row for these weights", f"{given}")


def check(net: Any, given: str | Path) -> str | Path | EncoderFile:
    """Check what ``pretrained`` names and return it in the form in which it reaches our trainer.

    Raises:
        WeightsError: If it does not exist, cannot be loaded, or holds an encoder that the net does not have.
    """
    if name := torchvision_weights.named(given):
        torchvision_weights.check(net, name)
        return EncoderFile(name)
    if Path(given).name == ENCODER:
        encoders(net, given)  # before 40 MB are fetched
    if file := find_encoder(given):
        encoders(net, given)
        return EncoderFile(file)
    with reading("pretrained", "a readable checkpoint", WeightsError, given):
        load_checkpoint(find(given))
    return given
