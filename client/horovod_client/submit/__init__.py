"""Submission of a run: packaging, checking and uploading."""
