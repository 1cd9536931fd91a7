"""The layers that terminate nodes which a run has left running: clean-up and reaper."""
