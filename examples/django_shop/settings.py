"""Settings of Django, and, with the prefix UMBEL_, of umbel."""

from pathlib import Path

BASE_DIR = Path(__file__).parent
SECRET_KEY = "only-an-example"
DEBUG = True
ALLOWED_HOSTS = ["*"]
INSTALLED_APPS = ["shop"]
ROOT_URLCONF = "urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "shop.sqlite3"}}

UMBEL_TASK_TRACK_STARTED = True
UMBEL_RESULT_EXPIRES = 3600
