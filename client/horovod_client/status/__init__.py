"""Status of a run, read from its execution and the ledger."""
