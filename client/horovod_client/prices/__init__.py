"""Prices of instances, and cost estimates of runs."""
