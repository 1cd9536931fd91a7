"""A ring of nodes: who leads it, how it forms, what it did, and the model that it leaves."""
