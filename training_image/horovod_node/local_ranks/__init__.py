"""The ranks of one node: their environment, their processes, their metrics."""
