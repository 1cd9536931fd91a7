"""How tables are written for terminals."""

from __future__ import annotations

from horovod_client.text.columns import in_columns

ROWS = [("", "first", "second"), ("label", "a cell that is long", "short"), ("other", "x", "y")]


def test_columns_are_as_wide_as_their_cells() -> None:
    """Without a limit each row is one line."""
    assert [*in_columns(ROWS)] == [
        "       first                second",
        "label  a cell that is long  short",
        "other  x                    y",
    ]


def test_long_cells_continue_on_the_next_line() -> None:
    """With a limit, the columns beside the labels share the width, and words that do not fit move down."""
    assert [*in_columns(ROWS, width=27)] == [
        "       first      second",
        "label  a cell     short",
        "       that is",
        "       long",
        "other  x          y",
    ]


def test_a_word_longer_than_its_column_is_broken() -> None:
    """No line is longer than the limit."""
    lines = [*in_columns([("label", "MaxRuntimeInSeconds", "short")], width=25)]
    assert lines == ["label  MaxRunti  short", "       meInSeco", "       nds"]
