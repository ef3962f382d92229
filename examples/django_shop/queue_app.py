"""The project's umbel app: ``umbel -A queue_app worker``."""

import os

from umbel import Umbel

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

app = Umbel("shop")
app.config_from_object("django.conf:settings", namespace="UMBEL")
app.autodiscover_tasks()  # the module `tasks` of each installed application
