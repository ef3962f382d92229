"""Carry a job to where it runs and bring back what happened; knows nothing of tasks."""
