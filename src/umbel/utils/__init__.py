"""Bear Celery's name for what tasks import from there."""
