from itertools import count

import pytest

from umbel import Umbel, current

_names = count()


@pytest.fixture
def app():
    """An app of the test's own, over memory."""
    with Umbel(f"events{next(_names)}", broker="memory://", backend="memory://") as made:
        yield made
    current.set_current_app(None)


@pytest.fixture
def event():
    """Return an event as receivers give it, one second after the last."""
    moments = count(1_000_000)

    def make(type, **fields):
        now = float(next(moments))
        return {
            "type": type,
            "hostname": "w1@host",
            "timestamp": now,
            "local_received": now,
            "clock": int(now) - 999_999,
            "pid": 7,
            "utcoffset": 0,
            **fields,
        }

    return make
