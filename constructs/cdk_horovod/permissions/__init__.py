"""Permissions of nodes, state machines and people."""
