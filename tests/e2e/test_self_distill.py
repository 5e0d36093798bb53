"""Self-distillation from the command line to its files: students of every make, resume, teachers on demand."""

from __future__ import annotations

import csv
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import DEFAULT_CFG_DICT

if "distill_model" not in DEFAULT_CFG_DICT:
    pytest.skip("this host cannot distil", allow_module_level=True)

from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.train.distill_wrapper import FeatureDistillation

QUICK: dict[str, Any] = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "verbose": False}
COLUMNS = {f"train/{term}_loss" for term in ("kd_cls", "kd_box", "dis")}
OURS = ("dsmoe-n", "smodel-n")
Run = Callable[..., subprocess.CompletedProcess[str]]
Save = Callable[..., Path]


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / "results.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def confident(name: str, names: dict[int, str], save_net: Save, path: Path) -> Path:
    """Save a net whose head sees something at every anchor; a fresh one sees nothing, and has no boxes to teach."""
    net: Any = (DSMoEModel if name in OURS else DetectionModel)(f"{name}.yaml", nc=len(names), verbose=False)
    with torch.no_grad():
        for key, p in net.model[-1].named_parameters():
            if "cv3" in key and key.endswith("bias") and p.shape == (len(names),):
                p.copy_(torch.linspace(-3, 0, len(names)))
    return save_net(net, names, path)


# students of every make -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kd"), [("yolov8n", "self"), ("yolo26n", "self"), ("dsmoe-n", "self-plain"), ("smodel-n", "self")]
)
def test_a_net_learns_from_one_of_its_kind(
    name: str, kd: str, tiny_boards: Path, save_net: Save, names: dict[int, str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    teacher = confident(name, names, save_net, tmp_path / "teacher.pt")
    yolo = YOLO(f"{name}.yaml")
    yolo.train(
        data=tiny_boards, epochs=1, project=str(tmp_path), name="run", distill_model=str(teacher), dsmoe_kd=kd,
        **({"dsmoe_text": "hash"} if name == "dsmoe-n" else {}), **QUICK,
    )  # fmt: skip
    (row,) = rows(tmp_path / "run")
    assert row.keys() >= COLUMNS | ({"train/align_loss", "train/aux_loss"} if name == "dsmoe-n" else set())
    assert float(row["train/kd_cls_loss"]) > 0
    assert (float(row["train/kd_box_loss"]) > 0) == (name != "yolo26n")
    total = float(row["train/kd_cls_loss"]) + float(row["train/kd_box_loss"])
    assert float(row["train/dis_loss"]) == pytest.approx(total * (1 / 6 + 1 / 3) / 2, rel=0.2), "two steps of warm-up"
    assert f"distill: {kd} from teacher.pt, strides" in caplog.text
    assert ("kd_box stays 0" in caplog.text) == (name == "yolo26n")
    for file in ("best.pt", "last.pt"):
        net = torch.load(tmp_path / "run" / "weights" / file, weights_only=False)["model"]
        assert type(net) is (DSMoEModel if name in OURS else DetectionModel)
        assert net.state_dict().keys() == torch.load(teacher, weights_only=False)["model"].state_dict().keys()


# resume ---------------------------------------------------------------------------------------------------------------


def step_of(trainer: Any) -> dict[str, Any]:
    """Return what decides the next step's distillation."""
    wrapper = trainer.model
    return {"config": wrapper.config, "levels": wrapper.levels, "ramp": wrapper.ramp, "epoch": trainer.epoch}


def test_a_run_goes_on_as_if_it_had_not_been_interrupted(
    tiny_boards: Path, save_net: Save, names: dict[int, str], tmp_path: Path
) -> None:
    """What the method adds is bit for bit that of a whole run at the same net: the same share, settings and teacher.

    The net itself goes on from the host's average in half precision, as in any run of the host.
    """
    teacher = confident("yolov8n", names, save_net, tmp_path / "t.pt")
    whole: list[dict[str, Any]] = []
    options = {"method": "self", "warmup": 2, "cls_temperature": 3, "compare": False}

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            shutil.copytree(trainer.save_dir, tmp_path / "copy")

    yolo = YOLO("yolov8n.yaml")
    yolo.add_callback("on_train_batch_end", lambda t: whole.append(step_of(t)))
    yolo.add_callback("on_model_save", stop)
    call = {"data": tiny_boards, "epochs": 3, "project": str(tmp_path), "nbs": 4, "val": False}
    yolo.train(name="run", distill_model=str(teacher), dsmoe_kd=options, **call, **QUICK)
    assert [step["ramp"] for step in whole] == [0.25, 0.5, 0.75, 1, 1, 1], "two batches per epoch"

    again: list[list[dict[str, Any]]] = []
    losses: list[list[Tensor]] = []
    for turn in ("one", "two"):
        shutil.copytree(tmp_path / "copy", tmp_path / turn)
        steps: list[dict[str, Any]] = []
        items: list[Tensor] = []

        def look(trainer: Any, steps: list[dict[str, Any]] = steps, items: list[Tensor] = items) -> None:
            steps.append(step_of(trainer))
            items.append(torch.stack([trainer.loss_items[f"{n}_loss"] for n in ("kd_cls", "kd_box", "dis")]))

        yolo = YOLO(tmp_path / turn / "weights" / "last.pt")
        yolo.add_callback("on_train_batch_end", look)
        # the words of the first command, ``auto`` too, ask for no other teacher
        yolo.train(resume=True, distill_model="auto", save_dir=str(tmp_path / turn))
        again.append(steps)
        losses.append(items)
        assert Path(yolo.trainer.args.distill_model) == teacher
    assert again[0] == again[1] == whole[4:]
    assert all(torch.equal(a, b) for a, b in zip(*losses, strict=True))
    assert all((items[:2] > 0).all() for items in losses[0])
    assert len(rows(tmp_path / "one")) == 3


# teachers on demand ---------------------------------------------------------------------------------------------------


def same(a: Path, b: Path) -> bool:
    nets = [torch.load(path, weights_only=False)["model"].state_dict() for path in (a, b)]
    return nets[0].keys() == nets[1].keys() and all(torch.equal(v, nets[1][k]) for k, v in nets[0].items())


def test_auto_trains_the_teacher_first(tiny_boards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The student is then the one that a finished teacher's file would have given."""
    call = {"data": tiny_boards, "epochs": 2, "project": str(tmp_path), "dsmoe_kd": "self", "nbs": 4, **QUICK}
    yolo = YOLO("yolov8n.yaml")
    yolo.train(name="run", distill_model="auto", **call)
    folder = tmp_path / "run-teacher"
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("distill_model=auto")]
    assert said == [f"distill_model=auto: trains the teacher first, with half of the epochs (1), in {folder}"]
    assert len(rows(folder)) == 1
    assert not rows(folder)[0].keys() & COLUMNS, "the teacher learns alone"
    assert rows(tmp_path / "run")[0].keys() >= COLUMNS
    best = folder / "weights" / "best.pt"
    assert yolo.trainer.args.distill_model == str(best)
    YOLO("yolov8n.yaml").train(name="by-file", distill_model=str(best), **call)
    assert same(tmp_path / "run" / "weights" / "best.pt", tmp_path / "by-file" / "weights" / "best.pt")
    assert type(yolo.model) is DetectionModel


def test_auto_goes_on_when_interrupted(tiny_boards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The same words once more: the teacher is trained to its end, and only then the student, of a net of ours."""
    call = {"data": tiny_boards, "epochs": 3, "project": str(tmp_path), "name": "run", "val": False, **QUICK}
    call |= {"distill_model": "auto", "dsmoe_kd": "self", "dsmoe_text": "hash"}
    seen: list[str] = []

    class Stop(Exception):
        pass

    from ultra_dsmoe.train.trainer import DSMoETrainer

    class Interrupted(DSMoETrainer):
        def save_model(self) -> Any:
            saved = super().save_model()
            seen.append(f"{self.save_dir.name} {self.epoch} of {self.epochs}")
            if len(seen) == 1 or self.save_dir.name == "run":
                raise Stop
            return saved

    for so_far in (["run-teacher 0 of 2"], ["run-teacher 0 of 2", "run-teacher 1 of 2", "run 0 of 3"]):
        with pytest.raises(Stop):
            YOLO("dsmoe-n.yaml").train(trainer=Interrupted, **call)
        assert seen == so_far
        assert (tmp_path / "run").exists() == ("run 0 of 3" in so_far)
    assert f"distill_model=auto: goes on training the teacher in {tmp_path / 'run-teacher'}" in caplog.text


def test_the_command_line_knows_it(run_yolo: Run, tiny_boards: Path, tmp_path: Path) -> None:
    """A recipe of ``cfg=`` may say so too; one epoch is one for the teacher as well."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "dsmoe_kd: self\ndistill_model: auto\nepochs: 1\nimgsz: 64\nbatch: 4\nplots: false\ndevice: cpu\n"
    )
    done = run_yolo(
        "train", "model=yolov8n.yaml", f"cfg={recipe}", f"data={tiny_boards}", f"project={tmp_path}", "name=r",
        "workers=0", "verbose=False", "val=False", "plots=False",
    )  # fmt: skip
    assert "distill_model=auto: trains the teacher first, with half of the epochs (1)" in done.stdout + done.stderr
    assert len(rows(tmp_path / "r-teacher")) == len(rows(tmp_path / "r")) == 1
    assert rows(tmp_path / "r")[0].keys() >= COLUMNS


def test_a_training_that_cannot_be_trains_no_teacher(tiny_boards: Path, tmp_path: Path) -> None:
    from ultra_dsmoe.errors import ConfigError

    for options in ({"method": "self", "mu": 2}, {"method": "self", "levels": "P3"}):
        with pytest.raises(ConfigError):
            YOLO("yolov8n.yaml").train(
                data=tiny_boards, project=str(tmp_path / "p"), distill_model="auto", dsmoe_kd=options, **QUICK
            )
    assert not (tmp_path / "p").exists()


def test_the_wrapper_of_an_unfinished_run_has_no_teacher(
    tiny_boards: Path, save_net: Save, names: dict[int, str], tmp_path: Path
) -> None:
    teacher = confident("yolov8n", names, save_net, tmp_path / "t.pt")

    def stop(_trainer: Any) -> None:
        raise KeyboardInterrupt

    yolo = YOLO("yolov8n.yaml")
    yolo.add_callback("on_model_save", stop)
    with pytest.raises(KeyboardInterrupt):
        yolo.train(
            data=tiny_boards, epochs=2, project=str(tmp_path), name="run", distill_model=str(teacher), dsmoe_kd="self",
            val=False, **QUICK,
        )  # fmt: skip
    weights = tmp_path / "run" / "weights"
    last = torch.load(weights / "last.pt", weights_only=False)["ema"]
    assert isinstance(last, FeatureDistillation)
    assert last.teacher_model is None
    nets = [m for m in last.modules() if isinstance(m, nn.Module) and isinstance(m, DetectionModel)]
    assert nets == [last, last.student_model] if isinstance(last, DetectionModel) else nets == [last.student_model]
    assert type(torch.load(weights / "best.pt", weights_only=False)["model"]) is DetectionModel
    exported = YOLO(weights / "best.pt").export(format="torchscript", imgsz=64)
    alone = YOLO(teacher).export(format="torchscript", imgsz=64)
    sizes = [sum(p.numel() for p in torch.jit.load(path).state_dict().values()) for path in (exported, alone)]
    assert sizes[0] == sizes[1]
