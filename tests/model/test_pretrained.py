"""What ``pretrained=`` may name: files here, in the host's folder and among its assets; what each is handed on as."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model import pretrained
from ultra_dsmoe.model.pretrained import EncoderFile, check, encoders, find, find_encoder
from ultra_dsmoe.nn.backbone.mobile_sam import MobileSAM


class Net:
    """What is asked of a net: its rows of a kind."""

    def __init__(self, *rows: nn.Module) -> None:
        self.rows = rows

    def blocks(self, kind: type) -> list[Any]:
        return [row for row in self.rows if isinstance(row, kind)]


class Row(MobileSAM):
    """A row of the kind, without its weights."""

    def __init__(self) -> None:
        nn.Module.__init__(self)


@pytest.fixture(autouse=True)
def weights_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "weights").mkdir()
    monkeypatch.setitem(pretrained.SETTINGS, "weights_dir", str(tmp_path / "weights"))
    monkeypatch.setattr(pretrained, "attempt_download_asset", lambda name: pytest.fail(f"{name} was fetched"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "weights"


def encoder_file(path: Path) -> Path:
    torch.save({"image_encoder.x": torch.zeros(1)}, path)
    return path


def test_here_goes_before_the_hosts_folder(weights_dir: Path) -> None:
    (weights_dir / "a.pt").touch()
    assert find("a.pt") == str(weights_dir / "a.pt")
    Path("a.pt").touch()
    assert find(" a.pt ") == "a.pt"
    assert find(Path("a.pt")) == "a.pt"


def test_yolo_weights_are_left_to_the_host_and_no_others(weights_dir: Path) -> None:
    assert find("yolov8n.pt") == "yolov8n.pt"
    for name in ("rtdetr-l.pt", "yolov8n-mine.pt", "gone.pt"):
        with pytest.raises(WeightsError, match=rf"^pretrained: expected an existing checkpoint, here .*{name}, which"):
            find(name)
    (weights_dir / "folder.pt").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.pt, which is not a file$"):
        find("folder.pt")


def test_the_released_encoder_is_fetched_and_a_failure_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "attempt_download_asset", lambda name: f"fetched/{name}")
    assert find("mobile_sam.pt") == "fetched/mobile_sam.pt"

    def fails(name: str) -> str:
        raise ConnectionError("no route\nand more")

    monkeypatch.setattr(pretrained, "attempt_download_asset", fails)
    with pytest.raises(WeightsError, match=r"got mobile_sam\.pt, which cannot be fetched \(no route\)$"):
        find("mobile_sam.pt")


def test_an_address_is_fetched_into_the_hosts_folder(monkeypatch: pytest.MonkeyPatch, weights_dir: Path) -> None:
    asked: list[tuple[str, str]] = []

    def check_file(name: str, download_dir: str) -> Path:
        asked.append((name, download_dir))
        return weights_dir / "t.pt"

    monkeypatch.setattr(pretrained.checks, "check_file", check_file)
    assert find("https://host.test/t.pt") == str(weights_dir / "t.pt")
    assert asked == [("https://host.test/t.pt", str(weights_dir))]


def test_encoders_are_told_from_detectors(tmp_path: Path) -> None:
    path = encoder_file(tmp_path / "sam.pt")
    torch.save({"model": {"model.0.conv.weight": torch.zeros(1)}}, tmp_path / "other.pt")
    assert find_encoder("sam.pt") == "sam.pt"
    assert find_encoder(path) == str(path)
    assert find_encoder("other.pt") is None
    assert find_encoder("yolov8n.pt") is None
    for given in (True, False, None):
        assert find_encoder(given) is None


def test_a_net_needs_a_row_for_an_encoder(tmp_path: Path) -> None:
    encoder_file(tmp_path / "sam.pt")
    row = Row()
    assert encoders(Net(nn.Identity(), row), "sam.pt") == [row]
    checked = check(Net(row), "sam.pt")
    assert isinstance(checked, EncoderFile)
    assert not isinstance(checked, (str, Path)), "hosts load those as a whole detector"
    assert (os.fspath(checked), str(checked)) == ("sam.pt", "sam.pt")
    for name in ("sam.pt", "mobile_sam.pt"):  # the second is not even fetched
        with pytest.raises(WeightsError, match=rf"^pretrained: expected a model with a MobileSAM row .*, got {name}$"):
            check(Net(nn.Identity()), name)


def test_a_detector_is_handed_on_as_given(tmp_path: Path) -> None:
    net = DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    torch.save({"model": net, "train_args": {"task": "detect"}}, tmp_path / "net.pt")
    given = tmp_path / "net.pt"
    assert check(Net(), given) is given


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 half of it"])
def test_what_cannot_be_loaded_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=r"^pretrained: expected a readable .*, got bad\.pt \(\w+: ") as caught:
        check(Net(), "bad.pt")
    assert "\n" not in str(caught.value)
