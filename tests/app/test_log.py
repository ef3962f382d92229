import io
import json
import logging
import sys

import pytest

from umbel import signals
from umbel.app.log import Logging, LoggingProxy, TaskFormatter
from umbel.utils.log import get_task_logger


@pytest.fixture(autouse=True)
def loggers(monkeypatch):
    """Leave logging as it was."""
    names = ("", "celery", "celery.task")
    before = [(logging.getLogger(name), list(logging.getLogger(name).handlers)) for name in names]
    levels = [logger.level for logger, _ in before]
    propagate = logging.getLogger("celery.task").propagate
    for variable in ("LEVEL", "FILE", "REDIRECT", "REDIRECT_LEVEL"):
        monkeypatch.setenv(f"CELERY_LOG_{variable}", "")
    monkeypatch.setattr(Logging, "already_setup", False)
    yield
    for (logger, handlers), level in zip(before, levels, strict=True):
        for handler in set(logger.handlers) - set(handlers):
            handler.close()
        logger.handlers = handlers
        logger.setLevel(level)
    logging.getLogger("celery.task").propagate = propagate


@pytest.mark.row("API-081", "CFG-202")
def test_tasks_log_with_their_name_and_id(app, work):
    out = io.StringIO()
    app.log.setup(loglevel="INFO", logfile=out)
    logger = logging.getLogger("celery.task.mine")
    app.task(name="talk")(lambda: logger.info("hello"))

    logger.info("outside")
    result = app.tasks["talk"].delay()
    work()

    lines = out.getvalue().splitlines()
    assert lines[0].endswith("???[???]: outside")
    assert any(line.endswith(f"talk[{result.id}]: hello") for line in lines)


@pytest.mark.row("API-081")
def test_logging_is_set_up_once(app):
    first, second = io.StringIO(), io.StringIO()

    app.log.setup(loglevel="INFO", logfile=first)
    app.log.setup(loglevel="DEBUG", logfile=second)
    logging.getLogger("any").info("hello")

    assert "hello" in first.getvalue()
    assert second.getvalue() == ""


@pytest.mark.row("API-444", "API-081")
def test_a_project_may_set_up_logging_itself(app):
    handlers = list(logging.getLogger().handlers)
    told = []

    def mine(**given):
        told.append(sorted(given))

    signals.setup_logging.connect(mine)
    try:
        assert app.log.setup(loglevel="INFO")
    finally:
        signals.setup_logging.disconnect(mine)

    assert told == [["colorize", "format", "logfile", "loglevel", "sender", "signal"]]
    assert logging.getLogger().handlers == handlers


@pytest.mark.row("API-445")
def test_a_project_may_add_to_our_loggers(app):
    told = []

    def after(logger, loglevel, signal, **_):
        told.append((signal.name, logger.name, loglevel))

    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        signal.connect(after)
    app.log.setup(loglevel=logging.INFO, logfile=io.StringIO())

    assert told == [("after_setup_logger", "root", 20), ("after_setup_task_logger", "celery.task", 20)]


@pytest.mark.row("CFG-199")
def test_the_root_logger_may_keep_its_handlers(app):
    kept = logging.NullHandler()
    logging.getLogger().handlers = [kept]
    app.conf.worker_hijack_root_logger = False

    app.log.setup(loglevel="INFO", logfile=io.StringIO())

    assert logging.getLogger().handlers == [kept]


@pytest.mark.row("API-082", "CFG-204", "CFG-205")
def test_what_is_printed_is_logged(app, monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)

    app.log.setup(loglevel="INFO", logfile=out, redirect_stdouts=True, redirect_level="ERROR")
    print("printed")

    assert "ERROR" in out.getvalue()
    assert "printed" in out.getvalue()


@pytest.mark.row("API-082")
def test_what_is_printed_in_pieces_is_one_record():
    told = []
    proxy = LoggingProxy(logging.getLogger("test.pieces"), "ERROR")
    proxy.logger.handlers, proxy.logger.propagate = [logging.NullHandler()], False
    proxy.logger.addFilter(lambda record: told.append(record.getMessage()) or True)

    print("a", 1, file=proxy)
    print("two\nlines", file=proxy)
    print(file=proxy)
    print("b", end="", file=proxy)
    proxy.flush()
    proxy.flush()

    assert told == ["a 1", "two", "lines", "b"]


@pytest.mark.row("API-082")
def test_a_handler_that_prints_does_not_print_for_ever():
    logger = logging.getLogger("test.printing")
    proxy = LoggingProxy(logger, "WARNING")

    class Printing(logging.Handler):
        def emit(self, record):
            proxy.write("again")

    logger.handlers, logger.propagate = [Printing()], False

    assert proxy.write("once\n") == 5
    assert (proxy.isatty(), proxy.closed) == (False, False)


@pytest.mark.row("API-082", "CFG-200")
@pytest.mark.parametrize(
    ("setting", "given", "expected"), [(None, None, False), (True, None, True), (True, False, False)]
)
def test_colour_is_as_told_else_for_terminals(app, setting, given, expected):
    app.conf.worker_log_color = setting

    assert app.log.supports_color(given, io.StringIO()) is expected


@pytest.mark.row("API-570")
def test_colour_follows_the_level():
    formatter = TaskFormatter("%(message)s %(task_id)s", use_color=True)
    record = logging.LogRecord("x", logging.ERROR, "f", 1, "broken", (), None)

    assert formatter.format(record) == "\x1b[31mbroken ???\x1b[0m"


def test_every_record_can_be_a_line_of_json(app, tmp_path):
    app.conf.worker_log_format = "json"
    file = tmp_path / "log"
    app.log.setup(loglevel="INFO", logfile=str(file))

    logging.getLogger("celery.worker").info("hello %s", "you", extra={"queue": "celery"})

    @app.task(shared=False)
    def work():
        get_task_logger("mine").warning("working")
        try:
            1 / 0  # noqa: B018 - it fails
        except ZeroDivisionError:
            get_task_logger("mine").exception("oh")

    done = work.apply()
    said = [json.loads(line) for line in file.read_text().splitlines()]

    hello, working, oh = ({each["message"]: each for each in said}[text] for text in ("hello you", "working", "oh"))
    assert (hello["level"], hello["logger"], hello["queue"]) == ("INFO", "celery.worker", "celery")
    assert "task_id" not in hello
    assert (working["task_id"], working["task_name"], working["level"]) == (done.id, work.name, "WARNING")
    assert "ZeroDivisionError" in oh["exception"]


def test_passwords_in_urls_are_never_logged(app, tmp_path):
    file = tmp_path / "log"
    app.log.setup(loglevel="INFO", logfile=str(file))

    logging.getLogger("some.package").error("cannot reach redis://me:sesame@there:6379/0")

    assert "redis://me:**@there:6379/0" in file.read_text()
    assert "sesame" not in file.read_text()
