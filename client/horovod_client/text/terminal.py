"""
Safe output to terminals: scripts and nodes write texts that the client prints, and must not control the terminal.

A terminal executes control sequences, which begin with ESC or a C1 control character: they set titles, write to the
clipboard (OSC 52), or hide lines. Every verb prints with `cli.options.say`, or uses `printable` where another library
prints.

Sources: ECMA-48, "Control functions for coded character sets" (C0, C1, CSI, OSC and the other strings); Unicode
Standard Annex #9, "Unicode bidirectional algorithm" (the characters that change the order of what is shown).
"""

from __future__ import annotations

import re
from typing import Final

_SEQUENCES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movement
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]+[0-~]"  # selection of character sets
)
_UNSAFE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # all control characters except tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks and overrides of text direction
    "\u2028\u2029"  # line and paragraph separators, which some terminals obey
    "\ud800-\udfff]"  # halves of surrogate pairs, which no encoding accepts
)


def printable(text: str) -> str:
    """
    Make *text* safe to print.

    Complete control sequences and backspaces are removed. A carriage return becomes a newline, so that each state of a
    progress bar is readable. Remaining control characters are escaped, such as `\\x1b`.
    """
    text = _SEQUENCES.sub("", text)
    text = re.sub(r"\r+\n?", "\n", text.replace("\b", ""))
    return _UNSAFE.sub(_spelled, text)


def printable_line(text: str) -> str:
    """Make *text* safe to print as part of one line, such as a cell, a name or a heading."""
    return " ".join(printable(text).split())


def printable_json(document: str) -> str:
    """Make a JSON text safe to print without changing the document."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _spelled(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
