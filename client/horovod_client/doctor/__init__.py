"""Whether an account, a stack and a machine are ready for a run."""
