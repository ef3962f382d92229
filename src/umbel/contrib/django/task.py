"""Bear Celery's name for the class of tasks in Django projects."""

from umbel.fixups.django import DjangoTask

__all__ = ["DjangoTask"]
