"""The shipped study files: each is read, each of its nets is built and run; the dense twin's work is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ultralytics import YOLO
from ultralytics.cfg import get_cfg

from ultra_dsmoe.data.packaged import load
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import BandSplit
from ultra_dsmoe.study import reader
from ultra_dsmoe.study.data import Data
from ultra_dsmoe.text import encode_bank

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "studies"
SHIPPED = sorted(FOLDER.glob("*.yaml"))
IMAGE = 64
NC = 6  # classes of NEU-DET and DeepPCB


@pytest.fixture(autouse=True)
def at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the packaged data sets known without their images, and weights there."""

    def packaged(entry: Any, split: str) -> Data:
        sizes = dict(entry) if isinstance(entry, dict) else {"data": entry}
        content = load(name := sizes.pop("data"))
        return Data(name, f"{name}.yaml", "0", None, list(content["names"].values()), content["prompts"], sizes)

    def folder(entry: Any, split: str) -> Data:
        return Data(Path(entry["data"] if isinstance(entry, dict) else entry).name, str(entry), "0")

    monkeypatch.setattr(reader, "read_data", packaged)
    monkeypatch.setattr(reader, "read_folder", folder)
    for name in ("yolov8n", "yolo11n", "yolo26n", "yolov8s", "yolo11s", "yolo26s", "tmodel-n", "teacher-yolov8n"):
        (tmp_path / f"{name}.pt").write_text(name)
    monkeypatch.setenv("WEIGHTS", str(tmp_path))


def pixels(net: Any) -> int:
    """Return the side of a small image that suits a net: multiples of 128 for T and for patches of 8."""
    patches = [16 * m.patch for m in net.modules() if isinstance(m, BandSplit)]
    return max(IMAGE, int(net.stride.max()), *patches)


def nets(plan: Any, folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield every different net of a study with the name of the first model that has it."""
    models = [m for m in plan.models if not m.control]
    for number, model in enumerate({m.digest: m for m in reversed(models)}.values()):
        place = folder / str(number)
        place.mkdir()
        file = place / Path(model.source).name
        if model.content:
            file.write_text(model.content)
        yield model.name, YOLO(str(file) if model.content else model.source, task=plan.task.name).model


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_nets_run(file: Path, tmp_path: Path) -> None:
    plan = reader.read_plan(file)
    assert plan.name == file.stem
    assert len(plan.seeds) >= 3
    assert len(plan.models) >= 2
    different = {(m.digest, str(m.overrides), m.text, m.trained_on is None, m.control, m.fit) for m in plan.models}
    assert len(different) == len(plan.models)
    for _, net in nets(plan, tmp_path):
        with torch.no_grad():
            out = net.eval()(torch.rand(1, net.yaml.get("channels", 3), pixels(net), pixels(net)))
        assert torch.isfinite(out[0]).all()


@pytest.mark.slow
@pytest.mark.parametrize("file", [f for f in SHIPPED if not f.stem.startswith("pfa")], ids=lambda f: f.stem)
def test_nets_learn(file: Path, tmp_path: Path) -> None:
    """A training step of every detector: a finite loss, whose gradients reach the first row and move it."""
    torch.manual_seed(0)
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.5, 0.3, 0.6]])
    labels = {"cls": torch.tensor([[0.0], [2.0]]), "batch_idx": torch.tensor([0.0, 1.0]), "bboxes": boxes}
    for name, net in nets(reader.read_plan(file), tmp_path):
        net.args = get_cfg(overrides={"epochs": 1})
        for p in net.parameters():
            p.requires_grad_(True)
        first = next(net.parameters())
        before = first.detach().clone()
        optimizer = torch.optim.SGD(net.parameters(), 0.01)
        loss = net.train()({"img": torch.rand(2, 3, pixels(net), pixels(net)), **labels})[0].sum()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss), name
        assert all(torch.isfinite(p).all() for p in net.parameters()), name
        assert not torch.equal(first, before), name


def scaled(model: Any, scale: str, folder: Path, nc: int = NC) -> DSMoEModel:
    file = folder / f"dsmoe-{scale}.yaml"
    file.write_text(model.content)
    return DSMoEModel(str(file), nc=nc, verbose=False)


@pytest.mark.parametrize("scale", ["n", "s", "m"])
def test_dense_twin_works_as_much(tmp_path: Path, scale: str) -> None:
    """Within 3 % of what the replaced stages alone execute; the whole nets are then within 0.2 %."""
    without, twin, full = reader.read_plan(FOLDER / "dense-twin.yaml").models
    assert full.content == ""
    counted = DSMoEModel(f"dsmoe-{scale}.yaml", nc=NC, verbose=False).gflops()
    work = scaled(twin, scale, tmp_path).gflops()
    rest = scaled(without, scale, tmp_path).gflops()
    assert work - rest == pytest.approx(counted - rest, rel=0.03)
    assert work == pytest.approx(counted, rel=0.002)
    assert rest < 0.97 * counted


def layers(model: Any, folder: Path) -> list[str]:
    file = folder / model.source
    file.write_text(model.content)
    return [type(m).__name__ for m in YOLO(str(file), task="detect").model.model]


def test_ablation_is_cumulative(tmp_path: Path) -> None:
    """From A to F nothing is taken away again, and F is the net whose hub is a level, the same in all studies."""
    *steps, last = reader.read_plan(FOLDER / "ablation.yaml").models
    built = [set(layers(m, tmp_path)) for m in steps]
    stages = ["TextSemantics", "HyperbolicFusion", "DSA", "CBAM", "SpaceBroadcast", "SparseMoE", "ExpertEnsemble"]
    there = [[s for s in stages if s in names] for names in built]
    assert there == [[], stages[:2], stages[:4], stages[:5], stages]
    options = [yaml.safe_load(m.content)["dsmoe"] for m in steps]
    assert [o.get("hyperbolic", True) for o in options] == [True, False, False, True, True]  # A has none to switch
    assert {o["cls_loss"] for o in options} == {"bce"}
    whole = yaml.safe_load((FOLDER / "nets" / "dsmoe-n.yaml").read_text(encoding="utf-8"))
    assert (last.source, yaml.safe_load(last.content), last.overrides) == ("dsmoe-n.yaml", whole, {})
    for study, model in (("hub", "hub-level"), ("class-loss", "alpha-0.25")):
        (same,) = [m for m in reader.read_plan(FOLDER / f"{study}.yaml").models if m.name == model]
        assert same.digest == last.digest
    assert "ResNetLayer" in built[1]
    assert "ResNetLayer" not in built[2]


def test_the_recipe_in_the_study_is_the_shipped_one() -> None:
    (recipe,) = [m for m in reader.read_plan(FOLDER / "variants.yaml").models if m.name == "recipe"]
    shipped = yaml.safe_load((FOLDER.parents[1] / "cfg" / "train" / "dsmoe.yaml").read_text(encoding="utf-8"))
    assert {
        **recipe.overrides,
        **{k: shipped[k] for k in ("model", "imgsz", "epochs", "batch", "nbs", "seed")},
    } == shipped


def test_studies_share_the_runs_of_five_experts() -> None:
    """k = 5 of 32 experts, trained once for all: by equal settings its cells are found again."""
    names = {"topk": "k5", "experts": "n32", "variants": "dsmoe-n"}
    found = [m for study, name in names.items() for m in reader.read_plan(FOLDER / f"{study}.yaml").models
             if m.name == name]  # fmt: skip
    assert len(found) == 3
    assert len({(m.digest, str(m.overrides), m.text) for m in found}) == 1


def test_experts(tmp_path: Path) -> None:
    found = {}
    for name, net in nets(reader.read_plan(FOLDER / "experts.yaml"), tmp_path):
        (mixture,) = [m for m in net.modules() if type(m).__name__ == "SparseMoE"]
        net.train()(torch.rand(4, 3, IMAGE, IMAGE))
        used = set(net.model[17].usage.nonzero().flatten().tolist())
        found[name] = (mixture.experts, mixture.k, 0 in used, 1 in used, bool(used - {0, 1}))
    sizes = {name: numbers[:2] for name, numbers in found.items()}
    assert sizes == {"n4": (4, 2), "n8": (8, 3), "n16": (16, 4), "n32": (32, 5), "no-local": (32, 5),
                     "no-global": (32, 5), "no-cross": (32, 2)}  # fmt: skip
    assert found["no-cross"][2:] == (True, True, False)
    assert not found["no-local"][2]
    assert not found["no-global"][3]


def test_ts_ablation(tmp_path: Path) -> None:
    """Each model differs from its baseline in the part that its name says, and in nothing else that is counted here."""
    found = {}
    for name, net in nets(reader.read_plan(FOLDER / "ts-ablation.yaml"), tmp_path):
        kinds = [type(m).__name__ for m in net.modules()]
        paths = sum(type(m).__name__ == "ResidualFusion" and m.enabled for m in net.modules())
        towers = sum(type(m).__name__ == "NeckBlock" and m.attention is not None for m in net.modules())
        detector = getattr(net.model[-1], "detector", "stock")
        net.args = get_cfg()
        counts = [kinds.count(k) for k in ("SwinBlock", "DualAttention", "CBAM")]
        found[name] = (paths, towers, detector, *counts, type(net.init_criterion()).__name__)
    assert found == {
        "yolov5n": (0, 0, "stock", 0, 0, 0, "v8DetectionLoss"),
        "yolov5n-backbone": (0, 0, "stock", 2, 0, 0, "v8DetectionLoss"),
        "yolov5n-neck": (0, 4, "stock", 0, 4, 0, "v8DetectionLoss"),
        "no-paths": (0, 5, "decoupled_da", 6, 5 + 6, 0, "DSMoECriterion"),
        "residual-path": (6, 5, "decoupled_da", 6, 5 + 6, 0, "DSMoECriterion"),
        "tmodel-n": (6, 10, "decoupled_da", 6, 10 + 6, 0, "DSMoECriterion"),
        "coupled": (6, 10, "coupled", 6, 10, 0, "DSMoECriterion"),
        "decoupled": (6, 10, "decoupled", 6, 10, 0, "DSMoECriterion"),
        "cbam": (6, 10, "decoupled_da", 6, 0, 10 + 6, "DSMoECriterion"),
        "no-attention": (6, 10, "decoupled_da", 6, 0, 0, "DSMoECriterion"),
    }


def test_text_controls() -> None:
    """Every control gives the classes other vectors than the descriptions do; the seed moves those left to chance."""
    plan = reader.read_plan(FOLDER / "text-controls.yaml")
    described = {data.name: load(data.name) for data in plan.data}
    banks: dict[tuple[str, str, int], Any] = {}
    for cell in plan.cells():
        words, files, content = plan.arguments(cell), plan.files(cell), described[cell.data.name]
        prompts = {"prompts.yaml"} if cell.model.name in ("names", "shuffled") else set()
        assert set(files) == {"dsmoe-n.yaml", *prompts}
        given = yaml.safe_load(files.get("prompts.yaml", "{}"))
        if cell.model.name == "shuffled":
            assert sorted(map(str, given.values())) == sorted(map(str, content["prompts"].values()))
            assert all(given[name] != texts for name, texts in content["prompts"].items())
        control = words["dsmoe_text"] if cell.model.name in ("random", "zero") else "hash"
        bank = encode_bank(content["names"], {**content["prompts"], **given}, control)
        banks[cell.data.name, cell.model.name, cell.seed] = bank
    assert banks["neu-det", "names", 0].prompts[3] == ("pitted surface",)
    start = "a photo of a crazing defect: dark narrow streaks"
    assert banks["neu-det", "shuffled", 0].prompts[0][0].startswith(start)
    # Fixed controls have one bank over all seeds, the others one per seed.
    for data in described:
        keys = {name: {b.key for (d, n, _), b in banks.items() if (d, n) == (data, name)} for _, name, _ in banks}
        different = {name: len(found) for name, found in keys.items()}
        assert different == {"real": 1, "names": 1, "shuffled": 3, "random": 3, "zero": 1}
    assert plan.settings(plan.cells()[1])["prompts_hash"] != plan.settings(plan.cells()[2])["prompts_hash"]
