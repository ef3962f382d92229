"""Turn every byte string that Celery's peers exchange into a value and back."""
