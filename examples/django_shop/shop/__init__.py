"""An application of Django."""

from queue_app import app as queue_app

__all__ = ["queue_app"]
