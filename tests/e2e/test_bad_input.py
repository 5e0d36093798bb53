"""Bad input: one line that names the argument, what was expected and what came; nothing half-written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from refusals import NAMES, one_line
from ultralytics import YOLO
from ultralytics.nn.tasks import DetectionModel, yaml_model_load

from ultra_dsmoe.errors import ConfigError, DataError, DSMoEError, ShapeError, TextError, WeightsError
from ultra_dsmoe.model.detector import DSMoEModel
from ultra_dsmoe.nn import (
    DualAttentionDetect,
    ExpertGate,
    HubInject,
    SparseMoE,
    TextSemantics,
)
from ultra_dsmoe.plugin import keys
from ultra_dsmoe.text import Taxonomy, TextBank, encode_bank
from ultra_dsmoe.text.prompts import read_prompt_file

QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "plots": False, "device": "cpu", "epochs": 1, "verbose": False}
Change = Callable[[dict[str, Any]], None]
Run = Callable[..., subprocess.CompletedProcess[str]]


# constructors and values ----------------------------------------------------------------------------------------------


def bank(**changes: Any) -> TextBank:
    parts = {"names": ("a", "b"), "prompts": (("x",), ("y",)), "encoder": "t", "vectors": np.ones((2, 4), np.float32)}
    return TextBank(**{**parts, "key": "0", **changes})


def vectors_with(value: float) -> np.ndarray:
    vectors = np.ones((2, 4), np.float32)
    vectors[1, 3] = value
    return vectors


VALUES: list[tuple[str, Callable[[], Any], type[DSMoEError], str]] = [
    ("k over N", lambda: SparseMoE(16, 8, 9), ConfigError, "1 to 8"),
    ("k zero", lambda: SparseMoE(16, 8, 0), ConfigError, "topk"),
    ("k of the gate over N", lambda: ExpertGate(16, 4, 5), ConfigError, "topk"),
    ("k a word", lambda: ExpertGate(16, 4, "most"), ConfigError, "got most"),
    ("k a flag", lambda: ExpertGate(16, 4, True), ConfigError, "got True"),
    ("too few experts", lambda: SparseMoE(16, 2), ConfigError, "at least 3"),
    ("experts a fraction", lambda: SparseMoE(16, 4.5), ConfigError, "experts"),
    ("gate without experts", lambda: ExpertGate(16, 0), ConfigError, "experts"),
    ("unknown mode", lambda: SparseMoE(16, 4, mode="sparse"), ConfigError, "one of gather, static, dense"),
    ("static mode", lambda: SparseMoE(16, 4).set_mode("static"), ConfigError, "got static"),
    ("gate of another width", lambda: gate_width(), ShapeError, "shape (1, 4)"),
    ("text without classes", lambda: TextSemantics(0), ConfigError, "at least one class"),
    ("text width", lambda: TextSemantics(3, 250), ConfigError, "got 250"),
    ("head without maps", lambda: DualAttentionDetect(3, ch=[]), ConfigError, "at least one feature map"),
    ("head without classes", lambda: DualAttentionDetect(0, ch=[16]), ConfigError, "nc"),
    ("hub scale", lambda: HubInject(8, 8, 3), ConfigError, "got 3"),
    ("names empty", lambda: encode_bank({}, encoder="hash"), TextError, "at least one class"),
    ("a name empty", lambda: encode_bank({0: "spur", 1: " "}, encoder="hash"), TextError, "names[1]"),
    ("names with a gap", lambda: encode_bank({0: "spur", 2: "short"}, encoder="hash"), TextError, "indices 0 to 1"),
    ("prompts of no class", lambda: encode_bank(NAMES, {"sput": "x"}, "hash"), TextError, "did you mean 'spur'"),
    ("prompts a list", lambda: encode_bank(NAMES, ["x"], "hash"), TextError, "a mapping"),
    ("prompt empty", lambda: encode_bank(NAMES, {"spur": [""]}, "hash"), TextError, "prompts[spur]"),
    ("prompt a number", lambda: encode_bank(NAMES, {"spur": 3}, "hash"), TextError, "prompts[spur]"),
    ("unknown encoder", lambda: encode_bank(NAMES, None, "word2vec"), TextError, "word2vec"),
    ("model not here", lambda: encode_bank(NAMES, None, "sentence:/no/such/folder"), TextError, "/no/such/folder"),
    ("taxonomy with a cycle", lambda: Taxonomy.parse(NAMES, {"a": ["b"], "b": ["a"]}), TextError, "the cycle"),
    ("taxonomy with a stranger", lambda: Taxonomy.parse(NAMES, {"a": ["sput"]}), TextError, "'sput'"),
    ("a child of two parents", lambda: Taxonomy.parse(NAMES, {"a": ["spur"], "b": ["spur"]}), TextError, "one parent"),
    ("a class as parent", lambda: Taxonomy.parse(NAMES, {"spur": ["short"]}), TextError, "'spur'"),
    ("taxonomy a list", lambda: Taxonomy.parse(NAMES, ["spur"]), TextError, "a mapping"),
    ("group without child", lambda: Taxonomy.parse(NAMES, {"a": []}), TextError, "taxonomy[a]"),
    ("NaN in the text vectors", lambda: bank(vectors=vectors_with(np.nan)), TextError, "NaN"),
    ("infinity in the text vectors", lambda: bank(vectors=vectors_with(np.inf)), TextError, "infinity"),
    ("a vector short", lambda: bank(vectors=np.ones((1, 4), np.float32)), TextError, "text vectors"),
    ("prompts of fewer classes", lambda: bank(prompts=(("x",),)), TextError, "prompts of 2 classes"),
    ("key topk a word", lambda: keys.check({"dsmoe_topk": "five"}), ConfigError, "dsmoe_topk"),
    ("key topk negative", lambda: keys.check({"dsmoe_topk": -1}), ConfigError, "dsmoe_topk"),
    ("key topk a fraction", lambda: keys.check({"dsmoe_topk": 2.5}), ConfigError, "got 2.5"),
    ("key moe", lambda: keys.check({"dsmoe_moe": "dens"}), ConfigError, "did you mean 'dense'"),
    ("key moe sparse", lambda: keys.check({"dsmoe_moe": "sparse"}), ConfigError, "one of gather, static, dense"),
    ("key prompts no YAML", lambda: keys.check({"dsmoe_prompts": "prompts.txt"}), ConfigError, "a YAML file"),
    ("key text empty", lambda: keys.check({"dsmoe_text": " "}), ConfigError, "dsmoe_text"),
    ("unknown key", lambda: keys.check({"dsmoe_topp": 3}), ConfigError, "did you mean 'dsmoe_topk'"),
    ("prompt file missing", lambda: read_prompt_file("nowhere.yaml"), DSMoEError, "got nowhere.yaml"),
]


def gate_width() -> None:
    SparseMoE(16, 4)([torch.rand(1, 16, 8, 8), None, torch.rand(1, 5)])


@pytest.mark.parametrize(("make", "error", "part"), [v[1:] for v in VALUES], ids=[v[0] for v in VALUES])
def test_wrong_values(make: Callable[[], Any], error: type[DSMoEError], part: str) -> None:
    with pytest.raises(error) as e:
        make()
    one_line(e.value, part)


# model YAMLs ----------------------------------------------------------------------------------------------------------


def put(index: int, column: int, value: Any) -> Change:
    """Return a change of one field of a row of dsmoe-n's head, counted from the file's first row."""

    def change(cfg: dict[str, Any]) -> None:
        cfg["head"][index - len(cfg["backbone"])][column] = value

    return change


def options(**values: Any) -> Change:
    return lambda cfg: cfg["dsmoe"].update(values)


ROWS: list[tuple[str, Change, str]] = [
    ("unknown row", put(14, 2, "CBAN"), "did you mean 'CBAM'"),
    ("too few inputs", put(15, 0, [14]), "'from' with 2 inputs"),
    ("too many inputs", put(13, 0, [2, 4, 7, 11, 9]), "HubFusion"),
    ("mixture with two inputs", put(18, 0, [16, 12]), "1 (map) or 3 (map, text, gate) inputs"),
    ("an input that comes later", put(14, 0, [30]), "rows that come before it"),
    ("gate over fewer experts", put(17, 3, [16]), "a gate over 32 experts"),
    ("an argument that does not fit", put(24, 3, ["twice"]), "HubInject"),
    (
        "a row that is no row",
        lambda cfg: cfg["head"].__setitem__(1, "HubFusion"),
        "[from, repeats, layer, [arguments]]",
    ),
    ("fewer experts than k", options(experts=4, topk=5), "1 to 4"),
    ("two experts", options(experts=2, topk=1), "at least 3"),
    ("unknown option", options(expert=16), "did you mean 'experts'"),
    ("unknown gain", options(gains={"ball": 1}), "did you mean 'bal'"),
    ("negative gain", options(gains={"bal": -1}), "a number >= 0"),
    ("gain not a number", options(gains={"bal": float("nan")}), "a number >= 0"),
    ("unknown loss", options(loss="focal"), "one of dsmoe, host"),
    ("unknown class loss", options(cls_loss="focal"), "one of qfl, bce"),
    ("text a word", options(text="off"), "true or false"),
    ("transfer a list", options(transfer=[1, 2]), "a mapping of row numbers"),
    ("section a list", lambda cfg: cfg.update(dsmoe=["experts"]), "a mapping"),
]


@pytest.mark.parametrize(("change", "part"), [r[1:] for r in ROWS], ids=[r[0] for r in ROWS])
def test_wrong_model_yamls(change: Change, part: str) -> None:
    cfg = yaml_model_load("dsmoe-n.yaml")
    change(cfg)
    with pytest.raises(ConfigError) as e:
        DSMoEModel(cfg, nc=3, verbose=False)
    one_line(e.value, part)


def test_a_stock_row_that_reads_a_list() -> None:
    cfg = yaml_model_load("dsmoe.yaml")
    cfg["backbone"][1] = [0, 1, "Conv", [64, 1, 1]]  # in place of a Pick
    with pytest.raises(ConfigError) as e:
        DSMoEModel(cfg, nc=3, verbose=False)
    one_line(e.value, "tensor inputs", "MobileSAM")


# nets, weights, images ------------------------------------------------------------------------------------------------


def test_images_that_are_no_multiple_of_32() -> None:
    with pytest.raises(ShapeError) as e:
        DSMoEModel("dsmoe-n.yaml", nc=3, verbose=False)(torch.rand(1, 3, 64, 65))
    one_line(e.value, "multiples of 32", "64x65")


@pytest.mark.parametrize("stock", ["yolo11n", "yolov8s"])
def test_weights_of_another_architecture(stock: str, tiny_boards: Path, tmp_path: Path) -> None:
    torch.save({"model": DetectionModel(f"{stock}.yaml", verbose=False), "train_args": {}}, tmp_path / "other.pt")
    yolo = YOLO("yolov8n-dsmoe.yaml")
    arguments = {**QUICK, "project": str(tmp_path / "runs"), "name": "run", "dsmoe_text": "hash"}
    with pytest.raises(WeightsError) as e:
        yolo.train(data=tiny_boards, pretrained=str(tmp_path / "other.pt"), **arguments)
    one_line(e.value, "pretrained weights", "other.pt")
    assert not list((tmp_path / "runs").rglob("*.*")), "something was left behind"


def test_nan_in_a_nets_text() -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)
    with pytest.raises(TextError) as e:
        net.blocks(TextSemantics)[0].set_bank(torch.from_numpy(vectors_with(np.nan)))
    one_line(e.value, "finite")


@pytest.mark.parametrize("prompts", [{"sput": "x"}, {"spur": ""}, "spur"], ids=["no class", "empty", "text"])
def test_wrong_rewording(prompts: Any) -> None:
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)
    net.names = dict(NAMES)
    net.set_text(encode_bank(NAMES, encoder="hash"))
    with pytest.raises(TextError) as e:
        net.set_prompts(prompts)
    one_line(e.value)


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"dsmoe_topk": 33}, "1 to 32"),
        ({"dsmoe_moe": "sparse"}, "one of gather, static, dense"),
        ({"dsmoe_prompts": "nowhere.yaml"}, "nowhere.yaml"),
        ({"dsmoe_tpok": 2}, "did you mean 'dsmoe_topk'"),
    ],
)
@pytest.mark.parametrize("verb", ["val", "predict", "export"])
def test_wrong_keys_of_a_verb(verb: str, given: dict[str, Any], part: str, trained: Path, tmp_path: Path) -> None:
    yolo = YOLO(trained / "weights" / "best.pt")
    with pytest.raises((DSMoEError, SyntaxError)) as e:
        getattr(yolo, verb)(project=str(tmp_path / "runs"), **given)
    one_line(e.value, part)
    assert not (tmp_path / "runs").exists()
    assert not list(trained.glob("weights/*.onnx"))


def test_keys_need_one_of_our_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as e:
        YOLO("yolov8n.yaml").train(dsmoe_topk=3, project=str(tmp_path / "runs"))
    one_line(e.value, "dsmoe_topk", "yolov8n")
    assert not (tmp_path / "runs").exists()


# data, text vectors, folders ------------------------------------------------------------------------------------------


def data_yaml(path: Path, boards: Path, **changes: Any) -> str:
    """Write the boards' data YAML with other sections."""
    content = {**yaml.safe_load(boards.read_text()), "path": str(boards.parent), **changes}
    (path / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return str(path / "data.yaml")


def save_checkpoint(path: Path, *, version: int = 1, text: float = 0.1) -> str:
    """Write a checkpoint of two classes, of a format version, with one value of its text vectors."""
    net = DSMoEModel("dsmoe-n.yaml", nc=2, verbose=False)
    net.names, net.checkpoint_format = dict(NAMES), version
    net.set_text(encode_bank(NAMES, encoder="hash"))
    net.blocks(TextSemantics)[0].bank[1, 3] = text
    torch.save({"model": net, "train_args": {"task": "detect", "imgsz": 64}}, path / "ours.pt")
    return str(path / "ours.pt")


@pytest.mark.parametrize("changes", [{"names": {}}, {"names": []}, {"names": None, "nc": 0}], ids=str)
def test_a_data_yaml_without_classes(changes: dict[str, Any], tiny_boards: Path, trained: Path, tmp_path: Path) -> None:
    data = data_yaml(tmp_path, tiny_boards, **changes)
    for model, verb in (("dsmoe-n.yaml", "train"), (trained / "weights" / "best.pt", "val")):
        with pytest.raises(DataError) as e:
            getattr(YOLO(model), verb)(data=data, project=str(tmp_path / "runs"), **QUICK)
        one_line(e.value, "names: expected at least one class in", "data.yaml")
        assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_text_vectors_are_seen_on_loading(value: float, tiny_boards: Path, tmp_path: Path) -> None:
    file = save_checkpoint(tmp_path, text=value)
    for load in (lambda: YOLO(file), lambda: YOLO("dsmoe-n.yaml").train(data=tiny_boards, pretrained=file, **QUICK)):
        with pytest.raises(TextError) as e:
            load()
        one_line(e.value, f"text vectors of {file}: expected finite numbers, got NaN or infinity")
    assert YOLO(save_checkpoint(tmp_path)).model.text_info["encoder"] == "hash"


def test_missing_images_leave_no_folder(tiny_boards: Path, trained: Path, tmp_path: Path) -> None:
    command = "from ultra_dsmoe.data import refuse_missing; refuse_missing('pcb', yaml)"
    for download in (command, None):
        data = data_yaml(tmp_path, tiny_boards, val="images/none", download=download)
        reason = DataError if download else FileNotFoundError
        with pytest.raises(RuntimeError, match="none") as e:
            YOLO("dsmoe-n.yaml").train(data=data, project=str(tmp_path / "new" / "runs"), **QUICK)
        assert isinstance(e.value.__cause__, reason)
        with pytest.raises(reason, match="none"):
            YOLO(trained / "weights" / "best.pt").val(data=data, project=str(tmp_path / "new" / "runs"), **QUICK)
        assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("there", ["nothing", "an earlier run's arguments"])
def test_folders_of_others_stay(there: str, tiny_boards: Path, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    (run / "weights").mkdir(parents=True)
    if there != "nothing":
        (run / "args.yaml").write_text("mine: 1\n")
    call = {**QUICK, "data": data_yaml(tmp_path, tiny_boards, val="images/none"), "project": str(run.parent)}
    for exist_ok in (True, False):
        with pytest.raises(RuntimeError):
            YOLO("dsmoe-n.yaml").train(**call, name="run", exist_ok=exist_ok)
        assert (run / "weights").is_dir()
    assert [p.name for p in run.parent.iterdir()] == ["run"], "the second run's folder was left behind"


# the command line -----------------------------------------------------------------------------------------------------


def own_rows(path: Path) -> str:
    """Write a model YAML with a misspelt row."""
    cfg = {k: v for k, v in yaml_model_load("dsmoe-n.yaml").items() if k not in {"scale", "yaml_file"}}
    cfg["head"][2][2] = "CBAN"
    (path / "mine.yaml").write_text(yaml.safe_dump(cfg))
    return str(path / "mine.yaml")


def foreign_weights(path: Path) -> str:
    """Write a stock net's checkpoint."""
    torch.save({"model": DetectionModel("yolo11n.yaml", verbose=False), "train_args": {}}, path / "other.pt")
    return str(path / "other.pt")


def strange_host(path: Path) -> dict[str, str]:
    """Return an environment in which the host's parser has other parameters than we know."""
    line = (
        "import ultra_dsmoe.plugin.host as h\nh.FACTS['ultralytics.nn.tasks']['parse_model'] = ('config', 'channels')\n"
    )
    (path / "sitecustomize.py").write_text(line)
    return {"PYTHONPATH": str(path)}


Prepare = Callable[[Path, Path], list[str]]
CYCLE = {"a": ["b"], "b": ["a"]}
COMMANDS: list[tuple[str, Prepare, str]] = [
    ("unknown key", lambda p, b: ["train", "dsmoe_topp=3"], "did you mean 'dsmoe_topk'"),
    ("more experts than there are", lambda p, b: ["train", "dsmoe_topk=99"], "1 to 32"),
    ("no names", lambda p, b: ["train", f"data={data_yaml(p, b, names={})}"], "names: expected at least one class"),
    (
        "prompts of no class",
        lambda p, b: ["train", f"data={data_yaml(p, b, prompts={'sput': 'x'})}"],
        "'sput' (did you mean 'spur'?)",
    ),
    ("cycle", lambda p, b: ["train", f"data={data_yaml(p, b, taxonomy=CYCLE)}"], "the cycle"),
    (
        "weights of another net",
        lambda p, b: ["train", f"pretrained={foreign_weights(p)}"],
        "pretrained weights: expected a checkpoint of dsmoe-n.yaml",
    ),
    (
        "NaN in the text vectors",
        lambda p, b: ["val", f"model={save_checkpoint(p, text=np.nan)}"],
        "ours.pt: expected finite numbers, got NaN or infinity",
    ),
    ("newer checkpoint", lambda p, b: ["predict", f"model={save_checkpoint(p, version=99)}"], "upgrade ultra-dsmoe"),
]
MORE: list[tuple[str, Prepare, str]] = [
    ("key without value", lambda p, b: ["train", "dsmoe_topk="], "dsmoe_topk: expected"),
    ("misspelt row", lambda p, b: ["train", f"model={own_rows(p)}"], "did you mean 'CBAM'"),
    ("NaN, predict", lambda p, b: ["predict", f"model={save_checkpoint(p, text=np.nan)}"], "finite numbers"),
    ("NaN, export", lambda p, b: ["export", f"model={save_checkpoint(p, text=np.nan)}"], "finite numbers"),
]


def words(prepare: Prepare, files: Path, boards: Path, here: Path) -> list[str]:
    """Return the words of a command."""
    verb, *given = prepare(files, boards)
    common = ["model=dsmoe-n.yaml", f"data={boards}", "dsmoe_text=hash"] if verb == "train" else []
    return [verb, *common, *given, f"project={here / 'runs'}"]


@pytest.mark.parametrize(("case", "prepare", "part"), [pytest.param(*c, id=c[0]) for c in (*COMMANDS, *MORE)])
def test_the_command_line_says_one_line(
    case: str, prepare: Prepare, part: str, refused: Callable[..., str], tiny_boards: Path, files: Path, tmp_path: Path
) -> None:
    assert part in refused(*words(prepare, files, tiny_boards, tmp_path / "here"))


FRESH: list[tuple[str, Prepare, str]] = [
    ("no names", lambda p, b: ["train", f"data={data_yaml(p, b, names={})}"], "names: expected at least one class"),
    ("missing images", lambda p, b: ["val", f"model={save_checkpoint(p)}", "data=nowhere.yaml"], "data: expected"),
    ("unknown host", lambda p, b: ["train"], "ultralytics: expected a version that this ultra-dsmoe knows, got"),
]


@pytest.mark.parametrize(("case", "prepare", "part"), [pytest.param(*c, id=c[0]) for c in FRESH])
def test_a_fresh_process_says_one_line(
    case: str, prepare: Prepare, part: str, run_yolo: Run, tiny_boards: Path, files: Path, tmp_path: Path
) -> None:
    """The error is the last line, the exit code is 1, and the folder that the command ran in is as it was."""
    here = tmp_path / "here"
    here.mkdir()
    env = strange_host(files) if case == "unknown host" else {}
    done = run_yolo(*words(prepare, files, tiny_boards, here), cwd=here, env=env, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: "), done.stderr[-2000:]
    assert ": expected " in last
    assert ", got " in last
    assert part in last
    assert "Traceback" not in done.stderr + done.stdout
    assert not list(here.iterdir()), "something was left behind"
    if case == "unknown host":
        warnings = [line for line in (done.stderr + done.stdout).splitlines() if "ultra_dsmoe is off" in line]
        assert len(warnings) == 1
        assert "parse_model" in warnings[0]


def test_a_size_that_is_no_multiple_of_32_is_rounded_up(run_yolo: Run, tiny_boards: Path, tmp_path: Path) -> None:
    """The host's own rule for all models: a warning, and it goes on."""
    source = next((tiny_boards.parent / "images" / "val").iterdir())
    done = run_yolo("predict", f"model={save_checkpoint(tmp_path)}", f"source={source}", "imgsz=65", "save=False")
    warning = next(line for line in (done.stdout + done.stderr).splitlines() if "multiple of max stride 32" in line)
    assert "updating to [96" in warning
