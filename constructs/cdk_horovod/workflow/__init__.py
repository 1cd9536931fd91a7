"""The run's state machine: start, train, terminate."""
