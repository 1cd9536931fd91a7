"""What instances cost, and what a run may cost."""
