"""The examples for Django, Flask and FastAPI, each in a process of its own with a worker beside it."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [pytest.mark.process, pytest.mark.timeout(150)]


def run(example, folder, program, **env):
    shutil.copytree(EXAMPLES / example, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sqlite3", "*.db*"))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=140,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.row("API-548", "API-549", "API-550", "API-551", "API-552")
def test_django(tmp_path):
    pytest.importorskip("django")
    run(
        "django_shop",
        tmp_path,
        """
        import manage
        from queue_app import app
        app.import_modules()                             # what a worker does first: Django is set up by it

        from django.core.management import call_command
        from django.db import connections, models
        from django.test import AsyncClient, Client
        from shop.models import Order
        from shop.tasks import confirm
        from umbel.contrib.django.task import DjangoTask
        from umbel.contrib.testing.worker import start_worker
        from umbel import signals

        assert app.conf.task_track_started is True and app.conf.result_expires == 3600
        assert {"shop.tasks.confirm", "shop.tasks.price"} <= set(app.tasks)
        assert isinstance(app.tasks["shop.tasks.confirm"], DjangoTask)

        from django.apps import apps
        from django.db import connection
        with connection.schema_editor() as editor:
            editor.create_model(Order)

        client = Client(raise_request_exception=False)
        open_after = []
        sent = []
        @signals.task_postrun.connect
        def look(**_):
            open_after.append([each.connection for each in connections.all(initialized_only=True)])

        signals.after_task_publish.connect(lambda sender, **_: sent.append(sender), weak=False)
        with start_worker(app, perform_ping_check=False):
            order = client.get("/buy/book").json()["order"]
            assert sent == ["shop.tasks.confirm"]
            assert client.get("/buy/nothing").status_code == 500 and len(sent) == 1
            assert confirm.delay(order).get(timeout=60) == "book"
            assert Order.objects.get(pk=order).confirmed and Order.objects.count() == 1

            import asyncio
            async def ask():
                return (await AsyncClient().get("/price/3")).json()
            assert asyncio.run(ask()) == {"price": 15}
        assert open_after and all(each == [None] or each == [] for each in open_after), open_after
        app.close()
        """,
    )


@pytest.mark.row("API-553")
def test_flask(tmp_path):
    pytest.importorskip("flask")
    run(
        "flask_shop",
        tmp_path,
        """
        from umbel.contrib.testing.worker import start_worker
        from shop import app, flask_app, price

        client = flask_app.test_client()
        with start_worker(app, perform_ping_check=False):
            task_id = client.post("/price/3").json["id"]
            assert price.AsyncResult(task_id).get(timeout=60) == 21
            assert client.get(f"/price/{task_id}").json == {"ready": True, "price": 21}
        app.close()
        """,
        FLASK_PRICE="7",
    )


def test_fastapi(tmp_path):
    pytest.importorskip("fastapi")
    run(
        "fastapi_shop",
        tmp_path,
        """
        import asyncio
        import httpx
        from umbel.contrib.testing.worker import start_worker
        from shop import app, queue, total

        async def ask():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
                answers = await asyncio.gather(*(client.get(f"/price/{pieces}") for pieces in range(5)))
                assert [each.json()["price"] for each in answers] == [0, 5, 10, 15, 20]
                asked = await client.post("/total", params={"prices": [1, 2, 3]})
                assert await total.AsyncResult(asked.json()["id"]).aget(timeout=60) == 6

        with start_worker(queue, perform_ping_check=False):
            asyncio.run(ask())
        queue.close()
        """,
    )


@pytest.mark.row("API-548", "API-014")
def test_a_project_named_without_django_is_warned_of(tmp_path):
    (tmp_path / "django").mkdir()
    run(
        "fastapi_shop",
        tmp_path,
        """
        import importlib.util, warnings
        found = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == "django" else found(name, *rest)
        from umbel import Task, Umbel
        from umbel.exceptions import FixupWarning
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            app = Umbel("x", broker="memory://")
        assert [each.category for each in said] == [FixupWarning]
        assert app.task_cls is Task
        assert Umbel("y", broker="memory://", fixups=()).task_cls is Task
        """,
        DJANGO_SETTINGS_MODULE="settings",
    )
