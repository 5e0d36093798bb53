"""What a checkpoint remembers of its data is followed to files on this disk alone: no address, no ``download`` line."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ultralytics import YOLO

from ultra_dsmoe import commands
from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, TextError
from ultra_dsmoe.export.images import split_images
from ultra_dsmoe.export.parity_check import ParityCheck
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.text import encode_bank

NAMES = {0: "spur", 1: "short"}
TABLE = "path: nowhere\ntrain: images\nval: images\nnames: [spur, short]\n"


@pytest.fixture
def requests() -> Iterator[tuple[str, list[str]]]:
    """Return the address of a data YAML on a server of this machine, and what was asked of the server."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(TABLE.encode())

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Stay quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/data.yaml", asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def net() -> DSMoEModel:
    torch.manual_seed(0)
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False).eval()
    net.names = NAMES
    net.set_text(encode_bank(NAMES, encoder="hash"))
    return net


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the empty folder that commands run in."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """Return a data YAML without images whose download line leaves a mark, and the mark."""
    mark = tmp_path / "mark"
    (tmp_path / "trap.yaml").write_text(f"{TABLE}download: open({str(mark)!r}, 'w').close()\n")
    return tmp_path / "trap.yaml", mark


@pytest.fixture
def saved(net: DSMoEModel, tmp_path: Path) -> Callable[[Any], Path]:
    """Return a function that saves the net as one trained on some data."""

    def save(data: Any) -> Path:
        path = tmp_path / "run" / "best.pt"
        path.parent.mkdir()
        torch.save({"model": net, "train_args": {"task": "detect", "imgsz": 64, "data": data}}, path)
        return path

    return save


COMMANDS = ("routing", "topk", "knockout", "pictures", "text paraphrases")
VERBS = {
    "static": lambda model: model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, dsmoe_moe="static"),
    "parity": lambda model: model.export(imgsz=64, dsmoe_parity="val"),
    "val": lambda model: model.val(imgsz=64),
}


def test_the_traps_work(requests: tuple[str, list[str]], trap: tuple[Path, Path], folder: Path) -> None:
    """Where the user names them, both are followed; otherwise the tests below would show nothing."""
    address, asked = requests
    with pytest.raises(DataError):
        split_images(address, download=True)
    assert asked
    with pytest.raises(DataError):
        split_images(trap[0], download=True)
    assert trap[1].exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(
    command: str, saved: Callable[..., Any], requests: tuple[str, list[str]], trap: tuple[Path, Path], folder: Path
) -> None:
    path = saved(requests[0])
    with pytest.raises(ConfigError, match=r"^data: expected a data YAML \(that of the training is not on this disk\)"):
        commands.run([*command.split(), str(path)])
    path.unlink()
    path.parent.rmdir()
    with pytest.raises(DataError, match=r"^data: expected the images of its 'val' split here, or data= "):
        commands.run([*command.split(), str(saved(str(trap[0])))])
    assert (requests[1], trap[1].exists(), os.listdir(folder)) == ([], False, [])


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["address", "download", "name"])
def test_verbs(
    verb: str,
    kind: str,
    saved: Callable[..., Any],
    requests: tuple[str, list[str]],
    trap: tuple[Path, Path],
    folder: Path,
) -> None:
    data = {"address": requests[0], "download": str(trap[0]), "name": "coco8.yaml"}[kind]
    with pytest.raises(DSMoEError, match=r"^data: expected ") as caught:
        VERBS[verb](YOLO(saved(data)))
    assert "\n" not in str(caught.value)
    assert (requests[1], trap[1].exists(), os.listdir(folder)) == ([], False, [])


def test_an_export_leaves_its_file_alone(
    saved: Callable[..., Any], requests: tuple[str, list[str]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The gate compares on drawn images, as where nothing is remembered."""
    path = saved(requests[0])
    file = YOLO(path).export(imgsz=64)
    assert "parity: 8 images" in caplog.text
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(["best.pt", Path(file).name])
    assert (requests[1], os.listdir(folder)) == ([], [])


def test_remembered_images_that_are_here_are_used(
    saved: Callable[..., Any], tiny_boards: Path, trap: tuple[Path, Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither they nor named ones make the host ask for its fonts, which its own export does not need."""

    def refuse(*_: object) -> None:
        raise AssertionError("asked for a font")

    monkeypatch.setattr("ultralytics.data.utils.check_font", refuse)
    model = YOLO(saved(str(tiny_boards)))
    expected = split_images(tiny_boards, download=True)
    assert ParityCheck(model, model.model, True, {"imgsz": 64}).files == expected
    named = {"imgsz": 64, "data": str(tiny_boards)}
    assert ParityCheck(model, model.model, True, named).files == expected
    with pytest.raises(DataError, match="images not found"):
        ParityCheck(model, model.model, True, {**named, "data": str(trap[0])})


def test_an_encoder_that_a_checkpoint_names_is_not_asked_for(
    net: DSMoEModel, saved: Callable[..., Any], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    from huggingface_hub import constants

    asked: list[object] = []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or [])
    (folder / "p.yaml").write_text("spur: a thin spike\n")
    own: Any = net.text_info
    for encoder in ("causal-lm:no-owner/no-such-model", "sentence:no-owner/no-such-model"):
        net.text_info = {**own, "encoder": encoder}
        model = YOLO(saved(None))
        Path(model.ckpt_path).unlink()
        Path(model.ckpt_path).parent.rmdir()
        with pytest.raises(TextError, match=rf"^text encoder {encoder}: .*dsmoe_text=: its id") as caught:
            model.predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, dsmoe_prompts="p.yaml")
        assert "\n" not in str(caught.value)
    net.text_info = own
    assert asked == []
