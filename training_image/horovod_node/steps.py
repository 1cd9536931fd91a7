"""
What a script says of its steps: `steps.report(step)`; the training helpers say more, with `tell`.

Scripts need it only if nothing that counts by itself sees their steps (`horovod_node.rank_process.step_counter`).
"""

from horovod_node.rank_process.step_counter import report, tell

__all__ = ["report", "tell"]
