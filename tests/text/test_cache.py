"""Vectors on disk: found by content, written whole, damaged files survived."""

from __future__ import annotations

import logging
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ultra_dsmoe.errors import TextError
from ultra_dsmoe.text import cache

PROMPTS = (("a spur", "a thorn"), ("a short",))
VECTORS = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=np.float32)


def test_round_trip(tmp_path: Path) -> None:
    path = cache.save(tmp_path / "deep" / "er", PROMPTS, "sentence:x", VECTORS)
    assert path.name == f"{cache.content_key(PROMPTS, 'sentence:x')}.npz"
    np.testing.assert_array_equal(cache.load(path.parent, PROMPTS, "sentence:x"), VECTORS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file is left


def test_key_is_the_same_on_every_machine() -> None:
    """Computed apart, with sha256sum: shipped vectors would not be found after a change of the key."""
    assert cache.content_key([["a spur"]], "hash") == "3eafd5bb4c8ce9ca4dda-d04b98f4"


@pytest.mark.parametrize(
    ("prompts", "encoder"),
    [
        (PROMPTS, "sentence:y"),
        ((("a spur",), ("a short",)), "sentence:x"),
        ((("a thorn", "a spur"), ("a short",)), "sentence:x"),
        (PROMPTS[::-1], "sentence:x"),
        ((("a spur", "a thorn", "a short"),), "sentence:x"),
    ],
)
def test_other_content_is_not_found(tmp_path: Path, prompts: tuple[Any, ...], encoder: str) -> None:
    cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS)
    assert cache.load(tmp_path, prompts, encoder) is None


def test_find_lists_all_encoders_of_the_same_prompts(tmp_path: Path) -> None:
    mine, shipped = tmp_path / "mine", tmp_path / "shipped"
    cache.save(shipped, PROMPTS, "sentence:x", VECTORS)
    cache.save(mine, PROMPTS, "causal-lm:y", VECTORS[:, :2] + 0.1)
    cache.save(mine, PROMPTS[::-1], "causal-lm:z", VECTORS)
    found = cache.find([mine, shipped, tmp_path / "absent"], PROMPTS)
    assert [(name, vectors.shape) for name, vectors in found] == [("causal-lm:y", (2, 2)), ("sentence:x", (2, 3))]


def test_damaged_files_are_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS)
    whole = path.read_bytes()
    damaged = [b"", b"PK", whole[:-30], whole[: len(whole) // 2], b"\x00" * 500, whole.replace(b"float", b"fl0at")]
    chance = random.Random(0)
    for _ in range(60):
        blob = bytearray(whole)
        for _ in range(20):
            blob[chance.randrange(len(blob))] = chance.randrange(256)
        damaged.append(bytes(blob))
    warned = 0
    for blob in damaged:
        path.write_bytes(blob)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = cache.load(tmp_path, PROMPTS, "sentence:x")
        warned += "ignoring the damaged file" in caplog.text
        if found is not None:  # the blows may fall on bytes that carry nothing; never on the checksummed vectors
            np.testing.assert_array_equal(found, VECTORS)
    assert warned > 50


@pytest.mark.parametrize(
    "vectors",
    [VECTORS * np.nan, VECTORS[:1], VECTORS[0], np.zeros((2, 0), np.float32), VECTORS.astype(int), VECTORS + np.inf],
)
def test_files_with_unusable_vectors_are_ignored(
    tmp_path: Path, vectors: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    cache.save(tmp_path, PROMPTS, "sentence:x", vectors)
    assert cache.load(tmp_path, PROMPTS, "sentence:x") is None
    assert "ignoring the damaged file" in caplog.text


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS)

    def full_disk(stream: Any, **arrays: Any) -> None:
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full_disk)
    with pytest.raises(OSError, match="No space"):
        cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS * 2)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(cache.load(tmp_path, PROMPTS, "sentence:x"), VECTORS)


def test_a_crash_before_the_swap_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS)

    def interrupted(source: str, target: Path) -> None:
        assert Path(source).parent == Path(target).parent  # a rename across disks would not be atomic
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.save(tmp_path, PROMPTS, "sentence:x", VECTORS * 2)
    assert list(tmp_path.iterdir()) == [path]


def test_where_vectors_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ULTRA_DSMOE_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.cache_folder(tmp_path / "named") == tmp_path / "named"
    assert cache.cache_folder() == tmp_path / "own" / "text"
    monkeypatch.delenv("ULTRA_DSMOE_CACHE")
    assert cache.cache_folder() == tmp_path / "xdg" / "ultra_dsmoe" / "text"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "ultra_dsmoe" / "text"


@pytest.mark.parametrize(
    ("vectors", "match"),
    [
        (np.full((2, 3), np.nan), "finite vectors, got NaN or infinity in row 0"),
        (np.array([[1.0], [np.inf]]), "in row 1"),
        (np.array([[1.0], [1e300]]), "in row 1"),
        (np.ones((3, 2)), r"shape \[2, d\], got float64 \[3, 2\]"),
        (np.ones(2), r"got float64 \[2\]"),
        (np.ones((2, 0)), r"got float64 \[2, 0\]"),
        (np.ones((2, 2), int), r"got int64 \[2, 2\]"),
        ([["a"], ["b"]], r"float vectors"),
    ],
)
def test_check_vectors(vectors: object, match: str) -> None:
    with pytest.raises(TextError, match=match):
        cache.check_vectors(vectors, 2, "text vectors")  # type: ignore[arg-type]
