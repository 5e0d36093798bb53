"""The packaged data YAMLs: complete, consistent, and one clear line when images are missing."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.boards.defects import CLASSES
from ultra_dsmoe.errors import DataError

NAMES = sorted(packaged.COMMANDS)
FETCHED = [n for n in NAMES if n != "pcb-demo"]


@pytest.fixture(params=NAMES)
def packaged_set(request: pytest.FixtureRequest) -> SimpleNamespace:
    return SimpleNamespace(name=request.param, data=packaged.load(request.param))


def leaves_and_parents(taxonomy: Any) -> tuple[list[str], list[str]]:
    """Return all children and all parents of a taxonomy of nested mappings and lists."""
    children, parents = [], []
    if isinstance(taxonomy, str):
        return [taxonomy], []
    for key, value in taxonomy.items():
        parents.append(key)
        for child in value if isinstance(value, list) else [value]:
            below, above = leaves_and_parents(child)
            children += below
            parents += above
    return children, parents


def test_folder_and_table_name_the_same_sets() -> None:
    assert sorted(f.stem for f in packaged.yaml_folder().glob("*.yaml")) == NAMES


def test_yaml_is_a_data_yaml_with_a_relative_folder(packaged_set: SimpleNamespace) -> None:
    data = packaged_set.data
    assert not Path(data["path"]).is_absolute()
    assert data["train"] == "images/train"
    assert data["val"] == "images/val"
    assert packaged.class_names(data) == list(data["names"].values())


def test_yaml_beside_the_images_forgets_nothing(packaged_set: SimpleNamespace) -> None:
    data = {**packaged_set.data, "flip_idx": [0, 1], "remark": "Blech 3 \u00b5m"}  # keys that nobody thought of
    text = packaged.yaml_beside(data, {"train": "a", "val": "b"}, "from here")
    assert text.startswith("# from here\n")
    told = {k: v for k, v in data.items() if k not in ("path", "train", "val", "test", "download")}
    assert yaml.safe_load(text) == {"train": "a", "val": "b", **told}


def test_every_class_has_two_to_four_different_prompts(packaged_set: SimpleNamespace) -> None:
    prompts, names = packaged_set.data["prompts"], packaged.class_names(packaged_set.data)
    assert list(prompts) == names
    assert all(2 <= len(lines) <= 4 for lines in prompts.values())
    lines = [line for several in prompts.values() for line in several]
    assert all(isinstance(line, str) and len(line.split()) >= 6 for line in lines)
    assert len(set(lines)) == len(lines)


def test_taxonomy_is_a_forest_over_all_classes(packaged_set: SimpleNamespace) -> None:
    names = packaged.class_names(packaged_set.data)
    children, parents = leaves_and_parents(packaged_set.data["taxonomy"])
    assert len(set(children)) == len(children)  # one parent each
    assert set(children) - set(parents) == set(names)
    assert not set(parents) & set(names)
    mapping = packaged_set.data["taxonomy"]
    for start in mapping:  # no parent is below itself
        below, rank = [start], 0
        while below:
            below = [c for b in below for c in mapping.get(b, []) if isinstance(c, str)]
            rank += 1
            assert rank <= len(mapping)


def test_text_side_accepts_prompts_and_taxonomy(packaged_set: SimpleNamespace) -> None:
    from ultra_dsmoe.text.prompts import class_prompts
    from ultra_dsmoe.text.taxonomy import Taxonomy

    data = packaged_set.data
    for given, used in zip(data["prompts"].values(), class_prompts(data["names"], data["prompts"]), strict=True):
        assert len(used) == len(given)
        assert all(g in u for g, u in zip(given, used, strict=True))  # the text side may put a lead before them
    taxonomy = Taxonomy.parse(packaged.class_names(data), data["taxonomy"])
    assert taxonomy.nodes[: len(data["names"])] == packaged.class_names(data)


def test_comments_tell_origin_licence_and_how_to_get(packaged_set: SimpleNamespace) -> None:
    text = (packaged.yaml_folder() / f"{packaged_set.name}.yaml").read_text(encoding="utf-8")
    assert "# Origin:" in text
    assert "Licence:" in text
    readme = (packaged.yaml_folder() / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| `{packaged_set.name}` |"))
    assert f"| {len(packaged_set.data['names'])} |" in row
    if packaged_set.name in FETCHED:
        assert packaged.COMMANDS[packaged_set.name] in row


def test_demo_classes_are_those_that_are_drawn() -> None:
    assert packaged.class_names(packaged.load("pcb-demo")) == list(CLASSES)


def test_demo_counts_in_comments_are_those_of_the_generator() -> None:
    from ultra_dsmoe.data.boards import demo

    text = (packaged.yaml_folder() / "pcb-demo.yaml").read_text(encoding="utf-8")
    assert re.findall(r"images/\w+ # (\d+) boards", text) == [str(demo.TRAIN), str(demo.VAL)]


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "archive"), [("deeppcb", "DeepPCB-mini"), ("neu-det", "NEU-DET-mini")])
def test_names_are_those_of_the_archive(name: str, archive: str, shared_data: Any) -> None:
    own = yaml.safe_load(shared_data(archive).read_text())
    assert packaged.class_names(packaged.load(name)) == packaged.class_names(own)


# errors


def test_unknown_set_suggests_a_near_name() -> None:
    with pytest.raises(DataError, match=r"did you mean 'neu-det'\?"):
        packaged.load("neudet")


@pytest.mark.parametrize("names", [None, {0: "a", 2: "b"}, "a"])
def test_class_names_refuses_gaps_and_other_types(names: object) -> None:
    with pytest.raises(DataError, match=r"^names: expected (a mapping of index to class name|indices 0 to 1)"):
        packaged.class_names({"names": names})


@pytest.mark.parametrize("name", FETCHED)
def test_missing_images_give_one_line_with_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host runs the ``download`` line, whichever version it is, and ours says what to do."""
    from ultralytics.data.utils import check_det_dataset

    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        check_det_dataset(str(packaged.yaml_folder() / f"{name}.yaml"))
    message = str(caught.value)
    assert message.startswith(f"{name}: expected images in ")
    assert str(packaged.images_root(name) / "images" / "val") in message
    assert packaged.COMMANDS[name] in message
    assert "\n" not in message


def test_demo_is_generated_by_the_host_when_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.data.utils import check_det_dataset

    from ultra_dsmoe.data.boards import demo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ultralytics.data.utils.DATASETS_DIR", tmp_path / "sets")
    monkeypatch.setattr(demo.generate, "__defaults__", (2, 1, 42, 96, None, False))
    file = str(packaged.yaml_folder() / "pcb-demo.yaml")
    data = check_det_dataset(file)
    assert Path(data["val"]) == tmp_path / "sets" / "pcb-demo" / "images" / "val"
    assert len(list(Path(data["val"]).iterdir())) == 1
    before = {f: f.stat().st_mtime_ns for f in Path(data["path"]).rglob("*")}
    check_det_dataset(file)  # now it is there: nothing is drawn again
    assert {f: f.stat().st_mtime_ns for f in Path(data["path"]).rglob("*")} == before
