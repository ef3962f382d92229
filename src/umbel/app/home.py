"""Find the place of the embedded queue: beside the module that creates the app."""

from __future__ import annotations

import os
import re
import sys
from types import FrameType
from typing import Any

__all__ = ["find_home"]


def find_home(app: Any, main: str | None) -> tuple[str, str]:
    """Return the folder that *app* is at home in, and the name of its embedded queue there.

    To be called within its constructor. The folder is that of the module which calls the constructor, wherever the
    process was started, so that a web server and a worker meet there; at a prompt it is the current directory.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (_constructs(frame, app) or _is_ours(frame)):
        frame = frame.f_back
    file = frame.f_globals.get("__file__") if frame is not None else None
    # Without pathlib: 3 ms that who only defines tasks saves.
    folder = os.path.dirname(os.path.abspath(file)) if file else os.getcwd()  # noqa: PTH100, PTH109, PTH120
    stem = os.path.splitext(os.path.basename(file))[0] if file else "umbel"  # noqa: PTH119, PTH122
    name = main if main and main != "__main__" else stem
    return folder, re.sub(r"[^A-Za-z0-9._-]", "_", name) + ".umbel.db"


def _constructs(frame: FrameType, app: Any) -> bool:
    """Tell whether *frame* is the constructor of *app*, or that of its subclass."""
    code = frame.f_code
    return code.co_name == "__init__" and code.co_argcount > 0 and frame.f_locals.get(code.co_varnames[0]) is app


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).startswith("umbel.")
