"""The table of metadata that the host writes into every exported file, whatever its format."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import yaml

from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.runtime.model_file import read_engine, read_onnx

TORCHSCRIPT_ENTRY = "extra/config.txt"  # the host's, within the archive
OPENVINO_FILE = "metadata.yaml"  # the host's, in the folder


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of an exported file or folder; empty where there is none, or it is no such file."""
    try:
        if path.is_dir():
            content = yaml.safe_load((path / OPENVINO_FILE).read_text(encoding="utf-8"))
        elif path.suffix == ".onnx" and path.is_file():
            content = read_onnx(path).metadata
        elif path.suffix == ".engine" and path.is_file():
            content = read_engine(path)[0]
        elif path.suffix == ".torchscript" and path.is_file():
            with zipfile.ZipFile(path) as archive:
                place = next((name for name in archive.namelist() if name.endswith(TORCHSCRIPT_ENTRY)), None)
                content = json.loads(archive.read(place)) if place else {}
        else:
            content = {}
    except (DSMoEError, OSError, ValueError, yaml.YAMLError, zipfile.BadZipFile):  # whoever runs it says what is wrong
        return {}
    return content if isinstance(content, dict) else {}
