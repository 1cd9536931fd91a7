"""Downloads to a node before its ranks start, and uploads from its folders to S3."""
