"""Given a task and a request: what happened, and what follows from it."""
