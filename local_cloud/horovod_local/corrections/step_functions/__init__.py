"""Corrections of Step Functions: executions, tasks, task tokens, JSONata, quotas and TestState."""
