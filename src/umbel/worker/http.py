"""Serve a worker's health and numbers to machines: /live, /ready and /metrics."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from umbel.exceptions import ImproperlyConfigured
from umbel.worker.metrics import CONTENT_TYPE

__all__ = ["Health", "address_of"]

_logger: Final = logging.getLogger("celery.worker.http")

Page = Callable[[], tuple[int, str]]
"""Returns a status and a text."""


def address_of(text: str) -> tuple[str, int]:
    """Return host and port of ``:9100``, ``9100``, ``127.0.0.1:9100`` or ``[::1]:9100``; no host means all.

    Raises:
        ValueError: it is no such text.
    """
    host, _, port = text.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no address to serve at; write :9100 or 127.0.0.1:9100")
    return host.strip("[]"), int(port)


class Health:
    """A small web server in threads of its own."""

    def __init__(self, address: tuple[str, int], pages: dict[str, Page]) -> None:
        """Serve *pages* by their paths at *address*.

        Raises:
            ImproperlyConfigured: the address cannot be used.
        """
        handler = type("_Handler", (_Handler,), {"pages": pages})
        try:
            self._server = (_Server6 if ":" in address[0] else _Server)(address, handler)
        except OSError as exc:
            raise ImproperlyConfigured(
                f"cannot serve health and metrics at {address[0] or '*'}:{address[1]}: {exc}. Another worker on this "
                f"machine needs another port"
            ) from exc
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it serves at."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._server.serve_forever, kwargs={"poll_interval": 1.0}, name="umbel-http", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """End."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join(5.0)
            self._thread = None
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Page]
    timeout = 10.0

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/") or "/"
        page = self.pages.get(path)
        status, text = (404, f"there are {', '.join(self.pages)}\n") if page is None else _answer(page)
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug(format, *args)


def _answer(page: Page) -> tuple[int, str]:
    try:
        return page()
    except Exception as exc:
        _logger.exception("health or metrics cannot be told")
        return 500, f"{exc!r}\n"
