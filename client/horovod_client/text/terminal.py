"""
What may be printed to a terminal: text that came from AWS was written by scripts and nodes, and they may not drive it.

A terminal obeys what it is shown: sequences that begin with ESC or a C1 control character set titles, write to the
clipboard (OSC 52), or hide lines. Everything that a verb prints goes through `cli.options.say`, or
through `printable` where another library draws it.

Sources: ECMA-48, "Control functions for coded character sets" (C0, C1, CSI, OSC and the other strings); Unicode
Standard Annex #9, "Unicode bidirectional algorithm" (the characters that change the order of what is shown).
"""

from __future__ import annotations

import re
from typing import Final

_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, moves of the cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]+[0-~]"  # choices of character sets
)
_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all controls but tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of direction
    "\u2028\u2029"  # ends of lines and paragraphs, to some terminals
    "\ud800-\udfff]"  # halves of surrogate pairs, which no encoding takes
)


def printable(text: str) -> str:
    """
    Make *text* safe to print.

    Whole control sequences are left out, as a terminal without colours would. A carriage return becomes a new line, so
    that each state of a progress bar can be read; backspaces go. What is left of control characters is spelled out.
    """
    text = _SEQUENCES.sub("", text)
    text = re.sub(r"\r+\n?", "\n", text.replace("\b", ""))
    return _UNSAFE.sub(_spelled, text)


def printable_line(text: str) -> str:
    """Make *text* safe to print where only a part of one line belongs to it: a cell, a name, a heading."""
    return " ".join(printable(text).split())


def printable_json(document: str) -> str:
    """Make a JSON text safe to print; it stays the same document."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
