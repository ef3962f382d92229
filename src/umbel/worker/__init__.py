"""Decide which delivery runs now, and keep every promise made to the broker."""
