"""Nets with and without a reference under conditions that do not suit them: which files, which numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ultralytics import YOLO

from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.errors import DataError
from ultra_dsmoe.evaluate import reference_robustness as measured
from ultra_dsmoe.evaluate.evaluation import ImageStats
from ultra_dsmoe.evaluate.reference_conditions import conditions
from ultra_dsmoe.evaluate.reference_robustness import OFF, ON, WITH, WITHOUT, Alarms, Line
from ultra_dsmoe.explain.plots.reference_robustness import draw


def stats(scores: list[float], right: list[bool], labels: int) -> ImageStats:
    """Return what a validation of one image saw."""
    tp = np.repeat(np.array(right)[:, None], 10, 1)
    return ImageStats(["a.png"], [tp], [np.array(scores)], [np.zeros(len(scores))], [np.zeros(labels)])


def test_boxes_are_counted_at_the_threshold_of_a_recall() -> None:
    """Four labels, three of them found, at .9, .7 and .3; what is wrong has no say."""
    seen = stats([0.9, 0.8, 0.7, 0.3], [True, False, True, True], 4)
    good = np.array([0.95, 0.75, 0.5, 0.1])
    assert measured._boxes_at(0.25, seen, good, images=2) == 0.5  # from .9 on
    assert measured._boxes_at(0.5, seen, good, images=2) == 1.0  # from .7 on
    assert measured._boxes_at(0.75, seen, good, images=2) == 1.5  # from .3 on
    assert measured._boxes_at(0.9, seen, good, images=2) is None  # never found


def test_tables_have_a_column_for_each_net_and_registration() -> None:
    """In points; the ratio is that of the boxes."""
    lines = [Line(conditions()[0], WITH, OFF, 0.5, 0.25), Line(conditions()[0], WITH, ON, 0.6, 0.3),
             Line(conditions()[0], WITHOUT, "", 0.4, 0.2)]  # fmt: skip
    assert measured.cells(lines) == [
        ["condition", "registration off", "registration on", "without reference"],
        ["as it is", "50.0 / 25.0", "60.0 / 30.0", "40.0 / 20.0"],
    ]
    assert measured.alarm_cells([Alarms(0.5, 1.0, 4.0), Alarms(0.9, 2.0, None)])[1:] == [
        ["0.5", "1.00", "4.00", "0.25"],
        ["0.9", "2.00", "", ""],
    ]
    assert measured.as_csv(lines).splitlines()[1] == "as it is,0.0,,with reference,none,0.5000,0.2500"


def test_a_picture_is_drawn_of_all_conditions() -> None:
    """Also where there is no net without a reference."""
    lines = [Line(c, WITH, align, 0.5, 0.3) for c in conditions() for align in (OFF, ON)]
    assert draw(lines, "net").startswith(b"\x89PNG")
    assert draw([*lines, *(Line(c, WITHOUT, "", 0.4, 0.2) for c in conditions())], "net") != draw(lines, "net")


@pytest.fixture(scope="module")
def boards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data YAML of a few boards with their known-good ones."""
    root = tmp_path_factory.mktemp("boards") / "set"
    return demo.generate(root, train=2, val=4, size=96, references=True)


def test_pairs_are_read_as_they_are_and_disturbed_ones_validated(boards: Path, tmp_path: Path) -> None:
    """Boards differ; a net with the row gets the references, another one does not miss them."""
    pairs, names = measured.read_pairs(str(boards), "val", 2)
    assert len(pairs) == 2
    assert names[0] == "missing_hole"
    assert pairs[0].group != pairs[1].group  # each board has a reference of its own
    assert all(pair.reference.shape == pair.piece.pixels.shape for pair in pairs)
    nets = {}
    for net, model in ((WITH, "yolov8n-ref.yaml"), (WITHOUT, "yolov8n.yaml")):
        nets[net] = tmp_path / f"{Path(model).stem}.pt"
        YOLO(model).save(nets[net])
    args = {"imgsz": 64, "device": "cpu", "plots": False, "workers": 0, "batch": 2}
    steps: list[str] = []
    measured.false_alarms(nets, pairs, names, args, steps.append)
    assert steps == ["false alarms, with reference", "false alarms, without"]
    few = [c for c in conditions() if c.kind in ("as it is", "no reference")]
    lines = measured.robustness(nets, pairs, names, args, steps.append, few)
    assert [(line.condition.name, line.net, line.align) for line in lines] == [
        (name, *net) for name in ("as it is", "no reference") for net in ((WITH, OFF), (WITHOUT, ""), (WITH, ON))
    ]


def test_a_set_without_references_is_refused(tiny_boards: Path) -> None:
    """In one line."""
    with pytest.raises(DataError, match="a data YAML with a 'reference' section"):
        measured.read_pairs(str(tiny_boards), "val")
