"""Set up what a worker or beat logs, and where; a project may do it by itself instead."""

# ruff: noqa: A001, FBT001, FBT002, PLR0917 - Celery's signatures
from __future__ import annotations

import logging
import logging.handlers
import os
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from umbel import current, signals
from umbel._repr import mask_url

__all__ = ["JSON", "ColorFormatter", "JsonFormatter", "Logging", "LoggingProxy", "TaskFormatter"]

JSON: Final = "json"  # as a format: each record is a line of JSON
_USUAL: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_COLORS: Final = {"DEBUG": "34", "WARNING": "33", "ERROR": "31", "CRITICAL": "35"}  # ANSI, by level


class ColorFormatter(logging.Formatter):
    """Show levels in colour when *use_color*."""

    def __init__(self, fmt: str | None = None, datefmt: str | None = None, use_color: bool = False) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def format(self, record: logging.LogRecord) -> str:
        text = mask_url(super().format(record))
        color = _COLORS.get(record.levelname) if self.use_color else None
        return f"\x1b[{color}m{text}\x1b[0m" if color else text


class TaskFormatter(ColorFormatter):
    """Show which task is running: ``%(task_name)s`` and ``%(task_id)s``, ``???`` outside of tasks."""

    def format(self, record: logging.LogRecord) -> str:
        frame = current.current_frame()
        if frame is not None:
            record.__dict__.update(task_id=frame.request.id, task_name=frame.task.name)
        else:
            record.__dict__.setdefault("task_id", "???")
            record.__dict__.setdefault("task_name", "???")
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """Show each record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        frame = current.current_frame()
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname,
            "logger": record.name,
            "process": record.processName,
            "message": mask_url(record.getMessage()),
        }
        if frame is not None:
            said |= {"task_id": frame.request.id, "task_name": frame.task.name}
        if record.exc_info:
            said["exception"] = mask_url(self.formatException(record.exc_info))
        own = record.__dict__.keys() - _USUAL
        said |= {key: record.__dict__[key] for key in sorted(own - said.keys())}  # logger.info(…, extra={…})
        return msgspec.json.encode(said, enc_hook=repr).decode()


class LoggingProxy:
    """A file that logs each line written to it."""

    mode = "w"
    name = None
    closed = False
    encoding = "utf-8"

    def __init__(self, logger: logging.Logger, loglevel: int | str | None = None) -> None:
        self.logger = logger
        self.loglevel = _level(loglevel or logger.level or logging.WARNING)
        self._local = threading.local()

    def write(self, data: str | bytes) -> int:
        """Log the lines of *data* as one record; what follows the last line break waits for the next call or `flush`.

        A thread that logs already logs nothing more: a handler that prints would print for ever.
        """
        text = data.decode(errors="replace") if isinstance(data, bytes) else data
        if self.closed or getattr(self._local, "logging", False):
            return 0
        lines, line_break, rest = (getattr(self._local, "waiting", "") + text).rpartition("\n")
        self._local.waiting = rest
        if line_break:
            self._log(lines)
        return len(data)

    def writelines(self, lines: Iterable[str]) -> None:
        """Log each of *lines*."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Log what this thread has written since the last line break."""
        waiting = getattr(self._local, "waiting", "")
        if waiting and not getattr(self._local, "logging", False):
            self._local.waiting = ""
            self._log(waiting)

    def _log(self, text: str) -> None:
        text = text.rstrip()
        if not text:
            return
        self._local.logging = True
        try:
            self.logger.log(self.loglevel, "%s", text)
        finally:
            self._local.logging = False

    def close(self) -> None:
        """Log nothing from now on."""
        self.closed = True

    def isatty(self) -> bool:
        """Return False."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the real standard error, which libraries in C write to."""
        return sys.__stderr__.fileno() if sys.__stderr__ is not None else 2


class Logging:
    """The logging of one app (``app.log``)."""

    already_setup = False

    def __init__(self, app: Any) -> None:
        self.app = app

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> bool:
        """Set everything up, once; return whether a receiver of ``setup_logging`` did it instead of us."""
        level = _level(loglevel or logging.WARNING)
        handled = self.setup_logging_subsystem(level, logfile, colorize=colorize)
        if not handled and redirect_stdouts:
            self.redirect_stdouts(redirect_level)
        # What the children of a worker would need to set up the same.
        os.environ.update(
            CELERY_LOG_LEVEL=str(level),
            CELERY_LOG_FILE=str(logfile) if logfile else "",
            CELERY_LOG_REDIRECT="1" if redirect_stdouts else "",
            CELERY_LOG_REDIRECT_LEVEL=str(redirect_level or ""),
        )
        return handled

    def setup_logging_subsystem(
        self, loglevel: int | str = logging.WARNING, logfile: Any = None, colorize: bool | None = None
    ) -> bool:
        """Set up the root logger and those of tasks; return whether somebody else did."""
        if Logging.already_setup:
            return False
        Logging.already_setup = True
        conf, level = self.app.conf, _level(loglevel)
        colorize = self.supports_color(colorize, logfile)
        told = {"loglevel": level, "logfile": logfile, "format": conf.worker_log_format, "colorize": colorize}
        if signals.setup_logging.send(sender=None, **told):
            return True
        root = logging.getLogger()
        if conf.worker_hijack_root_logger:
            root.handlers = []
            logging.getLogger("celery").handlers = []
        if not root.handlers:
            form = _formatter(ColorFormatter, conf.worker_log_format, conf.worker_log_datefmt, colorize)
            root.addHandler(_handler(logfile, form))
        root.setLevel(level)
        signals.after_setup_logger.send(sender=None, logger=root, **told)
        self.setup_task_loggers(level, logfile, colorize=colorize)
        return False

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        **_: Any,
    ) -> logging.Logger:
        """Set up the loggers that tasks get from `get_task_logger`, which show the running task; return the parent."""
        conf = self.app.conf
        level = _level(loglevel or logging.WARNING)
        format = format or conf.worker_task_log_format
        colorize = self.supports_color(colorize, logfile)
        logger = logging.getLogger("celery.task")
        if conf.worker_log_format == JSON and not conf.value_set_for("worker_task_log_format"):
            format = JSON
        form = _formatter(TaskFormatter, format, conf.worker_task_log_datefmt, colorize)
        logger.handlers = [_handler(logfile, form)]
        logger.setLevel(level)
        logger.propagate = propagate
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=level, logfile=logfile, format=format, colorize=colorize
        )
        return logger

    def redirect_stdouts(self, loglevel: int | str | None = None, name: str = "celery.redirected") -> None:
        """Log what is printed."""
        proxy: Any = LoggingProxy(logging.getLogger(name), loglevel or logging.WARNING)
        sys.stdout = sys.stderr = proxy

    def get_default_logger(self, name: str = "celery", **_: Any) -> logging.Logger:
        """Return the logger *name*."""
        return logging.getLogger(name)

    def supports_color(self, colorize: bool | None = None, logfile: Any = None) -> bool:
        """Return whether to colour: as *colorize* or the setting says, else on a terminal that is no dumb one."""
        wanted = self.app.conf.worker_log_color if colorize is None else colorize
        if wanted is not None:
            return bool(wanted)
        terminal = not logfile and sys.stderr is not None and sys.stderr.isatty()
        return terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def _formatter(cls: type[ColorFormatter], format: str, datefmt: str | None, colorize: bool) -> logging.Formatter:
    return JsonFormatter() if format == JSON else cls(format, datefmt, colorize)


def _handler(logfile: Any, formatter: logging.Formatter) -> logging.Handler:
    handler: logging.Handler
    if logfile is None or hasattr(logfile, "write"):
        stream: TextIO | None = logfile or sys.__stderr__
        handler = logging.StreamHandler(stream)
    else:
        handler = logging.handlers.WatchedFileHandler(logfile, encoding="utf-8")
    handler.setFormatter(formatter)
    return handler


def _level(level: int | str) -> int:
    return level if isinstance(level, int) else logging.getLevelNamesMapping()[level.upper()]
