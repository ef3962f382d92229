import sys
from datetime import UTC

import pytest

from umbel import Umbel
from umbel.app.loader import Loader, NotAPackage
from umbel.contrib.testing.app import TestApp
from umbel.contrib.testing.worker import start_worker


class Own(Loader):
    """A project's own."""

    builtin_modules = frozenset({"json"})


@pytest.mark.row("API-541")
@pytest.mark.parametrize(
    ("wanted", "made"),
    [
        (None, Loader), ("app", Loader), ("default", Loader), ("celery.loaders.app:AppLoader", Loader), (Own, Own),
    ],
)  # fmt: skip
def test_a_loader_has_a_name_or_a_path(wanted, made):
    assert type(Umbel("x", loader=wanted, set_as_current=False).loader) is made


def test_a_loader_may_be_named_by_the_environment(monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "Named", Own, raising=False)
    monkeypatch.setitem(sys.modules, "loaders_of_a_project", sys.modules[__name__])
    monkeypatch.setenv("CELERY_LOADER", "loaders_of_a_project:Named")

    assert type(Umbel("x", set_as_current=False).loader) is Own


@pytest.mark.row("API-543", "API-545")
def test_modules_are_imported_by_name(app, tmp_path, monkeypatch):
    (tmp_path / "of_a_project.py").write_text("here = True\n")
    monkeypatch.chdir(tmp_path)
    app.conf.update(imports=("csv",), include=["of_a_project"])
    loader = Own(app)

    assert loader.default_modules == ("json", "csv", "of_a_project")
    assert loader.import_default_modules()[2].here
    assert loader.import_from_cwd("of_a_project").here
    assert loader.import_module("json").dumps
    assert loader.find_module("of_a_project") is not None
    sys.modules.pop("of_a_project")


@pytest.mark.row("API-547")
def test_the_name_of_a_file_is_answered_with_that_of_its_module(app):
    with pytest.raises(NotAPackage, match=r"'shop/tasks\.py' is the name of a file; the module is 'shop\.tasks'"):
        app.loader.import_task_module("shop/tasks.py")
    with pytest.raises(ModuleNotFoundError):
        app.loader.import_task_module("no_such_module")


@pytest.mark.row("API-544")
def test_a_loader_finds_settings(app, monkeypatch, tmp_path):
    (tmp_path / "conf_of_a_project.py").write_text("task_serializer = 'yaml'\n_own = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELERY_CONFIG_MODULE", raising=False)
    assert app.loader.read_configuration() == {}

    monkeypatch.setenv("CELERY_CONFIG_MODULE", "conf_of_a_project")

    assert app.loader.read_configuration() == {"task_serializer": "yaml"}
    assert app.loader.cmdline_config_parser(["task_serializer=json"]) == {"task_serializer": "json"}
    app.loader.config_from_object({"timezone": "Asia/Tokyo"})
    assert app.conf.timezone == "Asia/Tokyo"
    assert app.loader.now().tzinfo is UTC
    assert str(app.loader.now(utc=False).tzinfo) == "Asia/Tokyo"
    sys.modules.pop("conf_of_a_project")


@pytest.mark.row("API-542")
def test_a_loader_is_told_of_a_workers_life():
    told = []

    class Told(Loader):
        def on_worker_init(self):
            told.append("init")

        def on_worker_process_init(self):
            told.append("process")

        def on_task_init(self, task_id, task):
            told.append(task.name)

        def on_process_cleanup(self):
            told.append("cleanup")

        def on_worker_shutdown(self):
            told.append("shutdown")

    with TestApp(loader=Told) as app, start_worker(app) as worker:
        assert worker.app is app

    assert told == ["init", "process", "celery.ping", "cleanup", "shutdown"]
