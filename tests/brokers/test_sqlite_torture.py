"""Kill whoever uses the file, also in the middle of a transaction: nothing is lost, nothing is doubled."""

import functools
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from contextlib import closing

import pytest

from umbel.brokers.base import Claim, Publication
from umbel.brokers.sqlite import Location, SqliteBroker
from umbel.contrib.testing.contracts.calls import is_woken
from umbel.contrib.testing.contracts.crowd import Crowd
from umbel.wire.message import Message, Route

pytestmark = [pytest.mark.process, pytest.mark.slow]

SECONDS = 2.0


@pytest.fixture
def location(tmp_path):
    return Location(tmp_path / "queue.db")


def test_publishers_and_claimers_killed_at_any_instant_lose_nothing(location):
    chance = random.Random(4711)
    promised = set()
    kills = 0
    with Crowd(functools.partial(SqliteBroker, location)) as crowd:
        crowd.claimers(3)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            promised |= crowd.publish_until_killed(after=chance.random() * 0.1, batch=chance.choice([1, 3, 10]))
            crowd.claimers(1)
            crowd.kill_a_claimer()
            kills += 2

        assert crowd.drained(len(promised))
        finished = crowd.finished()

    assert kills >= 4
    assert promised <= set(finished), "a message was lost"
    assert set(finished.values()) == {1}, "a settlement was written twice"
    assert _is_sound(location)


@pytest.mark.parametrize("after", range(1, 14, 2))
def test_a_settlement_cut_at_any_statement_is_as_if_it_had_never_been(location, after):
    """The process dies when its transaction executes a statement for the time *after*."""
    with closing(SqliteBroker(location)) as broker:
        broker.publish([_publication(f"{number}") for number in range(8)])
        broker.consume(["q"])
    script = f"""
        import os, signal, sys
        from pathlib import Path
        from umbel.brokers.base import *
        from umbel.brokers.sqlite import Location, SqliteBroker
        from umbel.wire.message import Message, Route
        from umbel.wire.record import Record
        broker = SqliteBroker(Location(Path({str(location.path)!r})))
        broker.consume(["q"])
        turn = broker.settle([], Claim(limit=3, lease=0.2, owner="victim"))
        left = {after}

        def follow_up(each):
            message = Message(id="next-" + each.message.id, task="t", body=b"")
            return Publication(message=message, route=Route("", "q"))

        verdicts = [Done(), Release(counted=True, evidence="?"), Bury(reason="rejected")]
        settlements = [
            Settlement(
                lease=Lease(each.tag, each.token),
                verdict=verdict,
                follow_ups=(follow_up(each),),
                records=(Record(id=each.message.id, state="SUCCESS", payload=b"x"),),
            )
            for each, verdict in zip(turn.deliveries, verdicts)
        ]
        def trace(frame, event, function):
            global left
            if event == "c_call" and function.__name__ in ("execute", "executemany"):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.setprofile(trace)
        broker.settle(settlements, Claim(limit=2, lease=60.0, owner="victim"))
        sys.setprofile(None)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)

    with closing(SqliteBroker(location)) as broker:
        broker.consume(["q"])
        found: Counter[str] = Counter()
        while not found or (broker.next_due() or 60) < 10:  # until its lease runs out
            is_woken(broker, broker.next_due() or 0.0)
            turn = broker.settle([], Claim(limit=50, lease=60.0, owner="judge"))
            found.update(each.message.id for each in turn.deliveries)
        if done.returncode == -signal.SIGKILL:
            assert found == Counter(map(str, range(8)))
            assert broker.dead() == []
        else:
            assert done.returncode == 0
            assert after > 10, "the transaction has fewer statements than thought: this test proves less"
    assert _is_sound(location)


def _publication(task_id):
    return Publication(message=Message(id=task_id, task="t", body=b"x" * 300), route=Route("", "q"))


def _is_sound(location):
    with closing(sqlite3.connect(location.path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
