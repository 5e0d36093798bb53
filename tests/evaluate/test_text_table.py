"""Tables: columns line up, commas are quoted."""

from __future__ import annotations

from ultra_dsmoe.evaluate.text_table import align_columns, csv_text


def test_words_to_the_left_numbers_to_the_right() -> None:
    table = [
        ["name", "what", "mAP", "n", "verdict"],
        ["a", "much longer", "9.5", "100", "ok"],
        ["bb", "", "10.0", "", ""],
    ]
    assert align_columns(table).splitlines() == [
        "name  what          mAP    n  verdict",
        "a     much longer   9.5  100  ok",
        "bb                 10.0",
    ]


def test_values_are_separated_by_commas() -> None:
    assert csv_text([["k", "what"], [5, "a, b"], [8, ""]]) == 'k,what\n5,"a, b"\n8,\n'
