"""What comes to a node before its ranks start, and what goes from its folders to S3."""
