"""The node's view of the ledger: the table, and the items that it reads and writes there."""
