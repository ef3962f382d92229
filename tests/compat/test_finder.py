"""Programs written for Celery, unchanged; each in a process of its own, since the alias is for a whole process."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

# The modules of Celery 5.7, as pkgutil lists them there; sphinx and single stores and steps left out.
MODULES = Path(__file__).with_name("celery_modules.txt").read_text().split()

# What well-known packages import, by the packages' names.
IMPORTS = """
from celery import Celery, Task, VERSION, current_app, current_task, group, schedules, shared_task, signals, states
from celery._state import get_current_app
from celery.app import app_or_default
from celery.app.task import Context, Task
from celery.app.trace import task_has_custom
from celery.backends.base import BaseBackend, DisabledBackend
from celery.beat import ScheduleEntry, Scheduler, Service
from celery.bin.base import CeleryCommand, CeleryOption, handle_preload_options
from celery.bin.celery import celery, main
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask
from celery.events import EventReceiver
from celery.events.state import State
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded, TaskRevokedError, TimeoutError
from celery.loaders.app import AppLoader
from celery.result import AsyncResult, EagerResult, GroupResult, allow_join_result, result_from_tuple
from celery.schedules import crontab, schedule, solar
from celery.signals import task_failure, task_postrun, task_prerun, worker_process_init
from celery.states import FAILURE, PENDING, READY_STATES
from celery.utils import uuid, cached_property
from celery.utils.imports import instantiate, symbol_by_name
from celery.utils.log import get_logger, get_task_logger
from celery.utils.nodenames import gethostname, nodename
from celery.utils.serialization import b64decode, b64encode, strtobool
from celery.utils.time import is_naive, maybe_make_aware, maybe_timedelta
from celery.worker import WorkController
from celery.worker.request import Context, Request
"""

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def run(program, folder):
    code = textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.row("ALB-01", "ALB-02", "ALB-05", "ALB-07", "ALB-08", "CLI-026")
def test_modules_are_one_and_the_same(tmp_path):
    run(
        """
        import importlib, importlib.metadata, importlib.util, os, sys
        import umbel, umbel.canvas
        spec = umbel.canvas.__spec__
        before = importlib.util.find_spec("celery")
        assert before is None or "umbel" not in str(before.loader)

        umbel.install_as_celery()
        umbel.install_as_celery()

        assert os.environ["UMBEL_AS_CELERY"] == "1"
        assert sys.modules["celery.canvas"] is umbel.canvas and umbel.canvas.__spec__ is spec
        import umbel.states
        assert sys.modules["celery.states"] is umbel.states
        import celery.app.task
        from celery import canvas
        import umbel.app.task
        assert celery.app.task is umbel.app.task and celery.app.task.Task is umbel.app.task.Task
        assert canvas is umbel.canvas is importlib.import_module("celery.canvas") is celery.canvas
        assert umbel.app.task.__spec__.name == "umbel.app.task"
        assert celery.Celery is umbel.Umbel and celery.group is umbel.group

        assert celery.VERSION[:2] == (5, 7) and celery.__version__ == importlib.metadata.version("celery")
        assert umbel.__version__ == importlib.metadata.version("umbel")

        from unittest import mock
        with mock.patch("celery.app.task.retry") as patched:
            assert umbel.app.task.retry is patched

        from celery.execute import send_task
        from celery.platforms import EX_FAILURE, EX_OK, EX_UNAVAILABLE
        assert (EX_OK, EX_FAILURE, EX_UNAVAILABLE) == (0, 1, 69)
        for name, word in (("celery.nothing", "No module named"), ("celery.task", "Celery 5 removed it"),
                           ("celery.app.nothing", "No module named"), ("celery.compat", "No module named")):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as exc:
                assert word in str(exc), exc
            else:
                raise AssertionError(name)
        try:
            from celery.worker.request import create_request_cls
        except ImportError as exc:
            assert "subclass of umbel.worker.request.Request" in str(exc), exc
        """,
        tmp_path,
    )


@pytest.mark.row("ALB-02")
def test_the_real_celery_is_not_replaced_behind_its_back(tmp_path):
    (tmp_path / "celery.py").write_text("real = True\n")

    run(
        """
        import celery, umbel
        assert celery.real
        try:
            umbel.install_as_celery()
        except RuntimeError as exc:
            assert "imported already" in str(exc)
        else:
            raise AssertionError
        """,
        tmp_path,
    )


# The others (ALI-010, ALI-025, ALI-027) are what celery-batches builds on: the inside of Celery's worker.
@pytest.mark.row(
    "ALI-001", "ALI-002", "ALI-003", "ALI-004", "ALI-005", "ALI-006", "ALI-007", "ALI-008", "ALI-009", "ALI-011",
    "ALI-012", "ALI-013", "ALI-014", "ALI-015", "ALI-016", "ALI-017", "ALI-018", "ALI-019", "ALI-020", "ALI-021",
    "ALI-022", "ALI-023", "ALI-024", "ALI-026", "API-583",
)  # fmt: skip
def test_what_other_packages_import_is_there(tmp_path):
    run("import umbel\numbel.install_as_celery()\n" + IMPORTS, tmp_path)


def test_every_module_of_celery_is_there_or_says_what_to_use(tmp_path):
    out = run(
        f"""
        import importlib, umbel
        umbel.install_as_celery()
        for name in {MODULES!r}:
            try:
                importlib.import_module("celery." + name)
            except ImportError as exc:
                if not str(exc).startswith(f"umbel has no celery.{{name}}: "):
                    print(name, exc)
        """,
        tmp_path,
    )

    assert out == ""


@pytest.mark.row("ALB-06")
def test_a_celery_program_runs_unchanged(tmp_path):
    (tmp_path / "proj.py").write_text(
        textwrap.dedent(
            """
            from celery import Celery, chain, chord, group, shared_task
            from celery.utils.log import get_task_logger

            app = Celery("proj", broker="memory://", backend="cache+memory://")
            app.conf.update(task_serializer="json", CELERY_TIMEZONE="UTC") if False else None
            logger = get_task_logger(__name__)

            @app.task(bind=True, max_retries=1, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0)
            def flaky(self, box):
                if not self.request.retries:
                    raise KeyError(box)
                return box

            @shared_task
            def add(x, y):
                logger.info("adding")
                return x + y

            @app.task
            def total(numbers):
                return sum(numbers)
            """
        )
    )
    out = run(
        """
        import umbel
        umbel.install_as_celery()
        from celery import chain, chord, group
        from celery.contrib.testing.worker import start_worker
        from proj import add, app, flaky, total

        assert app.conf.task_acks_late is False and add.acks_late is False
        assert repr(app).startswith("<Celery proj at") or repr(app).startswith("<Umbel proj at")
        with start_worker(app, perform_ping_check=False):
            assert add.delay(1, 2).get(timeout=60) == 3
            assert chain(add.s(1, 2), add.s(3))().get(timeout=60) == 6
            assert chord(group(add.s(i, i) for i in range(3)))(total.s()).get(timeout=60) == 6
            assert flaky.delay("a").get(timeout=60) == "a"
        print("fine")
        """,
        tmp_path,
    )
    assert out.endswith("fine\n")


@pytest.mark.row("ALB-03")
def test_the_command_line_knows_the_alias_and_warns_once_of_early_acknowledgement(tmp_path):
    (tmp_path / "proj.py").write_text(
        "from celery import Celery, signals\n"
        "app = Celery('proj', broker='memory://')\n"
        "@signals.worker_ready.connect\n"
        "def stop(sender, **_):\n    sender.stop()\n"
    )

    def worker(*words):
        done = subprocess.run(
            [sys.executable, "-m", "umbel", "-q", "-A", "proj", "worker", "--pool", "solo", *words],
            cwd=tmp_path,
            env={**os.environ, "UMBEL_AS_CELERY": "1"},
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert worker().count("Set task_acks_late=True") == 1
    assert "Set task_acks_late=True" not in worker("task_acks_late=false")
    run("import umbel; umbel.install_as_celery(); from celery.__main__ import main; assert callable(main)", tmp_path)


@pytest.mark.row("ALI-005")
def test_who_wraps_celerys_tracer_is_shown_each_task(tmp_path):
    out = run(
        """
        import umbel
        umbel.install_as_celery()
        import celery.app.trace as trace
        from celery import Celery
        from celery.contrib.testing.worker import start_worker

        original, seen = trace.build_tracer, []

        def build_tracer(name, task, *args, **kwargs):         # as Sentry does it
            run = task.run
            def wrapped(*args, **kwargs):
                seen.append(name)
                return run(*args, **kwargs)
            if not trace.task_has_custom(task, "__call__"):
                task.run = wrapped
            return original(name, task, *args, **kwargs)

        trace.build_tracer = build_tracer
        app = Celery("proj", broker="memory://", backend="cache+memory://")

        @app.task
        def add(x, y):
            return x + y

        with start_worker(app, perform_ping_check=False):
            assert add.delay(1, 2).get(timeout=60) == 3
        print(seen)
        """,
        tmp_path,
    )

    assert out == "['proj.add']\n"
