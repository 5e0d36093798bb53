"""Our networks get our classes, stock ones get the host's; keys are in force for one call."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import toy_yaml
from ultralytics import YOLO
from ultralytics.engine.exporter import export_formats
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError
from ultra_dsmoe.evaluate.reference_predictor import ReferencePredictor
from ultra_dsmoe.evaluate.reference_validator import ReferenceValidator
from ultra_dsmoe.export import exporting
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.model.settings import in_force
from ultra_dsmoe.nn.neck.expert_gate import ExpertGate
from ultra_dsmoe.nn.neck.sparse_moe import SparseMoE
from ultra_dsmoe.plugin import verbs
from ultra_dsmoe.text import encode_bank
from ultra_dsmoe.train.trainer import DSMoETrainer

STOCK_FILE = "yolo11n.yaml"


@pytest.fixture(scope="module")
def ours() -> YOLO:
    model = YOLO("dsmoe-n.yaml")
    names = {0: "spur", 1: "short"}
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)
    net.names = names
    net.set_text(encode_bank(names, encoder="hash"))
    with torch.no_grad():  # some branches start at zero
        for p in net.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    model.model = net.eval()
    net.args = {"imgsz": 64, "data": None, "task": "detect"}
    net.task, net.pt_path = "detect", "dsmoe.pt"
    model.overrides["model"] = "dsmoe.pt"
    return model


@pytest.fixture(scope="module")
def stock() -> YOLO:
    return YOLO(STOCK_FILE)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "p.yaml"
    path.write_text("spur: [a spike of copper]\n")
    return path


def test_our_yaml_gets_our_classes(ours: YOLO) -> None:
    assert isinstance(YOLO("dsmoe-n.yaml").model, DSMoEModel)
    detect = ours.task_map["detect"]
    assert (detect["model"], detect["trainer"]) == (DSMoEModel, DSMoETrainer)
    assert (detect["validator"], detect["predictor"]) == (ReferenceValidator, ReferencePredictor)


def test_a_yaml_of_the_users_gets_them_too(tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "mine.yaml"
    d = toy_yaml()
    path.write_text(yaml.safe_dump({k: v for k, v in d.items() if k != "scale"}))
    assert isinstance(YOLO(path).model, DSMoEModel)


def test_stock_models_get_stock_classes(stock: YOLO) -> None:
    detect = stock.task_map["detect"]
    assert type(stock.model) is DetectionModel
    assert (detect["model"], detect["trainer"]) == (DetectionModel, DetectionTrainer)
    assert stock.task_map["segment"] == YOLO("yolo11n-seg.yaml").task_map["segment"]


def test_a_distillation_wrapper_is_looked_through(ours: YOLO) -> None:
    class Wrapper(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.student_model = ours.model

    wrapped = YOLO(STOCK_FILE)
    wrapped.model = Wrapper()
    assert wrapped.task_map["detect"]["trainer"] is DSMoETrainer


@pytest.mark.parametrize("verb", ["val", "predict", "track", "export", "benchmark", "train"])
@pytest.mark.parametrize(
    "key", [{"dsmoe_topk": 2}, {"dsmoe_moe": "dense"}, {"dsmoe_text": "hash"}, {"dsmoe_gamma": 1.5}]
)
def test_stock_models_refuse_our_keys(stock: YOLO, verb: str, key: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(key))}: expected a DS-MoE model .*, got {STOCK_FILE}"):
        getattr(stock, verb)(**key)


def test_stock_models_refuse_our_keys_in_a_file_too(stock: YOLO, tmp_path: Path) -> None:
    path = tmp_path / "args.yaml"
    path.write_text("epochs: 1\ndsmoe_topk: 3\n")
    with pytest.raises(ConfigError, match="dsmoe_topk: expected a DS-MoE model"):
        stock.train(cfg=path)


def test_stock_models_refuse_our_cache(stock: YOLO, tmp_path: Path) -> None:
    path = tmp_path / "args.yaml"
    path.write_text("cache: lmdb\n")
    for given in ({"cache": "lmdb"}, {"cfg": path}):
        with pytest.raises(ConfigError, match=r"^cache: expected ram or disk for any other model than .*, got lmdb$"):
            stock.train(**given)


def test_exported_files_refuse_our_keys(tmp_path: Path) -> None:
    path = tmp_path / "best.onnx"
    path.write_bytes(b"")
    model = YOLO.__new__(YOLO)
    torch.nn.Module.__init__(model)
    model.model, model.model_name = str(path), str(path)
    with pytest.raises(ConfigError, match=r"as a .pt file, got .*best.onnx"):
        model.val(dsmoe_topk=2)


@pytest.mark.parametrize("verb", ["val", "predict", "export", "benchmark", "train"])
def test_unknown_keys_are_refused_by_every_verb(ours: YOLO, stock: YOLO, verb: str) -> None:
    for model in (ours, stock):
        with pytest.raises(ConfigError, match="did you mean 'dsmoe_moe'"):
            getattr(model, verb)(dsmoe_mo="dense")


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Record what a network is set to while it runs, whichever copy of it does."""
    seen: dict[str, Any] = {}
    forward = DSMoEModel.forward

    def watched(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        moe = self.blocks(SparseMoE)[0]
        seen.update(k=moe.k, mode=moe.mode, prompts=self.text_info["prompts"][0], topk=self.options["topk"])
        return forward(self, x, *args, **kwargs)

    monkeypatch.setattr(DSMoEModel, "forward", watched)
    return seen


GIVEN = {"dsmoe_topk": 2, "dsmoe_moe": "dense"}
REWORDED = "a photo of a spur defect: a spike of copper"  # the texts of a prompt file go into the template


def state(ours: YOLO) -> tuple[Any, ...]:
    moe, net = ours.model.blocks(SparseMoE)[0], ours.model
    bank = next(m.bank.clone() for m in net.modules() if hasattr(m, "bank"))
    return moe.k, moe.mode, net.options["topk"], net.text_info, bank


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cached", [False, True])
def test_keys_hold_for_one_call(
    ours: YOLO, prompts: Path, tmp_path: Path, inside: dict[str, Any], stream: bool, cached: bool
) -> None:
    """Whether the predictor, which may hold a copy of the network, comes from this call or an earlier one."""
    before, own_prompts = state(ours), ours.model.text_info["prompts"][0]
    ours.predictor = None
    image = torch.zeros(1, 3, 64, 64)
    common = {"imgsz": 64, "stream": stream, "verbose": False, "project": str(tmp_path), "device": "cpu"}
    if cached:
        list(ours.predict(image, **common))
    results = ours.predict(image, **GIVEN, dsmoe_prompts=str(prompts), dsmoe_text="hash", **common)
    assert len(list(results)) == 1
    assert inside == {"k": 2, "mode": "dense", "prompts": [REWORDED], "topk": 2}
    list(ours.predict(image, **common))
    assert inside == {"k": 5, "mode": "gather", "prompts": own_prompts, "topk": "auto"}
    after = state(ours)
    assert after[:4] == before[:4]
    assert torch.equal(after[4], before[4])


def test_settings_made_by_hand_reach_a_cached_predictor(ours: YOLO, tmp_path: Path, inside: dict[str, Any]) -> None:
    call = {"imgsz": 64, "verbose": False, "project": str(tmp_path), "device": "cpu"}
    ours.predict(torch.zeros(1, 3, 64, 64), **call)
    ours.set_topk(7)
    try:
        ours.predict(torch.zeros(1, 3, 64, 64), **call)
        assert inside["k"] == 7
    finally:
        ours.set_topk("auto")


def test_keys_are_in_force_inside_and_prompts_change_the_output(ours: YOLO, prompts: Path) -> None:
    net, image = ours.model, torch.rand(1, 3, 64, 64)
    own = net(image)[0]
    with in_force(net, {"dsmoe_prompts": str(prompts)}):
        assert not torch.equal(net(image)[0], own)
    assert torch.equal(net(image)[0], own)
    with in_force(net, {"dsmoe_topk": 1}):
        assert net.blocks(SparseMoE)[0].k == 1
        assert not torch.equal(net(image)[0], own)
    with in_force(net, {"dsmoe_moe": "dense"}):
        assert torch.allclose(net(image)[0], own, atol=1e-3)  # pixels


def test_a_failed_call_leaves_the_network_as_it_was(ours: YOLO, prompts: Path) -> None:
    before = state(ours)
    with pytest.raises(DSMoEError, match="64"), in_force(ours.model, {"dsmoe_moe": "dense", "dsmoe_topk": 64}):
        pass
    with pytest.raises(ZeroDivisionError), in_force(ours.model, GIVEN):
        _ = 1 / 0
    assert state(ours)[:4] == before[:4]


def test_another_encoder_is_refused(ours: YOLO) -> None:
    with pytest.raises(DSMoEError, match="encoder that the model was trained on, hash"):
        ours.val(dsmoe_text="sentence:some-model")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"format": "onnx"}, 17),
        ({"format": "engine"}, 17),
        ({"format": "onnx", "opset": 13}, 13),
        ({"format": "onnx", "opset": None}, 17),
        ({"format": "torchscript"}, None),
        ({}, None),
        ({"format": "ENGINE"}, 17),
    ],
)
def test_opset(given: dict[str, Any], expected: int | None) -> None:
    exporting.set_opset(given)
    assert given.get("opset") == expected


def test_stock_exports_keep_the_hosts_opset(monkeypatch: pytest.MonkeyPatch, ours: YOLO, stock: YOLO) -> None:
    from ultralytics.engine import exporter

    seen = []

    class Exporter:
        def __init__(self, overrides: dict[str, Any], **_: object) -> None:
            seen.append((overrides.get("opset"), torch.onnx.export.__module__))

        def __call__(self, model: object) -> str:
            return "done"

    monkeypatch.setattr(exporter, "Exporter", Exporter)
    own = torch.onnx.export
    stock.model.args["imgsz"] = 64
    for model in (stock, ours):
        assert model.export(format="onnx", imgsz=64) == "done"
    assert [opset for opset, _ in seen] == [None, 17]
    assert torch.onnx.export is own


# static experts -------------------------------------------------------------------------------------------------------


def settings_of(net: DSMoEModel) -> tuple[Any, ...]:
    moe, gate = net.blocks(SparseMoE)[0], net.blocks(ExpertGate)[0]
    return moe.mode, moe.kept, gate.kept, moe.dynamic_conv, moe.k


def test_kept_experts_hold_for_one_call(ours: YOLO) -> None:
    net, seen = ours.model, []
    before = settings_of(net)

    def kept() -> list[list[int]]:
        seen.append(settings_of(net))
        return [[0, 3, 7]]

    with in_force(net, {"dsmoe_moe": "static", "dsmoe_topk": 2, "dsmoe_dynamic_conv": False}, kept):
        assert settings_of(net) == ("static", (0, 3, 7), (0, 3, 7), False, 2)
        with in_force(net, {"dsmoe_moe": "gather", "dsmoe_topk": 9}):
            assert settings_of(net) == ("gather", None, None, False, 9)
        assert settings_of(net) == ("static", (0, 3, 7), (0, 3, 7), False, 2)
    assert seen == [("gather", None, None, False, 2)], "routing is looked at with the other keys in force"
    assert settings_of(net) == before
    with pytest.raises(ConfigError, match="kept experts"), in_force(net, {"dsmoe_moe": "static"}, lambda: [[1, 2]]):
        pass
    assert settings_of(net) == before


@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_static_needs_a_data_set(ours: YOLO, verb: str, tmp_path: Path) -> None:
    before = settings_of(ours.model)
    with pytest.raises(ConfigError, match=r"^data: expected a data YAML, whose .*\(gather needs none\), got none$"):
        getattr(ours, verb)(dsmoe_moe="static", imgsz=64)
    with pytest.raises(DataError, match=r"^data: expected a data YAML with images .*'val' split, got .*gone.yaml"):
        getattr(ours, verb)(dsmoe_moe="static", imgsz=64, data=str(tmp_path / "gone.yaml"))
    assert settings_of(ours.model) == before


def test_an_engine_is_static_unless_told_otherwise(ours: YOLO) -> None:
    assert exporting.with_defaults(ours.model, {}, {"format": "engine"}) == {"dsmoe_moe": "static"}
    assert exporting.with_defaults(ours.model, {"dsmoe_moe": "gather"}, {"format": "engine"}) == {"dsmoe_moe": "gather"}
    assert exporting.with_defaults(ours.model, {}, {"format": "onnx"}) == {}
    assert exporting.with_defaults(torch.nn.Identity(), {}, {"format": "engine"}) == {}
    with pytest.raises(ConfigError, match="data: expected a data YAML"):
        ours.export(format="engine", imgsz=64)


def test_a_net_of_one_size_is_not_exported_as_dynamic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="dynamic: expected False for a net with SwinStage, whose exported windows"):
        YOLO("smodel-n.yaml").export(format="onnx", imgsz=64, dynamic=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mode", ["gather", "dense", "static"])
def test_a_dynamic_batch_and_convolutions_of_gathered_weights(ours: YOLO, mode: str) -> None:
    given, call = {"dsmoe_moe": mode}, {"format": "onnx", "dynamic": True}
    wanted = {} if mode == "static" else {"dsmoe_dynamic_conv": False}
    assert exporting.with_defaults(ours.model, given, call) == {**given, **wanted}
    given["dsmoe_dynamic_conv"] = True
    if mode == "static":
        assert exporting.with_defaults(ours.model, given, call) == given
        return
    with pytest.raises(ConfigError, match=f"dsmoe_dynamic_conv: expected False beside dynamic=True and .*moe={mode}"):
        exporting.with_defaults(ours.model, given, call)


def test_keep_is_for_static(ours: YOLO) -> None:
    for given in ({}, {"dsmoe_moe": "gather"}):
        with pytest.raises(ConfigError, match="dsmoe_keep: expected this key beside dsmoe_moe=static"):
            ours.export(format="onnx", dsmoe_keep=8, **given)


def test_a_format_that_refuses_a_data_set_gets_none() -> None:
    call = {"format": "torchscript", "data": "x.yaml", "fraction": 0.5, "imgsz": 64}
    refused = set().union(*export_formats()["Arguments"]) & {"data", "fraction"}  # hosts before 8.4 refuse neither
    assert exporting.accepted(call) == {k: v for k, v in call.items() if k not in refused}
    call["format"] = "onnx"  # INT8 calibrates on a data set
    assert exporting.accepted(call)["data"] == "x.yaml"


def test_the_look_at_a_network_imports_nothing(monkeypatch: pytest.MonkeyPatch, stock: YOLO) -> None:
    import sys

    monkeypatch.delitem(sys.modules, "ultra_dsmoe.model.detector")
    assert verbs.our_net(stock) is None
    assert "ultra_dsmoe.model.detector" not in sys.modules


@pytest.mark.parametrize(("epoch", "finished"), [(-1, True), (3, False), (None, False)])
def test_a_finished_training_is_not_resumed(epoch: int | None, finished: bool) -> None:
    """The host would begin another one, on its default data if none is named."""
    from ultra_dsmoe.plugin.verbs import _require_unfinished

    model = SimpleNamespace(ckpt={"epoch": epoch}, ckpt_path="last.pt")
    for resume in (False, None, "other.pt"):
        _require_unfinished(model, resume)
    if finished:
        with pytest.raises(
            ConfigError, match=r"^resume: expected the last\.pt of a training that was interrupted, got last"
        ):
            _require_unfinished(model, True)
    else:
        _require_unfinished(model, True)
