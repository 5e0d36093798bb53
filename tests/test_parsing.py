"""Wrong words of our commands are user errors."""

from __future__ import annotations

import pytest

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.parsing import Parser


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("sub a --n x", "--n: expected a value that it can have, got invalid int value: 'x'"),
        ("sub", "name: expected a value, got none"),
        ("sub a --foo", "the command: expected the words of 'the command --help', got unrecognized arguments: --foo"),
        ("bus", "COMMAND: expected a value that it can have, got invalid choice: 'bus'"),
    ],
)
def test_errors(words: str, message: str) -> None:
    parser = Parser(prog="the command")
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser("sub")
    command.add_argument("name")
    command.add_argument("--n", type=int)
    assert parser.parse_args(["sub", "a", "--n", "3"]).n == 3
    with pytest.raises(ConfigError) as e:
        parser.parse_args(words.split())
    assert str(e.value).startswith(message)
