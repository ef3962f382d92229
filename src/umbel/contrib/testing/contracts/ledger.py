"""Hold a broker with a ledger to every promise of that port."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial

import pytest

from umbel.brokers.base import Broker, Release
from umbel.brokers.ledger import Ledger, Note, ledger_of
from umbel.contrib.testing.contracts.calls import finish, is_woken, nothing_comes, send, take, to
from umbel.contrib.testing.contracts.site import OnSite, Site, at_once

__all__ = ["LedgerContract"]

_CROWD = 4


class LedgerContract(OnSite):
    """Every promise of `umbel.brokers.ledger.Ledger` as a test; subclass it beside `BrokerContract`."""

    # -- once

    def test_a_key_publishes_once_whoever_comes_with_it(self, site: Site) -> None:
        reader = site.broker("q")

        assert _ledger(site).publish_once("k", [to("q", "1"), to("q", "2")], expires=60 * site.second)
        assert not _ledger(site).publish_once("k", [to("q", "3")], expires=60 * site.second)
        assert _ledger(site).publish_once("other", [to("q", "4")], expires=60 * site.second)

        assert [each.message.id for each in take(site, reader, 10)] == ["1", "2", "4"]

    def test_of_many_at_once_one_publishes(self, site: Site) -> None:
        reader = site.broker("q")

        def send(number: int, key: str) -> bool:
            with closing(site.make_broker()) as broker:
                return _face(broker).publish_once(key, [to("q", f"{key}-{number}")], expires=1000)

        for key in "abcdefgh":
            assert sorted(at_once(*(partial(send, number, key) for number in range(_CROWD)))) == [False] * 3 + [True]
        assert sorted(each.message.id[0] for each in take(site, reader, 100)) == list("abcdefgh")

    def test_a_key_is_forgotten_after_its_time(self, site: Site) -> None:
        ledger = _ledger(site)
        assert ledger.publish_once("k", [to("q", "1")], expires=3 * site.second)
        site.skip(2)
        assert not ledger.publish_once("k", [to("q", "2")], expires=3 * site.second)
        site.skip(2)

        assert ledger.publish_once("k", [to("q", "3")], expires=3 * site.second)

    def test_what_is_published_once_wakes_its_readers_and_may_wait_for_its_time(self, site: Site) -> None:
        reader = site.broker("q")
        nothing_comes(site, reader)

        assert _ledger(site).publish_once("k", [to("q", "1")], expires=60)
        assert is_woken(reader)
        assert [each.message.id for each in take(site, reader)] == ["1"]

        later = site.moment(5)
        assert _ledger(site).publish_once("l", [to("q", "2", eta=later)], expires=60)
        assert nothing_comes(site, reader)
        site.skip(6)
        assert [each.message.id for each in take(site, reader)] == ["2"]

    def test_the_note_is_written_if_and_only_if_the_key_is_accepted(self, site: Site) -> None:
        ledger = _ledger(site)

        assert ledger.publish_once("k", (), expires=60, note=Note("book", "name", b"first"))
        assert not ledger.publish_once("k", (), expires=60, note=Note("book", "name", b"second"))

        assert _ledger(site).notes("book") == {"name": b"first"}

    # -- notes

    def test_notes_stay_until_they_are_struck_out(self, site: Site) -> None:
        ledger = _ledger(site)
        assert ledger.notes("book") == {}

        ledger.note("book", {"a": b"1", "b": b"", "ü ☃": bytes(range(256))})
        ledger.note("book", {"a": b"2", "c": None})
        ledger.note("other", {"a": b"3"})
        ledger.note("book", {"b": None})
        ledger.note("book", {})

        assert _ledger(site).notes("book") == {"a": b"2", "ü ☃": bytes(range(256))}
        assert _ledger(site).notes("other") == {"a": b"3"}

    # -- reserve

    def test_starts_are_spaced_evenly(self, site: Site) -> None:
        second = site.second
        starts = [_ledger(site).reserve("r", second), *(_ledger(site).reserve("r", second, 2) for _ in range(2))]

        assert starts[0] == 0.0
        assert starts[1:] == pytest.approx([1 * second, 3 * second], abs=0.5 * second)

    def test_what_was_sent_back_to_wait_for_its_start_is_known_when_it_returns(self, site: Site) -> None:
        reader = site.broker("q")
        send(reader, "q", "1")
        (delivery,) = take(site, reader)
        assert not delivery.redelivered

        reader.settle([finish(delivery, Release(delay=2 * site.second))])
        site.skip(3)

        (again,) = take(site, reader)
        assert (again.message.id, again.redelivered, again.crashes) == ("1", True, 0)

    def test_an_idle_line_begins_now(self, site: Site) -> None:
        ledger = _ledger(site)
        assert ledger.reserve("r", site.second, 3) == 0.0
        site.skip(10)

        assert ledger.reserve("r", site.second) == 0.0
        assert ledger.reserve("r", site.second) > 0.0

    def test_lines_are_independent(self, site: Site) -> None:
        ledger = _ledger(site)
        assert ledger.reserve("r", 100.0, 5) == 0.0
        assert ledger.reserve("s", 100.0) == 0.0

    def test_many_who_reserve_at_once_stand_in_one_line(self, site: Site) -> None:
        def reserve() -> float:
            with closing(site.make_broker()) as broker:
                return _face(broker).reserve("r", 1000.0, 2)

        calls: list[Callable[[], float]] = [reserve] * _CROWD
        starts = sorted(at_once(*calls))

        assert starts == pytest.approx([2000.0 * number for number in range(_CROWD)], abs=100)


def _ledger(site: Site) -> Ledger:
    return _face(site.broker())


def _face(broker: Broker) -> Ledger:
    found = ledger_of(broker)
    assert found is not None, "features.ledger says that this broker has no ledger"
    return found
