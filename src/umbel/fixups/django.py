"""Make an app at home in a Django project: set Django up, find its tasks, and hold no connection between tasks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from umbel import signals
from umbel.app.task import Task
from umbel.exceptions import FixupWarning, ImproperlyConfigured

__all__ = ["DjangoFixup", "DjangoTask", "fixup"]

P = ParamSpec("P")
R = TypeVar("R")

_OLDEST: Final = (1, 11)


def fixup(app: Any, env: str = "DJANGO_SETTINGS_MODULE") -> DjangoFixup | None:
    """Return the fixup of *app*, installed, where the environment names a Django project; else None.

    Raises:
        ImproperlyConfigured: Django is too old.
    """
    module = os.environ.get(env)
    if not module or "django" in str(app.loader_name or "").lower():
        return None
    if importlib.util.find_spec("django") is None:
        warnings.warn(f"{env} is set to {module!r}, but Django is not installed", FixupWarning, stacklevel=2)
        return None
    version = importlib.import_module("django").VERSION
    if version[:2] < _OLDEST:
        raise ImproperlyConfigured(f"Django {'.'.join(map(str, version[:2]))} is too old; umbel needs 1.11 or newer")
    return DjangoFixup(app).install()


class DjangoFixup:
    """What one app does for Django."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self._pid = os.getpid()
        self._uses = 0  # of the connections since they were opened

    def install(self) -> DjangoFixup:
        """Take part in the app's life from now on; return self."""
        cwd = os.getcwd()  # noqa: PTH109 - the text that Python itself would put there
        if cwd not in sys.path:
            sys.path.insert(0, cwd)
        if self.app.task_cls is Task:
            self.app.task_cls = DjangoTask
        signals.import_modules.connect(self.on_import_modules, sender=self.app, weak=False)
        signals.worker_process_init.connect(self.on_process_init, weak=False)
        signals.task_prerun.connect(self.on_task_prerun, weak=False)
        signals.task_postrun.connect(self.on_task_postrun, weak=False)
        return self

    def autodiscover_tasks(self) -> list[str]:
        """Return the packages of the installed applications."""
        from django.apps import apps

        return [config.name for config in apps.get_app_configs()]

    def on_import_modules(self, **_: Any) -> None:
        """Set Django up, and let it check itself unless CELERY_SKIP_CHECKS is set."""
        import django

        django.setup()
        if not os.environ.get("CELERY_SKIP_CHECKS"):
            from django.core.checks import run_checks

            run_checks()

    def on_process_init(self, **_: Any) -> None:
        """Leave alone what a forked child inherited: those connections are its parent's."""
        if os.getpid() != self._pid:
            for connection in _connections():
                connection.connection = None

    def on_task_prerun(self, sender: Any = None, **_: Any) -> None:
        """Begin with connections that work."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()

    def on_task_postrun(self, sender: Any = None, **_: Any) -> None:
        """Give connections back."""
        if not getattr(sender.request, "is_eager", False):
            self.close_database()
            self.close_cache()

    def close_database(self, **_: Any) -> None:
        """Close the database connections; the setting CELERY_DB_REUSE_MAX lets so many tasks use them before."""
        from django.conf import settings

        most = getattr(settings, "CELERY_DB_REUSE_MAX", None)
        self._uses += 1
        if most is not None and self._uses <= 2 * most:  # it is asked before and after each task
            return
        self._uses = 0
        for connection in _connections():
            if not connection.in_atomic_block:  # a test's transaction around an in-process worker
                connection.close()

    def close_cache(self) -> None:
        """Close the caches' connections."""
        from django.core.cache import close_caches

        close_caches()


def _connections() -> list[Any]:
    from django.db import connections

    return list(connections.all(initialized_only=True))


class DjangoTask(Task[P, R]):
    """The class of tasks in Django projects."""

    abstract = True

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Send it as `delay` does, after the transaction that is open now; at once if there is none."""
        _on_commit(lambda: self.delay(*args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Send it as `apply_async` does, after the transaction that is open now; at once if there is none."""
        _on_commit(lambda: self.apply_async(*args, **kwargs))


def _on_commit(send: Callable[[], object]) -> None:
    from django.db import transaction

    transaction.on_commit(send)
