"""The trainer: text and taxonomy of the data YAML, the fast group, router columns, resume, fine-tuning."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from net_checks import results_of
from ultralytics import YOLO
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from ultra_dsmoe.errors import ConfigError, DSMoEError, TextError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.hyperbolic_fusion import HyperbolicFusion
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.nn.neck.text_semantics import TextSemantics
from ultra_dsmoe.plugin.verbs import with_ours
from ultra_dsmoe.text import encode_bank
from ultra_dsmoe.train.optimizer import FAST_LR
from ultra_dsmoe.train.trainer import DSMoETrainer

QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "exist_ok": True, "verbose": False}
HASH = {"dsmoe_text": "hash"}  # no language model has to be loaded
ROUTER = {"router/usage_max", "router/entropy", "router/dead", "router/temperature"}
WriteData = Callable[..., Path]


@pytest.fixture
def write_data(tiny_boards: Path, tmp_path: Path) -> WriteData:
    """Return a function that writes the tiny set's data YAML with other sections."""

    def write(name: str = "other.yaml", **sections: Any) -> Path:
        content = yaml.safe_load(tiny_boards.read_text())
        content["path"] = str(tiny_boards.parent)
        content.update(sections)
        path = tmp_path / name
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
        return path

    return write


@pytest.fixture
def trainer(write_data: WriteData, tmp_path: Path) -> Callable[..., DSMoETrainer]:
    """Return a function that makes a trainer that has read its data."""

    def make(data: Path | None = None, **overrides: Any) -> DSMoETrainer:
        arguments = {**QUICK, **HASH, "data": str(data or write_data()), "model": "dsmoe-n.yaml", "epochs": 1}
        return DSMoETrainer(overrides={**arguments, "project": str(tmp_path), "name": "run", **overrides})

    return make


# text and taxonomy ----------------------------------------------------------------------------------------------------


def test_descriptions_come_one_by_one_where_the_yaml_says_so(
    trainer: Callable[..., DSMoETrainer], write_data: WriteData
) -> None:
    """And from weights of either kind: a mean counts as one description, several are averaged."""
    cfg = yaml_model_load("dsmoe-n.yaml")
    cfg["dsmoe"]["descriptions"] = "attended"
    data = write_data(prompts={"spur": ["a thorn", "a spike", "a hair"]})
    net = trainer(data).get_model(cfg, verbose=False)
    (row,) = net.blocks(TextSemantics)
    assert row.bank.any(-1).sum(1).tolist() == [1, 1, 1, 1, 3, 1]
    bare = trainer(write_data("bare.yaml", prompts=None), dsmoe_text=None)
    again = bare.get_model(cfg, deepcopy(net), verbose=False)
    assert torch.equal(again.blocks(TextSemantics)[0].bank, row.bank)
    pooling = bare.get_model("dsmoe-n.yaml", deepcopy(net), verbose=False)
    pooled = torch.from_numpy(net.text_bank().vectors)
    torch.testing.assert_close(pooling.blocks(TextSemantics)[0].bank, pooled)
    back = bare.get_model(cfg, pooling, verbose=False)
    torch.testing.assert_close(back.blocks(TextSemantics)[0].bank, pooled)


def test_prompts_come_from_the_data_yaml(trainer: Callable[..., DSMoETrainer], write_data: WriteData) -> None:
    own = trainer(write_data(prompts={"spur": "a thorn"})).get_model("dsmoe-n.yaml", verbose=False)
    assert own.text_info["prompts"][4] == ["a photo of a spur defect: a thorn"]
    assert own.text_info["prompts"][3] == ["a photo of a short defect"]
    assert own.text_info["encoder"] == "hash"
    assert own.names[4] == "spur"
    (row,) = own.blocks(TextSemantics)
    expected = encode_bank(own.names, {"spur": "a thorn"}, encoder="hash").vectors
    torch.testing.assert_close(row.bank, torch.from_numpy(expected))


def test_neither_prompts_nor_taxonomy_is_fine(trainer: Callable[..., DSMoETrainer], write_data: WriteData) -> None:
    bare = trainer(write_data(prompts=None, taxonomy=None)).get_model("dsmoe-n.yaml", verbose=False)
    assert bare.text_info["prompts"][0] == ["a photo of a missing hole defect"]
    assert len(bare.blocks(HyperbolicFusion)[0].edges) == 0


def test_a_prompt_file_wins_over_the_data_yaml(
    trainer: Callable[..., DSMoETrainer], write_data: WriteData, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("spur: [a needle of copper]\n")
    data = write_data(prompts={"spur": "a thorn", "short": "a bridge"})
    net = trainer(data, dsmoe_prompts=str(file)).get_model("dsmoe-n.yaml", verbose=False)
    assert net.text_info["prompts"][4] == ["a photo of a spur defect: a needle of copper"]
    assert net.text_info["prompts"][3] == ["a photo of a short defect: a bridge"]


def test_taxonomy_sets_the_radii(trainer: Callable[..., DSMoETrainer], write_data: WriteData) -> None:
    deep = {"copper": [{"bridge": ["short", "spur"]}, "mouse_bite"]}
    (block,) = trainer(write_data(taxonomy=deep)).get_model("dsmoe-n.yaml", verbose=False).blocks(HyperbolicFusion)
    (flat,) = trainer(write_data(taxonomy=None)).get_model("dsmoe-n.yaml", verbose=False).blocks(HyperbolicFusion)
    assert block.members.shape == (2, 6)
    assert len(block.edges) == 4
    assert block.parent_radius[0] < block.parent_radius[1] < block.radius[3]
    assert flat.parent_radius.numel() == 0
    assert not torch.equal(flat.radius, block.radius)


def test_keys_reach_the_net(trainer: Callable[..., DSMoETrainer]) -> None:
    net = trainer(dsmoe_topk=3, dsmoe_moe="dense").get_model("dsmoe-n.yaml", verbose=False)
    assert [m.k for m in (*net.blocks(ExpertGate), *net.blocks(SparseMoE))] == [3, 3]
    assert net.blocks(SparseMoE)[0].mode == "dense"


# one class for all ----------------------------------------------------------------------------------------------------


def test_a_single_class_is_described_by_what_describes_all(
    trainer: Callable[..., DSMoETrainer], write_data: WriteData
) -> None:
    run = trainer(write_data(prompts={"spur": ["a thorn", "a spike"]}), single_cls=True)
    assert (run.data["names"], run.data["nc"], run.args.single_cls) == ({0: "item"}, 1, True)
    net = run.get_model("dsmoe-n.yaml", verbose=False)
    assert net.text_info["names"] == ["item"]
    (prompts,) = net.text_info["prompts"]
    assert len(prompts) == 7
    assert prompts[3:6] == [
        "a photo of a short defect", "a photo of a spur defect: a thorn", "a photo of a spur defect: a spike"
    ]  # fmt: skip
    assert len(net.blocks(HyperbolicFusion)[0].edges) == 0


def test_a_single_class_with_words_of_its_own(
    trainer: Callable[..., DSMoETrainer], write_data: WriteData, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("item: [anything that no sound board has]\n")
    net = trainer(single_cls=True, dsmoe_prompts=str(file)).get_model("dsmoe-n.yaml", verbose=False)
    assert net.text_info["prompts"] == [["a photo of a item defect: anything that no sound board has"]]
    file.write_text("spur: [a needle of copper]\n")  # as for the classes that it stands for
    net = trainer(single_cls=True, dsmoe_prompts=str(file)).get_model("dsmoe-n.yaml", verbose=False)
    assert "a photo of a spur defect: a needle of copper" in net.text_info["prompts"][0]


def test_a_single_class_from_start_to_validation(tiny_boards: Path, tmp_path: Path) -> None:
    yolo = YOLO("dsmoe-n.yaml")
    yolo.train(data=tiny_boards, epochs=1, project=str(tmp_path), name="one", single_cls=True, **QUICK, **HASH)
    assert yolo.names == {0: "item"}
    assert yolo.val(data=str(tiny_boards), project=str(tmp_path), **QUICK).names == {0: "item"}


# trainers of the user's -----------------------------------------------------------------------------------------------


class Shouts(DetectionTrainer):
    """A trainer as the host's guide has it: one method changed."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
        net = super().get_model(cfg, weights, verbose)
        net.loud = True
        return net


class Replaces(DetectionTrainer):
    """A trainer that builds a net of the host's."""

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> DetectionModel:
        return DetectionModel("yolo11n.yaml", nc=self.data["nc"], verbose=False)


def test_a_trainer_of_the_users_trains_our_net(tiny_boards: Path, tmp_path: Path) -> None:
    yolo = YOLO("dsmoe-n.yaml")
    arguments = {"data": tiny_boards, "epochs": 1, "project": str(tmp_path), "name": "mine", **QUICK, **HASH}
    yolo.train(Shouts, **arguments)
    assert isinstance(yolo.trainer, Shouts)
    assert type(yolo.trainer).__name__ == "Shouts"
    assert type(yolo.model) is DSMoEModel
    assert yolo.model.loud
    assert yolo.model.text_info["names"][4] == "spur"
    assert results_of(tmp_path / "mine")[0].keys() >= ROUTER


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        (Replaces, "trainer: expected a get_model that returns .*, a DSMoEModel, got DetectionModel"),
        (DetectionModel, "trainer: expected a class derived from Ultralytics' DetectionTrainer, got"),
        ("DetectionTrainer", "trainer: expected a class derived from Ultralytics' DetectionTrainer, got"),
    ],
)
def test_a_trainer_that_cannot_train_our_net(trainer: Any, message: str, tiny_boards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as e:
        YOLO("dsmoe-n.yaml").train(
            trainer=trainer, data=tiny_boards, epochs=1, project=str(tmp_path), name="x", **QUICK, **HASH
        )
    assert "\n" not in str(e.value)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("trainer", [DetectionTrainer, DSMoETrainer])
def test_trainers_that_need_no_mixing(trainer: type) -> None:
    assert with_ours(trainer, DSMoETrainer) is DSMoETrainer


# optimizer ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["SGD", "AdamW", "MuSGD"])
def test_scalars_get_a_faster_pace(optimizer: str, trainer: Callable[..., DSMoETrainer]) -> None:
    run = trainer()
    net = run.get_model("dsmoe-n.yaml", verbose=False)
    built = run.build_optimizer(net, name=optimizer, lr=0.01, decay=5e-4)
    paces = {id(p): group["lr"] for group in built.param_groups for p in group["params"]}
    assert len(paces) == sum(1 for _ in net.parameters()), "every parameter in exactly one group"
    (gate,), (fusion,) = net.blocks(ExpertGate), net.blocks(HyperbolicFusion)
    fast = [getattr(fusion, n) for n in fusion.fast_parameters]
    assert all(paces[id(p)] == pytest.approx(FAST_LR * 0.01) for p in fast)
    assert paces[id(gate.log_tau)] <= 3 * 0.01  # ten times as fast it only flattened the gate
    assert paces[id(net.model[0].conv.weight)] <= 3 * 0.01  # the host boosts some of its own with MuSGD
    for group in built.param_groups:
        if any(id(p) == id(fusion.log_tau) for p in group["params"]):
            assert group["weight_decay"] == 0


# a short training -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def interrupted(tiny_boards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training of two epochs that was interrupted after its first checkpoint."""
    project = tmp_path_factory.mktemp("interrupted")
    file = project / "mine.yaml"
    file.write_text("spur: [a needle of copper]\n")

    def stop(_trainer: Any) -> None:
        raise KeyboardInterrupt

    yolo = YOLO("dsmoe-n.yaml")
    yolo.add_callback("on_model_save", stop)
    keys = {"dsmoe_topk": 4, "dsmoe_prompts": str(file), "dsmoe_text": "hash"}
    with pytest.raises(KeyboardInterrupt):
        yolo.train(data=tiny_boards, epochs=2, project=str(project), name="run", **QUICK, **keys)
    return project / "run"


@pytest.fixture(scope="module")
def resumed(interrupted: Path) -> tuple[DSMoEModel, DSMoEModel, Path]:
    """Return the net at the interruption, the net at the end, and the run folder."""
    last = interrupted / "weights" / "last.pt"
    before: Any = deepcopy(YOLO(last).model)
    yolo: Any = YOLO(last)
    yolo.train(resume=True, plots=False)
    return before, yolo.model, interrupted


def test_results_have_router_columns(resumed: tuple[DSMoEModel, DSMoEModel, Path]) -> None:
    rows = results_of(resumed[2])
    assert len(rows) == 2
    assert rows[0].keys() >= ROUTER | {"train/align_loss", "train/aux_loss"}
    assert {name for name in rows[0] if name.startswith("val/")} == {"val/box_loss", "val/cls_loss", "val/dfl_loss"}
    for row in rows:
        assert 0 < float(row["router/usage_max"]) <= 1
        assert 0 < float(row["router/entropy"]) <= 3.47  # ln 32
        assert 0 <= int(row["router/dead"]) <= 28
        assert 0.01 <= float(row["router/temperature"]) <= 1
        assert float(row["train/align_loss"]) > 0


def test_resume_keeps_text_and_topk(resumed: tuple[DSMoEModel, DSMoEModel, Path]) -> None:
    before, after, _ = resumed
    assert type(after) is DSMoEModel
    assert after.text_info == before.text_info
    assert after.text_info["prompts"][4] == ["a photo of a spur defect: a needle of copper"]
    assert after.text_info["encoder"] == "hash"
    assert after.options["topk"] == before.options["topk"] == 4
    assert after.blocks(ExpertGate)[0].k == 4
    assert torch.equal(after.blocks(TextSemantics)[0].bank, before.blocks(TextSemantics)[0].bank)
    assert torch.equal(after.blocks(HyperbolicFusion)[0].edges, before.blocks(HyperbolicFusion)[0].edges)
    moved = [k for k, v in before.named_parameters() if not torch.equal(v, after.get_parameter(k))]
    assert len(moved) > 100, "the second epoch trained nothing"


def test_fine_tuning_on_other_classes(
    resumed: tuple[DSMoEModel, DSMoEModel, Path], tiny_boards: Path, tmp_path: Path
) -> None:
    weights = resumed[2] / "weights" / "last.pt"
    content = yaml.safe_load(tiny_boards.read_text())
    labels = tmp_path / "labels"
    for split in ("train", "val"):
        (labels / split).mkdir(parents=True)
        shutil.copytree(tiny_boards.parent / "images" / split, tmp_path / "images" / split)
        for file in (tiny_boards.parent / "labels" / split).glob("*.txt"):
            rows = [line.split() for line in file.read_text().splitlines()]
            text = "\n".join(" ".join([str(int(c) % 2), *box]) for c, *box in rows)
            (labels / split / file.name).write_text(text)
    data = tmp_path / "two.yaml"
    content = {"path": str(tmp_path), "train": "images/train", "val": "images/val", "names": {0: "hole", 1: "copper"}}
    data.write_text(yaml.safe_dump(content))
    yolo = YOLO(weights)
    stem = yolo.model.model[0].conv.weight.clone()
    yolo.train(data=data, epochs=1, project=str(tmp_path), name="fine", lr0=1e-6, optimizer="SGD", **QUICK, **HASH)
    net = yolo.model
    assert net.model[-1].nc == 2
    assert net.blocks(TextSemantics)[0].bank.shape[0] == 2
    assert net.text_info["names"] == ["hole", "copper"]
    assert net.blocks(ExpertGate)[0].k == 4
    torch.testing.assert_close(net.model[0].conv.weight, stem, rtol=0, atol=2e-3)  # kept but for half precision


def test_same_classes_keep_their_text(
    resumed: tuple[DSMoEModel, DSMoEModel, Path], trainer: Callable[..., DSMoETrainer], write_data: WriteData
) -> None:
    weights = YOLO(resumed[2] / "weights" / "last.pt").model
    kept = trainer(write_data(prompts=None), dsmoe_text=None).get_model(weights.yaml, deepcopy(weights), verbose=False)
    assert kept.text_info == weights.text_info
    fresh = trainer(write_data(prompts={"spur": "a thorn"}))
    assert fresh.get_model(weights.yaml, deepcopy(weights), verbose=False).text_info["prompts"][4] == [
        "a photo of a spur defect: a thorn"
    ]


# any YAML -------------------------------------------------------------------------------------------------------------


def test_one_mixture_in_a_yolo11_trains_and_exports(tiny_boards: Path, tmp_path: Path) -> None:
    cfg = {k: v for k, v in yaml_model_load("yolo11n.yaml").items() if k not in {"scale", "yaml_file"}}
    cfg["head"].insert(6, [-1, 1, "SparseMoE", [8, 2]])  # behind the P3 block; the head's rows move by one
    for row in cfg["head"][7:]:
        row[0] = [i + 1 if i > 16 else i for i in row[0]] if isinstance(row[0], list) else row[0]
    cfg["head"][-1][0] = [17, 20, 23]
    path = tmp_path / "yolo11n-moe.yaml"
    path.write_text(yaml.safe_dump(cfg))
    yolo = YOLO(path)
    assert type(yolo.model) is DSMoEModel
    assert [(m.experts, m.k) for m in yolo.model.blocks(SparseMoE)] == [(8, 2)]
    yolo.train(data=tiny_boards, epochs=1, project=str(tmp_path), name="moe", val=False, **QUICK)
    assert results_of(tmp_path / "moe")[0].keys() >= ROUTER
    assert yolo.model.text_info is None
    from ultra_dsmoe.export.parity import compare

    report = compare(yolo.model, yolo.export(format="onnx", imgsz=64), torch.rand(3, 3, 64, 64))
    assert report.agrees(), str(report)
    assert report.experts_equal is True
    assert all(len(experts) == 2 for route in report.routes for experts in route)


# errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sections", "overrides", "error", "message"),
    [
        ({"prompts": {"sput": "x"}}, {}, TextError, r"prompts: expected a class .*'sput' \(did you mean 'spur'\?\)"),
        ({"prompts": ["spur"]}, {}, TextError, "prompts: expected a mapping"),
        ({"taxonomy": {"a": ["b"], "b": ["a"]}}, {}, TextError, "taxonomy: expected a tree, got the cycle"),
        ({"taxonomy": {"a": ["sput"]}}, {}, TextError, "taxonomy: expected leaves that are classes"),
        ({}, {"dsmoe_topk": 33}, ConfigError, "topk: expected 'auto' or an integer from 1 to 32"),
        ({}, {"dsmoe_text": "word2vec"}, DSMoEError, "word2vec"),
        ({}, {"dsmoe_prompts": "nowhere.yaml"}, TextError, "prompts file: expected a readable YAML file, got nowhere"),
    ],
)
def test_user_errors_leave_no_run_folder(
    sections: Any,
    overrides: Any,
    error: Any,
    message: str,
    trainer: Callable[..., DSMoETrainer],
    write_data: WriteData,
    tmp_path: Path,
) -> None:
    run = trainer(write_data(**sections), **overrides)
    with pytest.raises(error, match=message) as e:
        run.get_model("dsmoe-n.yaml", verbose=False)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def test_text_keys_need_a_model_with_text(trainer: Callable[..., DSMoETrainer]) -> None:
    cfg = yaml_model_load("dsmoe-n.yaml")
    cfg["dsmoe"]["text"] = False
    with pytest.raises(ConfigError, match=r"dsmoe_text: expected a model with a TextSemantics row, got hash"):
        trainer().get_model(cfg, verbose=False)


def test_foreign_weights_are_refused(trainer: Callable[..., DSMoETrainer], tmp_path: Path) -> None:
    stock = DetectionModel("yolo11n.yaml", verbose=False)
    with pytest.raises(WeightsError, match=r"expected a checkpoint of dsmoe-n\.yaml, got yolo11n\.yaml, of which"):
        trainer().get_model("dsmoe-n.yaml", stock, verbose=False)
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_files_stays(
    trainer: Callable[..., DSMoETrainer], write_data: WriteData, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(TextError):
        trainer(write_data(prompts={"sput": "x"})).get_model("dsmoe-n.yaml", verbose=False)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
