"""Every state of a deployed training, run through Step Functions' TestState: nothing is started."""
