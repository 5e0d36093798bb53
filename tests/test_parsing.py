"""Words of a command: the file with and without its key, checks at their bounds, what is said about other words."""

from __future__ import annotations

from typing import Any

import pytest

from ultra_dsmoe.commands.arguments import CHECKPOINT, DATA, evaluation_options
from ultra_dsmoe.deprecations import Former
from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.parsing import Command, Option, number, one_of, positive, several_of, text, whole, yes_no

OPTIONS = {**evaluation_options("look"), "quick": Option(yes_no, "whether to hurry", "False", flag=True)}
LOOK = Command("look", "Looks at a checkpoint.", OPTIONS, lambda given: 0, CHECKPOINT)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["best.pt"], {"model": "best.pt"}),
        (["model=best.pt"], {"model": "best.pt"}),
        (["imgsz=64", "best.pt", "seed=3"], {"imgsz": 64, "model": "best.pt", "seed": 3}),
        (["best.pt", "out=a=b"], {"model": "best.pt", "out": "a=b"}),
        (["best.pt", "seed=1", "seed=2"], {"model": "best.pt", "seed": 2}),
        (["best.pt", "--seed", "3", "--out=a=b"], {"model": "best.pt", "seed": 3, "out": "a=b"}),
        (["--quick", "best.pt", "--seed", "3"], {"quick": True, "model": "best.pt", "seed": 3}),
        (["best.pt", "--quick", "false"], {"model": "best.pt", "quick": False}),
    ],
)
def test_words(argv: list[str], expected: dict[str, Any]) -> None:
    given = LOOK.parse(argv)
    assert given == expected
    assert given.line == " ".join(["dsmoe-yolo look", *argv])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], r"^model: expected a DS-MoE checkpoint as first argument, such as best\.pt, got none$"),
        (["imgsz=64"], r"^model: expected a DS-MoE checkpoint as first"),
        (["best.pt", "other.pt"], r"^other\.pt: expected a value, as in 'key=value', got none$"),
        (["seed"], r"^seed: expected a value, as in 'key=value', got none$"),
        (["best.pt", "sede=1"], r"^sede: expected one of model, .*\(did you mean 'seed'\?\), got an unknown key$"),
        (["best.pt", "--sede", "1"], r"^sede: expected one of model, .*\(did you mean 'seed'\?\), got an unknown key$"),
        (["best.pt", "--seed"], r"^seed: expected a value, as in '--key value', got none$"),
        (["best.pt", "--quick=perhaps"], r"^quick: expected true or false, got perhaps$"),
        (["best.pt", "seed="], r"^seed: expected a value, as in 'key=value', got none$"),
        (["best.pt", "out= "], r"^out: expected a value"),
        (["best.pt", "split=tests"], r"^split: expected one of train, val, test \(did you mean 'test'\?\), got tests$"),
    ],
)
def test_other_words(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LOOK.parse(argv)


def test_another_first_word() -> None:
    command = Command("read", "Reads a data set.", {"data": Option(text, "data YAML")}, lambda given: 0, DATA)
    assert command.parse(["set.yaml"]) == {"data": "set.yaml"}
    with pytest.raises(ConfigError, match=r"^data: expected a data YAML as first argument, such as neu-det\.yaml"):
        command.parse([])


def test_several_words_without_keys_come_in_their_order() -> None:
    options = {"name": Option(text, "set"), "archive": Option(text, "file")}
    command = Command("put", "Unpacks.", options, lambda given: 0, {"name": "a set", "archive": "a file"})
    assert command.parse(["deeppcb", "a.tar"]) == command.parse(["archive=a.tar", "deeppcb"])
    with pytest.raises(ConfigError, match=r"^archive: expected a file, got none$"):
        command.parse(["deeppcb"])


def test_other_pairs_are_kept_where_a_command_takes_them() -> None:
    command = Command("study", "Trains.", {"jobs": Option(whole(1), "side by side")}, lambda given: 0, more="changes")
    given = command.parse(["imgsz=64", "jobs=2", "--epochs=3"])
    assert (given, given.more) == ({"jobs": 2}, ["imgsz=64", "epochs=3"])


@pytest.mark.parametrize("argv", [["help"], ["-h"], ["best.pt", "--help"]])
def test_help_names_every_key_and_runs_nothing(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command = Command("look", "Looks at a checkpoint.", OPTIONS, lambda given: 1 / 0, CHECKPOINT)  # type: ignore[arg-type, return-value]
    assert command.main(argv) == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: dsmoe-yolo look MODEL [key=value ...]\n\nLooks at a checkpoint.\n")
    assert [line.split()[0] for line in page.splitlines()[4:]] == list(OPTIONS)
    assert "(default: val)" in page


def test_without_the_words_that_it_needs_it_explains_itself_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert LOOK.main([]) == 1
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", "usage: dsmoe-yolo look MODEL [key=value ...]")


def test_the_exit_code_is_the_commands() -> None:
    assert Command("look", "", OPTIONS, lambda given: 3, CHECKPOINT).main(["best.pt"]) == 3


def test_keys_of_before_go_on_working_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    former = {"size": Former("imgsz", goes="9.0"), "half": Former("split=test", goes="9.0")}
    command = Command("look", "", OPTIONS, lambda given: 0, CHECKPOINT, former=former)
    for words in (["size=64"], ["--size", "64"], ["--size=64"]):
        assert command.parse(["best.pt", *words]) == {"model": "best.pt", "imgsz": 64}
        said = capsys.readouterr().err
        assert said == "caution: 'size' is called 'imgsz' now; the former name is gone from version 9.0 on\n"
    assert command.parse(["--half", "best.pt"]) == {"model": "best.pt", "split": "test"}
    assert capsys.readouterr().err.startswith("caution: 'half' is called 'split=test' now")
    assert command.parse(["size"]) == {"model": "size"}, "a file of that name"
    assert "\n  size " not in command.usage()


def test_a_key_may_take_several() -> None:
    options = {"data": Option(text, "YAMLs", many=True), "out": Option(text, "folder")}
    command = Command("pack", "", options, lambda given: 0, DATA, program="python -m")
    given = command.parse(["a.yaml", "out=x", "b.yaml", "data=c.yaml"])
    assert given == {"data": ["a.yaml", "b.yaml", "c.yaml"], "out": "x"}
    assert command.usage().startswith("usage: python -m pack DATA ... [key=value ...]")


def refused(check: Any, value: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"^k: expected {expected}, got "):
        check("k", value)


def test_numbers_at_their_bounds() -> None:
    assert [whole(2, 4)("k", v) for v in ("2", " 4 ")] == [2, 4]
    assert type(whole(2)("k", "3")) is int
    assert whole(2)("k", "1000000") == 10**6
    for value in ("1", "5", "2.5", "x", "1e1", "nan"):
        refused(whole(2, 4), value, "a whole number from 2 to 4")
    refused(whole(2), "1", "a whole number of at least 2")
    assert [number(0, 0.5)("k", v) for v in ("0", "0.5", "1e-3")] == [0, 0.5, 0.001]
    for value in ("-0.1", "0.51", "nan", "inf", "half"):
        refused(number(0, 0.5), value, "a number from 0 to 0.5")


def test_numbers_above_0() -> None:
    assert positive("in GiB")("k", "0.5") == 0.5
    for value in ("0", "-1", "nan", "much"):
        refused(positive("in GiB"), value, "a number above 0, in GiB")


def test_bounds_of_the_common_keys() -> None:
    assert OPTIONS["imgsz"].check("imgsz", "32") == 32
    assert OPTIONS["batch"].check("batch", "1") == 1
    assert [OPTIONS["seed"].check("seed", v) for v in ("0", "4294967295")] == [0, 4294967295]
    for key, value in (("imgsz", "31"), ("seed", "-1"), ("seed", "4294967296")):
        with pytest.raises(ConfigError, match=f"^{key}: expected a whole number"):
            OPTIONS[key].check(key, value)
    with pytest.raises(ConfigError, match=r"^batch: expected a positive integer, got 0$"):
        OPTIONS["batch"].check("batch", "0")


def test_switches_in_any_case() -> None:
    assert [yes_no("k", v) for v in ("True", "true", "FALSE", "false")] == [True, True, False, False]
    for value in ("1", "yes", "no"):
        refused(yes_no, value, "true or false")


def test_names_one_or_several() -> None:
    assert one_of(("a", "b"))("k", "b") == "b"
    assert several_of(("hub", "text", "moe"))("k", "text, hub,text") == ["text", "hub"]
    with pytest.raises(ConfigError, match=r"^k: expected one of hub, text \(did you mean 'text'\?\), got txt$"):
        several_of(("hub", "text"))("k", "hub,txt")
    refused(several_of(("a",)), ",", "a value, as in 'key=value'")
