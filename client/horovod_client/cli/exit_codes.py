"""Exit codes of `cdk-horovod`."""

from __future__ import annotations

from typing import Final

DONE: Final = 0
RUN_FAILED: Final = 1
"""The run ended without success; for `doctor` and `prove`: a check or a step failed."""
BAD_INPUT: Final = 2
"""The request is invalid, or AWS cannot be called; nothing was started."""
FAULT: Final = 70
"""The tool itself failed (sysexits.h: EX_SOFTWARE)."""
INTERRUPTED: Final = 130
"""Ctrl-C, as shells report it (128 + SIGINT)."""
