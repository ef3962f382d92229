"""Let programs that import Celery run on umbel unchanged."""

from umbel.compat.finder import install_as_celery

__all__ = ["install_as_celery"]
