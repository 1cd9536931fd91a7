"""Exit codes of `python -m horovod_node`."""

from __future__ import annotations

from typing import Final

EXIT_OK: Final = 0
"""The agent was told to stop; on SageMaker, the node has done all that its run needs."""
EXIT_TRAINING_FAILED: Final = 1
"""The user's script failed."""
EXIT_PART_OVER: Final = 10
"""The run continues without this node; its instance must terminate itself at once. On ECS: `PART_OVER_FILE`."""
EXIT_USAGE: Final = 2
"""The environment is incomplete or contradictory."""
EXIT_NODE_FAILED: Final = 70
"""The agent failed, and not the script (sysexits.h: EX_SOFTWARE)."""
EXIT_RELEASED: Final = 75
"""The lease went to another run or the state machine gave this attempt up (sysexits.h: EX_TEMPFAIL)."""
EXIT_PREFLIGHT: Final = 78
"""The script cannot train correctly in this image (sysexits.h: EX_CONFIG)."""
