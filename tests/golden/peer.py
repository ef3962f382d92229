"""Read with a real Celery what umbel wrote: items as JSON on the standard input, answers on the output.

<python with celery> tests/golden/peer.py run|values|results|events|commands
"""

from __future__ import annotations

import base64
import json
import sys
import time
import warnings
from typing import Any

from celery import Celery
from celery.contrib.testing.worker import start_worker
from celery.events.receiver import EventReceiver
from kombu.serialization import loads as deserialize
from kombu.transport import memory
from kombu.utils.json import loads

warnings.simplefilter("ignore")
EVERYTHING = ["json", "pickle", "yaml", "msgpack"]

app = Celery("peer", broker="memory://", backend="cache+memory://", set_as_current=True)
app.conf.update(accept_content=EVERYTHING, worker_hijack_root_logger=False, result_extended=True)


@app.task(name="proj.add")
def add(x: Any, y: Any) -> Any:
    return x + y


@app.task(name="proj.show", bind=True)
def show(self: Any, *args: Any, **kwargs: Any) -> str:
    request = self.request
    names = ("id", "eta", "expires", "retries", "timelimit", "root_id", "parent_id", "group", "group_index", "shadow",
             "ignore_result", "replaced_task_nesting", "stamped_headers", "stamps", "reply_to", "correlation_id",
             "headers", "origin", "delivery_info")  # fmt: skip
    return repr([args, kwargs, {name: getattr(request, name) for name in names}])


def run(envelopes: list[str]) -> Any:
    """Let a worker run the tasks in these envelopes; return their states and results by id."""
    messages = [loads(text) for text in envelopes]
    with app.connection_for_write() as connection:
        app.amqp.queues["celery"](connection.default_channel).declare()
        for message in messages:
            connection.default_channel._put("celery", message)
    ids = [message["properties"]["correlation_id"] for message in messages]
    with start_worker(app, perform_ping_check=False, pool="solo", loglevel="CRITICAL"):
        deadline = time.monotonic() + 20
        while not all(app.AsyncResult(name).ready() for name in ids) and time.monotonic() < deadline:
            time.sleep(0.01)
    return {name: [app.AsyncResult(name).state, _shown(app.AsyncResult(name).result)] for name in ids}


def values(items: list[dict[str, str]]) -> Any:
    """Decode single values; return their reprs."""
    return [
        repr(deserialize(base64.b64decode(i["body"]), i["content_type"], i["content_encoding"], {i["content_type"]}))
        for i in items
    ]


def results(items: list[dict[str, str]]) -> Any:
    """Read result metas; return what an AsyncResult shows of each."""
    answers = []
    for item in items:
        peer = Celery("reader", backend="cache+memory://", set_as_current=True)
        peer.conf.update(result_serializer=item["serializer"], accept_content=EVERYTHING)
        peer.backend.set(peer.backend.get_key_for_task(item["id"]), base64.b64decode(item["payload"]))
        found = peer.AsyncResult(item["id"])
        children = [child.id for child in found.children or []]
        answers.append([found.state, _shown(found.result), found.traceback, children, str(found.date_done)])
    return answers


def events(envelopes: list[str]) -> Any:
    """Receive events; return them as a receiver hands them on."""
    seen: list[Any] = []
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        receiver = EventReceiver(channel, handlers={"*": seen.append}, app=app)
        for text in envelopes:
            message = channel.message_to_python(loads(text))
            receiver._receive(message.decode(), message)
    return [{key: value for key, value in event.items() if key != "local_received"} for event in seen]


def commands(envelopes: list[str]) -> Any:
    """Let a node answer commands; return the envelopes of its replies."""
    replies: list[str] = []

    class Channel(memory.Channel):
        def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> Any:
            done = super().basic_publish(message, exchange, routing_key, **kwargs)
            replies.append(json.dumps(message))
            return done

    memory.Transport.Channel = Channel
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        node = app.control.mailbox.Node("peer@here", channel=channel)
        node.handlers["shout"] = lambda state, text: {"ok": text.upper()}
        for text in envelopes:
            message = channel.message_to_python(loads(text))
            node.handle_message(message.decode(), message)
    return replies


def _shown(value: Any) -> Any:
    if isinstance(value, BaseException):
        return [type(value).__module__, type(value).__name__, repr(value.args)]
    return value if isinstance(value, str) else repr(value)


if __name__ == "__main__":
    ask = {"run": run, "values": values, "results": results, "events": events, "commands": commands}[sys.argv[1]]
    print(json.dumps(ask(json.load(sys.stdin))))
