"""Put the images of a packaged set in place from an archive in YOLO layout."""

from __future__ import annotations

import sys
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from ultra_dsmoe.constants import SPLITS
from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.layout_check import IMAGE_SUFFIXES, check_layout, find_root
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.files import require_unused, whole_folder


def unpack(name: str, archive: str | Path, root: str | Path | None = None) -> Path:
    """Extract an archive to the folder that a packaged data YAML expects.

    Nothing appears there unless the whole archive was extracted and fits the YAML. The archive's data.yaml becomes the
    packaged one, with what the archive says beside it but for places and downloads, which are those of its maker.

    Args:
        name: Name of the packaged set, such as "deeppcb".
        archive: A tar (any compression) or zip with data.yaml, images/ and labels/.
        root: Where to put it instead.

    Returns:
        The folder.

    Raises:
        DataError: If the archive is missing, unsafe, damaged or of other classes, or the folder is in use.
    """
    data, archive = packaged.load(name), Path(archive)
    root = Path(root).resolve() if root else packaged.images_root(name)
    if not archive.is_file():
        raise DataError("archive", "a tar or zip file", f"{archive}, which is no file")
    require_unused(root)
    with whole_folder(root) as content:
        extracted = content.with_name("extracted")
        extracted.mkdir()
        _extract(archive, extracted)
        inner = find_root(extracted, archive.name)
        own = check_layout(inner, data, archive.name)
        splits = {split: data.get(split, f"images/{split}") for split in SPLITS}
        splits = {split: folder for split, folder in splits.items() if (inner / folder).is_dir()}
        text = packaged.yaml_beside(data, splits, f"Unpacked for {name} from {archive.name}", own)
        (inner / "data.yaml").write_text(text, encoding="utf-8")
        content.rmdir()
        inner.rename(content)
    return root


def unpack_references(name: str, archive: str | Path, root: str | Path | None = None) -> Path:
    """Extract the known-good pictures of a packaged set to the folder that its data YAML expects.

    Args:
        name: Name of the packaged set, such as "deeppcb-ref".
        archive: A tar or zip in YOLO layout, whose images are the references; they have the names of the set's images.
        root: Where to put them instead.

    Returns:
        The folder.

    Raises:
        DataError: If the archive is missing, unsafe, damaged or without images, or the folder is in use.
    """
    archive = Path(archive)
    root = Path(root).resolve() if root else packaged.references_root(name)
    if not archive.is_file():
        raise DataError("archive", "a tar or zip file", f"{archive}, which is no file")
    require_unused(root)
    with whole_folder(root) as content:
        extracted = content.with_name("extracted")
        extracted.mkdir()
        _extract(archive, extracted)
        images = find_root(extracted, archive.name) / "images"
        if not any(f.suffix.lower() in IMAGE_SUFFIXES for f in images.rglob("*")):
            raise DataError(archive.name, "images/ with the references", "none")
        content.rmdir()
        images.rename(content)
    return root


def _extract(archive: Path, folder: Path) -> None:
    """Extract a tar or zip; refuse members that would land outside the folder."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as pack:
                for member in pack.namelist():
                    _require_inside(member, archive)
                pack.extractall(folder)
        elif tarfile.is_tarfile(archive):
            if not hasattr(tarfile, "data_filter"):
                raise DataError("python", "3.10.12, 3.11.4 or later, whose tarfile extracts safely", sys.version)
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter="data")
        else:
            raise DataError(str(archive), "a tar or zip file", "something else")
    except tarfile.FilterError as error:
        raise DataError(str(archive), "members that stay inside the archive's folder", str(error)) from error
    except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
        raise DataError(str(archive), "members of which none stands in another's place", str(error)) from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(str(archive), "an undamaged archive", str(error)) from error
    except (RuntimeError, NotImplementedError) as error:  # encrypted zip, unknown compression
        raise DataError(str(archive), "an archive without password, in a common compression", str(error)) from error


def _require_inside(member: str, archive: Path) -> None:
    """Refuse an absolute path and one that climbs out; zipfile would silently put such a member elsewhere."""
    path = PurePosixPath(member.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or any(":" in part for part in path.parts[:1]):
        raise DataError(str(archive), "members that stay inside the archive's folder", member)
