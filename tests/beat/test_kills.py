"""Several beats, killed at random and started again, or their Redis: each instant of each entry is sent exactly once.

With UMBEL_TEST_LONG_STORIES=1 it is five beats, a thousand entries and a kill every two seconds, for two minutes.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from contextlib import closing

import pytest
from tests.stories.own_redis import OwnRedis

from umbel import Umbel
from umbel.beat import Service
from umbel.brokers.base import Claim, Done, Lease, Settlement

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(300)]


def start_beat(app):
    pid = os.fork()
    if pid == 0:
        try:
            service = Service(app, max_interval=0.5)
            signal.signal(signal.SIGTERM, lambda *_: service.stop())
            service.start()
        finally:
            os._exit(0)
    return pid


def sent(app):
    """Take all that was sent out of the queue; return how often each task was, and how many ids there were."""
    counts: Counter[str] = Counter()
    ids = set()
    with closing(app.open_broker()) as broker:
        broker.consume(["celery"])
        done = []
        while deliveries := broker.settle(done, Claim(limit=1000, lease=60.0, owner="test")).deliveries:
            counts.update(each.message.task for each in deliveries)
            ids.update(each.message.id for each in deliveries)
            done = [Settlement(lease=Lease(each.tag, each.token), verdict=Done()) for each in deliveries]
        broker.settle(done)
    return counts, len(ids)


def run_beats(app, *, beats, entries, seconds, pause, dice, strike=None):
    """Run *beats* for so long, killing one each *pause* or what *strike* kills; compare; return (kills, instants)."""
    if os.environ.get("UMBEL_TEST_LONG_STORIES"):
        beats, entries, seconds, pause = 5, 1000, 120, 2
    every = {f"e{i}": round(dice.uniform(seconds / 60, seconds / 5), 3) for i in range(entries)}
    app.conf.beat_misfire = "catch_up(10000)"
    app.conf.beat_schedule = {name: {"task": name, "schedule": interval} for name, interval in every.items()}
    begin = time.time()
    pids = [start_beat(app) for _ in range(beats)]
    kills = 0
    try:
        first = {}
        patience = time.monotonic() + 60
        while len(first) < entries:  # all have begun; until then nothing is killed, so that we know when
            assert time.monotonic() < patience
            first = {name: entry.run.last for name, entry in app.schedule.entries().items() if entry.run}
            time.sleep(0.05)
        while kills * pause < seconds:
            time.sleep(pause)
            if strike is None:
                victim = dice.randrange(beats)
                os.kill(pids[victim], signal.SIGKILL)
                os.waitpid(pids[victim], 0)
                pids[victim] = start_beat(app)
            else:
                strike()
            kills += 1
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        for pid in pids:
            os.waitpid(pid, 0)
    counts, ids = sent(app)
    runs = {name: entry.run for name, entry in app.schedule.entries().items()}
    total = 0
    for name, interval in every.items():
        # What was seen as the beginning may be an instant already: count from any of them to the last.
        instants = round((runs[name].last - first[name]).total_seconds() / interval)
        before = round((first[name].timestamp() - begin) / interval)
        assert instants <= counts[name] <= instants + before + 1, (name, interval, counts[name], instants)
        assert counts[name] == runs[name].count, (name, interval, counts[name], runs[name])
        total += counts[name]
    assert ids == total
    return kills, total


def test_each_instant_is_sent_once_whoever_dies(tmp_path):
    app = Umbel("kills", broker=f"sqlite:///{tmp_path / 'queue.db'}", set_as_current=False)
    with app:
        kills, instants = run_beats(app, beats=5, entries=60, seconds=4, pause=0.2, dice=random.Random(5))

    assert kills >= 20
    assert instants > 300


@pytest.mark.service("redis", "A")
def test_each_instant_is_sent_once_though_the_broker_dies(tmp_path):
    server = OwnRedis(tmp_path)

    def strike():
        server.shut()
        time.sleep(0.2)
        server.open()

    try:
        app = Umbel("kills", broker=f"redis://127.0.0.1:{server.port}/0", set_as_current=False)
        with app:
            kills, instants = run_beats(
                app, beats=3, entries=30, seconds=4, pause=0.8, dice=random.Random(5), strike=strike
            )
    finally:
        server.shut()

    assert kills >= 5
    assert instants > 100
