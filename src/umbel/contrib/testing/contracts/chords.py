"""Hold a store that counts chords to every promise of the ports."""

from __future__ import annotations

from contextlib import closing
from functools import partial

import pytest

from umbel.backends.base import ChordCounter, chord_counter
from umbel.brokers.base import Broker, Bury, Claim, Release, Settlement, Turn, Verdict
from umbel.contrib.testing.contracts.calls import PATIENCE, lease_of, send, take, to
from umbel.contrib.testing.contracts.site import OnSite, Site, at_once
from umbel.wire.chord import HELD, ChordPart, ChordSize, ReadyChord
from umbel.wire.record import Record

__all__ = ["ChordCounterContract", "ChordSettlementContract"]


class ChordCounterContract(OnSite):
    """Every promise of `umbel.backends.base.ChordCounter` as a test; subclass it beside `BackendContract`."""

    def test_the_part_that_completes_a_chord_makes_it_ready(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 3)])

        assert counter.count_parts([_part("g", 2)]) == ()
        assert _counter(site).count_parts([_part("g", 0)]) == ()
        ready = counter.count_parts([_part("g", 1, body=b"the last one's")])

        assert ready == (ReadyChord(group="g", parts=(b"g0", b"g1", b"g2"), body=b"the last one's"),)

    def test_all_parts_may_come_at_once(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 1500), _size("h", 2), _size("i", 2)])

        parts = [_part("g", index) for index in range(1500)]
        ready = counter.count_parts([*reversed(parts), _part("h", 0), _part("h", 1), _part("i", 0)])

        assert [each.group for each in ready] == ["g", "h"]
        assert ready[0].parts == tuple(each.payload for each in parts)

    def test_results_come_in_the_order_of_their_numbers_and_not_of_their_digits(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 12)])

        (ready,) = counter.count_parts([_part("g", index) for index in (11, 9, 10, 2, 1, 0, 8, 7, 6, 5, 4, 3)])

        assert ready.parts == tuple(b"g%d" % index for index in range(12))

    def test_a_part_counts_once(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 2)])

        for _ in range(3):
            assert counter.count_parts([_part("g", 0), _part("g", 0, payload=b"again")]) == ()
        (ready,) = counter.count_parts([_part("g", 1)])

        assert ready.parts == (b"g0", b"g1")

    def test_what_comes_late_is_dropped(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 1)])
        (ready,) = counter.count_parts([_part("g", 0)])

        assert counter.count_parts([_part("g", 0), _part("g", 1)]) == ()
        assert counter.close_chords(["g"]) == {"g"}
        assert counter.count_parts([_part("g", 0), _part("unknown", 0)]) == ()
        site.clock.advance(HELD)
        assert counter.ready_chords(10) == ()
        assert ready.parts == (b"g0",)

    def test_opening_again_changes_nothing(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 2)])
        counter.count_parts([_part("g", 0)])
        counter.open_chords([_size("g", 2)])

        assert len(counter.count_parts([_part("g", 1)])) == 1
        counter.open_chords([_size("g", 2)])
        assert counter.count_parts([_part("g", 0), _part("g", 1)]) == ()

    def test_a_chord_under_way_waits_for_those_that_join_it(self, site: Site) -> None:
        counter = _counter(site)
        counter.open_chords([_size("g", 1)])
        counter.open_chords([_joins("g", "x"), _joins("g", "y"), _joins("g", "x")])

        assert counter.count_parts([_part("g", 0), _part("g", None, task_id="y")]) == ()
        (ready,) = counter.count_parts([_part("g", None, task_id="x")])

        assert ready.parts[0] == b"g0"
        assert set(ready.parts[1:]) == {b"gy", b"gx"}

    def test_a_ready_chord_is_left_to_one_at_a_time_until_it_is_closed(self, site: Site) -> None:
        counter, other = _counter(site), _counter(site)
        counter.open_chords([_size(group, 1) for group in "abc"])
        ready = counter.count_parts([_part(group, 0) for group in "abc"])
        assert counter.close_chords(["a", "unknown"]) == {"a"}
        assert other.ready_chords(10) == ()

        site.clock.advance(HELD)
        first = other.ready_chords(1)
        second = counter.ready_chords(10)

        assert len(first) == len(second) == 1
        assert {*first, *second} == set(ready[1:])
        assert other.ready_chords(10) == ()
        assert other.close_chords(["b", "c"]) == {"b", "c"}
        assert counter.close_chords(["b", "c"]) == frozenset()

    def test_an_unfinished_count_expires_and_a_ready_chord_does_not(self, site: Site) -> None:
        counter = _counter(site)
        expires = 20 * site.second
        counter.open_chords([_size(group, 2, expires=expires) for group in "abc"])
        counter.count_parts([_part("a", 0, expires=expires), _part("a", 1, expires=expires)])
        counter.count_parts([_part("b", 0, expires=10_000.0)])

        site.clock.advance(max(expires * 1.5, HELD))
        assert counter.count_parts([_part("c", 0), _part("c", 1)]) == ()
        assert [each.group for each in counter.count_parts([_part("b", 1)])] == ["b"]
        assert [each.group for each in counter.ready_chords(10)] == ["a"]

    def test_many_count_at_once_and_one_completes(self, site: Site) -> None:
        _counter(site).open_chords([_size(group, 40) for group in "ab"])

        def count(begin: int) -> list[str]:
            with closing(site.make_backend()) as backend:
                counter = chord_counter(backend)
                assert counter is not None
                found: list[ReadyChord] = []
                for index in range(begin, begin + 10):
                    found += counter.count_parts([_part(group, index) for group in "ab"])
                return [each.group for each in found if len(each.parts) == 40]

        completed = at_once(*(partial(count, begin) for begin in (0, 10, 20, 30)))

        assert sorted(group for found in completed for group in found) == ["a", "b"]


class ChordSettlementContract(OnSite):
    """Every promise that `Broker.settle` makes of chords as a test; subclass it beside `BrokerContract`."""

    def test_a_chord_is_opened_with_its_header_and_completed_with_its_last_part(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "before")
        (before,) = take(site, broker)
        header = (to("q", "1"), to("q", "2"))
        broker.settle([Settlement(lease=lease_of(before), follow_ups=header, sizes=(_size("g", 2),))])

        first, second = take(site, broker, 2)
        assert broker.settle([Settlement(lease=lease_of(second), parts=(_part("g", 1),))]).ready == ()
        turn = broker.settle([Settlement(lease=lease_of(first), parts=(_part("g", 0),))])

        assert turn.ready == (ReadyChord(group="g", parts=(b"g0", b"g1"), body=b"body of g"),)

    def test_a_refused_settlement_counts_nothing(self, site: Site) -> None:
        broker = site.broker("q")
        _counter(site).open_chords([_size("g", 1)])
        send(broker, "q", "1")
        (stale,) = take(site, broker)
        broker.settle([Settlement(lease=lease_of(stale), verdict=Release())])
        (fresh,) = take(site, broker)

        late = Settlement(lease=lease_of(stale), sizes=(_size("h", 1),), parts=(_part("g", 0, payload=b"stale"),))
        turn = broker.settle([late])
        assert (turn.refused, turn.ready) == ((lease_of(stale),), ())

        turn = broker.settle([Settlement(lease=lease_of(fresh), parts=(_part("g", 0), _part("h", 0)))])
        assert [(each.group, each.parts) for each in turn.ready] == [("g", (b"g0",))]

    @pytest.mark.parametrize("verdict", [Release(), Bury(reason="failed")], ids=["released", "buried"])
    def test_a_part_counts_whatever_becomes_of_its_message(self, site: Site, verdict: Verdict) -> None:
        broker = site.broker("q")
        _counter(site).open_chords([_size("g", 1)])
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        turn = broker.settle([Settlement(lease=lease_of(delivery), verdict=verdict, parts=(_part("g", 0),))])

        assert [each.group for each in turn.ready] == ["g"]

    def test_who_joins_counts_before_the_part_that_brings_it(self, site: Site) -> None:
        broker = site.broker("q")
        _counter(site).open_chords([_size("g", 1)])

        joins = Settlement(lease=None, sizes=(_joins("g", "x"),), parts=(_part("g", 0),), follow_ups=(to("q", "x"),))
        assert broker.settle([joins]).ready == ()
        (added,) = take(site, broker)
        turn = broker.settle([Settlement(lease=lease_of(added), parts=(_part("g", None, task_id="x"),))])

        assert [each.parts for each in turn.ready] == [(b"g0", b"gx")]

    def test_a_chord_is_fired_once(self, site: Site) -> None:
        broker, other = site.broker("q"), site.broker("q")
        _counter(site).open_chords([_size("g", 1), _size("outer", 1)])
        broker.settle([Settlement(lease=None, parts=(_part("g", 0),))])
        fires = Settlement(
            lease=None,
            fires="g",
            follow_ups=(to("q", "body"),),
            records=(Record(id="r", state="FAILURE", payload=b"by g"),),
            parts=(_part("outer", 0),),
        )

        assert [each.group for each in broker.settle([fires]).ready] == ["outer"]
        assert other.settle([fires]) == Turn()
        assert broker.settle([fires, fires]) == Turn()

        assert [each.message.id for each in take(site, broker, 10)] == ["body"]
        assert site.backend().fetch(["r"]) == {"r": b"by g"}
        site.clock.advance(HELD)
        assert [each.group for each in _swept(broker).ready] == ["outer"]

    def test_a_chord_that_is_not_ready_is_not_fired(self, site: Site) -> None:
        broker = site.broker("q")
        _counter(site).open_chords([_size("g", 2)])
        broker.settle([Settlement(lease=None, parts=(_part("g", 0),))])

        broker.settle([Settlement(lease=None, fires="g", follow_ups=(to("q", "body"),))])

        assert broker.settle((), Claim(limit=10, lease=10.0, owner="node-1")).deliveries == ()
        assert len(broker.settle([Settlement(lease=None, parts=(_part("g", 1),))]).ready) == 1

    def test_an_unfired_chord_is_handed_out_again(self, site: Site) -> None:
        broker = site.broker("q")
        _counter(site).open_chords([_size("g", 1), _size("h", 1)])
        turn = broker.settle([Settlement(lease=None, parts=(_part("g", 0), _part("h", 0)))])
        broker.close()
        heir = site.broker("q")
        assert _swept(heir).ready == ()

        site.clock.advance(HELD)
        first = _swept(heir, 1)
        second = _swept(site.broker("q"))

        assert len(first.ready) == len(second.ready) == 1
        assert {*first.ready, *second.ready} == set(turn.ready)
        assert _swept(heir).ready == ()
        assert heir.settle([Settlement(lease=None, fires="g", follow_ups=(to("q", "body"),))]).refused == ()
        assert [each.message.id for each in take(site, heir)] == ["body"]

    def test_many_fire_at_once_and_one_body_goes_out(self, site: Site) -> None:
        _counter(site).open_chords([_size("g", 4)])

        def count_and_fire(index: int) -> None:
            with closing(site.make_broker()) as broker:
                broker.settle([Settlement(lease=None, parts=(_part("g", index),))])
                fires = Settlement(lease=None, fires="g", follow_ups=(to("q", "body"),))
                for _ in range(20):
                    broker.settle([fires])

        at_once(*(partial(count_and_fire, index) for index in range(4)), timeout=5 * PATIENCE)
        broker = site.broker("q")
        broker.settle([Settlement(lease=None, fires="g", follow_ups=(to("q", "body"),))])

        assert [each.message.id for each in take(site, broker, 10)] == ["body"]


def _counter(site: Site) -> ChordCounter:
    counter = chord_counter(site.backend())
    assert counter is not None, "features.chords is not set"
    return counter


def _size(group: str, size: int, *, expires: float | None = 10_000.0) -> ChordSize:
    return ChordSize(group=group, size=size, expires=expires)


def _joins(group: str, task_id: str) -> ChordSize:
    return ChordSize(group=group, added=task_id, expires=10_000.0)


def _part(
    group: str,
    index: int | None,
    *,
    task_id: str | None = None,
    payload: bytes | None = None,
    body: bytes | None = None,
    expires: float | None = 10_000.0,
) -> ChordPart:
    return ChordPart(
        group=group,
        index=index,
        id=task_id or f"task-{index}",
        payload=f"{group}{task_id or index}".encode() if payload is None else payload,  # differs, as real ones do
        body=f"body of {group}".encode() if body is None else body,
        expires=expires,
    )


def _swept(broker: Broker, limit: int = 10) -> Turn:
    return broker.settle((), Claim(limit=0, lease=10.0, owner="node-1", chords=limit))
