"""The layers that terminate what a run leaves: clean-up and reaper."""
