"""Which encoders this disk has, best first, and which of them an id with a fingerprint means."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import local_models
from ultra_dsmoe.text.local_models import best_local, hub_snapshot, local_encoders, packaged_sentence_folder, with_id

MARK = "0123abcd"


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A disk with nothing on it; the test puts models there."""
    have: dict[str, Any] = {"snapshots": set(), "packaged": None, "library": True}
    stock = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> Any:
        if name == "sentence_transformers":
            return object() if have["library"] else None
        return stock(name, package)

    monkeypatch.setattr(local_models, "hub_snapshot", lambda model: Path("x") if model in have["snapshots"] else None)
    monkeypatch.setattr(local_models, "packaged_sentence_folder", lambda: have["packaged"])
    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    return have


def kinds() -> list[str]:
    return [f"{e.kind}:{e.name.rpartition('/')[2]}" for e in local_encoders()]


def test_an_empty_disk_has_none(disk: dict[str, Any]) -> None:
    assert list(local_encoders()) == []
    assert best_local() is None


def test_the_papers_language_model_goes_first(disk: dict[str, Any]) -> None:
    disk["snapshots"] = {local_models.DEFAULT_CAUSAL_LM, local_models.DEFAULT_SENTENCE}
    found = list(local_encoders())
    assert [e.kind for e in found] == ["causal-lm", "sentence"]
    best = best_local()
    assert best is not None
    assert best.kind == "causal-lm"
    assert all(e.local_only for e in found)


def test_sentence_models_need_their_library(disk: dict[str, Any], tmp_path: Path) -> None:
    disk |= {
        "snapshots": {local_models.DEFAULT_CAUSAL_LM, local_models.DEFAULT_SENTENCE},
        "packaged": tmp_path,
        "library": False,
    }
    assert [e.kind for e in local_encoders()] == ["causal-lm"]


# fingerprints ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    encoders = [
        SimpleNamespace(kind="causal-lm", name=f"some/model@{MARK}"),
        SimpleNamespace(kind="sentence", name=f"folder@{MARK}"),
        SimpleNamespace(kind="sentence", name="other@ffffffff"),
    ]
    monkeypatch.setattr(local_models, "local_encoders", lambda: iter(encoders))
    return encoders


def test_kind_and_fingerprint_decide_and_the_name_does_not(two: list[Any]) -> None:
    assert with_id(f"sentence:a/quite/other@{MARK}") is two[1]
    assert with_id(f" causal-lm:some/model@{MARK} ") is two[0]
    assert with_id("sentence:x@ffffffff") is two[2]


@pytest.mark.parametrize(
    "spec",
    [
        "hash",
        "sentence:some/model",
        "sentence:x@0123abc",
        "sentence:x@0123abcg",
        "sentence:x@0123abcd0",
    ],
)
def test_ids_without_a_fingerprint_are_none(two: list[Any], spec: str) -> None:
    assert with_id(spec) is None


def test_a_folder_of_such_a_name_is_a_folder(two: list[Any], tmp_path: Path) -> None:
    (tmp_path / f"mine@{MARK}").mkdir()
    assert with_id(f"sentence:{tmp_path}/mine@{MARK}") is None


def test_a_fingerprint_that_is_not_here_is_one_line(two: list[Any]) -> None:
    with pytest.raises(
        TextError, match=r"the model 'some/model' with fingerprint 11112222 on this disk, got none; name"
    ):
        with_id("sentence:some/model@11112222")


# files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_snapshot_needs_weights_and_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    asked: list[tuple[str, str]] = []

    def cached(model: str, name: str) -> str:
        asked.append((model, name))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    assert hub_snapshot("some/model") is None
    (tmp_path / weights).touch()
    assert hub_snapshot("some/model") is None
    (tmp_path / "tokenizer_config.json").touch()
    assert hub_snapshot("some/model") == tmp_path
    assert set(asked) == {("some/model", "config.json")}
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: None)
    assert hub_snapshot("some/model") is None


@pytest.mark.parametrize(
    "index", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": "gone.safetensors"}}']
)
def test_damaged_and_empty_indices_are_no_weights(tmp_path: Path, index: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(index)
    assert local_models._all_shards(tmp_path) is False
    (tmp_path / "other.index.json").write_text('{"weight_map": {"a": "1.bin", "b": "1.bin"}}')
    (tmp_path / "1.bin").touch()
    assert local_models._all_shards(tmp_path) is True, "another one that is whole counts"


def test_the_packaged_model_needs_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    origin: list[str | None] = [str(tmp_path / "__init__.py")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=origin[0]))
    assert packaged_sentence_folder() is None
    (tmp_path / "model").mkdir()
    for name in ("config.json", "model.safetensors"):
        assert packaged_sentence_folder() is None
        (tmp_path / "model" / name).touch()
    assert packaged_sentence_folder() == tmp_path / "model"
    origin[0] = None
    assert packaged_sentence_folder() is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert packaged_sentence_folder() is None
