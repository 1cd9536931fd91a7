"""Blocks of Amazon States Language that engines and workflows share."""
