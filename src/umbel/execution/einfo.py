"""An exception with its traceback, cut to the user's part, as hooks, signals and results show it."""

from __future__ import annotations

import traceback
from functools import cached_property
from pathlib import Path
from types import TracebackType

__all__ = ["ExceptionInfo"]

_OURS = (str(Path(__file__).parent), str(Path(traceback.__file__).parent / "asyncio"))


class ExceptionInfo:
    """What went wrong, and where."""

    def __init__(self, exception: BaseException) -> None:
        # Our own frames say nothing to the user, and would keep our locals alive as long as the exception lives.
        self.tb: TracebackType | None = _from_first_foreign(exception.__traceback__)
        exception.__traceback__ = self.tb
        self.exception = exception
        self.type = type(exception)

    @cached_property
    def traceback(self) -> str:
        """The traceback as text; what a repr or source file spoils is left out rather than raised."""
        try:
            return "".join(traceback.format_exception(self.type, self.exception, self.tb))
        except Exception:  # noqa: BLE001 - a user's __str__ or __cause__; the failure must be told all the same
            return "".join([*traceback.format_tb(self.tb), f"{self.type.__qualname__}: <its text cannot be shown>\n"])

    @property
    def exc_info(self) -> tuple[type[BaseException], BaseException, TracebackType | None]:
        """The three values that `logging` and `sys.exc_info` use."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<ExceptionInfo: {self.exception!r}>"


def _from_first_foreign(tb: TracebackType | None) -> TracebackType | None:
    found = tb
    while found is not None and found.tb_frame.f_code.co_filename.startswith(_OURS):
        found = found.tb_next
    return found or tb
