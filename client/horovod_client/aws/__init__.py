"""Calls to AWS: connection, clients, retries, and explanations of AWS's errors."""
