"""The state machine of a run: start, train, terminate."""
