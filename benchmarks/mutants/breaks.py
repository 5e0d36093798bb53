"""One-line breaks of a source file: what a slip of the pen could make of it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

COMPARE = {
    ast.Lt: ("<", "<=", ">="),
    ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="),
    ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_TWINS = [
    "min max", "amin amax", "argmin argmax", "minimum maximum", "clamp_min clamp_max", "sum mean", "any all",
    "zeros ones", "new_zeros new_ones", "zeros_like ones_like", "floor ceil", "sin cos",
]  # fmt: skip
TWINS = {a: b for pair in map(str.split, _TWINS) for a, b in (pair, pair[::-1])}
# Calls whose result can be mistaken for what they were called with: `x.abs()` or `abs(x)` for `x`.
_DROPPED = """
    abs clamp clamp_min clamp_max clone copy deepcopy detach exp flip float log lower normalize relu sigmoid softmax
    sorted sqrt square strip tanh transpose
"""
DROPPED = frozenset(_DROPPED.split())
AXES = ("dim", "axis")
LARGER = 10  # factor on a number with a point: limits and gains that are off by less are matters of taste


@dataclass(frozen=True)
class Break:
    """One break: bytes ``start`` to ``end`` of the source become ``text``."""

    kind: str
    line: int
    start: int
    end: int
    text: str
    was: str  # the line, without its comment
    now: str  # what becomes of it

    def applied(self, source: str) -> str:
        """Return the broken source."""
        raw = source.encode()
        return (raw[: self.start] + self.text.encode() + raw[self.end :]).decode()


def breaks(source: str) -> list[Break]:
    """Return all breaks of a source file, from top to bottom; strings, messages and types stay whole."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda b: (b.start, b.end, b.text))


class _Finder(ast.NodeVisitor):
    """Walks a file and notes what can be broken."""

    def __init__(self, source: str) -> None:
        self.raw = source.encode()
        self.lines = [0]
        for line in self.raw.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Break] = []

    def note(self, kind: str, start: int, end: int, text: str) -> None:
        """Note one break, with the line that it shows on before and after."""
        line = sum(offset <= start for offset in self.lines)
        head, rest = self.raw[self.lines[line - 1] : start].decode(), self.raw[end:].decode().split("\n", 1)[0]
        was, now = self.raw[self.lines[line - 1] : self.lines[line]].decode(), f"{head}{text}{rest}"
        self.found.append(Break(kind, line, start, end, text, _bare(was), _bare(now)))

    def starts(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node begins, in bytes."""
        return self.lines[node.lineno - 1] + node.col_offset

    def ends(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node ends, in bytes."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Return a node's source."""
        return self.raw[self.starts(node) : self.ends(node)].decode()

    def operator(self, kind: str, left: ast.expr, right: ast.expr, was: str, *others: str) -> None:
        """Note other operators between two operands; brackets may stand there too, a comment is left alone."""
        start = self.ends(left)
        between = self.raw[start : self.starts(right)].decode()
        pattern = re.escape(was).replace(r"\ ", r"\s+")
        match = re.search(rf"\b{pattern}\b" if was.isidentifier() or " " in was else pattern, between)
        if match and "#" not in between:
            at = start + len(between[: match.start()].encode())
            for other in others:
                self.note(kind, at, at + len(match[0]), other)

    def negated(self, test: ast.expr) -> None:
        """Note the opposite of a condition, unless its own operators are broken anyway."""
        if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant):
            self.note("condition", self.starts(test), self.ends(test), f"(not ({self.text(test)}))")

    # --- what is left alone

    def visit_Raise(self, node: ast.Raise) -> None:
        """Leave messages alone."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Leave text alone."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Leave checks of ourselves alone."""

    def visit_arg(self, node: ast.arg) -> None:
        """Leave types alone."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Leave the type alone, break the value."""
        if node.value:
            self.visit(node.value)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Leave the returned type alone."""
        for child in (*node.decorator_list, node.args, *node.body):
            self.visit(child)

    # --- what is broken

    def visit_Compare(self, node: ast.Compare) -> None:
        """Break `<` to `<=` and `>=`, `is` to `is not` and so on."""
        for left, op, right in zip((node.left, *node.comparators), node.ops, node.comparators, strict=False):
            self.operator("comparison", left, right, *COMPARE[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Break `+` to `-` and so on, but not between texts."""
        if type(node.op) in ARITHMETIC and not any(_is_text(side) for side in (node.left, node.right)):
            self.operator("arithmetic", node.left, node.right, *ARITHMETIC[type(node.op)])
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """Break `+=` to `-=` and so on."""
        if type(node.op) in ARITHMETIC and not _is_text(node.value):
            was, other = ARITHMETIC[type(node.op)]
            self.operator("arithmetic", node.target, node.value, f"{was}=", f"{other}=")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """Break `and` to `or`."""
        was, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.operator("boolean", left, right, was, other)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """Drop `not` and the sign; a negative whole number counts on."""
        start = self.starts(node)
        if isinstance(node.op, ast.USub) and _is_whole(node.operand):
            self.note("constant", start, self.ends(node), str(-node.operand.value - 1))  # type: ignore[attr-defined]
            return
        if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
            self.note("sign", start, start + (3 if isinstance(node.op, ast.Not) else 1), "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Break truths to their opposite, n to n + 1, other numbers to ten times as much."""
        value = node.value
        if isinstance(value, bool):
            other = str(not value)
        elif isinstance(value, int):
            other = str(value + 1)
        elif isinstance(value, float):
            other = repr(value * LARGER or 1.0)
        else:
            return
        self.note("constant", self.starts(node), self.ends(node), other)

    def visit_keyword(self, node: ast.keyword) -> None:
        """Break an axis to its neighbour."""
        value = node.value
        if node.arg in AXES and isinstance(value, ast.Constant) and _is_whole(value):
            axis = int(self.text(value))
            self.note("axis", self.starts(value), self.ends(value), str(axis - 1 if axis else 1))
            return
        if node.arg == "strict":  # of `zip`: a check of ourselves
            return
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """Break a call to its twin (`min` to `max`), or to what it was called with."""
        func = node.func
        name = func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""
        if name in TWINS:
            self.note("twin", self.ends(func) - len(name), self.ends(func), TWINS[name])
        if name in DROPPED:
            method = isinstance(func, ast.Attribute) and not _is_module(func.value)
            kept = func.value if isinstance(func, ast.Attribute) and method else next(iter(node.args), None)
            if kept is not None:
                self.note("dropped call", self.starts(node), self.ends(node), f"({self.text(kept)})")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        """Drop a call that is made for its effect."""
        if isinstance(node.value, ast.Call) and not self.text(node).startswith("super().__init__("):
            self.note("dropped call", self.starts(node), self.ends(node), "pass")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        """Drop a guard, or take the other branch; code for type checkers and scripts is left alone."""
        if self.text(node.test) in ("TYPE_CHECKING", '__name__ == "__main__"'):
            return
        leaves = ast.Raise | ast.Return | ast.Continue | ast.Break
        if len(node.body) == 1 and isinstance(node.body[0], leaves) and not node.orelse:
            self.note("guard", self.starts(node.test), self.ends(node.test), "False")
        else:
            self.negated(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        """Take the other branch."""
        self.negated(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        """Keep what a comprehension leaves out."""
        for test in node.ifs:
            self.negated(test)
        self.generic_visit(node)


def _bare(line: str) -> str:
    """Return a line without its indentation and comment: reasons outlive both."""
    return line.split("  #")[0].strip()


def _is_text(node: ast.expr) -> bool:
    """Return whether an operand is text: its operators join and format."""
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _is_whole(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _is_module(node: ast.expr) -> bool:
    """Return whether a receiver is a module by its usual name, so that the call is a function's."""
    return isinstance(node, ast.Name) and node.id in {"torch", "F", "np", "math", "copy"}
