"""A user's word is followed anywhere, a checkpoint's to files that are here: nothing is fetched, no code is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics.data.utils import check_det_dataset

from ultra_dsmoe.data.source import DataSource, split_places
from ultra_dsmoe.errors import DataError


def test_the_users_word_comes_first_and_is_taken_as_it_is(tiny_boards: Path) -> None:
    assert DataSource.choose("https://x/y.yaml", [str(tiny_boards)]) == DataSource("https://x/y.yaml", named=True)
    DataSource("https://x/y.yaml", named=True).require_local("val")  # whatever it says


def test_a_checkpoints_word_must_be_a_yaml_file_on_this_disk(tiny_boards: Path, tmp_path: Path) -> None:
    (tmp_path / "set.zip").touch()
    (tmp_path / "folder.yaml").mkdir()
    far = ["https://x/y.yaml", "ul://a/b/c.yaml", "coco8.yaml", "neu-det", str(tmp_path / "gone.yaml"), 7, None, {}]
    far += [str(tmp_path), str(tmp_path / "set.zip"), str(tmp_path / "folder.yaml"), [str(tiny_boards)]]
    assert DataSource.choose(None, far) is None
    assert DataSource.choose("", [*far, str(tiny_boards)]) == DataSource(str(tiny_boards), named=False)


def test_a_network_share_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking there already tells another machine who asks."""
    asked: list[str] = []
    monkeypatch.setattr(Path, "is_file", lambda self: asked.append(str(self)) or True)
    assert DataSource.choose(None, [r"\\host\share\d.yaml", "//host/share/d.yaml"]) is None
    assert asked == []


@pytest.mark.parametrize(
    ("content", "made"),
    [
        ("train: t\nval: v", ["v"]),
        ("path: .\ntrain: t\nval: [v, w]", ["v", "w"]),
        ("train: t\nval: ../v", ["v"]),  # the host's reading of lists that were made for another folder
        ("train: t\nvalidation: v", ["v"]),
    ],
)
def test_places_are_those_of_the_host(
    content: str, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (*made, "t"):
        (tmp_path / name).mkdir()
    file = tmp_path / "d.yaml"
    file.write_text(f"{content}\nnames: [a]\n")
    theirs = check_det_dataset(str(file))["val"]
    assert [str(p) for p in split_places(file, "val")] == (theirs if isinstance(theirs, list) else [theirs])
    assert split_places(file, "test") == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "on this disk"),
        ("- a\n- b", "table|that can be read"),
        ("a: [", "a data YAML with images that can be read"),
        ("val: 3\npath: .", "paths as text"),
        ("val: [v, 1]", "paths as text"),
        ("val: v\npath: 5", "a path as text"),
    ],
)
def test_what_is_no_data_yaml_is_one_line(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "d.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        split_places(file, "val")
    assert "\n" not in str(caught.value)


def test_remembered_images_must_be_here(tmp_path: Path) -> None:
    """The host would look for the validation half as well, and run the YAML's code where it is missing."""
    (tmp_path / "test").mkdir()
    file = tmp_path / "d.yaml"
    file.write_text("train: t\nval: gone\ntest: test\nnames: [a]\ndownload: raise SystemExit\n")
    source = DataSource.choose(None, [str(file)])
    assert source is not None
    with pytest.raises(DataError, match=r"^data: expected the images of its 'val' split here, .*gone missing$"):
        source.require_local("test")
    (tmp_path / "gone").mkdir()
    source.require_local("test")
