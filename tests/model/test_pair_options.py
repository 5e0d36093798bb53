"""The section of a classifier's model YAML: defaults, what is refused, blocks' own keys."""

from __future__ import annotations

from typing import Any

import pytest

from ultra_dsmoe.errors import ConfigError
from ultra_dsmoe.model.pair_options import PHASES, STRIDES, PairOptions


def test_defaults_are_the_papers_where_it_has_some() -> None:
    assert PairOptions.read(None) == PairOptions()
    assert (PairOptions().strides, PairOptions().phases) == (STRIDES, PHASES)


def test_values_of_the_section_win_and_keys_of_blocks_are_let_through() -> None:
    section = {"pfa": "random", "strides": [0.5, 1], "phases": [1, 2, 3], "fusion": "concat", "text_mode": "always"}
    options = PairOptions.read(section)
    assert (options.pfa, options.strides, options.phases) == ("random", (0.5, 1.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ([], "dsmoe: section of the model YAML: expected a mapping"),
        ({"pfaa": 1}, r"did you mean 'pfa'\?"),
        ({"pfa": "progresive"}, r"dsmoe\.pfa: .*did you mean 'progressive'\?"),
        ({"text_mode": "never"}, r"dsmoe\.text_mode: expected"),
        ({"strides": [0.5, 0.2, 1]}, r"dsmoe\.strides: expected rising shares above 0 that end with 1"),
        ({"strides": [0.5]}, r"dsmoe\.strides: expected rising shares"),
        ({"strides": [0, 1]}, r"dsmoe\.strides: expected rising shares"),
        ({"strides": 1}, r"dsmoe\.strides: expected a list"),
        ({"phases": [1, 1]}, r"dsmoe\.phases: expected a list of 3 numbers"),
        ({"phases": [1, 1, 0]}, r"dsmoe\.phases: expected shares of warm-up, alignment and fusion, the last above 0"),
        ({"passes": 2}, r"dsmoe\.passes: expected"),
        ({"ce": -1}, r"dsmoe\.ce: expected"),
        ({"pace": [1]}, r"dsmoe\.pace: expected a list of 2 numbers"),
        ({"pace": [1, "fast"]}, r"dsmoe\.pace: expected a list of 2 numbers"),
        ({"rerank": "yes"}, r"dsmoe\.rerank: expected true or false"),
        ({"control": "swapped"}, r"dsmoe\.control: expected"),
        ({"transfer": 3}, r"dsmoe\.transfer: expected"),
    ],
)
def test_bad_sections_are_one_line(section: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        PairOptions.read(section)
    assert "\n" not in str(error.value)
