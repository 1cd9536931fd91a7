"""Tests of every state of a deployed training with Step Functions' TestState; nothing is started."""
