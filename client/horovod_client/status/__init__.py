"""What a run does now, read from the execution and the ledger."""
