"""Turn an ONNX file into the folder that the host loads as an OpenVINO model."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.files import can_write, supplant
from ultra_dsmoe.runtime.model_file import read_onnx

SUFFIX = "_openvino_model"  # by which the host knows such a folder


def save_openvino(source: str | Path, folder: str | Path) -> Path:
    """Write graph, weights and metadata of an ONNX file as OpenVINO has them; Q/DQ nodes become its INT8.

    Args:
        source: ONNX file written by ``yolo export``, or one that was quantized since.
        folder: The new folder, named ``*_openvino_model``; it appears only once it is complete, in place of an older
            one.

    Returns:
        The folder.

    Raises:
        ConfigError: If openvino is not installed, or the folder has another kind of name or an own one is in the way.
        WeightsError: If the file is damaged.
    """
    folder = checked_folder(folder)
    metadata = read_onnx(Path(source)).metadata
    try:
        import openvino
    except ImportError as e:
        raise ConfigError("target", "openvino to be installed (pip install openvino)", str(e)) from e
    model = openvino.Core().read_model(source)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        part = Path(place) / folder.name
        part.mkdir()
        name = folder.name.removesuffix(SUFFIX)
        openvino.save_model(model, part / f"{name}.xml", compress_to_fp16=False)  # half weights would not be FP32's
        (part / "metadata.yaml").write_text(yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True))
        supplant(part, folder)
    return folder


def checked_folder(folder: str | Path) -> Path:
    """Return the path of an OpenVINO folder to write.

    Raises:
        ConfigError: If the host would not know it by its name, or it exists and is something else.
    """
    folder = Path(folder)
    foreign = folder.exists() and not (folder.is_dir() and (folder / "metadata.yaml").is_file())
    if not folder.name.endswith(SUFFIX) or not folder.parent.is_dir() or foreign or not can_write(folder.parent):
        raise ConfigError("output", f"a new folder named *{SUFFIX} in one that can be written", str(folder))
    return folder
