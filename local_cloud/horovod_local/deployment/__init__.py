"""Deployment: reads a cloud assembly, deploys its stacks, and runs their schedules."""
