"""A node's part in one attempt of a run: membership, lease, and the answer to the state machine."""
