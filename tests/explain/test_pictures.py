"""``dsmoe-yolo pictures``: all pictures and tables from one pass, parts left out with a note, one-line errors."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe import cli, commands
from ultra_dsmoe.errors import ConfigError, TextError, WeightsError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.explain import pictures
from ultra_dsmoe.explain import routing_map as routing
from ultra_dsmoe.explain.record import blocks
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.text import Taxonomy

ROUTING = ["routing_images.csv", "routing_map.csv", "routing_map.png"]
SIZES = ["routing_sizes.csv", "routing_sizes.png"]
ATTENTION = ["attention.csv", "attention.png"]
DISK = ["poincare_disk.csv", "poincare_disk.png", "poincare_distances.csv"]


def written(folder: Any) -> Any:
    """Return the files in a folder, those of the attention's images, which are named by image, as one."""
    return sorted({re.sub("attention_.*[.]png", "attention.png", p.name) for p in folder.iterdir()})


@pytest.fixture
def content(tiny_boards: Path) -> Any:
    return yaml.safe_load(tiny_boards.read_text())


def test_one_command_draws_everything(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    monkeypatch.setattr(Evaluation, "run", lambda self, *a, run=Evaluation.run: passes.append(0) or run(self, *a))
    out = tmp_path / "pictures"
    words = ["dsmoe-yolo", "pictures", str(checkpoint), "device=cpu", f"out={out}", "shuffles=20"]
    monkeypatch.setattr(sys, "argv", words)
    assert cli.main() == 0
    assert len(passes) == 1
    assert written(out) == sorted(ROUTING + SIZES + DISK + ATTENTION)
    for name in (*ROUTING, *SIZES, *DISK):
        if name.endswith(".png"):
            assert min(cv2.imread(str(out / name)).shape[:2]) > 500
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        *("gate", "sizes"),
        *["disk"] * 2,
        "attention",
        "bands",
        *["written"] * 12,
    ]
    # The same routes as from the command of their own, to the last digit.
    assert (
        commands.routing.COMMAND.main([str(checkpoint), "device=cpu", f"out={tmp_path / 'alone'}", "shuffles=20"]) == 0
    )
    for name in ROUTING:
        assert (out / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_titles_of_several_gates_name_their_row(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture says what it was made from; with two gates also which of them."""
    titles = []
    for module in (routing, pictures.routing_sizes):
        monkeypatch.setattr(module, "draw", lambda found, title: titles.append(title) or b"")
    evaluation = Evaluation({"model": str(checkpoint)})
    maps, files = routing.collect(evaluation, shuffles=1)
    sizes = pictures.label_sizes(evaluation.args, check_det_dataset(evaluation.args["data"]), files)
    two = {"_row17": maps[""], "_row21": maps[""]}
    routing.routing_files(two, files, evaluation)
    pictures.size_files(two, sizes, evaluation, 1, 0)
    pictures.size_files(maps, sizes, evaluation, 1, 0)
    of = f"({checkpoint.name}, {len(files)} images"
    ends = [title[title.index("(") :] for title in titles]
    assert ends == [f"{of}, row17)", f"{of}, row21)"] * 2 + [f"{of})"]


def test_tables_hold_the_numbers(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    commands.pictures.COMMAND.main([str(checkpoint), "device=cpu", f"out={out}", "shuffles=20"])
    rows = list(csv.DictReader((out / "routing_sizes.csv").open()))
    assert len(rows) % 32 == 0
    first = rows[::32]
    images = list(csv.DictReader((out / "routing_images.csv").open()))
    labels = [np.loadtxt(r["image"].replace("images", "labels").rsplit(".", 1)[0] + ".txt", ndmin=2) for r in images]
    sizes = np.concatenate([np.sqrt(label[:, 3] * label[:, 4]) * 64 for label in labels])  # square, read at 64 px
    assert sum(int(r["defects"]) for r in first) == len(sizes)
    assert float(first[0]["from_px"]) == pytest.approx(sizes.min(), abs=0.006)
    assert float(first[-1]["to_px"]) == pytest.approx(sizes.max(), abs=0.006)
    for row in first:  # each image goes to five experts, and so does each defect
        mine = [r for r in rows if r["size_class"] == row["size_class"]]
        assert sum(float(r["chosen_share"]) for r in mine) == pytest.approx(5, abs=1e-3)
        assert sum(float(r["mean_weight"]) for r in mine) == pytest.approx(1, abs=1e-3)
    nodes = list(csv.DictReader((out / "poincare_disk.csv").open()))
    assert [n["name"] for n in nodes] == [str(i) for i in range(6)]  # the names of a net built without a data set
    radius = np.hypot([float(n["x"]) for n in nodes], [float(n["y"]) for n in nodes])
    np.testing.assert_allclose(2 * np.arctanh(radius), [float(n["centre_distance"]) for n in nodes], atol=1e-3)
    pairs = list(csv.DictReader((out / "poincare_distances.csv").open()))
    assert len(pairs) == 6 * 5 // 2
    assert all(float(p["ball"]) > 0 for p in pairs)


def test_disk_follows_taxonomy_of_net_and_yaml(checkpoint: Path, content: dict[str, Any]) -> None:
    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu"})
    taxonomy = Taxonomy.parse(content["names"], content["taxonomy"])
    made, notes = pictures.disk_files(evaluation, taxonomy, seed=0)  # the fixture's net was trained without
    assert notes[0].startswith("disk: the data YAML's taxonomy is not the model's")
    assert b"group" not in made["poincare_disk.csv"]
    evaluation.net.set_taxonomy(taxonomy)
    evaluation.names = list(content["names"].values())
    made, notes = pictures.disk_files(evaluation, taxonomy, seed=0)
    assert sorted(made) == DISK
    assert len(notes) == 1
    rows = {r["name"]: r for r in csv.DictReader(made["poincare_disk.csv"].decode().splitlines())}
    assert rows["spur"]["parent"] == "excess copper"
    assert (rows["excess copper"]["kind"], rows["excess copper"]["parent"]) == ("group", "copper pattern fault")
    made, notes = pictures.disk_files(evaluation, None, seed=0)
    assert b"group" not in made["poincare_disk.csv"]
    assert "No taxonomy: classes alone." in notes[0]


def test_without_hyperbolic_part_the_disk_is_left_out(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Flat(Evaluation):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            for fusion in blocks(self.net, HyperbolicFusion):
                fusion.hyperbolic = False

    monkeypatch.setattr("ultra_dsmoe.commands.opening.Evaluation", Flat)
    out = tmp_path / "pictures"
    assert commands.pictures.COMMAND.main([str(checkpoint), "device=cpu", f"out={out}", "shuffles=20"]) == 0
    assert written(out) == sorted(ROUTING + SIZES + ATTENTION)
    assert "disk: left out, the model compares nothing by hyperbolic distance\n" in capsys.readouterr().out


def test_bad_input_is_one_line_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, content: dict[str, Any], tiny_boards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert commands.pictures.COMMAND.main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: dsmoe-yolo pictures MODEL")
    out = tmp_path / "pictures"
    with pytest.raises(ConfigError, match=r"shufles: expected .*did you mean 'shuffles'"):
        commands.pictures.COMMAND.main(["best.pt", "shufles=3"])
    with pytest.raises(ConfigError, match="shuffles: expected a whole number from 20"):
        commands.pictures.COMMAND.main([str(checkpoint), f"out={out}", "shuffles=3"])
    net = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    torch.save({"model": net, "ema": None, "epoch": -1, "train_args": {"task": "detect"}}, tmp_path / "stock.pt")
    with pytest.raises(
        WeightsError, match="a checkpoint of a network with experts, hyperbolic distances, attention or bands, got"
    ):
        commands.pictures.COMMAND.main([str(tmp_path / "stock.pt"), "device=cpu", f"data={tiny_boards}"])
    content.update(path=str(tiny_boards.parent), taxonomy={"marks": ["spurr"]})
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        TextError, match="taxonomy: expected leaves that are classes of this data set, got 'spurr'"
    ) as e:
        commands.pictures.COMMAND.main([str(checkpoint), "device=cpu", f"out={out}", f"data={tmp_path / 'bad.yaml'}"])
    assert "\n" not in str(e.value)
    assert not out.exists()
