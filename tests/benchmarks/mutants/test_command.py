"""The command: its table and exit code, the list of reasons, which test belongs to which file."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mutants import __main__ as command
from benchmarks.mutants.breaks import Break, breaks
from benchmarks.mutants.forks import Outcome
from benchmarks.mutants.reasons import ANY, FILE, Reasons
from benchmarks.mutants.rooms import ROOT, MutantsError, files, module, own_test

SOURCE = "def f(a, b):\n    return a + b\n\n\nLIMIT = 3\n"
MINUS, FOUR = ("return a + b", "return a - b"), ("LIMIT = 3", "LIMIT = 4")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of one file with a test that notices what is in `noticed`."""
    (tmp_path / "ultra_dsmoe" / "ops").mkdir(parents=True)
    (tmp_path / "tests" / "ops").mkdir(parents=True)
    (tmp_path / "ultra_dsmoe" / "ops" / "f.py").write_text(SOURCE)
    (tmp_path / "tests" / "ops" / "test_f.py").write_text("")
    for name in ("benchmarks.mutants.rooms", "benchmarks.mutants.__main__"):
        monkeypatch.setattr(f"{name}.ROOT", tmp_path)
    monkeypatch.setattr(command, "own_test", lambda file: own_test(file, tmp_path))
    monkeypatch.setattr(command, "warm", lambda: None)
    monkeypatch.setattr("benchmarks.mutants.rooms.ROOMS", ("ops",))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(monkeypatch: pytest.MonkeyPatch, *let_pass: str) -> list[str]:
    """Let the test pass for some broken sources only; return what it was run with."""
    runs: list[str] = []

    def tried(test: Path, limit_s: float, broken: tuple[str, Path, str]) -> Outcome:
        runs.append(broken[2])
        return Outcome(int(broken[2] != SOURCE and not any(text in broken[2] for text in let_pass)), 1.0, "a log")

    monkeypatch.setattr(command, "tried", tried)
    return runs


def listed(monkeypatch: pytest.MonkeyPatch, folder: Path, *pairs: tuple[str, str], why: str = "none sees it") -> None:
    lines = [f'  - {{was: "{was}", now: "{now}", why: "{why}"}}' for was, now in pairs]
    (folder / "reasons.yaml").write_text("\n".join(["ultra_dsmoe/ops/f.py:", *lines]) if lines else "{}")
    monkeypatch.setattr(command, "Reasons", lambda: Reasons(folder / "reasons.yaml"))


def last_row(text: str) -> list[str]:
    return text.strip().splitlines()[-1].split()


def test_all_found(checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    runs = answer(monkeypatch)
    listed(monkeypatch, checkout)
    assert command.main(["ultra_dsmoe/ops"]) == 0
    assert runs == [SOURCE, SOURCE.replace("+", "-"), SOURCE.replace("3", "4")]
    assert last_row(capsys.readouterr().out)[:5] == ["all", "2", "2", "0", "0"]


def test_a_survivor_needs_a_reason(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "a - b")
    listed(monkeypatch, checkout)
    assert command.main(["ultra_dsmoe/ops/f.py"]) == 1
    out = capsys.readouterr().out
    assert "ultra_dsmoe/ops/f.py:2: arithmetic: return a + b  ->  return a - b" in out
    assert last_row(out)[:5] == ["all", "2", "1", "0", "1"]
    listed(monkeypatch, checkout, MINUS)
    assert command.main(["ultra_dsmoe/ops/f.py"]) == 0
    assert last_row(capsys.readouterr().out)[:5] == ["all", "2", "1", "1", "0"]


def test_a_reason_that_nothing_needs_goes(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "a - b")
    listed(monkeypatch, checkout, MINUS, FOUR)
    assert command.main(["ultra_dsmoe/ops"]) == 1
    assert "no survivor needs the reason for LIMIT = 3  ->  LIMIT = 4" in capsys.readouterr().out
    assert command.main(["ultra_dsmoe/ops", "--sample", "1"]) == 0, "a sample does not try all"


def test_a_reason_for_whatever_becomes_of_a_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch, "a - b", "LIMIT = 4")
    listed(monkeypatch, checkout, (MINUS[0], ANY))
    assert command.main(["ultra_dsmoe/ops"]) == 1
    assert last_row(capsys.readouterr().out)[:5] == ["all", "2", "0", "1", "1"]
    listed(monkeypatch, checkout, (MINUS[0], ANY), (FOUR[0], ANY))
    assert command.main(["ultra_dsmoe/ops"]) == 0
    answer(monkeypatch, "a - b")
    assert command.main(["ultra_dsmoe/ops"]) == 1, "nothing needs the second"


def test_a_file_without_a_test(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(monkeypatch)
    listed(monkeypatch, checkout)
    (checkout / "tests" / "ops" / "test_f.py").unlink()
    assert command.main([]) == 1
    assert "ultra_dsmoe/ops/f.py: has no test of its own name" in capsys.readouterr().out


def test_user_errors_are_one_line(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed(monkeypatch, checkout, MINUS, why=" ")
    assert command.main([]) == 1
    assert capsys.readouterr().err.startswith("mutants: reasons.yaml: ultra_dsmoe/ops/f.py: expected was, now and why")
    listed(monkeypatch, checkout)
    monkeypatch.setattr(command, "tried", lambda *_: Outcome(1, 1.0, "...\n1 failed\n"))
    assert command.main(["ultra_dsmoe/ops"]) == 1
    expected = "mutants: tests/ops/test_f.py: expected a pass before anything is broken, got 1 failed\n"
    assert capsys.readouterr().err == expected
    for wrong in ("ultra_dsmoe/none.py", "tests"):
        with pytest.raises(MutantsError, match=f"paths: expected files or folders of ultra_dsmoe/, got {wrong}"):
            files([wrong])


def test_all_rooms_are_there() -> None:
    found = files()
    assert len(found) > 50
    assert all((ROOT / file).is_file() and file.name != "__init__.py" for file in found)


def test_a_sample_repeats_with_its_seed() -> None:
    source, file = "\n".join(f"x{i} = {i}" for i in range(40)), Path("ultra_dsmoe/ops/f.py")
    drawn = command.chosen(file, source, 5, 1)
    assert drawn == command.chosen(file, source, 5, 1)
    assert drawn == sorted(drawn, key=lambda b: b.line)
    assert drawn != command.chosen(file, source, 5, 2)
    assert len(command.chosen(file, source, None, 1)) == len(command.chosen(file, source, 99, 1)) == 40


def test_a_test_is_found_wherever_its_room_keeps_it(tmp_path: Path) -> None:
    file = Path("ultra_dsmoe/nn/neck/experts.py")
    for folder in ("text/neck", "nn/neck", "nn/head"):
        (tmp_path / "tests" / folder).mkdir(parents=True)
    assert own_test(file, tmp_path) is None
    (tmp_path / "tests" / "text" / "neck" / "test_experts.py").touch()
    assert own_test(file, tmp_path) is None
    for folder in ("nn/head", "nn/neck"):
        (tmp_path / "tests" / folder / "test_experts.py").touch()
        assert own_test(file, tmp_path) == tmp_path / "tests" / folder / "test_experts.py"
    assert module(file) == "ultra_dsmoe.nn.neck.experts"
    (tmp_path / "tests" / "test_experts.py").touch()
    assert own_test(Path("ultra_dsmoe/experts.py"), tmp_path) == tmp_path / "tests" / "test_experts.py"


def test_the_shipped_reasons_are_of_breaks_that_there_are() -> None:
    """Where a line or a file has changed, its reason is checked anew."""
    known: dict[str, list[Break]] = {}
    for file, pairs in Reasons(FILE).listed.items():
        known[file] = breaks((ROOT / file).read_text(encoding="utf-8"))
        assert set(pairs) <= {(b.was, now) for b in known[file] for now in (b.now, ANY)}, file
        assert all(len(why.split()) > 2 for why in pairs.values()), file
