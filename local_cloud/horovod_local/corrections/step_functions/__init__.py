"""Corrections of state machines: executions, tasks, tokens, JSONata, limits."""
