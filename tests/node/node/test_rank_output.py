"""Ranks' output becomes the lines that a terminal shows."""

from __future__ import annotations

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from horovod_node.node.rank_output import LONGEST_LINE, UPDATE_SECONDS, TerminalLines, read_lines


def shown(*parts: bytes, seconds: float = 0.0) -> list[str]:
    """Feed *parts*, so many seconds apart, and give all lines."""
    lines = TerminalLines()
    found = [line for number, part in enumerate(parts) for line in lines.feed(part, at=number * seconds)]
    return found + list(lines.close())


def test_progress_bar_is_one_line() -> None:
    """What was overwritten is gone, as on a terminal; a shorter text leaves the rest of a longer one."""
    assert shown(b"10%|#  |\r100%|###|\n") == ["100%|###|\n"]
    assert shown(b"loading\rdone\n") == ["doneing\n"]
    assert shown(b"loading\r\x1b[Kdone\n") == ["done\n"]
    assert shown(b"loading\x1b[2K\rdone\n") == ["done\n"]
    # AND Keras 2 moves back by backspaces
    assert shown(b" 1/10 [=>]\b\b\b\b\b\b\b\b\b\b10/10 [==]\n") == ["10/10 [==]\n"]


def test_progress_bar_is_shown_while_it_runs() -> None:
    """Every ten seconds as it stands, and not again when nothing was added."""
    parts = [b"\r%d%%" % percent for percent in (10, 20, 30, 40)]
    assert shown(*parts, b"\n", seconds=UPDATE_SECONDS) == ["20%\n", "30%\n", "40%\n"]


def test_words_without_an_end_are_shown_after_a_while() -> None:
    """The last words before a hang are not lost; when the line is finished it comes as a whole."""
    assert shown(b"Loading the data... ", b"", b"done\n", seconds=UPDATE_SECONDS) == [
        "Loading the data...\n",
        "Loading the data... done\n",
    ]


def test_colours_are_dropped() -> None:
    """Logs show text."""
    assert shown(b"\x1b[1;31mwarning\x1b[0m: hot\n", b"\x1b[3", b"2mgreen\x1b[m\n") == ["warning: hot\n", "green\n"]


def test_long_line_is_cut_between_characters() -> None:
    """A character of several bytes is whole, wherever a line or a read ends."""
    line = "é€" * LONGEST_LINE
    found = shown(*(bytes([byte]) for byte in line.encode()), b"\n")
    assert "".join(part.rstrip("\n") for part in found) == line
    assert all(len(part) <= LONGEST_LINE + 1 for part in found)


def test_bytes_that_are_no_text_are_spelled() -> None:
    """As Python spells them on standard error."""
    assert shown(b"caf\xe9.jpg\n") == ["caf\\xe9.jpg\n"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=30)), st.data())
def test_plain_lines_arrive_as_they_are(lines: list[str], data: st.DataObject) -> None:
    """However the bytes are cut into reads; Windows' line ends are ends, too."""
    # GIVEN
    whole = "".join(f"{line}\r\n" for line in lines).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    # WHEN
    parts = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    # THEN
    assert shown(*parts) == [line.rstrip() + "\n" for line in lines]


@given(st.binary(max_size=200), st.integers(0, 200))
def test_no_bytes_break_it(garbage: bytes, cut: int) -> None:
    """Whatever a script prints, its next line arrives, and how it was cut into reads changes nothing."""
    # An escape sequence may begin in the garbage, which ends it.
    whole = garbage + b"mK\r\x1b[2K\nthe next line\n"
    assert shown(whole)[-1] == "the next line\n"
    assert shown(whole[:cut], whole[cut:]) == shown(whole)


def test_output_of_a_process_is_read_to_its_end() -> None:
    """Also what stands in a last line that nothing ended."""
    # GIVEN
    program = "import os; os.write(1, b'one\\ntwo'); os.write(2, b'\\rTWO')"
    command = [sys.executable, "-c", program]
    # WHEN
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        found = list(read_lines(process.stdout))
    # THEN
    assert found == ["one\n", "TWO\n"]
    assert os.WEXITSTATUS(process.returncode) == 0
