"""Checkpoints on their way to S3 and back."""
