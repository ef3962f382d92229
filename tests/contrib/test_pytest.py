"""The fixtures, as a project uses them: in a run of pytest of its own."""

import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


def run(folder, program, *words, conftest=""):
    (folder / "conftest.py").write_text(textwrap.dedent(conftest))
    (folder / "test_it.py").write_text(textwrap.dedent(program))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.row("API-559", "API-560", "API-561", "API-555", "API-556", "API-558")
def test_a_project_tests_its_tasks_with_the_fixtures(tmp_path):
    (tmp_path / "more.py").write_text("from umbel import shared_task\n@shared_task\ndef twice(x):\n    return 2 * x\n")
    run(
        tmp_path,
        """
        import pytest
        from umbel import Task, current_app, shared_task

        @shared_task
        def add(x, y):
            return x + y

        class Named(Task):
            name = "named"
            def run(self):
                return "named"

        def test_one_worker_for_all(celery_session_app, celery_session_worker):
            assert current_app.main == celery_session_app.main
            assert add.delay(1, 2).get(timeout=60) == 3
            assert celery_session_app.tasks["more.twice"].delay(4).get(timeout=60) == 8
            assert celery_session_app.tasks["named"].delay().get(timeout=60) == "named"

        @pytest.mark.celery(result_expires=77, task_track_started=True)
        def test_one_app_for_each(celery_app, celery_worker, depends_on_current_app, umbel_app, umbel_worker):
            assert umbel_app is celery_app and umbel_worker is celery_worker
            assert (celery_app.conf.result_expires, celery_app.conf.timezone) == (77, "Europe/Rome")
            @celery_app.task
            def mul(x, y):
                return x * y
            assert mul.delay(4, 4).get(timeout=60) == 16

        def test_an_app_alone(celery_app):
            assert celery_app.conf.result_expires != 77
            assert celery_app.conf.broker_url == "memory://"
            assert celery_app.main == "shop"
        """,
        conftest="""
        import pytest

        @pytest.fixture(scope="session")
        def celery_config():
            return {"timezone": "Europe/Rome"}

        @pytest.fixture(scope="session")
        def celery_parameters():
            return {"name": "shop"}

        @pytest.fixture(scope="session")
        def celery_includes():
            return ["more"]

        @pytest.fixture(scope="session")
        def celery_class_tasks():
            from test_it import Named
            return [Named]
        """,
    )


@pytest.mark.row("ALB-04")
@pytest.mark.parametrize("conftest", ["import umbel; umbel.install_as_celery()", ""])
def test_the_plugin_bears_celerys_name_under_the_alias(tmp_path, conftest, monkeypatch):
    if not conftest:
        monkeypatch.setenv("UMBEL_AS_CELERY", "1")
    run(
        tmp_path,
        """
        from celery import shared_task

        @shared_task
        def add(x, y):
            return x + y

        def test_it(celery_app, celery_worker):
            assert add.delay(1, 2).get(timeout=60) == 3
        """,
        conftest=conftest + "\npytest_plugins = ['celery.contrib.pytest']",
    )
