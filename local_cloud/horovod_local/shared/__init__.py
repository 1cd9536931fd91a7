"""Shared by server, permissions and corrections: access keys, API calls, faults, prices, resource types."""
