"""The sub-command: arguments, one-line errors with nothing written, table and files of a whole run."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ultra_dsmoe import cli
from ultra_dsmoe.commands.knockout import COMMAND
from ultra_dsmoe.commands.opening import output_folder
from ultra_dsmoe.errors import ConfigError, DataError, WeightsError
from ultra_dsmoe.evaluate.evaluation import Evaluation
from ultra_dsmoe.evaluate.measures import BOXES, CLASSES
from ultra_dsmoe.evaluate.paired_bootstrap import Effect
from ultra_dsmoe.evaluate.text_table import align_columns
from ultra_dsmoe.explain import knockout
from ultra_dsmoe.explain.catalogue import catalogue
from ultra_dsmoe.explain.knockout import Outcome, Report, as_csv, cells, markdown
from ultra_dsmoe.files import write_files


def data_yaml(folder: Any, source: Any, **changes: Any) -> str:
    content = {**yaml.safe_load(source.read_text()), "path": str(source.parent), **changes}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return f"data={path}"


def test_arguments_are_read_in_the_hosts_style() -> None:
    words = ["best.pt", "imgsz=96", "only=text-zero, control,text-zero", "boot=200", "seed=0", "split=test"]
    assert COMMAND.parse(words) == {
        "model": "best.pt",
        "imgsz": 96,
        "only": ["text-zero", "control"],
        "boot": 200,
        "seed": 0,
        "split": "test",
    }
    assert COMMAND.parse(["model=a=b.pt"]) == {"model": "a=b.pt"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["imgsz=64"], "model: expected a DS-MoE checkpoint as first argument, such as best.pt, got none"),
        (["best.pt", "imgz=64"], r"imgz: expected one of .*\(did you mean 'imgsz'\?\), got an unknown key"),
        (["best.pt", "other.pt"], "other.pt: expected a value, as in 'key=value', got none"),
        (["best.pt", "data"], "data: expected a value"),
        (["best.pt", "data="], "data: expected a value"),
        (["best.pt", "imgsz=large"], "imgsz: expected a whole number of at least 32, got large"),
        (["best.pt", "imgsz="], "imgsz: expected a value"),
        (["best.pt", "batch=0"], "batch: expected a positive integer, got 0"),
        (["best.pt", "boot=10"], "boot: expected a whole number from 100 to 100000, got 10"),
        (["best.pt", "seed=-1"], "seed: expected"),
        (["best.pt", "seed=4294967296"], "seed: expected"),
        (["best.pt", "split=valid"], r"split: expected one of train, val, test \(did you mean 'val'\?\), got valid"),
        (["best.pt", "only=text-nil"], r"only: expected one of .*\(did you mean 'text-.*'\?\), got text-nil"),
        (["best.pt", "only=control,,"], "only: expected a value"),
    ],
)
def test_wrong_arguments_are_named(words: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        COMMAND.main(words)


def test_bad_checkpoints_are_named(tmp_path: Path, tiny_boards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = f"data={tiny_boards}"
    (tmp_path / "broken.pt").write_bytes(b"no archive")
    (tmp_path / "other.onnx").write_bytes(b"")
    from ultralytics.nn.tasks import DetectionModel

    stock = DetectionModel("yolov8n.yaml", nc=6, verbose=False)
    torch.save({"model": stock, "ema": None, "train_args": {"task": "detect"}}, tmp_path / "stock.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "tensors.pt")
    for name, message in (
        ("missing.pt", "an existing checkpoint"),
        ("other.onnx", r"a checkpoint \(.pt\) of a network with layers of ultra-dsmoe"),
        ("broken.pt", "a readable checkpoint"),
        ("tensors.pt", "a readable checkpoint"),
        ("stock.pt", "a checkpoint of a network with layers of ultra-dsmoe"),
    ):
        with pytest.raises(WeightsError, match=f"model: expected {message}"):
            COMMAND.main([name, data])
    assert not (tmp_path / "knockout").exists()


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"val": None}, [], "a data YAML with images in its 'val' split"),
        ({"val": "images/nowhere"}, [], "a data YAML with images in its 'val' split"),
        ({}, ["split=test"], r"a data YAML with a 'test' split, got .* \(has train, val\)"),
        ({"test": "images/nowhere"}, ["split=test"], "the images of its 'test' split"),
        ({"names": ["a", "b"]}, [], r"6 classes as in the model \(.*\), got 2"),
        ({"names": None}, [], "a data YAML with images"),
    ],
)
def test_bad_data_is_named(
    tmp_path: Path, checkpoint: Path, tiny_boards: Path, changes: Any, words: Any, message: str
) -> None:
    data = data_yaml(tmp_path, tiny_boards, **changes)
    with pytest.raises(DataError, match=f"data: expected {message}"):
        COMMAND.main([str(checkpoint), data, f"out={tmp_path / 'out'}", *words])
    assert not (tmp_path / "out").exists()


def test_missing_yaml_unknown_device_and_blocked_folder_are_named(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(DataError, match="data: expected"):
        COMMAND.main([str(checkpoint), f"data={tmp_path / 'none.yaml'}"])
    with pytest.raises(ConfigError, match="device: expected cpu, or the number of a GPU"):
        COMMAND.main([str(checkpoint), "device=77"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="out: expected a folder that can be written"):
        COMMAND.main([str(checkpoint), f"out={tmp_path / 'file'}", "device=cpu"])


def test_split_without_images_or_labels_is_named(tmp_path: Path, checkpoint: Path, tiny_boards: Path) -> None:
    for place in ("bare", "empty"):
        (tmp_path / "images" / place).mkdir(parents=True)
    picture = next((tiny_boards.parent / "images" / "val").iterdir())
    (tmp_path / "images" / "bare" / picture.name).write_bytes(picture.read_bytes())
    out = f"out={tmp_path / 'out'}"
    for place, message in (("bare", "labelled objects"), ("empty", "images in its")):
        data = data_yaml(tmp_path, tiny_boards, path=str(tmp_path), train=f"images/{place}", val=f"images/{place}")
        with pytest.raises(DataError, match=message):
            COMMAND.main([str(checkpoint), data, out, "device=cpu"])
    assert not (tmp_path / "out").exists()


def test_command_line_prints_one_line_and_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "knockout", "none.pt", "data=x.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert stop.value.code == 1
    assert err.strip().splitlines() == [
        "error: model: expected an existing checkpoint, got none.pt, which is not a file"
    ]
    assert not out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [["help"], ["--help"]])
def test_help_names_every_key_and_knockout(words: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMMAND.main(words) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*catalogue(), *(k for k in COMMAND.options if k != "model")))


def test_whole_run(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = checkpoint.read_bytes()
    only = "text-zero,mixture-constant,control"
    assert COMMAND.main([str(checkpoint), "device=cpu", "batch=3", "boot=100", f"only={only}"]) == 0
    folder = checkpoint.parent.parent / "knockout"
    assert sorted(p.name for p in folder.iterdir()) == ["knockout.csv", "knockout.md"]
    rows = list(csv.DictReader((folder / "knockout.csv").open()))
    assert [r["knockout"] for r in rows] == ["as-trained", "mixture-constant", "text-zero", "control"]
    control = rows[-1]
    assert control["verdict"] == "control"
    for metric in ("map50", "map50_95"):
        assert control[metric] == rows[0][metric]
        assert {float(control[f"{metric}_{part}"]) for part in ("change", "low", "high")} == {0}
    table = capsys.readouterr().out
    assert "mixture-constant  expert mixture replaced by its mean" in table
    page = (folder / "knockout.md").read_text()
    assert f"boot=100 only={only}`" in page
    assert "100 paired bootstrap resamples of the 4 images (seed 0)" in page
    assert checkpoint.read_bytes() == before
    assert not list(tmp_path.iterdir()), "a run folder of the host was left behind"


def test_score_is_the_hosts(
    checkpoint: Path, tiny_boards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO

    # The untrained net scores 0 everywhere; labels instead of its predictions, in wrong places for one class, do not.
    from ultra_dsmoe.evaluate import evaluation as module
    from ultra_dsmoe.evaluate.bootstrap import mean_ap

    class Cheating(module.Collector):
        def _process_batch(self, preds: Any, batch: Any) -> Any:
            result = super()._process_batch(preds, batch)
            result["tp"][: len(batch["cls"]), :5] = True
            return result

    monkeypatch.setattr(module, "Collector", Cheating)
    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu"})
    own = mean_ap(evaluation.run())
    host = YOLO(str(checkpoint)).val(
        validator=lambda args, _callbacks: _cheat(args, _callbacks),
        data=str(tiny_boards),
        imgsz=64,
        device="cpu",
        plots=False,
        project=str(tmp_path),
        verbose=False,
    )
    assert own[0] > 0
    assert own.tolist() == pytest.approx([host.box.map50, host.box.map], abs=1e-9)


def _cheat(args: Any, callbacks: Any) -> Any:
    from ultralytics.models.yolo.detect import DetectionValidator

    class Cheating(DetectionValidator):
        def _process_batch(self, preds: Any, batch: Any) -> Any:
            result = super()._process_batch(preds, batch)
            result["tp"][: len(batch["cls"]), :5] = True
            return result

    return Cheating(args=args, _callbacks=callbacks)


def test_switch_is_in_force_while_images_are_computed_and_off_after_an_error(
    checkpoint: Path, tiny_boards: Path
) -> None:
    from ultra_dsmoe.nn.knockout import hooked

    evaluation = Evaluation({"model": str(checkpoint), "device": "cpu", "batch": 2})
    shapes = []
    evaluation.run(hooked([evaluation.net], lambda m, args, out: shapes.append(args[0].shape)))
    assert [s[0] for s in shapes] == [2, 2], "warm-up images were seen, or batches missed"

    def fail(m: Any, args: Any, out: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluation.run(hooked([evaluation.net], fail))
    assert not evaluation.net._forward_hooks


@pytest.mark.parametrize(("base", "said"), [(0.4, "unclear"), (30.0, "inert")])
def test_of_a_net_that_finds_nothing_no_part_is_judged(
    base: float, said: str, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pairs:
        about, measures, chance = "no images", BOXES, 0.0

        def __init__(self, *_: Any) -> None:
            self.base = (base, base / 2)

        def effect(self, switch: Any) -> Effect:
            return Effect(self.base, (0.0, 0.0), ((0.0, 0.0), (0.0, 0.0)))

    monkeypatch.setattr(knockout, "PairedBootstrap", Pairs)
    found = knockout.evaluate(Evaluation({"model": str(checkpoint), "device": "cpu"}), ["hub-constant", "offsets-zero"])
    assert {outcome.verdict for outcome in found.outcomes} == {said}
    assert any("finds too little to judge its parts" in note for note in found.notes) == (said == "unclear")


@pytest.fixture
def report() -> Report:
    effect = Effect((40.0, 20.5), (-2.5, -1.0), ((-4.0, -1.0), (-2.0, -0.25)))
    outcome = Outcome("text-zero", "text vectors set to zero", effect, "earns its place")
    return Report((42.5, 21.5), [outcome], ["a note"])


def test_table_is_aligned_and_complete(report: Any) -> None:
    lines = align_columns(cells(report)).splitlines()
    assert lines[1].split()[:3] == ["as", "trained", "nothing"]
    assert lines[2].split("  ")[-1] == "earns its place"
    assert "40.00  -2.50 [-4.00, -1.00]" in lines[2]
    assert lines[0].index("verdict") == lines[2].index("earns its place")
    page = markdown(report, "a command")
    assert page.count("|") % (len(cells(report)[0]) + 1) == 0
    assert "- a note" in page


def test_csv_holds_the_numbers(report: Any) -> None:
    base, row = csv.DictReader(as_csv(report).splitlines())
    assert (float(base["map50"]), base["map50_change"], float(base["map50_95"])) == (42.5, "", 21.5)
    got = [float(row[f"map50_95{part}"]) for part in ("", "_change", "_low", "_high")]
    assert got == [20.5, -1.0, -2.0, -0.25]


def test_headings_are_those_of_what_is_measured(report: Any) -> None:
    """Of detectors they stay: kept cells of studies are read by them."""
    parts = ("", "_change", "_low", "_high")
    rows = {kind: as_csv(Report(report.base, report.outcomes, [], kind)).splitlines()[0] for kind in (BOXES, CLASSES)}
    for kind, names in ((BOXES, ("map50", "map50_95")), (CLASSES, ("macro_f1", "top1"))):
        assert rows[kind].split(",") == ["knockout", "what", *(n + p for n in names for p in parts), "verdict"]
    assert cells(Report(report.base, [], [], CLASSES))[0][2:5:2] == ["macro_f1", "top1"]


def test_a_net_without_anything_to_switch_off_is_told_once_what_it_lacks(checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model: expected a network with something to switch off, got ") as e:
        knockout.evaluate(Evaluation({"model": str(checkpoint), "device": "cpu"}), ["mfa-constant", "fgpem-off"])
    assert str(e.value).count("without") == 1


def test_default_folder_is_beside_the_weights(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "weights" / "best.pt", None, "knockout") == tmp_path / "knockout"
    assert output_folder(tmp_path / "best.pt", None, "knockout") == tmp_path / "knockout"
    assert output_folder(Path("best.pt"), "here", "knockout") == Path("here")


def test_files_are_written_whole(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("old")
    paths = write_files(tmp_path, {"a.csv": b"new", "b.md": b"page"})
    assert [p.read_bytes() for p in paths] == [b"new", b"page"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "b.md"]


def test_console_script_knows_the_command() -> None:
    code = (
        "import sys; sys.argv = ['dsmoe-yolo', 'knockout', 'help']; from ultra_dsmoe.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.startswith("usage: dsmoe-yolo knockout")
