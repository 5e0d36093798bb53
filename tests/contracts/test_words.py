"""What the words of this repository point to is in it: texts, files, links, commands, keys.

Read from the working tree, not from git, so that it holds in an unpacked sdist too.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

import pytest
import yaml

from ultra_dsmoe.commands import TABLE
from ultra_dsmoe.plugin.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("ultra_dsmoe", "cfg", "datasets", "docs", "examples", "benchmarks", "tests", ".github", ".ci")
KINDS = {".py", ".md", ".yaml", ".yml", ".toml", ".cff", ".txt", ""}
STRANGERS = {"LICENSE", ".git"}  # not our words; the pointer that a second working tree has
README = ROOT / "README.md"
LONGEST_README = 120
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))

# Texts that only the authors had. Whole words, so that a test's own `EDGE = 0.1` or `HOST` stays allowed.
ELSEWHERE = re.compile(
    r"\b(?:the|our|this) spec\b(?!\.)|\bspec's\b|\b(?:EDGE|DESIGN|HOST|STYLE|PEERS)(?:\.md\b| \d)|\bDESIGN\b"
    r"|criterion of the project|project's own criterion|\bissue #?\d+|\bsection \d+ of the (?:spec|design)"
)
# Places on somebody's machine; a path of a user's in an example begins otherwise.
MACHINE = re.compile(r"(?<![\w.])/(?:work|home|root|Users|mnt)/\w|(?<![\w.])/tmp/\w|[A-Z]:\\Users")
OWN_WORDS = {"tests/contracts/test_words.py"}  # the file that spells out what is forbidden
IMPORT_SPEC = re.compile(r"import|loader|finder|__spec__")  # "the spec" of a module is Python's word

HOST = re.compile(r"\b(?:[Tt]he|[Aa]) host\b|\bhost's\b|\b[Hh]osts\b")  # our word for Ultralytics, in code alone

LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"dsmoe-yolo((?: (?:\\\n|[^\n`|])+))")
HOSTS = {"train", "val", "predict", "track", "export", "benchmark", "COMMAND", "...", "alone"}
PYTHON = re.compile(r"^```python[^\n]*\n(.*?)^```", re.S | re.M)
CODE = re.compile(r"```.*?```|`[^`\n]+`|^(?: {4}|\t).+$", re.S | re.M)
PLACEHOLDER = re.compile(r"NAME|HASH")
PLACE = re.compile(r"(?<![\w/.-])(?:ultra_dsmoe|tests|benchmarks|cfg|examples|datasets|docs)/[\w./-]*[\w/]")


def texts() -> Iterator[tuple[str, str]]:
    """Yield (place, text) of every file with words in it."""
    inside = (p for folder in FOLDERS for p in sorted((ROOT / folder).rglob("*")))
    for path in (*sorted(ROOT.iterdir()), *inside):
        place = path.relative_to(ROOT).as_posix()
        if path.is_file() and path.suffix in KINDS and "__pycache__" not in place and path.name not in STRANGERS:
            yield place, path.read_text(encoding="utf-8")


def pages() -> list[Path]:
    """Return every page of prose."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "datasets" / "README.md"]


def code(page: Path) -> str:
    """Return what a page shows as code, a piece a line."""
    return "\n".join(CODE.findall(page.read_text(encoding="utf-8")))


def test_nothing_points_to_texts_that_are_not_here() -> None:
    found = []
    for place, text in texts():
        if place in OWN_WORDS:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if ELSEWHERE.search(line) and not (place.endswith(".py") and IMPORT_SPEC.search(line)):
                found.append(f"{place}:{number}: {line.strip()}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line", ["as read in the spec", "(measured, EDGE 4)", "see DESIGN 2", "HOST.md says", "issue 16"]
)
def test_such_a_pointer_would_be_found(line: str) -> None:
    assert ELSEWHERE.search(line)


def test_no_place_on_somebodys_machine() -> None:
    lines = ((f"{p}:{n}", x) for p, text in texts() if p not in OWN_WORDS for n, x in enumerate(text.splitlines(), 1))
    found = [f"{where}: {line.strip()}" for where, line in lines if MACHINE.search(line)]
    assert not found, "\n".join(found)


def test_links_lead_to_files() -> None:
    dead = []
    for page in pages():
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            file = target.partition("#")[0]
            if file and "://" not in file and not (page.parent / file).exists():
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert not dead, "\n".join(dead)


def test_links_of_the_site_stay_in_it() -> None:
    """Pages below docs/ link to each other, the three that join them also among themselves: valid on the site too."""
    joined = {ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")}
    out = []
    for page in (p for p in pages() if p.parent.name != "datasets"):
        for target in LINK.findall(CODE.sub("", page.read_text(encoding="utf-8"))):
            file = (page.parent / target.partition("#")[0]).resolve()
            if "://" in target or target.startswith("#") or file.is_relative_to(ROOT / "docs"):
                continue
            if page not in joined or file not in joined:
                out.append(f"{page.relative_to(ROOT)}: {target}")
    assert not out, "\n".join(out)


def test_every_page_is_on_the_site() -> None:
    def listed(nav: object) -> Iterator[str]:
        if isinstance(nav, str):
            yield nav
        elif isinstance(nav, (list, dict)):
            for entry in nav.values() if isinstance(nav, dict) else nav:
                yield from listed(entry)

    written = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert set(listed(SITE["nav"])) == written | {"index.md", "contributing.md", "changelog.md"}


def test_files_that_words_name_are_there() -> None:
    missing = set()
    for place, text in texts():
        if not place.endswith((".md", ".yaml", ".yml")) and not place.startswith("ultra_dsmoe/"):
            continue
        for named in PLACE.findall(text):
            if not (ROOT / named).exists() and not any(ROOT.glob(f"{named}.*")) and not PLACEHOLDER.search(named):
                missing.add(f"{place}: {named}")
    assert not missing, "\n".join(sorted(missing))


def commands() -> list[tuple[str, str]]:
    """Return (page, words behind ``dsmoe-yolo``) of every command that a page shows, but those left to Ultralytics."""
    shown = ((p.relative_to(ROOT).as_posix(), words) for p in pages() for words in COMMAND.findall(code(p)))
    return [
        (page, " ".join(words.replace("\\\n", " ").split())) for page, words in shown if words.split()[0] not in HOSTS
    ]


@pytest.mark.parametrize(("page", "words"), commands())
def test_commands_that_pages_show_are_understood(page: str, words: str) -> None:
    argv = shlex.split(words, comments=True)
    name = next((" ".join(argv[:n]) for n in (2, 1) if " ".join(argv[:n]) in TABLE), None)
    assert name is not None, f"{page}: no such command"
    entry = TABLE[name]
    given = argv[len(name.split()) :]
    if given and "..." not in given:  # a command's bare name is no call
        getattr(import_module(f"ultra_dsmoe.commands.{entry.module}"), entry.name).parse(given)


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {(p.name, t) for p in pages() for t in re.findall(r"(?:^ *|`)make ([a-z-]+)", code(p), re.M)}
    assert named, "no page says how to run anything"
    assert not {(page, target) for page, target in named if target not in targets}


def test_modules_that_pages_run_exist() -> None:
    wrong = []
    for page in pages():
        for module in re.findall(r"python -m ((?:ultra_dsmoe|benchmarks)[\w.]*)", code(page)):
            path = ROOT / module.replace(".", "/")
            if not path.with_suffix(".py").is_file() and not (path / "__main__.py").is_file():
                wrong.append(f"{page.relative_to(ROOT)}: python -m {module}")
    assert not wrong, "\n".join(wrong)


def programs() -> Iterator[tuple[str, str]]:
    """Yield (place, source) of the programs that no test imports whole: examples, benchmarks, Python of the pages."""
    for path in (*sorted((ROOT / "examples").glob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
    for page in pages():
        for block in PYTHON.findall(page.read_text(encoding="utf-8")):
            yield page.relative_to(ROOT).as_posix(), block


def submodules(module: ModuleType) -> set[str]:
    """Return the names of a package's modules, none for a module."""
    return {m.name for m in iter_modules(getattr(module, "__path__", []))}


def test_names_that_programs_import_exist() -> None:
    wrong = []
    for place, source in programs():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "ultra_dsmoe":
                try:
                    module = import_module(str(node.module))
                except ModuleNotFoundError as e:  # of a host before 8.4.80, which has no distillation
                    if not (e.name or "").startswith("ultralytics."):
                        raise
                    continue
                for name in (n.name for n in node.names):
                    if not hasattr(module, name) and name not in submodules(module):
                        wrong.append(f"{place}: from {node.module} import {name}")
    assert not wrong, "\n".join(wrong)


def test_every_key_is_explained() -> None:
    table = (ROOT / "docs" / "keys.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| `(dsmoe_\w+)=|, `(dsmoe_\w+)=", table, re.M))
    assert {a or b for a, b in rows} == set(KEYS)
    used = {key for p in pages() for key in re.findall(r"\bdsmoe_[a-z_]+(?==)", p.read_text(encoding="utf-8"))}
    assert used <= set(KEYS)


def test_the_readme_is_short_and_speaks_of_ultralytics() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < LONGEST_README
    assert not re.search(r"\b[Hh]osts?\b|\bhub\b", text), "words that the README does not explain"
    assert "make test" in text, "how tests run"
    assert "](docs/images/" in text[: text.index("## ")], "no picture before the first heading"


def test_messages_speak_of_ultralytics() -> None:
    found = []
    for path in sorted((ROOT / "ultra_dsmoe").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}  # docstrings
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
                found += [f"{path.name}:{node.lineno}: {node.value}"] * bool(HOST.search(node.value))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "page", ["tutorial", "models", "dsmoe", "edge", "text", "studies", "knockout", "pictures", "limits"]
)
def test_pages_for_users_speak_of_ultralytics(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert not HOST.search(text)
