"""What nodes, state machines and people are permitted."""
