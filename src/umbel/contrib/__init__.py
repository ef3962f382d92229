"""Bridges to frameworks, and what tests need."""
