"""The vectors shipped beside the packaged data YAMLs, and the command that makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from ultra_dsmoe.errors import DataError, TextError
from ultra_dsmoe.text import HashEncoder, Taxonomy, bank, cache, class_prompts, encode_bank, package
from ultra_dsmoe.text.package import main, package_vectors

DATASETS = Path(__file__).resolve().parents[2] / "datasets"
YAMLS = sorted(DATASETS.glob("*.yaml"))


class Length:
    """Encoder of two numbers per text."""

    id = "sentence:length"

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_packaged_data_yaml_has_its_vectors(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of prompts: ``python -m ultra_dsmoe.text.package datasets/*.yaml encoder=auto prune=True``."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    monkeypatch.setattr(bank, "local_encoders", lambda foreign: iter(()))
    made = encode_bank(data["names"], data.get("prompts"), cache_dir=tmp_path)
    assert made.encoder.startswith("sentence:all-MiniLM-L6-v2@")
    assert made.vectors.shape == (len(data["names"]), 384)
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)
    similar = made.vectors @ made.vectors.T - np.eye(len(made.vectors))
    assert similar.max() < 0.999  # no two classes share their text
    Taxonomy.parse(data["names"], data.get("taxonomy"))


def test_no_stale_vectors_are_shipped() -> None:
    wanted = set()
    for path in YAMLS:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        wanted.add(cache.content_key(class_prompts(data["names"], data.get("prompts")), "any").split("-")[0])
    assert {file.stem.split("-")[0] for file in (DATASETS / "vectors").glob("*.npz")} == wanted


def test_files_are_found_and_pruned(tmp_path: Path) -> None:
    source, out = tmp_path / "a.yaml", tmp_path / "vectors"
    source.write_text("names: {0: spur, 1: short}\nprompts: {spur: a thorn}\ntaxonomy: {g: [spur]}\n")
    (first,) = package_vectors([source], Length(), out)
    assert cache.find([out], class_prompts(["spur", "short"], {"spur": "a thorn"}))[0][0] == "sentence:length"
    source.write_text("names: {0: spur, 1: short}\n")
    (second,) = package_vectors([source], Length(), out)
    assert sorted(out.iterdir()) == sorted([first, second])
    package_vectors([source], Length(), out, prune=True)
    assert list(out.iterdir()) == [second]


@pytest.mark.parametrize(
    ("text", "kind", "match"),
    [
        ("names: {0: spur}\nprompts: {spurr: x}\n", TextError, "did you mean 'spur'"),
        ("names: {0: spur}\ntaxonomy: {g: [h]}\n", TextError, "leaves that are classes"),
        ("prompts: {spur: x}\n", DataError, r"a data YAML with names, got .*bad\.yaml, without"),
        ("names: [", DataError, r"a readable YAML file, got .*bad\.yaml \("),
        ("- a\n", DataError, "a data YAML with names"),
    ],
)
def test_nothing_is_written_where_one_yaml_is_wrong(
    tmp_path: Path, text: str, kind: type[Exception], match: str
) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("names: {0: spur}\n")
    bad.write_text(text)
    with pytest.raises(kind, match=match):
        package_vectors([good, bad], Length(), tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_hash_vectors_are_not_shipped(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="a language model"):
        package_vectors([], HashEncoder(), tmp_path)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "a.yaml"
    source.write_text("names: {0: spur}\n")
    monkeypatch.setattr(package, "make_encoder", lambda spec: Length())
    assert main([str(source)]) == 0
    (file,) = (tmp_path / "vectors").glob("*.npz")
    assert capsys.readouterr().out.strip() == f"{source} -> {file} (sentence:length)"


@pytest.mark.parametrize("arguments", [["nope.yaml"], ["nope.yaml", "--encoder", "hash"], ["a", "--encoder", "foo"]])
def test_command_with_a_mistake_ends_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
