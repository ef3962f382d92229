"""Where messages wait."""
