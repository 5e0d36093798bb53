"""Unpacking: archives that fit land where the YAML looks, all others are refused and leave nothing."""

from __future__ import annotations

import io
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.convert.archive import unpack, unpack_references
from ultra_dsmoe.errors import DataError

MakeSet = Callable[..., Path]


def pack(root: Path, suffix: str, *, inside: str | None = None) -> Path:
    """Pack a folder as root/... or, with ``inside``, under one more folder."""
    base = root if inside is None else root.parent / "outer"
    if inside is not None:
        shutil.copytree(root, base / inside)
    kinds = {".tar": "tar", ".tar.gz": "gztar", ".zip": "zip"}
    return Path(shutil.make_archive(str(root.parent / "archive"), kinds[suffix], base))


def files(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def assert_nothing_left(sets_folder: Path) -> None:
    assert not sets_folder.exists() or not list(sets_folder.iterdir())


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".zip"])
@pytest.mark.parametrize("inside", [None, "DeepPCB"])
def test_archive_lands_where_the_yaml_looks(
    suffix: str, inside: str | None, make_set: MakeSet, sets_folder: Path
) -> None:
    made = make_set()
    root = unpack("deeppcb", pack(made, suffix, inside=inside))
    assert root == sets_folder / "DeepPCB" == packaged.images_root("deeppcb.yaml")
    assert {**files(root), "data.yaml": b""} == {**files(made), "data.yaml": b""}
    assert [f.name for f in sets_folder.iterdir()] == ["DeepPCB"]


def test_data_yaml_is_the_packaged_one_with_what_the_archive_adds(
    make_set: MakeSet, sets_folder: Path, tmp_path: Path
) -> None:
    made = make_set()
    (made / "images" / "test").mkdir()
    own = yaml.safe_load((made / "data.yaml").read_text())
    foreign = {"path": "/srv/maker", "val": "../elsewhere", "download": "print('run')"}
    own |= {**foreign, "groups": "^(.)", "note": "made in May", "data": 1}
    (made / "data.yaml").write_text(yaml.safe_dump(own))
    root = unpack("deeppcb", pack(made, ".tar"), tmp_path / "mine")
    there, ours = yaml.safe_load((root / "data.yaml").read_text()), packaged.load("deeppcb")
    place = {"path", "download", *packaged.PLACE}
    assert {k: v for k, v in there.items() if k not in place} == {
        **{k: v for k, v in ours.items() if k not in place},
        **{"names": own["names"], "groups": "^(.)", "note": "made in May", "data": 1},
    }
    assert {k: there[k] for k in place & set(there)} == {s: f"images/{s}" for s in ("train", "val", "test")}


def test_other_folder_can_be_named(make_set: MakeSet, sets_folder: Path, tmp_path: Path) -> None:
    assert unpack("deeppcb", pack(make_set(), ".tar"), tmp_path / "mine") == tmp_path / "mine"
    assert not sets_folder.exists()


def test_references_land_beside_the_images(make_set: MakeSet, sets_folder: Path) -> None:
    archive = pack(make_set(), ".zip")
    with pytest.raises(DataError, match=r"^deeppcb-ref: expected its images first: dsmoe-yolo data unpack deeppcb "):
        unpack_references("deeppcb-ref", archive)
    assert_nothing_left(sets_folder)
    root = unpack("deeppcb", archive)
    before = files(root)
    assert unpack_references("deeppcb-ref", archive) == root / "references" == packaged.references_root("deeppcb-ref")
    images = {name.replace("images", "references"): b for name, b in before.items() if name.startswith("images")}
    assert files(root) == {**before, **images}
    with pytest.raises(DataError, match="a new or empty folder"):
        unpack_references("deeppcb-ref", archive)


@pytest.mark.parametrize("change", ["no images", "no file"])
def test_an_archive_without_references_leaves_nothing(
    change: str, make_set: MakeSet, sets_folder: Path, tmp_path: Path
) -> None:
    made = make_set()
    unpack("deeppcb", pack(made, ".tar"))
    shutil.rmtree(made / "images")
    archive = pack(made, ".zip") if change == "no images" else tmp_path / "gone.zip"
    before = files(sets_folder)
    with pytest.raises(DataError, match=r"expected (images/ with the references|a tar or zip file)"):
        unpack_references("deeppcb-ref", archive)
    assert files(sets_folder) == before


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "archive"), [("deeppcb", "DeepPCB-mini"), ("neu-det", "NEU-DET-mini")])
def test_real_archive_loads_in_the_host(
    name: str, archive: str, shared_data: Callable[[str], Path], sets_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.data.utils import check_det_dataset

    source = shared_data(archive).parent
    packed = shutil.make_archive(str(sets_folder.parent / "real"), "tar", source.parent, source.name)
    root = unpack(name, packed)
    monkeypatch.setattr("ultralytics.data.utils.DATASETS_DIR", sets_folder)
    data = check_det_dataset(str(packaged.yaml_folder() / f"{name}.yaml"))
    assert Path(data["path"]) == root
    assert list(Path(data["val"]).iterdir())


# errors


def test_file_that_is_not_there(sets_folder: Path) -> None:
    with pytest.raises(DataError, match=r"^archive: expected a tar or zip file, got nowhere\.tar"):
        unpack("deeppcb", "nowhere.tar")
    assert_nothing_left(sets_folder)


def test_not_an_archive(tmp_path: Path, sets_folder: Path) -> None:
    (tmp_path / "notes.txt").write_text("no archive")
    with pytest.raises(DataError, match="expected a tar or zip file, got something else"):
        unpack("deeppcb", tmp_path / "notes.txt")
    assert_nothing_left(sets_folder)


@pytest.mark.parametrize("suffix", [".tar.gz", ".zip"])
def test_damaged_archive(suffix: str, make_set: MakeSet, sets_folder: Path) -> None:
    archive = pack(make_set(), suffix)
    whole = archive.read_bytes()
    broken = whole[: len(whole) * 2 // 3] if suffix == ".tar.gz" else whole[:60] + bytes(40) + whole[100:]
    archive.write_bytes(broken)
    with pytest.raises(DataError, match="expected an undamaged archive"):
        unpack("deeppcb", archive)
    assert_nothing_left(sets_folder)


@pytest.mark.parametrize("member", ["../outside.txt", "{tmp}/outside.txt", "a/../../outside.txt"])
def test_zip_member_that_climbs_out(member: str, make_set: MakeSet, sets_folder: Path, tmp_path: Path) -> None:
    archive = pack(make_set(), ".zip")
    with zipfile.ZipFile(archive, "a") as zipped:
        zipped.writestr(member.format(tmp=tmp_path), "bad")  # an absolute one: where the last check looks
    with pytest.raises(DataError, match="members that stay inside"):
        unpack("deeppcb", archive)
    assert not list(tmp_path.rglob("outside.txt"))
    assert_nothing_left(sets_folder)


@pytest.mark.parametrize("kind", ["path", "link"])
def test_tar_member_that_climbs_out(kind: str, make_set: MakeSet, sets_folder: Path, tmp_path: Path) -> None:
    archive = pack(make_set(), ".tar")
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("../outside.txt" if kind == "path" else "link")
        if kind == "link":
            info.type, info.linkname = tarfile.SYMTYPE, "../../outside.txt"
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DataError, match="members that stay inside"):
        unpack("deeppcb", archive)
    assert not list(tmp_path.rglob("outside.txt"))
    assert_nothing_left(sets_folder)


@pytest.mark.parametrize("change", ["other", "order", "fewer"])
def test_wrong_classes_name_both_lists(change: str, make_set: MakeSet, sets_folder: Path) -> None:
    right = packaged.class_names(packaged.load("deeppcb"))
    wrong = {"other": ["cat", "dog"], "order": right[::-1], "fewer": right[:5]}[change]
    with pytest.raises(DataError, match=f"expected classes {', '.join(right)} in this order, got {', '.join(wrong)}$"):
        unpack("deeppcb", pack(make_set(names=wrong), ".tar"))
    assert_nothing_left(sets_folder)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("data.yaml", "one data.yaml"),
        ("images/val", "images in images/val"),
        ("images/train", "images in images/train"),
        ("labels/val", "label files in labels/val"),
    ],
)
def test_missing_part_is_named(gone: str, message: str, make_set: MakeSet, sets_folder: Path) -> None:
    made = make_set()
    shutil.rmtree(made / gone) if (made / gone).is_dir() else (made / gone).unlink()
    with pytest.raises(DataError, match=message):
        unpack("deeppcb", pack(made, ".tar"))
    assert_nothing_left(sets_folder)


BAD_LINES = (
    "6 0.5 0.5 0.1 0.1",
    "-1 0.5 0.5 0.1 0.1",
    "0 0.5 0.5 0.1",
    "0 1.5 0.5 0.1 0.1",
    "0 nan 0.5 0.1 0.1",
    "a b c d e",
)


@pytest.mark.parametrize("line", BAD_LINES)
def test_label_that_does_not_fit_is_named(line: str, make_set: MakeSet, sets_folder: Path) -> None:
    made = make_set()
    (made / "labels" / "train" / "1.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(DataError, match=r"train/1\.txt line 2: expected a class from 0 to 5"):
        unpack("deeppcb", pack(made, ".tar"))
    assert_nothing_left(sets_folder)


def test_folder_in_use_is_refused_before_anything_is_read(make_set: MakeSet, sets_folder: Path) -> None:
    archive = pack(make_set(), ".tar")
    unpack("deeppcb", archive)
    before = files(sets_folder)
    with pytest.raises(DataError, match="a new or empty folder"):
        unpack("deeppcb", archive)
    assert files(sets_folder) == before


@pytest.mark.parametrize("members", [["."], ["./"], ["/"], ["a", "a/b"], ["a/b", "a"]], ids=str)
def test_members_without_a_name_or_in_anothers_place(members: list[str], tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as pack:
        for member in members:
            pack.writestr(member, "x")
    with pytest.raises(DataError):
        unpack("neu-det", tmp_path / "a.zip", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]
