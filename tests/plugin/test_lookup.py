"""YAMLs by bare name; a file of the user's wins."""

from __future__ import annotations

from pathlib import Path

import pytest
from ultralytics.nn import tasks
from ultralytics.utils import YAML, checks

from ultra_dsmoe.plugin import lookup

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def local(path: str, text: str = "nc: 1\nbackbone: []\nhead: []\nmine: true\n") -> None:
    Path(path).parent.mkdir(exist_ok=True, parents=True)
    Path(path).write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("asked", "file", "scale"),
    [
        ("dsmoe.yaml", "dsmoe.yaml", ""),
        ("dsmoe-n.yaml", "dsmoe-conv.yaml", "n"),
        ("dsmoen.yaml", "dsmoe-conv.yaml", "n"),
        ("dsmoe-s.yaml", "dsmoe-conv.yaml", "s"),
        ("dsmoem.yaml", "dsmoe-conv.yaml", "m"),
        ("dsmoe-p2.yaml", "dsmoe-p2.yaml", ""),
        ("yolov8-dsmoe.yaml", "yolov8-dsmoe.yaml", ""),
        ("yolov8n-dsmoe.yaml", "yolov8-dsmoe.yaml", "n"),
        ("yolov8s-dsmoe.yaml", "yolov8-dsmoe.yaml", "s"),
        ("yolo26s-dsmoe.yaml", "yolo26-dsmoe.yaml", "s"),
        ("tmodel.yaml", "tmodel.yaml", ""),
        ("tmodel-n.yaml", "tmodel.yaml", "n"),
        ("smodels.yaml", "smodel.yaml", "s"),
        ("gasnet-n.yaml", "gasnet.yaml", "n"),
        ("gasnets.yaml", "gasnet.yaml", "s"),
        ("yolov8n-gasnet.yaml", "yolov8-gasnet.yaml", "n"),
        ("yolo26x-gasnet.yaml", "yolo26-gasnet.yaml", "x"),
        ("dsmoe-n-ref.yaml", "dsmoe-ref.yaml", "n"),
        ("dsmoes-ref.yaml", "dsmoe-ref.yaml", "s"),
        ("dsmoe-ref.yaml", "dsmoe-ref.yaml", ""),
        ("yolo11s-ref.yaml", "yolo11-ref.yaml", "s"),
    ],
)
def test_models_by_name_from_an_empty_folder(asked: str, file: str, scale: str) -> None:
    d = tasks.yaml_model_load(asked)
    assert d["scale"] == scale
    assert d["yaml_file"] == asked
    assert d["backbone"] == YAML.load(ROOT / "cfg" / "models" / file)["backbone"]


@pytest.mark.parametrize("scale", list("nslmx"))
def test_stock_names_keep_their_scale(scale: str) -> None:
    assert tasks.guess_model_scale(f"yolo11{scale}.yaml") == scale
    assert tasks.yaml_model_load(f"yolo11{scale}.yaml")["scale"] == scale


@pytest.mark.parametrize(
    "name",
    ["dsmoe-nn", "dsmoe-p2", "dsmoe", "my-dsmoe-n", "dsmoe-next", "dsmoes2", "tmodel", "xmodel-n", "dsmoe-n-refs"],
)
def test_other_names_have_no_scale(name: str) -> None:
    assert tasks.guess_model_scale(f"{name}.yaml") == ""


def test_every_packaged_file_is_found_by_name() -> None:
    files = [p for folder in lookup.FOLDERS for p in (ROOT / folder).rglob("*.yaml")]
    assert len(files) > 5
    models = {p.name for p in (ROOT / "cfg" / "models").rglob("*.yaml")}
    for path in files:
        if path.parent.name == "train":
            assert Path(checks.check_yaml(f"train/{path.name}")).read_bytes() == path.read_bytes()
            if path.name in models:  # the bare name is the net's
                continue
        assert Path(checks.check_yaml(path.name)).read_bytes() == path.read_bytes()


def test_recipes_and_nets_of_one_name() -> None:
    net, recipe = (YAML.load(checks.check_yaml(name)) for name in ("tmodel.yaml", "train/tmodel.yaml"))
    assert "backbone" in net
    assert recipe["optimizer"] == "Adam"
    local("train/tmodel.yaml")
    assert YAML.load(checks.check_yaml("train/tmodel.yaml"))["mine"] is True
    with pytest.raises(FileNotFoundError, match="does not exist"):
        checks.check_yaml("train/dsmoe-n.yaml")


def test_no_packaged_name_hides_a_file_of_the_host() -> None:
    stock = {p.name for p in (Path(checks.ROOT) / "cfg").rglob("*.yaml")}
    ours = {p.name for folder in lookup.FOLDERS for p in (ROOT / folder).rglob("*.yaml")}
    assert not stock & ours


@pytest.mark.parametrize("mine", ["dsmoe-n.yaml", "dsmoen.yaml", "dsmoe-conv.yaml"])
@pytest.mark.parametrize("asked", ["dsmoe-n.yaml", "dsmoen.yaml"])
def test_the_users_family_file_wins(mine: str, asked: str) -> None:
    local(mine)
    d = tasks.yaml_model_load(asked)
    assert d["mine"] is True
    assert d["scale"] == "n"


def test_the_users_tmodel_wins() -> None:
    local("tmodel.yaml")
    d = tasks.yaml_model_load("tmodel-n.yaml")
    assert d["mine"] is True
    assert d["scale"] == "n"
    assert "mine" not in tasks.yaml_model_load("smodel-n.yaml")


def test_the_nearest_spelling_wins_among_the_users_own() -> None:
    local("dsmoe-conv.yaml", "family: 1\n")
    local("dsmoe-n.yaml", "own: 1\n")
    assert "own" in tasks.yaml_model_load("dsmoe-n.yaml")
    assert "own" in tasks.yaml_model_load("dsmoen.yaml")
    assert "family" in tasks.yaml_model_load("dsmoe-s.yaml")


def test_the_users_dsmoe_is_another_model() -> None:
    local("dsmoe.yaml")
    assert tasks.yaml_model_load("dsmoe.yaml")["mine"] is True
    assert "mine" not in tasks.yaml_model_load("dsmoe-n.yaml")


def test_a_named_folder_is_the_users() -> None:
    local("my/dsmoe-conv.yaml")
    assert tasks.yaml_model_load("my/dsmoe-m.yaml")["mine"] is True
    for missing in ("my/dsmoe.yaml", "my/dsmoe-p2.yaml", "other/dsmoe-n.yaml"):
        with pytest.raises(FileNotFoundError, match="does not exist"):
            checks.check_yaml(missing)


@pytest.mark.parametrize("mine", ["yolov8s-dsmoe.yaml", "yolov8-dsmoe.yaml"])
def test_the_users_stock_backbone_file_wins(mine: str) -> None:
    """Older hosts ask for the name without the letter first."""
    local(mine)
    d = tasks.yaml_model_load("yolov8s-dsmoe.yaml")
    assert d["mine"] is True
    assert d["scale"] == "s"


def test_data_and_stock_files() -> None:
    assert YAML.load(checks.check_yaml("deeppcb.yaml"))["names"]
    assert Path(checks.check_yaml("coco8.yaml")).parent.name == "datasets"
    local("deeppcb.yaml")
    assert YAML.load(checks.check_yaml("deeppcb.yaml"))["mine"] is True
    with pytest.raises(FileNotFoundError):
        checks.check_yaml("no-such-thing.yaml")
    assert checks.check_file("no-such-thing.yaml", hard=False) == []


def test_by_name_imports_of_the_host_are_ours_too() -> None:
    from ultralytics.data import utils
    from ultralytics.engine import model

    assert utils.check_file is checks.check_file
    assert model.yaml_model_load is tasks.yaml_model_load
