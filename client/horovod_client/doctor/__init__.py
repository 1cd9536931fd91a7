"""Checks whether a machine, an account and a stack are ready for a run."""
