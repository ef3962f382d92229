"""Ask nodes to do something, and hear what they answer."""
