"""Let a test see that a worker works."""

from umbel.app.app import shared_task

__all__ = ["ping"]


@shared_task(name="celery.ping")
def ping() -> str:
    """Return ``pong``."""
    return "pong"
