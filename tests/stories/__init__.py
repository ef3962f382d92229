"""Whole afternoons of a user, with real processes and a real queue."""
