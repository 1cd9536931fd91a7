"""Calls to AWS: connection, clients, retries, and what AWS's errors mean."""
