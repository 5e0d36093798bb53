"""Files of a run: flaws are told, places are taken in one step, results keep one row per epoch."""

from __future__ import annotations

import random
import zipfile
from pathlib import Path

import pytest
import torch

from ultra_dsmoe.train.generations import SIDE, beside, flaw, forget_epochs, keep


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Return a small archive as torch writes it."""
    torch.save({"weights": torch.rand(50, 40), "epoch": 3}, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def test_what_was_written_has_no_flaw(checkpoint: Path) -> None:
    assert flaw(checkpoint) is None


def test_every_flipped_bit_that_means_something_is_noticed(checkpoint: Path) -> None:
    weights = torch.load(checkpoint)["weights"]
    whole, choose = checkpoint.read_bytes(), random.Random(0)
    with zipfile.ZipFile(checkpoint) as archive:
        records = [whole.index(archive.read(record)) for record in archive.infolist()]
    for place in (*records, *(choose.randrange(len(whole)) for _ in range(40))):
        changed = bytearray(whole)
        changed[place] ^= 1 << choose.randrange(8)
        checkpoint.write_bytes(changed)
        noticed = flaw(checkpoint)
        assert noticed or (place not in records and torch.equal(torch.load(checkpoint)["weights"], weights)), place


@pytest.mark.parametrize(
    ("share", "expected"), [(0, "empty"), (0.01, "cut short"), (0.5, "cut short"), (0.999, "cut short")]
)
def test_every_cut_is_noticed(checkpoint: Path, share: float, expected: str) -> None:
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(len(whole) * share)])
    assert flaw(checkpoint) == expected


def test_a_file_may_be_missing_or_another_thing(tmp_path: Path) -> None:
    assert flaw(tmp_path / "none.pt") == "missing"
    (tmp_path / "zeros.pt").write_bytes(bytes(100))
    assert flaw(tmp_path / "zeros.pt") == "no checkpoint"


def test_files_without_checksums_are_taken_as_they_are(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert flaw(tmp_path / "old.pt") is None
    if hasattr(torch.serialization, "set_crc32_options"):
        torch.serialization.set_crc32_options(False)
        try:
            torch.save({"a": torch.ones(3)}, tmp_path / "bare.pt")
        finally:
            torch.serialization.set_crc32_options(True)
        assert flaw(tmp_path / "bare.pt") is None


def test_files_beside_take_their_places(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("old")
    (tmp_path / SIDE).mkdir()
    (tmp_path / SIDE / "best.pt").write_text("left by a process that was killed")
    with beside(tmp_path) as side:
        (side / "last.pt").write_text("new")
        assert (tmp_path / "last.pt").read_text() == "old"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.pt": "new"}


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_text("old")
    with pytest.raises(FileNotFoundError), beside(tmp_path) as side:
        (side / "last.pt").write_bytes(b"half" + (side / "missing.pt").read_bytes())
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"last.pt": "old"}


@pytest.mark.parametrize("links", [True, False])
def test_a_kept_file_outlives_its_first_name(links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_names: object) -> None:
        raise OSError("no links here")

    if not links:
        monkeypatch.setattr("os.link", no_link)
    (tmp_path / "a").write_text("old")
    keep(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").write_text("new")
    (tmp_path / "c").replace(tmp_path / "a")
    assert (tmp_path / "b").read_text() == "old"


HEAD, ROWS = "epoch,time,loss\n", ["1,2.5,0.5\n", "2,5.1,0.4\n", "3,7.7,0.3\n"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([HEAD, *ROWS], [HEAD, *ROWS[:2]]),
        ([HEAD, *ROWS[:2], "3,7"], [HEAD, *ROWS[:2]]),
        ([HEAD, ROWS[0], "2,9,0.9\n", ROWS[1]], [HEAD, *ROWS[:2]]),
        ([HEAD, *ROWS[:2], "\0\0\0\0\n"], [HEAD, *ROWS[:2]]),
        ([HEAD, *(f"    {row}" for row in ROWS)], [HEAD, *(f"    {row}" for row in ROWS[:2])]),
        ([HEAD, *ROWS[:2]], [HEAD, *ROWS[:2]]),
        (["epoch,ti"], None),
        ([], None),
    ],
    ids=["later", "half", "twice", "zeros", "padded", "nothing", "half a header", "empty"],
)
def test_results_keep_one_row_of_each_epoch_that_stands(
    written: list[str], expected: list[str] | None, tmp_path: Path
) -> None:
    table = tmp_path / "results.csv"
    table.write_text("".join(written))
    forget_epochs(table, 2)
    assert [path.name for path in tmp_path.iterdir()] == ([table.name] if expected else [])
    assert not expected or table.read_text() == "".join(expected)


def test_results_may_be_missing(tmp_path: Path) -> None:
    forget_epochs(tmp_path / "results.csv", 2)
    assert not list(tmp_path.iterdir())
