"""The mirror of the checkpoint folder in S3, and its restore."""
