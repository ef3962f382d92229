"""The object users hold: it ties names to tasks, and settings to parts."""
