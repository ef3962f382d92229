"""Print events as they come, a line each."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from umbel import current

__all__ = ["Dumper", "evdump"]

_WORKERS: Final = {"worker-online": "started", "worker-offline": "shutdown", "worker-heartbeat": "heartbeat"}
_CALLS: Final = 5000  # tasks whose call is remembered, since only the first event of a task tells it


class Dumper:
    """Writes events to *out* for people; also a handler for `EventReceiver`."""

    def __init__(self, out: TextIO | None = None) -> None:
        self.out = sys.stdout if out is None else out
        self._calls: dict[str, str] = {}  # by task id, oldest first

    def say(self, msg: str) -> None:
        """Print a line, at once."""
        print(msg, file=self.out, flush=True)

    def on_event(self, ev: dict[str, Any]) -> None:
        """Print one event."""
        fields = dict(ev)
        moment = datetime.fromtimestamp(fields.pop("timestamp"), UTC)
        kind, hostname = fields.pop("type").lower(), fields.pop("hostname")
        task = ""
        if kind.startswith("task-"):
            uuid = fields.pop("uuid")
            if kind in {"task-received", "task-sent"}:
                call = f"{fields.pop('name')}({uuid}) args={fields.pop('args')} kwargs={fields.pop('kwargs')}"
                self._calls[uuid] = call
                if len(self._calls) > _CALLS:
                    del self._calls[next(iter(self._calls))]
            task = self._calls.get(uuid) or uuid
        self.format_task_event(hostname, moment, _WORKERS.get(kind, kind.replace("-", " ")), task, fields)

    def format_task_event(self, hostname: str, timestamp: Any, type: str, task: str, event: dict[str, Any]) -> None:
        """Print the line of one event, whose fields are sorted by name."""
        told = ", ".join(f"{name}={event[name]}" for name in sorted(event))
        self.say(f"{hostname} [{timestamp}] {type}: {task}{' ' if task and told else ''}{told}")


def evdump(app: Any = None, out: TextIO | None = None) -> None:
    """Print the events of a cluster until interrupted."""
    app = app or current.get_current_app()
    dumper = Dumper(out=out)
    dumper.say("-> evdump: starting capture...")
    with app.connection_for_read() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": dumper.on_event}, app=app)
        try:
            receiver.capture(limit=None, timeout=None, wakeup=True)
        except KeyboardInterrupt:
            pass
