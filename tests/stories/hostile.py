"""A thousand messages that nobody should send: random, truncated, of wrong types, huge, or out to run something."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
import zlib
from collections.abc import Iterator
from typing import Any

__all__ = ["Letter", "bad_letters", "wrong_things"]

EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


GOOD = b'[["bad"], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'


class Letter:
    """A message as it would travel: headers, properties and body, or only bytes."""

    def __init__(
        self,
        body: bytes = GOOD,
        *,
        raw: bytes | None = None,
        content_type: Any = "application/json",
        content_encoding: Any = "utf-8",
        **headers: Any,
    ) -> None:
        """Make a call of the task `mark`, but for what is said otherwise; with *raw* it is nothing but that."""
        name = uuid.uuid4().hex
        self.raw, self.body, self.content_type, self.content_encoding = raw, body, content_type, content_encoding
        self.headers = {"lang": "py", "task": "mark", "id": name, "root_id": name, "retries": 0, **headers}

    def envelope(self) -> bytes:
        """Return it as kombu puts it on Redis."""
        if self.raw is not None:
            return self.raw
        properties = {
            "correlation_id": self.headers["id"], "delivery_mode": 2, "delivery_tag": uuid.uuid4().hex,
            "delivery_info": {"exchange": "", "routing_key": "celery"}, "priority": 0, "body_encoding": "base64",
        }  # fmt: skip
        return json.dumps(
            {
                "body": base64.b64encode(self.body).decode(), "content-encoding": self.content_encoding,
                "content-type": self.content_type, "headers": self.headers, "properties": properties,
            }
        ).encode()  # fmt: skip

    def is_bad_by_body(self) -> bool:
        """Return whether it would be bad with the headers of a good one."""
        return self.body != GOOD and self.content_type == "application/json" and "compression" not in self.headers

    def parts(self) -> list[Any]:
        """Return it as RabbitMQ carries it: body, content type and encoding, headers."""
        if self.raw is not None:
            return [base64.b64encode(self.raw).decode(), "application/octet-stream", "binary", {}]
        return [base64.b64encode(self.body).decode(), self.content_type, self.content_encoding, self.headers]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (self.path, "w")


def wrong_things() -> list[Any]:
    """Return values of every type that a header should not have."""
    return [True, 7.5, [], ["x"], {}, {"a": 1}, [[["deep"]]], -(2**70), "\ud800 surrogate"]


def bad_letters(chance: random.Random, marker: str) -> list[Letter]:
    """Return a thousand of them; none may run, and nothing may write *marker*."""
    found = list(_kinds(chance, marker))
    while len(found) < 1000:
        kind = chance.randrange(3)
        if kind == 0:
            found.append(Letter(raw=chance.randbytes(chance.randrange(1, 300))))
        elif kind == 1:
            whole = Letter().envelope()
            found.append(Letter(raw=whole[: chance.randrange(1, len(whole) - 1)]))
        else:
            body = bytearray(Letter().body)
            body[0] = chance.choice(b"({x\x80\xff")
            found.append(Letter(bytes(body)))
    chance.shuffle(found)
    return found


def _kinds(chance: random.Random, marker: str) -> Iterator[Letter]:
    # Headers of wrong types, each in turn.
    for name in ("task", "id", "group", "root_id", "parent_id", "argsrepr", "origin", "shadow"):
        for value in wrong_things()[:7]:
            yield Letter(**{name: value})
    for name, values in {
        "task": [None, "", 0], "id": [None, "", 0], "eta": ["soon", [], {}, "2026-99-99T00:00:00"],
        "expires": ["later", [], {}], "retries": ["many", [], 1.5], "timelimit": ["long", [1], {}, ["a", "b"]],
        "group_index": ["first", []], "stamps": [1, []], "compression": ["nonsense", 1, []],
    }.items():  # fmt: skip
        for value in values:
            yield Letter(**{name: value})
    # Bodies that are no call.
    for value in [None, 1, "x", [], [1], [1, 2, 3], [[], {}, 7], {"args": 1}, [[], [], EMBED], ["ab", {}, EMBED],
                  [{}, {}, EMBED], [[], {"a": 1}, []], {"a": {}}, [[["bad"]]]]:  # fmt: skip
        yield Letter(json.dumps(value).encode())
    # JSON that explodes.
    yield Letter(b"[" * 200_000)
    yield Letter(b"[" * 200_000 + b"]" * 200_000)
    yield Letter(b'{"a":' * 50_000)
    yield Letter(raw=b"[" * 200_000)
    yield Letter(raw=b'{"body": ' * 50_000)
    yield Letter(b"[[" + b"9" * 1_000_000 + b"], {}, 1]")
    # Compression that explodes, or is none.
    yield Letter(zlib.compress(bytes(300_000_000)), compression="application/x-gzip")
    for name in ("application/x-gzip", "application/x-bz2", "application/x-lzma", "application/x-brotli", "zip-bomb"):
        yield Letter(b"this is not compressed", compression=name)
    # Content types that are not accepted, with what runs something.
    bomb = pickle.dumps([[Bomb(marker)], {}, EMBED])
    for kind in ("application/x-python-serialize", "pickle", "application/json", "application/data", "text/plain",
                 "application/x-yaml", "application/x-msgpack", "application/x-nonsense", "", "binary"):  # fmt: skip
        for encoding in ("binary", "utf-8", "nonsense"):
            yield Letter(bomb, content_type=kind, content_encoding=encoding)
    yield Letter(f"!!python/object/apply:builtins.open ['{marker}', 'w']".encode(), content_type="application/x-yaml")
    # Tasks that nobody knows, or that would be a nice thing to call.
    for name in ("unknown", "os.system", "builtins.eval", "umbel.current.get_current_app", "mark ", "__class__", "é"):
        yield Letter(task=name)
    for _ in range(100):
        yield Letter(task=f"unknown.{chance.randrange(10)}")
