"""Measure what one message costs on its way in and out: ``python benchmarks/micro_wire.py``.

Between headers and `Message` the target is 3 µs each way, on one core.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

import msgspec

from umbel.wire.codecs import JSON_ONLY, Codecs
from umbel.wire.envelope import Envelopes
from umbel.wire.event import event, event_message
from umbel.wire.message import Message, Route
from umbel.wire.protocol import MessageReader, Received, decode_body, embed, encode_body, headers_of, properties_of
from umbel.wire.result import ResultMeta, decode_meta, encode_meta, exception_from_data, exception_to_data
from umbel.wire.topology import match, task_queue

ROUNDS, RUNS = 7, 20_000


def best(work: Callable[[], object]) -> float:
    """Return the fewest microseconds of processor time that one call of *work* took, over rounds of many."""
    found = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        for _ in range(RUNS):
            work()
        found = min(found, time.process_time() - began)
    return found / RUNS * 1e6


def main() -> None:
    """Print microseconds per call."""
    codecs, now, after, route = Codecs(), datetime.now(UTC), embed(), Route("", "celery")
    envelopes, reader, topology = Envelopes(codecs.json), MessageReader(codecs, JSON_ONLY), task_queue("celery")
    task_id = "cbeae96e-1d29-4650-939e-df3ddd1f59bb"
    encoded = encode_body((2, 2), {}, after, codecs=codecs)
    message = Message(
        id=task_id, task="proj.add", body=encoded.body, root_id=task_id, argsrepr="(2, 2)", kwargsrepr="{}",
        origin="gen8251@host", ignore_result=False, reply_to="45b6d967-18e9-3d92-860d-3d9b095d0f9d", priority=0,
    )  # fmt: skip
    delayed = msgspec.structs.replace(message, eta=now, headers={"tenant": "acme"})
    headers, properties = headers_of(message), properties_of(message, now)
    received = Received(headers, properties, encoded.body, "application/json", "utf-8")
    text = envelopes.encode(message, route, delivery_tag=task_id, now=now)
    long_text = envelopes.encode(delayed, route, delivery_tag=task_id, now=now)
    meta = ResultMeta(task_id=task_id, status="SUCCESS", result=4, children=[], date_done=now)
    payload = encode_meta(meta, codecs=codecs)
    error = exception_to_data(ValueError("boom", 1), codecs=codecs)
    keywords = {name: getattr(message, name) for name in Message.__struct_fields__}
    fields = list(keywords.values())

    cases: dict[str, Callable[[], object]] = {
        "body out": lambda: encode_body((2, 2), {}, after, codecs=codecs),
        "body in": lambda: decode_body(message, codecs=codecs, accept=JSON_ONLY),
        "headers out": lambda: headers_of(message),
        "properties out": lambda: properties_of(message, now),
        "headers in": lambda: reader.read(received),
        "envelope out": lambda: envelopes.encode(message, route, delivery_tag=task_id, now=now),
        "envelope in": lambda: envelopes.decode(text, reader),
        "envelope out, long way": lambda: envelopes.encode(delayed, route, delivery_tag=task_id, now=now),
        "envelope in, long way": lambda: envelopes.decode(long_text, reader),
        "result out": lambda: encode_meta(meta, codecs=codecs),
        "result in": lambda: decode_meta(payload, codecs=codecs, accept=JSON_ONLY),
        "exception out": lambda: exception_to_data(ValueError("boom", 1), codecs=codecs),
        "exception in": lambda: exception_from_data(error),
        "event out": lambda: event_message(
            event("task-started", hostname="w@h", timestamp=1.5, clock=1, pid=1, fields={"uuid": task_id}),
            codecs=codecs,
        ),
        "match, default exchange": lambda: match(topology, "", "celery"),
        "match, direct exchange": lambda: match(topology, "celery", "celery"),
        "build by keywords": lambda: Message(**keywords),
        "build from a list": lambda: msgspec.convert(fields, Message),
    }
    for name, work in cases.items():
        print(f"{name:26} {best(work):6.2f} µs")


if __name__ == "__main__":
    main()
