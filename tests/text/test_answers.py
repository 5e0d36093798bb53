"""Kept answers: found again, by several processes, behind a half-written line."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ultra_dsmoe.text.answers import Answers, content_key


def test_an_answer_is_found_again(tmp_path: Path) -> None:
    Answers(["rules", {"a": 1}], tmp_path).put("key", "a text\nof two lines, ü")
    again = Answers(["rules", {"a": 1}], tmp_path)
    assert again.get("key") == "a text\nof two lines, ü"
    assert again.get("other") is None
    assert Answers(["rules", {"a": 2}], tmp_path).get("key") is None, "another state says other things"
    again.put("record", {"mu_x": 1.5})
    assert Answers(["rules", {"a": 1}], tmp_path).get("record") == {"mu_x": 1.5}


def test_a_killed_writer_costs_its_own_answer_alone(tmp_path: Path) -> None:
    answers = Answers("p", tmp_path)
    answers.put("a", "first")
    with answers.path.open("ab") as stream:
        stream.write(b'\n["b", "half of')
    Answers("p", tmp_path).put("c", "third")
    again = Answers("p", tmp_path)
    assert [again.get(key) for key in "abc"] == ["first", None, "third"]


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"3\n", b"[1, 2]\n", b"null\n", b'["a"]\n', b'{"a": 1}\n', b"[[[[\n"])
def test_damaged_lines_are_left_out(tmp_path: Path, line: bytes) -> None:
    answers = Answers("p", tmp_path)
    answers.path.write_bytes(line)
    answers.put("a", "kept")
    assert Answers("p", tmp_path).get("a") == "kept"


def test_several_write_at_once(tmp_path: Path) -> None:
    def work(start: int) -> None:
        own = Answers("p", tmp_path)
        for i in range(start, start + 50):
            own.put(str(i), f"answer {i} " + "x" * 500)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(0, 400, 50)))
    again = Answers("p", tmp_path)
    assert all(again.get(str(i)) == f"answer {i} " + "x" * 500 for i in range(400))


def test_a_place_that_cannot_be_written_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    answers = Answers("p", tmp_path / "file" / "answers")
    with caplog.at_level(logging.WARNING, "ultra_dsmoe.text"):
        answers.put("a", "said")
        answers.put("b", "said")
    assert answers.get("a") == "said"
    assert len(caplog.records) == 1, "once, not for every image"


def test_keys_tell_where_parts_end() -> None:
    assert content_key(b"ab", b"c") != content_key(b"a", b"bc")
    assert content_key(b"a") == content_key(b"a")
