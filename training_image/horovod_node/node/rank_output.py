"""The output of ranks: how it is split into lines, and where the lines go."""

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
"""In characters; even at four bytes each, a line fits into one CloudWatch Logs event."""
UPDATE_SECONDS: Final = 10.0
"""How often an unfinished line is shown as it is: a progress bar, or the last words before a hang."""

RankOutput = Callable[[int, str], None]
"""Takes a rank's current number and a line that it printed. Called from one thread per rank; must not raise."""

_printing = threading.Lock()


def print_line(rank: int, line: str) -> None:
    """Print a rank's line among the agent's own, after the rank's number."""
    # The reader of our output may be gone: a rank must not stop because of that.
    with _printing, contextlib.suppress(OSError):
        sys.stdout.write(f"[{rank}] {line}")
        sys.stdout.flush()


def ship_lines(shipping: LogShipping, *, echo: bool) -> RankOutput:
    """
    Return an output that sends each rank's lines to its own log stream.

    Args:
        shipping: Sends the lines.
        echo: Whether to print the lines, too.
    """

    def take(rank: int, line: str) -> None:
        shipping.take(f"{contract.LOG_RANK_PREFIX}{rank}", line)
        if echo:
            print_line(rank, line)

    return take


def read_lines(stream: IO[bytes]) -> Iterator[str]:
    """
    Yield the output of *stream* in lines as a terminal would show them, until it ends.

    Args:
        stream: A pipe with no other reader.
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

    A carriage return or a backspace moves back, and the text after it overwrites the text that was there: a progress
    bar is one line. A line is yielded when it is finished, and before that every `UPDATE_SECONDS` if it has changed. Of
    ECMA-48's control sequences, "erase in line" is applied and the others, such as colours, are dropped.

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
        Take *data*, and yield the lines that are to be shown now.

        Args:
            data: The next bytes; may be empty, to check whether an unfinished line is due.
            at: Seconds of a monotonic clock.
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
        """Yield the last line, if it is unfinished and was not shown as it is."""
        self._write(self._decoder.decode(b"", final=True))
        if self._line and self._line != self._shown:
            yield _ended(self._line)

    def _take(self, token: re.Match[str], *, at: float) -> Iterator[str]:
        text = token.group()
        if text == "\n":
            # A line that was already shown as it is is not repeated.
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
