"""Distillation from the command line to the exported file: resume, what stays the host's."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from net_checks import results_of, same_state
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

from ultralytics.nn.distill_model import DistillationModel

from ultra_dsmoe.distill import resolve
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.text import encode_bank
from ultra_dsmoe.train.distill_trainer import MAP, MAP50, Distilling, DistillTrainer
from ultra_dsmoe.train.distill_wrapper import FeatureDistillation
from ultra_dsmoe.train.teacher import load_teacher
from ultra_dsmoe.train.trainer import DSMoETrainer

QUICK: dict[str, Any] = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False}
COLUMNS = {f"train/{term}_loss" for term in ("fg", "att", "glob", "dis")}
WEIGHTS = {f"distill/w_{name}" for name in ("fg", "att", "glob", "cls", "box")}
Run = Callable[..., subprocess.CompletedProcess[str]]
Save = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


def state(wrapper: FeatureDistillation) -> dict[str, Any]:
    """Return the adapters as they are, and the adaptive weights."""
    adapters = {k: v.clone() for k, v in wrapper.projector.state_dict().items()}
    return {"adapters": adapters, "adaptive": deepcopy(wrapper.adaptive.state())}


def halved(adapters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return adapters as the host keeps an average."""
    return {k: v.half().float() for k, v in adapters.items()}


@pytest.fixture(scope="module")
def interrupted(folder: Path, tiny_boards: Path, teacher: Path) -> tuple[Path, dict[str, Any]]:
    """Return a run of a stock pair that was stopped after two of three epochs, and its state then.

    One step per batch (``nbs``): the host would collect the gradients of all of these few, and nothing would move.
    """
    kept: dict[str, Any] = {"best": []}

    def stop(trainer: Any) -> None:
        kept["best"].append(torch.load(trainer.best, map_location="cpu", weights_only=False))
        if trainer.epoch == 1:
            kept.update(live=state(trainer.model), average=state(trainer.ema.ema))
            kept["optimized"] = {id(p) for g in trainer.optimizer.param_groups for p in g["params"]}
            kept["adapter_ids"] = {id(p) for p in trainer.model.projector.parameters()}
            kept["teacher_ids"] = {id(p) for p in trainer.model.teacher_model.parameters()}
            kept["frozen"] = not any(p.requires_grad for p in trainer.model.teacher_model.parameters())
            raise KeyboardInterrupt

    yolo = YOLO("yolov8n.yaml")
    yolo.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(
            data=tiny_boards, epochs=3, project=str(folder), name="run", distill_model=str(teacher),
            dsmoe_kd="attention", nbs=4, **QUICK,
        )  # fmt: skip
    shutil.copytree(folder / "run", folder / "copy")
    return folder / "run", kept


@pytest.fixture(scope="module")
def resumed(interrupted: tuple[Path, dict[str, Any]]) -> tuple[Path, dict[str, Any], YOLO]:
    """Return that run at its end, with its state at the moment of resumption."""
    began: dict[str, Any] = {}

    def look(trainer: Any) -> None:
        began.update(state(trainer.model), trainer=type(trainer), epoch=trainer.start_epoch, ema=state(trainer.ema.ema))
        began["student"] = {k: v.clone() for k, v in trainer.model.student_model.state_dict().items()}

    yolo = YOLO(interrupted[0] / "weights" / "last.pt")
    yolo.add_callback("on_train_start", look)
    yolo.train(resume=True)
    return interrupted[0], began, yolo


# a stock pair ---------------------------------------------------------------------------------------------------------


def test_results_have_terms_and_weights(resumed: tuple[Path, dict[str, Any], YOLO]) -> None:
    table = results_of(resumed[0])
    assert [row["epoch"] for row in table] == ["1", "2", "3"]
    for row in table:
        assert row.keys() >= COLUMNS | WEIGHTS
        assert {name for name in row if name.startswith("val/")} == {"val/box_loss", "val/cls_loss", "val/dfl_loss"}
        assert all(float(row[f"train/{t}_loss"]) > 0 for t in ("fg", "att", "glob", "dis"))
        assert sum(float(row[name]) for name in WEIGHTS) == pytest.approx(5, abs=1e-3)
    assert {table[0][name] for name in WEIGHTS} == {"1"}
    assert len({table[2][name] for name in WEIGHTS}) > 1, "the weights moved"


def test_the_optimizer_has_adapters_and_no_teacher(interrupted: tuple[Path, dict[str, Any]]) -> None:
    kept = interrupted[1]
    assert kept["adapter_ids"] <= kept["optimized"]
    assert not kept["teacher_ids"] & kept["optimized"]
    assert kept["frozen"]


def test_resume_restores_adapters_and_weights_exactly(
    interrupted: tuple[Path, dict[str, Any]], resumed: tuple[Path, dict[str, Any], YOLO]
) -> None:
    kept, began = interrupted[1], resumed[1]
    assert (began["trainer"], began["epoch"]) == (DistillTrainer, 2)
    live, average = kept["live"], kept["average"]
    assert average["adaptive"] == live["adaptive"], "the checkpoint's copy keeps pace"
    assert live["adaptive"]["weights"] != [1.0] * 5
    assert began["adaptive"] == began["ema"]["adaptive"] == live["adaptive"]
    assert same_state(began["adapters"], live["adapters"])
    assert same_state(began["ema"]["adapters"], halved(average["adapters"]))
    for other in (halved(live["adapters"]), average["adapters"], halved(average["adapters"])):
        assert not any(torch.equal(v, other[k]) for k, v in live["adapters"].items()), "nothing would be proven"
    last = torch.load(interrupted[0].parent / "copy" / "weights" / "last.pt", map_location="cpu", weights_only=False)
    saved = last["ema"].float().student_model.state_dict()
    assert all(torch.equal(v.float(), saved[k].float()) for k, v in began["student"].items())


def test_older_checkpoints_bring_back_the_average(interrupted: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    shutil.copytree(interrupted[0].parent / "copy", tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.pt"
    content = torch.load(last, weights_only=False)
    del content["ema"].exact_adapters  # files of earlier releases have no such entry
    torch.save(content, last)
    began: dict[str, Any] = {}

    def look(trainer: Any) -> None:
        began.update(state(trainer.model), exact=trainer.ema.ema.exact_adapters)
        raise KeyboardInterrupt

    yolo = YOLO(last)
    yolo.add_callback("on_train_start", look)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(resume=True, save_dir=str(tmp_path / "run"))
    average = interrupted[1]["average"]
    assert same_state(began["adapters"], halved(average["adapters"]))
    assert began["adaptive"] == average["adaptive"]
    assert began["exact"] is None


def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(
    interrupted: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Its best.pt is the student alone, from which no run goes on."""
    shutil.copytree(interrupted[0].parent / "copy", tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    began: dict[str, Any] = {}

    def look(trainer: Any) -> None:
        began.update(epoch=trainer.start_epoch, file=Path(trainer.args.model).name, wrapper=type(trainer.model))
        raise KeyboardInterrupt

    yolo = YOLO(last)
    yolo.add_callback("on_train_start", look)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(resume=True, save_dir=str(tmp_path / "run"))
    assert began == {"epoch": 1, "file": "previous.pt", "wrapper": FeatureDistillation}


def test_the_best_net_of_an_unfinished_run_is_the_student_alone(interrupted: tuple[Path, dict[str, Any]]) -> None:
    weights = interrupted[0].parent / "copy" / "weights"
    assert isinstance(torch.load(weights / "last.pt", weights_only=False)["ema"], FeatureDistillation)
    assert len(interrupted[1]["best"]) == 2, "one look per epoch"
    for best in (*interrupted[1]["best"], torch.load(weights / "best.pt", weights_only=False)):
        assert type(best["model"]) is DetectionModel
        assert best["model"].names[0] == "missing_hole"
        assert not any(isinstance(value, (nn.Module, Tensor)) for key, value in best.items() if key != "model")
        assert best["optimizer"] is None, "it has moments of the adapters"
        assert best["train_metrics"]["fitness"] >= 0
    first, second = (best["model"].state_dict() for best in interrupted[1]["best"])
    assert first.keys() == DetectionModel("yolov8n.yaml", nc=6, verbose=False).state_dict().keys()
    assert any(not torch.equal(v, second[k]) for k, v in first.items()), "the second epoch is as good, thus the best"
    last = torch.load(weights / "last.pt", weights_only=False)["ema"].student_model.state_dict()
    assert all(torch.equal(v, last[k]) for k, v in second.items())


def test_the_result_is_the_student_alone(resumed: tuple[Path, dict[str, Any], YOLO]) -> None:
    for name in ("best.pt", "last.pt"):
        net = YOLO(resumed[0] / "weights" / name).model
        assert type(net) is DetectionModel
        assert net.state_dict().keys() == DetectionModel("yolov8n.yaml", nc=6, verbose=False).state_dict().keys()
        assert net.names[0] == "missing_hole"


def test_the_exported_graph_is_the_students(
    resumed: tuple[Path, dict[str, Any], YOLO], save_net: Save, names: dict[int, str], tmp_path: Path
) -> None:
    import onnx

    def shapes(path: str) -> list[tuple[int, ...]]:
        return sorted(tuple(t.dims) for t in onnx.load(path).graph.initializer if len(t.dims) > 1)

    alone = save_net(DetectionModel("yolov8n.yaml", nc=6, verbose=False), names, tmp_path / "alone.pt")
    exported = YOLO(resumed[0] / "weights" / "best.pt").export(format="onnx", imgsz=64)
    assert shapes(exported) == shapes(YOLO(alone).export(format="onnx", imgsz=64))


def test_an_interrupted_checkpoint_predicts_validates_and_exports(
    interrupted: tuple[Path, dict[str, Any]], tiny_boards: Path, tmp_path: Path
) -> None:
    last = interrupted[0].parent / "copy" / "weights" / "last.pt"
    yolo = YOLO(last)
    assert isinstance(yolo.model, FeatureDistillation)
    assert yolo.model.teacher_model is None
    call = {"imgsz": 64, "device": "cpu", "project": str(tmp_path), "verbose": False}
    assert len(yolo.predict(torch.zeros(1, 3, 64, 64), **call)) == 1
    assert yolo.val(data=tiny_boards, workers=0, plots=False, **call).box.map >= 0
    assert Path(YOLO(last).export(format="torchscript", imgsz=64)).stat().st_size > 0


def test_an_unfinished_student_of_ours_exports_as_it_computes(
    save_net: Save, names: dict[int, str], teacher: Path, tmp_path: Path
) -> None:
    """Through our own export, whose gate compares the file with the student."""
    student = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False)
    student.names = names
    student.set_text(encode_bank(names, encoder="hash"))
    wrapper = FeatureDistillation(student, load_teacher(teacher), resolve("mimic"))
    path = save_net(wrapper, names, tmp_path / "last.pt")
    yolo = YOLO(path)
    assert isinstance(yolo.model, FeatureDistillation)
    assert yolo.export(format="onnx", imgsz=64) == str(tmp_path / "last.onnx")


def test_it_is_a_start_for_another_training(
    interrupted: tuple[Path, dict[str, Any]], tiny_boards: Path, tmp_path: Path
) -> None:
    last = interrupted[0].parent / "copy" / "weights" / "last.pt"
    yolo = YOLO(last)
    stem = yolo.model.student_model.model[0].conv.weight.clone()
    yolo.train(
        data=tiny_boards, epochs=1, project=str(tmp_path), name="on", lr0=1e-6, optimizer="SGD", val=False, **QUICK
    )
    assert type(yolo.model) is DetectionModel
    torch.testing.assert_close(yolo.model.model[0].conv.weight, stem, rtol=0, atol=2e-3)


def test_restricted_loading_resumes_it(interrupted: tuple[Path, dict[str, Any]], run_yolo: Run, tmp_path: Path) -> None:
    shutil.copytree(interrupted[0].parent / "copy", tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.pt"
    run_yolo("train", "resume", f"model={last}", f"save_dir={tmp_path / 'run'}", env={"ULTRALYTICS_SAFE_LOAD": "1"})
    table = results_of(next(p.parent for p in tmp_path.rglob("results.csv")))
    assert len(table) == 3
    assert table[2].keys() >= COLUMNS | WEIGHTS


# ours -----------------------------------------------------------------------------------------------------------------


def test_our_students_get_attention_unless_told_otherwise(
    tiny_boards: Path, teacher: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    yolo = YOLO("dsmoe-n.yaml")
    yolo.train(
        data=tiny_boards, epochs=1, project=str(tmp_path), name="ours", distill_model=str(teacher), dsmoe_text="hash",
        **QUICK,
    )  # fmt: skip
    assert type(yolo.trainer) is DSMoETrainer
    assert isinstance(yolo.trainer.model, FeatureDistillation)
    (row,) = results_of(tmp_path / "ours")
    assert row.keys() >= COLUMNS | WEIGHTS | {"router/entropy", "train/align_loss"}
    assert type(yolo.model) is DSMoEModel
    said = caplog.text
    assert "distill: attention from teacher.pt, strides 8, 16, 32, the teacher's attention on 0, adaptive=ema" in said
    assert "distill: teacher.pt reaches mAP50-95 0.000 (mAP50 0.000) in validation" in said


def test_mimic_from_a_large_net_of_ours_by_file(
    tiny_boards: Path, save_net: Save, names: dict[int, str], tmp_path: Path
) -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=6, verbose=False)
    large = save_net(net, names, tmp_path / "large.pt")
    file = tmp_path / "kd.yaml"
    file.write_text("method: mimic\nlevels: [8]\ncompare: false\n")
    yolo = YOLO("dsmoe-n.yaml")
    yolo.train(
        data=tiny_boards, epochs=1, project=str(tmp_path), name="m", distill_model=str(large), dsmoe_kd=str(file),
        dsmoe_text="hash", val=False, **QUICK,
    )  # fmt: skip
    (row,) = results_of(tmp_path / "m")
    assert float(row["train/mimic_loss"]) > 0
    assert (row["distill/w_mimic"], row["distill/w_box"]) == ("1", "1")


# pairs of different widths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["yolov8", "dsmoe-"])
def test_a_wider_net_teaches_a_narrower_one(
    family: str, tiny_boards: Path, save_net: Save, names: dict[int, str], tmp_path: Path
) -> None:
    ours = family == "dsmoe-"
    net: Any = (DSMoEModel if ours else DetectionModel)(f"{family}s.yaml", nc=len(names), verbose=False)
    wide = save_net(net, names, tmp_path / "wide.pt")
    widths: list[tuple[int, int]] = []
    yolo = YOLO(f"{family}n.yaml")
    yolo.add_callback(
        "on_train_start",
        lambda t: widths.extend((f.conv.in_channels, f.conv.out_channels) for f in t.model.projector),
    )
    yolo.train(
        data=tiny_boards, epochs=1, project=str(tmp_path), name="w", distill_model=str(wide), val=False,
        dsmoe_kd={"method": "attention", "compare": False}, **({"dsmoe_text": "hash"} if ours else {}), **QUICK,
    )  # fmt: skip
    assert widths == [(64, 128), (128, 256), (256, 512)]
    (row,) = results_of(tmp_path / "w")
    assert all(0 < float(row[f"train/{t}_loss"]) < 100 for t in ("fg", "att", "glob", "dis"))
    best = torch.load(tmp_path / "w" / "weights" / "best.pt", weights_only=False)["model"]
    assert type(best) is type(net)
    assert sum(p.numel() for p in best.parameters()) < sum(p.numel() for p in net.parameters()) / 2


# the host's own -------------------------------------------------------------------------------------------------------


def test_the_hosts_distiller_stays_its_own(tiny_boards: Path, teacher: Path, tmp_path: Path) -> None:
    results: list[tuple[list[dict[str, str]], dict[str, Tensor]]] = []
    for kind, key in ((DetectionTrainer, {}), (DistillTrainer, {"dsmoe_kd": "host"})):
        yolo = YOLO("yolov8n-p2.yaml")
        yolo.train(
            data=tiny_boards, epochs=1, project=str(tmp_path), name=kind.__name__, distill_model=str(teacher),
            val=False, nbs=4, **key, **QUICK,
        )  # fmt: skip
        assert type(yolo.trainer) is kind, "ours where there is a key, which has to be looked at"
        assert type(yolo.trainer.model) is DistillationModel
        table = results_of(tmp_path / kind.__name__)
        assert not table[0].keys() & (WEIGHTS | {"train/fg_loss"})
        del table[0]["time"]
        best = torch.load(tmp_path / kind.__name__ / "weights" / "best.pt", weights_only=False)["model"]
        results.append((table, best.state_dict()))
    assert results[0][0] == results[1][0]
    assert same_state(results[0][1], results[1][1]), "asked for by name it trains as without"


def test_the_hosts_distiller_cannot_read_text(tiny_boards: Path, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dsmoe_kd: expected attention or mimic for detectors that read text"):
        YOLO("dsmoe-n.yaml").train(
            data=tiny_boards, project=str(tmp_path / "p"), distill_model=str(teacher), dsmoe_kd="host",
            dsmoe_text="hash", **QUICK,
        )  # fmt: skip
    assert not list((tmp_path / "p").rglob("*"))


# the teacher before training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("teaches", "starts", "level"), [(0.2, 0.5, "WARNING"), (0.5, 0.2, "INFO")])
def test_a_worse_teacher_is_reported(
    teaches: float, starts: float, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    interrupted: tuple[Path, dict[str, Any]], teacher: Path, tiny_boards: Path, tmp_path: Path,
) -> None:  # fmt: skip
    def validated(self: Distilling, net: Any) -> dict[str, float]:
        return dict.fromkeys((MAP, MAP50), teaches if net is self.model.teacher_model else starts)

    monkeypatch.setattr(Distilling, "_validated", validated)

    class Enough(Exception):
        pass

    def stop(_trainer: Any) -> None:
        raise Enough

    yolo = YOLO(interrupted[0].parent / "copy" / "weights" / "last.pt")  # a student that has weights
    yolo.add_callback("on_train_start", stop)
    with pytest.raises(Enough):
        yolo.train(
            data=tiny_boards, epochs=1, project=str(tmp_path), name="r", distill_model=str(teacher), dsmoe_kd="mimic",
            **QUICK,
        )  # fmt: skip
    (record,) = [r for r in caplog.records if "reaches mAP50-95" in r.getMessage()]
    assert record.levelname == level
    assert ("worse than the student" in record.getMessage()) == (level == "WARNING")
    assert f"starts at {starts:.3f}" in record.getMessage()
