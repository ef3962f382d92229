"""The keys of a chord on Redis are those that Celery's workers read and write."""

import json

import pytest

from umbel.backends.redis import RedisBackend
from umbel.brokers.redis_address import parse_address
from umbel.brokers.redis_names import Names
from umbel.wire.chord import ChordPart, ChordSize

pytestmark = pytest.mark.service("redis", "A")


@pytest.fixture
def counter(service_url, prefix):
    options = {"global_keyprefix": prefix}
    backend = RedisBackend(parse_address(service_url("redis"), {}), Names.of(options, options))
    yield backend
    backend.close()


def payload(number):
    return json.dumps([1, f"t{number}", "SUCCESS", number]).encode()


def part(number, **fields):
    return ChordPart(group="g", index=number, id=f"t{number}", payload=payload(number), body=b"", **fields)


@pytest.mark.row("PRT-195", "PRT-196", "PRT-198")
def test_sizes_and_parts_lie_where_celery_looks_for_them(counter, eye, prefix):
    key = f"{prefix}celery-taskset-meta-g"
    counter.open_chords([ChordSize(group="g", size=3, expires=1000)])
    counter.count_parts([part(2, expires=1000), part(0, expires=1000), part(2, expires=1000)])

    assert eye.get(f"{key}.s") == "3"
    assert eye.zrange(f"{key}.j", 0, -1, withscores=True) == [(payload(0).decode(), 0), (payload(2).decode(), 2)]
    assert eye.smembers(f"{key}.d") == {"t0:0", "t2:2"}
    assert all(0 < eye.ttl(f"{key}.{end}") <= 1000 for end in "sjd")


@pytest.mark.row("PRT-197")
def test_who_joins_is_counted_beside_the_size(counter, eye, prefix):
    counter.open_chords([ChordSize(group="g", size=1), *[ChordSize(group="g", added=name) for name in ("x", "y", "x")]])

    assert eye.get(f"{prefix}celery-taskset-meta-g.s") == "1"
    assert eye.get(f"{prefix}celery-taskset-meta-g.t") == "2"


@pytest.mark.row("PRT-199", "PRT-200", "PRT-076")
def test_what_a_celery_worker_has_counted_counts_and_the_claim_is_left_for_it_to_see(counter, eye, prefix):
    key = f"{prefix}celery-taskset-meta-g"
    eye.set(f"{key}.s", 2)  # as a sender of Celery's
    eye.zadd(f"{key}.j", {payload(1): 1})  # as a worker of Celery's
    eye.sadd(f"{key}.d", "t1:1")

    (ready,) = counter.count_parts([part(0)])

    assert ready.parts == (payload(0), payload(1))
    assert eye.get(f"{key}.c") == "done"
    assert eye.exists(*(f"{key}.{end}" for end in "jtsd")) == 0
    assert counter.close_chords(["g"]) == {"g"}
    assert counter.count_parts([part(5)]) == ()


@pytest.mark.row("PRT-203")
def test_a_chord_that_a_celery_worker_has_claimed_is_left_to_it_while_the_claim_holds(counter, eye, prefix):
    key = f"{prefix}celery-taskset-meta-g"
    counter.open_chords([ChordSize(group="g", size=2)])
    counter.count_parts([part(0)])
    eye.set(f"{key}.c", "token of its worker", ex=60)

    assert counter.count_parts([part(1)]) == ()
    eye.delete(f"{key}.c")  # it has died, and its claim has run out
    (ready,) = counter.count_parts([part(1)])

    assert ready.parts == (payload(0), payload(1))
    assert 290 <= eye.ttl(f"{key}.c") <= 300
    assert counter.ready_chords(10) == ()  # for five seconds it is left to whoever was given it


@pytest.mark.row("PRT-204")
def test_a_part_of_an_older_peer_that_keeps_no_list_of_parts_counts_too(counter, eye, prefix):
    key = f"{prefix}celery-taskset-meta-g"
    eye.set(f"{key}.s", 2)
    eye.zadd(f"{key}.j", {payload(1): 1})

    assert [each.parts for each in counter.count_parts([part(0)])] == [(payload(0), payload(1))]
