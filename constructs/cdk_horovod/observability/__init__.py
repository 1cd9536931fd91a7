"""Alarms, dashboard and notifications."""
