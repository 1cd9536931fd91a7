"""
Reports a script's training steps: `steps.report(step)`. The training helpers report more, with `tell`.

A script needs it only if its steps are not counted automatically (`horovod_node.rank_process.step_counter`).
"""

from horovod_node.rank_process.step_counter import report, tell

__all__ = ["report", "tell"]
