"""The generated boards: exact boxes, the topology of each class, determinism, and writing that is all or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from ultra_dsmoe.data import packaged
from ultra_dsmoe.data.boards import demo
from ultra_dsmoe.data.boards.defects import CLASSES, MAX_SIDE, MIN_SIDE, Defect
from ultra_dsmoe.data.boards.demo import Board, draw_board, generate
from ultra_dsmoe.errors import DataError

BOARDS = 12
MARGIN = 64  # around a defect, enough to see which conductors it touches


@pytest.fixture(scope="module")
def boards() -> list[Board]:
    return [draw_board(i, seed=3) for i in range(BOARDS)]


def conductors(copper: np.ndarray) -> int:
    return cv2.connectedComponents(copper, connectivity=8)[0] - 1


def crops(board: Board, defect: Defect) -> tuple[np.ndarray, np.ndarray]:
    """Return the copper around a defect: sound, and with this defect alone."""
    x0, y0, x1, y1 = defect.box_xyxy_px
    one = board.sound.copy()
    one[y0:y1, x0:x1] = board.copper[y0:y1, x0:x1]
    area = np.s_[max(0, y0 - MARGIN) : y1 + MARGIN, max(0, x0 - MARGIN) : x1 + MARGIN]
    return board.sound[area], one[area]


# shape


def test_boards_are_images_of_the_asked_size_and_of_both_kinds(boards: list[Board]) -> None:
    assert {b.image.shape for b in boards} == {(640, 640), (640, 640, 3)}
    assert all(b.image.dtype == np.uint8 and b.image.std() > 8 for b in boards)


def test_counts_follow_the_plan(boards: list[Board]) -> None:
    assert [i for i, b in enumerate(boards) if not b.defects] == [9]
    assert all(1 <= len(b.defects) <= max(demo.COUNTS) for i, b in enumerate(boards) if i != 9)
    assert {CLASSES[d.kind] for b in boards for d in b.defects} == set(CLASSES)


# value


def test_boxes_hold_the_changed_copper_tightly_and_nothing_changes_elsewhere(boards: list[Board]) -> None:
    for board in boards:
        changed = board.sound != board.copper
        for defect in board.defects:
            x0, y0, x1, y1 = defect.box_xyxy_px
            inside = changed[y0:y1, x0:x1]
            assert inside[0].any()
            assert inside[-1].any()
            assert inside[:, 0].any()
            assert inside[:, -1].any()
            changed[y0:y1, x0:x1] = False
        assert not changed.any()


def test_sides_are_in_range_and_mostly_large_enough_to_see(boards: list[Board]) -> None:
    boxes = np.array([d.box_xyxy_px for b in boards for d in b.defects])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert sides.min() >= MIN_SIDE
    assert sides.max() <= MAX_SIDE
    assert (sides.max(1) >= 14).mean() > 0.95


def test_added_or_removed_copper_fits_the_class(boards: list[Board]) -> None:
    removes = {"mouse_bite", "open_circuit"}
    for board in boards:
        for defect in board.defects:
            before, after = crops(board, defect)
            growth = int(after.sum()) - int(before.sum())
            assert (growth < 0) == (CLASSES[defect.kind] in removes), CLASSES[defect.kind]


def test_topology_of_each_class(boards: list[Board]) -> None:
    expected = {"mouse_bite": 0, "open_circuit": 1, "short": -1, "spur": 0, "spurious_copper": 1, "missing_hole": 0}
    seen = Counter[str]()
    for board in boards:
        for defect in board.defects:
            before, after = crops(board, defect)
            name = CLASSES[defect.kind]
            # The crop may cut a conductor that is whole outside of it, never join two: compare counts of one crop.
            assert conductors(after) - conductors(before) == expected[name], name
            seen[name] += 1
    assert set(seen) == set(CLASSES)


def test_missing_hole_fills_a_hole_and_leaves_one_piece_without_it(boards: list[Board]) -> None:
    for board in boards:
        for x0, y0, x1, y1 in (d.box_xyxy_px for d in board.defects if CLASSES[d.kind] == "missing_hole"):
            centre = (y0 + y1) // 2, (x0 + x1) // 2
            assert not board.sound[centre]
            assert board.copper[centre]
            assert abs((x1 - x0) - (y1 - y0)) <= 1  # drills are round


def test_defects_show_in_the_photograph() -> None:
    """Where the copper differs the picture differs by more than its noise, and far from it it is the same board."""
    from ultra_dsmoe.data.boards.layout import lay_out
    from ultra_dsmoe.data.boards.render import photograph

    for index in range(6):
        layout = lay_out(np.random.default_rng(index), 320)
        copper = layout.copper.copy()
        solid = (cv2.erode(copper, np.ones((5, 5))) > 0) & (layout.silk == 0)
        y, x = (int(v) + 20 for v in np.argwhere(solid[20:-20, 20:-20])[0])
        copper[y - 2 : y + 3, x - 2 : x + 3] = 0
        sound = photograph(np.random.default_rng(9), layout, layout.copper).astype(int)
        broken = photograph(np.random.default_rng(9), layout, copper).astype(int)
        difference = np.abs(sound - broken).reshape(320, 320, -1).max(2)
        assert difference[y - 1 : y + 2, x - 1 : x + 2].mean() > 20
        difference[max(0, y - 12) : y + 13, max(0, x - 12) : x + 13] = 0
        assert difference.max() <= 1


def test_label_lines_by_hand() -> None:
    board = Board(np.zeros((100, 100)), np.zeros((100, 100)), np.zeros((100, 100)), [Defect(3, (10, 20, 30, 60))])
    assert board.label_lines() == ["3 0.20000000 0.40000000 0.20000000 0.40000000"]


# limits


def test_smallest_set_has_every_class(tiny_boards: Path) -> None:
    lines = [line for f in tiny_boards.parent.glob("labels/*/*.txt") for line in f.read_text().splitlines()]
    assert {int(line.split()[0]) for line in lines} == set(range(len(CLASSES)))
    image = cv2.imread(str(next(tiny_boards.parent.glob("images/val/*.jpg"))))
    assert image.shape == (96, 96, 3)


@pytest.mark.parametrize(
    "argument", [{"train": 0}, {"val": -1}, {"size": 64}, {"seed": -1}, {"train": 2.5}, {"val": True}]
)
def test_numbers_out_of_range_name_the_argument(argument: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{next(iter(argument))}: expected a (whole number|positive integer)"):
        generate(tmp_path / "set", **{"train": 1, "val": 1, **argument})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="a new or empty folder"):
        generate(tmp_path / "set", 1, 1, size=96)
    assert [f.name for f in tmp_path.rglob("*")] == ["set", "mine.txt"]


# determinism


def test_same_seed_same_board_other_seed_split_or_index_another() -> None:
    first, again = draw_board(4, seed=7, size=320), draw_board(4, seed=7, size=320)
    np.testing.assert_array_equal(first.image, again.image)
    assert first.label_lines() == again.label_lines()
    for other in (
        draw_board(4, seed=8, size=320),
        draw_board(5, seed=7, size=320),
        draw_board(4, seed=7, size=320, split="val"),
    ):
        assert (other.sound != first.sound).mean() > 0.02


def test_another_process_writes_the_same_bytes_and_a_larger_set_contains_a_smaller(tmp_path: Path) -> None:
    generate(tmp_path / "here", 3, 1, seed=5, size=128)
    code = (
        f"from ultra_dsmoe.data.boards.demo import generate; generate(r'{tmp_path / 'there'}', 4, 2, seed=5, size=128)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONHASHSEED": "77", "PATH": ""}, timeout=120)
    here = {f.relative_to(tmp_path / "here"): f.read_bytes() for f in (tmp_path / "here").glob("*/*/*")}
    there = {f.relative_to(tmp_path / "there"): f.read_bytes() for f in (tmp_path / "there").glob("*/*/*")}
    assert len(here) == 8
    assert len(there) == 12
    assert here.items() <= there.items()


# round trip


def test_written_set_reads_back(tmp_path: Path) -> None:
    file = generate(tmp_path / "set", 2, 1, seed=1, size=160)
    data = yaml.safe_load(file.read_text())
    assert [data["names"][i] for i in range(6)] == list(CLASSES)
    ours = packaged.load("pcb-demo")
    place = {"path", "train", "val", "download"}
    assert {k: v for k, v in data.items() if k not in place} == {k: v for k, v in ours.items() if k not in place}
    assert "path" not in data  # the folder of the file is used, so the set can be moved
    for split, count in (("train", 2), ("val", 1)):
        images = sorted((file.parent / data[split]).iterdir())
        assert len(images) == count
        for i, image in enumerate(images):
            board = draw_board(i, split=split, seed=1, size=160)
            label = file.parent / "labels" / split / f"{image.stem}.txt"
            assert label.read_text().splitlines() == board.label_lines()
            pixels = cv2.imread(str(image), cv2.IMREAD_UNCHANGED).astype(int)
            assert np.abs(pixels - board.image).mean() < 8  # JPEG
    assert [f.name for f in tmp_path.iterdir()] == ["set"]


def test_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = demo.draw_board, []

    def stop_at_third(index: int, **keywords: object) -> Board:
        calls.append(index)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(index, **keywords)

    monkeypatch.setattr(demo, "draw_board", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path / "set", 4, 1, size=96)
    assert not list(tmp_path.iterdir())


def test_killed_generation_leaves_no_set(tmp_path: Path) -> None:
    """A process that dies without clean-up leaves a partial folder under another name, and a second try succeeds."""
    code = f"""
import os
from ultra_dsmoe.data.boards import demo
real = demo.draw_board
demo.draw_board = lambda i, **k: os._exit(9) if i == 2 else real(i, **k)
demo.generate(r"{tmp_path / "set"}", 4, 1, size=96)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 9
    assert not (tmp_path / "set").exists()
    assert generate(tmp_path / "set", 1, 1, size=96).is_file()


def test_the_faster_of_two_processes_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = demo._write_yaml

    def other_finishes_first(file: Path, name: str, call: str) -> None:
        real(file, name, call)
        monkeypatch.setattr(demo, "_write_yaml", real)
        generate(tmp_path / "set", 2, 1, size=96)

    monkeypatch.setattr(demo, "_write_yaml", other_finishes_first)
    assert generate(tmp_path / "set", 1, 1, size=96).is_file()
    assert len(list((tmp_path / "set" / "images" / "train").iterdir())) == 2
    assert [f.name for f in tmp_path.iterdir()] == ["set"]
