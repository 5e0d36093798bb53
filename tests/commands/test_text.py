"""``dsmoe-yolo text``: what each command prints and writes; bad input is one line and leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml

from ultra_dsmoe import cli
from ultra_dsmoe.commands import run
from ultra_dsmoe.errors import DSMoEError
from ultra_dsmoe.text import HashEncoder, bank, cache, encode_bank, read_prompts

PROMPTS = {"spur": ["a thin spike of copper", "a thorn beside a trace"], "pin_hole": ["a white speck in copper"]}


@pytest.fixture(autouse=True)
def _bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No model on the disk, nothing kept; relative paths lie in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter(()))


@pytest.fixture
def data() -> Path:
    path = Path("data.yaml")
    path.write_text(yaml.safe_dump({"names": {0: "spur", 1: "pin_hole"}, "prompts": PROMPTS}))
    return path


@pytest.fixture(scope="module")
def parrots() -> ModuleType:
    """Return the neighbour that makes language models which answer by heart."""
    source = Path(__file__).parents[1] / "text" / "test_generate.py"
    spec = importlib.util.spec_from_file_location("parrots", source)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lint_of_sound_prompts(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["text", "lint", str(data), "encoder=hash"]) == 0
    assert capsys.readouterr().out == "3 descriptions of 2 classes, hash: no fault\n"


def test_lint_counts_faults_first(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Path("wrong.yaml")
    wrong.write_text(yaml.safe_dump({"sprue": "a spike", "spur": ["same words here", "same words here"]}))
    assert run(["text", "lint", str(data), f"prompts={wrong}", "encoder=hash"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "fault",
        "caution",
        "caution",
        "2 descriptions of 2 classes, hash",
    ]
    assert lines[-1].endswith(": 1 fault")
    assert run(["text", "lint", str(data), "closest=0", "encoder=hash"]) == 1
    assert "limit 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "code", "said"),
    [
        (
            ["划痕", "裂纹", "孔洞"],
            0,
            ["caution: 划痕, 裂纹, 孔洞: no description; ", "3 classes by name alone, hash: no fault"],
        ),
        (
            ["crack_type_1_of_the_casting_surface", "crack_type_2_of_the_casting_surface"],
            1,
            ["fault: crack_type_1", "caution: ", "2 classes by name alone, hash: 1 fault"],
        ),
    ],
)
def test_lint_of_names_alone(names: list[str], code: int, said: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Judged as training judges them: by the distances of the template's sentences."""
    Path("names.yaml").write_text(yaml.safe_dump({"names": names}))
    assert run(["text", "lint", "names.yaml"]) == code
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(said)
    assert all(line.startswith(begin) for line, begin in zip(lines, said, strict=True)), lines


def test_lint_says_of_names_what_training_refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(HashEncoder):
        """Knows no word."""

        def encode(self, texts: list[str]) -> np.ndarray:
            return np.ones((len(texts), 4), np.float32)

    monkeypatch.setattr("ultra_dsmoe.text.bank.make_encoder", lambda *_, **__: Deaf())
    Path("names.yaml").write_text(yaml.safe_dump({"names": ["划痕", "裂纹", "孔洞"]}))
    assert run(["text", "lint", "names.yaml", "encoder=hash"]) == 1
    assert capsys.readouterr().out.startswith("fault: 划痕, 裂纹, 孔洞: almost one vector to hash (")
    with pytest.raises(DSMoEError, match="prompts: expected texts that hash tells apart"):
        encode_bank(["划痕", "裂纹", "孔洞"], None, "hash")


def test_a_packaged_yaml_is_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["text", "lint", "neu-det.yaml", "encoder=hash"]) == 0
    assert run(["text", "encode", "deeppcb.yaml"]) == 0  # with its shipped vectors, and no model here
    assert "encoder  sentence:all-MiniLM-L6-v2@" in capsys.readouterr().out


def test_encode_prints_what_training_takes(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["text", "encode", str(data), "encoder=hash"]) == 0
    made = encode_bank(["spur", "pin_hole"], PROMPTS, "hash")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["encoder  hash", f"hash     {made.key}", "vectors  2 x 1536, float32"]
    cosine = float(made.vectors[0] @ made.vectors[1])
    assert lines[4] == f"cosines  mean {cosine:.3f}, least {cosine:.3f}, greatest {cosine:.3f}"
    assert lines[5] == f"  {cosine:.3f}  spur / pin_hole"


def test_encode_writes_the_file_that_another_machine_finds(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Model(HashEncoder):
        """Stands for a language model on this disk."""

        id = "sentence:toy@01234567"

    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter([Model(8)]))
    monkeypatch.setattr(bank, "HashEncoder", type("Other", (), {}))
    assert run(["text", "encode", str(data), "out=vectors.npz"]) == 0
    shown = capsys.readouterr().out
    made = encode_bank(["spur", "pin_hole"], PROMPTS)
    assert f"kept     {cache.cache_folder() / made.key}.npz" in shown
    assert sorted(os.listdir()) == ["data.yaml", "vectors.npz"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Path("vectors.npz").rename(elsewhere / f"{made.key}.npz")
    np.testing.assert_array_equal(cache.load(elsewhere, made.prompts, made.encoder), made.vectors)


def test_generate_writes_what_lint_and_training_read(
    data: Path, tmp_path: Path, parrots: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    sayings = {
        "spur": ["- a thin spike of copper\n", "- a thorn beside a trace"],
        "pin_hole": ["a white speck in copper"],
    }
    model = parrots.make_parrot(tmp_path / "parrot", sayings, parrots.BY_CLASS)
    assert run(["text", "generate", str(data), f"model={model}", "per_class=2", "out=mine.yaml"]) == 0
    assert read_prompts("mine.yaml") == PROMPTS
    assert "REVIEW" in Path("mine.yaml").read_text().splitlines()[0]
    out, err = capsys.readouterr()
    assert "caution: fewer than 2 usable descriptions: pin_hole (1)" in out
    assert "describing 2/2 pin_hole" in err
    assert run(["text", "lint", str(data), "prompts=mine.yaml", "encoder=hash"]) == 0
    again = ["generate", str(data), f"model={model}", "per_class=1", "out=mine.yaml"]
    with pytest.raises(DSMoEError, match=r"out: expected a new file \(or overwrite=True\), got mine\.yaml, which"):
        run(["text", *again])
    assert read_prompts("mine.yaml") == PROMPTS
    assert run(["text", *again, "overwrite=True"]) == 0
    assert read_prompts("mine.yaml")["spur"] == PROMPTS["spur"][:1]
    assert sorted(os.listdir()) == ["data.yaml", "mine.yaml"]


def test_generate_leaves_nothing_behind_where_a_class_fails(data: Path, tmp_path: Path, parrots: ModuleType) -> None:
    sayings = {"spur": ["a thin spike of copper"], "pin_hole": ["Sure!"]}
    model = parrots.make_parrot(tmp_path / "parrot", sayings, parrots.BY_CLASS)
    with pytest.raises(DSMoEError, match="model: expected a description of 'pin_hole'"):
        run(["text", "generate", str(data), f"model={model}"])
    assert os.listdir() == ["data.yaml"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lnt"], r"text: expected lint, generate, encode, describe, paraphrases \(did you mean 'lint'\?\), got lnt"),
        (["lint", "none.yaml"], r"data: expected an existing data YAML, got none\.yaml"),
        (["lint", "nue-det.yaml"], r"\(did you mean 'neu-det'\?\)"),
        (["lint", "encoder=hash"], "data: expected a data YAML as first argument"),
        (["lint", "data.yaml", "encodr=hash"], r"encodr: .*\(did you mean 'encoder'\?\), got an unknown key"),
        (["lint", "data.yaml", "closest=2"], "closest: expected a number from -1 to 1, got 2"),
        (["lint", "data.yaml", "closest=nan"], "closest: expected a number from -1 to 1, got nan"),
        (["lint", "data.yaml", "closest=high"], "closest: expected a number from -1 to 1, got high"),
        (["lint", "data.yaml", "prompts=empty.yaml"], "prompts file empty.yaml: expected a mapping"),
        (["lint", "data.yaml", "prompts=nothing.yaml"], r"expected a mapping .*, got nothing in nothing\.yaml"),
        (["lint", "empty.yaml"], r"data: expected a data YAML with names, got empty\.yaml, without"),
        (["lint", "broken.yaml"], r"data: expected a readable YAML file, got broken\.yaml"),
        (["lint", "listed.yaml"], "prompts: expected a mapping"),
        (["lint", "data.yaml", "prompts=none.yaml"], "prompts file: expected a readable YAML file"),
        (["lint", "data.yaml", "encoder=hsh"], "text encoder: .*did you mean 'hash'"),
        (["encode", "data.yaml", "encoder=hash", "out=v.npz"], "out: expected a language model's vectors"),
        (["encode", "data.yaml", "out=v.txt"], r"out: expected a file that ends in \.npz, got v\.txt"),
        (["encode", "data.yaml", "out=no/v.npz"], "out: expected a file in a folder that exists"),
        (["generate", "data.yaml"], "model: expected a causal language model: model=FOLDER"),
        (["generate", "data.yaml", "model=."], r"model: expected a model folder with a config\.json"),
        (["generate", "data.yaml", "model=no/such/folder"], "model: expected an existing folder or a model id"),
        (["generate", "data.yaml", "model=.", "overwrite=yes"], "overwrite: expected true or false, got yes"),
        (["generate", "data.yaml", "model=.", "per_class=0"], "per_class: expected a whole number from 1 to 20"),
        (["generate", "data.yaml", "model=.", "out=data.yaml"], "out: expected a new file"),
        (["generate", "data.yaml", "model=.", "device=cuda:99"], "device: expected cpu, or a device of this machine"),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, data: Path) -> None:
    Path("nothing.yaml").write_text("{}")
    Path("empty.yaml").write_text("")
    Path("broken.yaml").write_text("names: [spur")
    Path("listed.yaml").write_text("names: [spur]\nprompts: [a thing]")
    before = sorted(os.listdir())
    with pytest.raises(DSMoEError, match=message) as caught:
        run(["text", *words])
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir()) == before


def test_the_script_knows_the_commands(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "text", "lint", "data.yaml", "encoder=hash"])
    assert cli.main() == 0
    monkeypatch.setattr(sys, "argv", ["dsmoe-yolo", "text", "lint", "none.yaml"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    err = capsys.readouterr().err
    assert err == "error: data: expected an existing data YAML, got none.yaml\n"
    for words in ([], ["help"], ["lint", "help"], ["generate", "--help"], ["encode", "-h"], ["paraphrases", "help"]):
        assert run(["text", *words]) == 0
        assert capsys.readouterr().out.startswith("usage: dsmoe-yolo text")
