"""Loading checkpoints of ours: changed bytes, newer versions, and what stands for a damaged ``last.pt``."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ultralytics.nn import tasks
from ultralytics.utils.torch_utils import strip_optimizer

from ultra_dsmoe.errors import WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.train.generations import PREVIOUS

Run = Callable[..., subprocess.CompletedProcess[str]]
RESTRICTED = hasattr(tasks, "_SafeLoad") and hasattr(torch.serialization, "get_safe_globals")


@pytest.fixture(scope="module")
def net() -> DSMoEModel:
    return DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False).half()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a checkpoint as in the middle of a training."""

    def write(net: Any, name: str = "last.pt", epoch: int = 0, optimizer: Any = "state") -> Path:
        content = {"epoch": epoch, "model": None, "ema": net, "optimizer": optimizer and {"state": optimizer}}
        torch.save({**content, "train_args": {"task": "detect"}}, tmp_path / name)
        return tmp_path / name

    return write


def flip(path: Path, near: bytes) -> None:
    """Change one bit right behind some bytes of a file."""
    content = bytearray(path.read_bytes())
    content[content.index(near) + len(near) + 5] ^= 64
    path.write_bytes(content)


def weight_bytes(net: DSMoEModel) -> bytes:
    return net.model[0].conv.weight.detach().numpy().tobytes()[:16]


# changed bytes --------------------------------------------------------------------------------------------------------


def test_a_changed_weight_is_told(net: DSMoEModel, save: Callable[..., Path]) -> None:
    path = save(net, "best.pt")
    flip(path, weight_bytes(net))
    loaded = torch.load(path, weights_only=False)["ema"]
    assert not torch.equal(loaded.model[0].conv.weight, net.model[0].conv.weight), "torch itself says nothing"
    with pytest.raises(WeightsError, match=r"best.pt: expected a checkpoint as it was written, got damaged .checksum"):
        tasks.torch_safe_load(path)


@pytest.mark.parametrize("near", [b"ultra_dsmoe.model.de", b"DSMoEMo"])
def test_a_changed_name_is_damage_and_no_newer_version(near: bytes, net: DSMoEModel, save: Callable[..., Path]) -> None:
    path = save(net, "best.pt")
    content = path.read_bytes()
    path.write_bytes(content.replace(near, near[:-1] + b"\x7f", 1))
    with pytest.raises(WeightsError, match="as it was written, got damaged"):
        tasks.torch_safe_load(path)


def test_half_a_file_is_told(net: DSMoEModel, save: Callable[..., Path]) -> None:
    path = save(net, "best.pt")
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="as it was written, got cut short"):
        tasks.torch_safe_load(path)


def test_a_stock_checkpoint_is_the_hosts_business(save: Callable[..., Path]) -> None:
    stock = tasks.DetectionModel("yolo11n.yaml", verbose=False).half()
    path = save(stock, "best.pt")
    flip(path, stock.model[0].conv.weight.detach().numpy().tobytes()[:16])
    assert type(tasks.torch_safe_load(path)[0]["ema"]) is tasks.DetectionModel


def test_what_the_host_wrote_anew_loads(net: DSMoEModel, save: Callable[..., Path]) -> None:
    path = save(net, "best.pt")
    strip_optimizer(path)
    loaded = tasks.torch_safe_load(path)[0]["model"]
    assert torch.equal(loaded.model[0].conv.weight, net.model[0].conv.weight)


# newer versions -------------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[("nn.neck.tomorrow", "Block"), ("nn.neck.sparse_moe", "BlockOfTomorrow")], ids=["module", "class"]
)
def of_tomorrow(request: pytest.FixtureRequest, net: DSMoEModel, save: Callable[..., Path]) -> tuple[Path, str]:
    """Return a checkpoint with a layer that this version has not, and the layer's name."""
    module, name = f"ultra_dsmoe.{request.param[0]}", request.param[1]
    with pytest.MonkeyPatch.context() as patch:
        if module not in sys.modules:
            patch.setitem(sys.modules, module, types.ModuleType(module))
        layer = type(name, (torch.nn.Module,), {"__module__": module})
        patch.setattr(sys.modules[module], name, layer, raising=False)
        net.later = layer()
        try:
            return save(net, "best.pt"), f"{module}.{name}" if name != "Block" else module
        finally:
            del net.later


@pytest.mark.parametrize("restricted", [False, pytest.param(True, marks=pytest.mark.skipif(not RESTRICTED, reason=""))])
def test_a_newer_version_is_told_before_the_host_offers_to_install_it(
    restricted: bool, of_tomorrow: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tasks, "check_requirements", asked.append)
    with pytest.raises(WeightsError) as caught:
        tasks.torch_safe_load(of_tomorrow[0], safe_only=restricted)
    assert str(caught.value).endswith(f"got one of a newer version, with {of_tomorrow[1]}; upgrade ultra-dsmoe")
    assert "\n" not in str(caught.value)
    assert asked == []
    assert not [finder for finder in sys.meta_path if type(finder).__name__ == "_Lacking"]


def test_other_missing_modules_are_the_hosts_business(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(tasks, "check_requirements", asked.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "somebodys", types.ModuleType("somebodys"))
        layer = type("Layer", (torch.nn.Module,), {"__module__": "somebodys"})
        patch.setattr(sys.modules["somebodys"], "Layer", layer, raising=False)
        path = save(layer(), "best.pt")
    with pytest.raises(ModuleNotFoundError):
        tasks.torch_safe_load(path)
    assert asked == ["somebodys"]


def test_on_the_command_line_it_is_one_line(of_tomorrow: tuple[Path, str], run_yolo: Run) -> None:
    done = run_yolo("val", f"model={of_tomorrow[0]}", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.strip().splitlines()[-1].endswith("upgrade ultra-dsmoe")


# what stands for last.pt ----------------------------------------------------------------------------------------------


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("best", "previous", "expected"),
    [
        ((3, "state"), 2, "best.pt"),
        ((1, "state"), 2, PREVIOUS),
        ((-1, None), 2, PREVIOUS),
        ((3, "state"), None, "best.pt"),
    ],
)
@pytest.mark.parametrize("harm", [half, Path.unlink, lambda path: path.write_bytes(b"")], ids=["half", "gone", "empty"])
def test_the_newest_whole_file_takes_the_place_of_a_damaged_last(
    best: tuple[int, Any], previous: int | None, expected: str, harm: Callable[[Path], object], net: DSMoEModel,
    save: Callable[..., Path], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    last = save(net, epoch=3)
    save(net, "best.pt", *best)
    if previous is not None:
        save(net, PREVIOUS, previous)
    assert tasks.torch_safe_load(last)[1] == str(last)
    harm(last)
    ckpt, file = tasks.torch_safe_load(last)
    assert (Path(file).name, ckpt["optimizer"]) == (expected, {"state": "state"})
    (said,) = [r.getMessage() for r in caplog.records if "takes its place" in r.getMessage()]
    assert said.endswith(f": {expected} of epoch {ckpt['epoch'] + 1} takes its place")
    assert "\n" not in said


def test_with_nothing_whole_it_is_one_line(net: DSMoEModel, save: Callable[..., Path]) -> None:
    last = save(net)
    half(last)
    half(save(net, PREVIOUS))
    with pytest.raises(WeightsError, match="as it was written, got cut short"):
        tasks.torch_safe_load(last)


def test_other_names_stand_for_themselves(net: DSMoEModel, save: Callable[..., Path]) -> None:
    save(net, PREVIOUS)
    best = save(net, "best.pt")
    half(best)
    with pytest.raises(WeightsError, match=r"best\.pt: expected a checkpoint as it was written, got cut short"):
        tasks.torch_safe_load(best)


def test_a_stock_run_is_the_hosts_business(save: Callable[..., Path]) -> None:
    stock = tasks.DetectionModel("yolo11n.yaml", verbose=False)
    save(stock, "best.pt")
    last = save(stock)
    half(last)
    with pytest.raises(Exception, match=r"not a loadable checkpoint|PytorchStreamReader"):
        tasks.torch_safe_load(last)
