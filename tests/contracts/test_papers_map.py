"""`docs/papers.md` maps every equation to code and test; code names every equation it computes. Checked both ways.

Format of the map. One section per paper, its heading holding the paper's key in brackets, with one or more tables of
exactly these columns::

    ## [DSMoE] Chen et al., Distilled Large Language Model-Driven ...

    | Eq. | What | Function | Test | Status |
    |---|---|---|---|---|
    | 6-8 | pick | `ultra_dsmoe.nn.neck.pick:Pick.forward` | `tests/nn/neck/test_pick.py::test_value` | deviates: why |
    | 33, 34 | CIoU | `ultralytics.utils.metrics:bbox_iou` | `tests/losses/test_box.py::TestCIoU::test_value` | host |
    | 35 | gray transform | - | - | not built: comes with the data tools |
    | L_align | alignment | `ultra_dsmoe.losses.alignment:align` | `tests/losses/test_a.py::test_b` | ours: why |

- *Eq.*: numbers, ranges (``6-8``) and lists (``33, 34``); any other text is a row without a number (our own term).
- *Function*: ``module:qualified.name`` in backticks; *Test*: ``file::test`` or ``file::Class::test`` in backticks;
  several separated by ``<br>``.
- *Status* begins with one of `STATUSES`; all but ``as written`` and ``host`` say more after a colon. Only
  ``not built`` has ``-`` for function and test.

In code an equation is named as ``[DSMoE] Eq. 5`` (also ``Eq. 6-8``, ``Eq. 26, 27``), in docstrings or comments.
"""

from __future__ import annotations

import ast
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "ultra_dsmoe"
MAP = ROOT / "docs" / "papers.md"

COLUMNS = ["Eq.", "What", "Function", "Test", "Status"]
STATUSES = ("as written", "host", "deviates", "unspecified", "reconstructed", "ours", "not built")
BARE = ("as written", "host")  # statuses that need no explanation
# Equations that must have a row. Papers whose systems are not built yet join the list with them.
COMPLETE = {"DSMoE": range(1, 36), "TS": range(1, 19)}
UNSEEN = ("DSMoE",)  # papers whose displayed equations were lost

NUMBERS = r"\d+(?:\s*(?:-|–|,|and|to)\s*\d+(?!\w|\.\d))*"
NAMED = re.compile(rf"\[([A-Za-z][\w-]*)\]\s+Eqs?\.\s*({NUMBERS})")
HEADING = re.compile(r"^#+ .*\[([A-Za-z][\w-]*)\]")


@dataclass(frozen=True)
class Row:
    """One line of the map."""

    line: int
    key: str
    equations: frozenset[int]
    functions: tuple[str, ...]
    tests: tuple[str, ...]
    status: str


def numbers(text: str) -> frozenset[int]:
    """``"6-8, 10"`` -> {6, 7, 8, 10}."""
    found: set[int] = set()
    for part in re.split(r",|and", text):
        low, *high = (int(n) for n in re.findall(r"\d+", part))
        found.update(range(low, (high[0] if high else low) + 1))
    return frozenset(found)


def cells(line: str) -> list[str]:
    return [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def entries(cell: str) -> tuple[str, ...]:
    return tuple(e.strip().strip("`") for e in cell.split("<br>") if e.strip() not in ("", "-", "–"))


def parse(text: str) -> tuple[list[Row], list[str]]:
    """Return the rows of a map and what is wrong with its form."""
    rows, wrong, key, inside = [], [], "", False
    for number, line in enumerate(text.splitlines(), 1):
        if heading := HEADING.match(line):
            key = heading[1]
        if not line.lstrip().startswith("|"):
            inside = False
            continue
        values = cells(line)
        if values == COLUMNS:
            inside = True
            if not key:
                wrong.append(f"line {number}: a table before any heading with a [Key]")
        elif inside and not set("".join(values)) <= set("-: "):
            if len(values) != len(COLUMNS):
                wrong.append(f"line {number}: expected {len(COLUMNS)} columns, got {len(values)}")
                continue
            equation = re.fullmatch(rf"(?:Eqs?\.\s*)?\(?({NUMBERS})\)?", values[0])
            found = numbers(equation[1]) if equation else frozenset()
            rows.append(Row(number, key, found, entries(values[2]), entries(values[3]), values[4]))
    return rows, wrong


def status_errors(row: Row) -> list[str]:
    word = next((s for s in STATUSES if row.status.lower().startswith(s)), None)
    if word is None:
        return [f"line {row.line}: status begins with one of {STATUSES}, not {row.status!r}"]
    wrong = []
    if word not in BARE and ":" not in row.status:
        wrong.append(f"line {row.line}: '{word}' says more after a colon")
    if (word == "not built") != (not row.functions) or (word == "not built") != (not row.tests):
        wrong.append(f"line {row.line}: function and test are '-' exactly where the status is 'not built'")
    return wrong


NEWER_HOSTS = {"ultralytics.nn.distill_model"}  # what a host as old as we support has not got, nor ours that needs it


def missing_function(reference: str) -> str | None:
    """Return why ``module:qualified.name`` does not exist, or None."""
    module, colon, name = reference.partition(":")
    if not colon or not module.startswith(("ultra_dsmoe", "ultralytics")):
        return f"{reference}: expected module:name in ultra_dsmoe or ultralytics"
    try:
        target = importlib.import_module(module)
        for part in name.split("."):
            target = getattr(target, part)
    except ModuleNotFoundError as error:
        if error.name in NEWER_HOSTS:
            return None
        return f"{reference}: {error}"
    except (ImportError, AttributeError) as error:
        return f"{reference}: {error}"
    return None if callable(target) else f"{reference}: expected a function or class, got {type(target).__name__}"


def missing_test(reference: str, root: Path = ROOT) -> str | None:
    """Return why ``file::[Class::]test`` does not exist, or None."""
    file, *names = reference.split("::")
    path = root / file
    if not path.is_file() or not names:
        return f"{reference}: expected an existing file and ::test"
    body: list[ast.stmt] = ast.parse(path.read_text(encoding="utf-8")).body
    for name in names:
        found = [n for n in body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == name]
        if not found:
            return f"{reference}: {file} has no {name}"
        body = found[0].body
    return None if names[-1].startswith("test") else f"{reference}: expected the name of a test"


def named_equations(source: str) -> set[tuple[str, int]]:
    """Return the (key, number) pairs that a file names; a reference may run over a line end."""
    text = re.sub(r"\s*\n\s*(?:#\s*)?", " ", source)
    return {(key, n) for key, listed in NAMED.findall(text) for n in numbers(listed)}


def code_equations() -> dict[str, set[tuple[str, int]]]:
    """Return the equations each module names."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = named_equations(path.read_text(encoding="utf-8"))
    return found


def unmapped(rows: list[Row], code: dict[str, set[tuple[str, int]]]) -> list[str]:
    """Return equations that code names and the map does not hold."""
    mapped = {(row.key, n) for row in rows for n in row.equations if row.functions}
    return [f"{m}: [{k}] Eq. {n} is not in the map" for m, named in code.items() for k, n in sorted(named - mapped)]


def unnamed(rows: list[Row], code: dict[str, set[tuple[str, int]]]) -> list[str]:
    """Return mapped equations that none of the functions' files name; the host's files cannot."""
    wrong = []
    for row in rows:
        ours = [f.partition(":")[0] for f in row.functions if f.startswith("ultra_dsmoe")]
        for n in sorted(row.equations if ours else ()):
            if not any((row.key, n) in code.get(module, ()) for module in ours):
                wrong.append(f"line {row.line}: none of {ours} names [{row.key}] Eq. {n}")
    return wrong


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    assert MAP.is_file(), "docs/papers.md is missing"
    found, wrong = parse(MAP.read_text(encoding="utf-8"))
    assert found, "docs/papers.md holds no table of the form in this file's docstring"
    assert not wrong, "\n".join(wrong)
    return found


def test_status_of_every_row(rows: list[Row]) -> None:
    wrong = [error for row in rows for error in status_errors(row)]
    assert not wrong, "\n".join(wrong)


def test_every_function_exists(rows: list[Row]) -> None:
    wrong = [error for row in rows for f in row.functions if (error := missing_function(f))]
    assert not wrong, "\n".join(wrong)


def test_every_test_exists(rows: list[Row]) -> None:
    wrong = [error for row in rows for t in row.tests if (error := missing_test(t))]
    assert not wrong, "\n".join(wrong)


def test_code_names_only_mapped_equations(rows: list[Row]) -> None:
    wrong = unmapped(rows, code_equations())
    assert not wrong, "\n".join(wrong)


def test_mapped_code_names_its_equations(rows: list[Row]) -> None:
    wrong = unnamed(rows, code_equations())
    assert not wrong, "\n".join(wrong)


def test_equations_that_nobody_has_seen_are_not_called_as_written(rows: list[Row]) -> None:
    assert not [row.line for row in rows if row.key in UNSEEN and row.status.startswith("as written")]


@pytest.mark.parametrize("key", COMPLETE)
def test_no_equation_is_missing(rows: list[Row], key: str) -> None:
    mapped = {n for row in rows if row.key == key for n in row.equations}
    assert sorted(set(COMPLETE[key]) - mapped) == []
    assert sorted(mapped - set(COMPLETE[key])) == []


SAMPLE = """## [Key] A paper

| Eq. | What | Function | Test | Status |
|---|---|---|---|---|
| 6-8, 10 | a \\| b | `ultra_dsmoe.errors:DSMoEError`<br>`ultra_dsmoe.errors:TextError` | `a.py::test_b` | as written |
| L_own | ours | - | - | not built: later |
"""


def test_sample_is_read() -> None:
    found, wrong = parse(SAMPLE)
    assert not wrong
    assert [sorted(row.equations) for row in found] == [[6, 7, 8, 10], []]
    assert found[0].key == "Key"
    assert found[0].functions == ("ultra_dsmoe.errors:DSMoEError", "ultra_dsmoe.errors:TextError")
    assert [status_errors(row) for row in found] == [[], []]


def test_planted_gaps_are_found(tmp_path: Path) -> None:
    found, _ = parse(SAMPLE)
    code = {"ultra_dsmoe.errors": named_equations('"""Source: [Key] Eq. 6-8,\n    10 and\n # [Key] Eq. 9."""')}
    assert code["ultra_dsmoe.errors"] == {("Key", n) for n in (6, 7, 8, 9, 10)}
    assert unmapped(found, code) == ["ultra_dsmoe.errors: [Key] Eq. 9 is not in the map"]
    assert unnamed(found, code) == []
    assert "names [Key] Eq. 6" in unnamed(found, {})[0]
    assert missing_function("ultra_dsmoe.errors:NoSuchError")
    assert missing_function("ultra_dsmoe.errors:DSMoEError") is None
    (tmp_path / "test_x.py").write_text("class TestA:\n    def test_b(self): ...\n")
    assert missing_test("test_x.py::TestA::test_b", tmp_path) is None
    assert "has no test_c" in str(missing_test("test_x.py::TestA::test_c", tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("as written", "fine", "status begins with"),
        ("not built: later", "not built", "after a colon"),
        ("not built: later", "ours: later", "exactly where"),
        ("`a.py::test_b`", "-", "exactly where"),
    ],
)
def test_planted_status_is_found(old: str, new: str, message: str) -> None:
    found, _ = parse(SAMPLE.replace(old, new))
    assert any(message in error for row in found for error in status_errors(row))


def test_planted_column_is_found() -> None:
    assert "expected 5 columns" in parse(SAMPLE.replace("| L_own |", "| L_own | x |"))[1][0]
