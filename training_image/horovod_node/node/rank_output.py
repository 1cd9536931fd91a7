"""What ranks print: how it becomes lines, and where they go."""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Final

from horovod_node import contract
from horovod_node.node.log_shipping import LogShipping

LONGEST_LINE: Final = 16_384
"""Characters; at four bytes each still one event of CloudWatch Logs."""
UPDATE_SECONDS: Final = 10.0
"""How often a line that is not finished is shown as it stands: a progress bar, or the last words before a hang."""

RankOutput = Callable[[int, str], None]
"""Takes a rank's number at that time and a line that it printed; called from a thread for each rank, must not fail."""

_printing = threading.Lock()


def print_line(rank: int, line: str) -> None:
    """Print a rank's line among the agent's own, after the rank's number."""
    # Whoever read our output may be gone: a rank must not stop because nobody takes its lines.
    with _printing, contextlib.suppress(OSError):
        sys.stdout.write(f"[{rank}] {line}")
        sys.stdout.flush()


def ship_lines(shipping: LogShipping, *, echo: bool) -> RankOutput:
    """
    Give what sends ranks' lines to log streams of their own.

    Args:
        shipping: What takes them.
        echo: Whether they are printed, too.
    """

    def take(rank: int, line: str) -> None:
        shipping.take(f"{contract.LOG_RANK_PREFIX}{rank}", line)
        if echo:
            print_line(rank, line)

    return take


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """
    Give the lines that a terminal would show for what comes out of *stream*, until it ends.

    Args:
        stream: A pipe; nobody else reads from it.
    """
    lines = TerminalLines()
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            ready = selector.select(timeout=UPDATE_SECONDS)
            data = os.read(stream.fileno(), 65_536) if ready else b""
            yield from lines.feed(data, at=time.monotonic())
            if ready and not data:
                break
    yield from lines.close()


class TerminalLines:
    """
    Turns bytes into lines as a terminal shows them.

    A carriage return or a backspace moves back, and what comes then stands in place of what was there: a progress bar
    is one line. It is given when it is finished, and meanwhile every `UPDATE_SECONDS` as it stands. Of ECMA-48's
    control sequences, "erase in line" is obeyed and the others, colours for example, are dropped.

    Bytes that are not UTF-8 are shown as Python shows them on standard error, `\\xff`.
    """

    _TOKEN: Final = re.compile(r"\x1b\[([0-?]*)[ -/]*([@-~])|[\n\r\b\x1b]|[^\n\r\b\x1b]+")
    _UNFINISHED: Final = re.compile(r"\x1b(\[[0-?]*[ -/]*)?\Z")

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._kept = ""
        self._line = ""
        self._at = 0
        self._shown = ""
        self._shown_at: float | None = None

    def feed(self, data: bytes, *, at: float) -> Iterator[str]:
        """
        Take *data*, and give the lines that are to be shown now.

        Args:
            data: May be empty, for a look at a line that is not finished.
            at: Seconds of a steady clock.
        """
        text = self._kept + self._decoder.decode(data)
        unfinished = self._UNFINISHED.search(text)
        self._kept = unfinished.group() if unfinished and len(unfinished.group()) < LONGEST_LINE else ""
        for token in self._TOKEN.finditer(text, 0, len(text) - len(self._kept)):
            yield from self._take(token, at=at)
        if self._line and self._shown_at is None:
            self._shown_at = at
        if self._shown_at is not None and at - self._shown_at >= UPDATE_SECONDS and self._line != self._shown:
            self._shown, self._shown_at = self._line, at
            yield _ended(self._line)

    def close(self) -> Iterator[str]:
        """Give what stands in the last line, which nothing ended."""
        self._write(self._decoder.decode(b"", final=True))
        if self._line and self._line != self._shown:
            yield _ended(self._line)

    def _take(self, token: re.Match[str], *, at: float) -> Iterator[str]:
        text = token.group()
        if text == "\n":
            # Shown already, and nothing was added.
            if not self._line or self._line != self._shown:
                yield _ended(self._line)
            self._line, self._at, self._shown, self._shown_at = "", 0, "", None
        elif text == "\r":
            self._at = 0
        elif text == "\b":
            self._at = max(0, self._at - 1)
        elif text.startswith("\x1b"):
            if token.group(2) == "K":
                self._erase(token.group(1))
        else:
            self._write(text)
            while len(self._line) > LONGEST_LINE:
                yield _ended(self._line[:LONGEST_LINE])
                self._line, self._at = self._line[LONGEST_LINE:], max(0, self._at - LONGEST_LINE)
                self._shown, self._shown_at = "", at

    def _write(self, text: str) -> None:
        self._line = self._line[: self._at].ljust(self._at) + text + self._line[self._at + len(text) :]
        self._at += len(text)

    def _erase(self, part: str) -> None:
        if part in ("", "0"):
            self._line = self._line[: self._at]
        elif part == "1":
            self._line = " " * min(self._at, len(self._line)) + self._line[self._at :]
        elif part == "2":
            self._line = ""


def _ended(line: str) -> str:
    return line.rstrip() + "\n"
