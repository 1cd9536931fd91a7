"""A ring of nodes: its leader, its rendezvous, its accounting, and the upload of its model."""
