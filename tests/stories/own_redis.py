"""A Redis of a test's own, which writes down all it accepts, so that it may be killed."""

import shutil
import socket
import subprocess
import time

__all__ = ["OwnRedis"]


class OwnRedis:
    """A server at a port that stays its own. What it has answered survives its death; it must be `shut` in the end."""

    def __init__(self, folder):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._command = [
            shutil.which("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--appendonly", "yes", "--appendfsync", "always",
        ]  # fmt: skip
        self.open()

    def open(self):
        """Start it; return when it has read what it wrote down, and answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        patience = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < patience
            time.sleep(0.01)

    def _answers(self):
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as there:
                there.sendall(b"PING\r\n")
                return there.recv(5) == b"+PONG"
        except OSError:
            return False

    def shut(self):
        self._process.kill()
        self._process.wait()
