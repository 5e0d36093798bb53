"""Breaks by hand: what each kind makes of a line, and what is left alone."""

from __future__ import annotations

import ast

import pytest

from benchmarks.mutants.breaks import breaks


def broken(line: str) -> set[str]:
    """Return all that a line can become."""
    return {b.now for b in breaks(line)}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a >= b", {"a > b", "a < b"}),
        ("a == b != c", {"a != b != c", "a == b == c"}),
        ("a is not b", {"a is b"}),
        ("a not in b", {"a in b"}),
        ("(a) < (b)", {"(a) <= (b)", "(a) >= (b)"}),
        ("a + b * c", {"a - b * c", "a + b / c"}),
        ("a ** b // c", {"a * b // c", "a ** b * c"}),
        ("a += b", {"a -= b"}),
        ("a & b", {"a | b"}),
        ("a and b and c", {"a or b and c", "a and b or c"}),
        ("not a", {"a"}),
        ("-a", {"a"}),
        ("a[:2]", {"a[:3]"}),
        ("x = True", {"x = False"}),
        ("x = 1e-3", {"x = 0.01"}),
        ("x = 0.0", {"x = 1.0"}),
        ("x[-1]", {"x[-2]"}),
        ("y = f(x, dim=1)", {"y = f(x, dim=0)"}),
        ("y = f(x, dim=0)", {"y = f(x, dim=1)"}),
        ("y = f(x, axis=-1)", {"y = f(x, axis=-2)"}),
        ("y = x.amax(d)", {"y = x.amin(d)"}),
        ("y = x.abs()", {"y = (x)"}),
        ("y = torch.sigmoid(x)", {"y = (x)"}),
        ("y = sorted(x)", {"y = (x)"}),
        ("f(x)", {"pass"}),
        ("y = a if b else c", {"y = a if (not (b)) else c"}),
        ("y = [a for a in b if a]", {"y = [a for a in b if (not (a))]"}),
        ("x = 2  # two", {"x = 3"}),
        ('ä = "ö"; x = y < z', {'ä = "ö"; x = y <= z', 'ä = "ö"; x = y >= z'}),  # offsets are bytes
    ],
)
def test_one_line(line: str, expected: set[str]) -> None:
    assert broken(line) == expected


def test_guards_and_branches() -> None:
    found = {b.now for b in breaks("if a(b):\n    raise E(1)\nif c:\n    d = e\n")}
    assert found == {"if False:", "if (not (c)):"}


@pytest.mark.parametrize(
    "text",
    [
        '"""A docstring: 1 + 1."""',
        "x: int | None",
        "def f(a: int | str) -> list[int | None]: ...",
        'raise E(f"{1 + 1}")',
        'f"{a < b}"',
        '"a" + b',
        'x = "%d" % y',
        "assert a < b",
        "y = zip(a, b, strict=True)",
        "super().__init__(1)",
        "if TYPE_CHECKING:\n    import x",
        'if __name__ == "__main__":\n    main()',
    ],
)
def test_left_alone(text: str) -> None:
    source = f"class A(B):\n    def g(self):\n        {text}" if "super" in text else text
    assert [b for b in breaks(source) if "super" not in b.was] == []


def test_several_lines_and_what_is_shown() -> None:
    source = "x = (\n    first  # why\n    + second\n)\nf(\n    1,\n)\n"
    assert [(b.line, b.was, b.now) for b in breaks(source)] == [(5, "f(", "pass"), (6, "1,", "2,")]
    source = "x = (\n    first\n    + second  # why\n)\n"
    (only,) = breaks(source)
    assert (only.line, only.was, only.now) == (3, "+ second", "- second")
    assert only.applied(source) == source.replace("+", "-")


def test_every_break_is_a_program_and_another_one() -> None:
    from benchmarks.mutants import breaks as module

    with open(module.__file__, encoding="utf-8") as file:
        source = file.read()
    found = breaks(source)
    assert len(found) > 50
    whole = ast.dump(ast.parse(source))
    assert all(ast.dump(ast.parse(b.applied(source))) != whole for b in found)
