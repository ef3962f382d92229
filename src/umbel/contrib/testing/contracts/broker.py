"""Hold a broker to every promise of the port."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from umbel.brokers.base import Broker, Bury, Claim, Delivery, Done, Lease, Publication, Release, Settlement, Verdict
from umbel.contrib.testing.contracts.broker_machine import run_machine
from umbel.contrib.testing.contracts.calls import call, finish, is_woken, lease_of, nothing_comes, send, take, to
from umbel.contrib.testing.contracts.crowd import Crowd
from umbel.contrib.testing.contracts.site import OnSite, Site, at_once
from umbel.wire.message import Message, Route
from umbel.wire.record import Record
from umbel.wire.topology import Binding, Exchange, QueueSpec, Topology

__all__ = ["BrokerContract"]

_ODD_NAMES = (
    "with space", "dots.and-dashes_", "Größe/ü/日本", "🐇", "quote'\"`;--", "per%cent%s", "[a*b?]", "line\nbreak",
    "{curly}", "back\\slash", "n" * 200,
)  # fmt: skip
_VERDICTS = (Done(), Release(), Release(delay=5.0, counted=True, evidence="late"), Bury(reason="rejected"))
_THREADS = 4


class BrokerContract(OnSite):
    """Every promise of `umbel.brokers.base.Broker` as a test.

    Subclass it as ``TestMine``, and say in `new_site` how a fresh store is made. Tests of what the broker's `features`
    deny are skipped.
    """

    # -- sending ------------------------------------------------------------------------------------------------------

    def test_a_published_message_is_claimed_as_it_was(self, site: Site) -> None:
        broker = site.broker("q")
        message = _full_message(site)
        broker.publish([Publication(message=message, route=Route("", "q"))])

        (delivery,) = take(site, broker)

        assert delivery.message == message
        assert (delivery.queue, delivery.route) == ("q", Route("", "q"))
        assert (delivery.crashes, delivery.redelivered, delivery.revoked, delivery.expired) == (0, False, False, False)
        assert delivery.invalid is None

    def test_a_message_that_says_little_stays_so(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")

        (delivery,) = take(site, broker)

        sent = call("1")
        assert (delivery.message.id, delivery.message.task, delivery.message.body) == (sent.id, sent.task, sent.body)
        assert (delivery.message.eta, delivery.message.expires, delivery.message.headers) == (None, None, {})

    @pytest.mark.parametrize("body", [b"", bytes(range(256)), b"x" * 1_000_000], ids=["empty", "binary", "1 MB"])
    def test_any_body_travels(self, site: Site, body: bytes) -> None:
        broker = site.broker("q")
        send(broker, "q", "1", body=body, content_type="application/data", content_encoding="binary")

        (delivery,) = take(site, broker)

        assert delivery.message.body == body

    @pytest.mark.parametrize("name", _ODD_NAMES)
    def test_queues_and_ids_may_have_odd_names(self, site: Site, name: str) -> None:
        broker = site.broker(name)
        send(broker, name, name)

        (delivery,) = take(site, broker)
        assert (delivery.queue, delivery.message.id) == (name, name)
        broker.settle([finish(delivery, Bury(reason="rejected", evidence=name))])

        assert site.broker().dead()[0].evidence == (name,)
        assert broker.revive([name]) == 1
        assert list(broker.sizes()) == [name]

    def test_many_are_published_at_once_in_order(self, site: Site) -> None:
        broker = site.broker("q")
        ids = [f"{i}" for i in range(1000)]
        site.broker().publish([to("q", task_id) for task_id in ids])

        assert _ids(take(site, broker, 1000)) == ids

    def test_publishing_nothing_is_harmless(self, site: Site) -> None:
        broker = site.broker("q")
        broker.publish([])
        assert nothing_comes(site, broker)

    def test_of_many_published_at_once_all_are_stored_or_none(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.atomic)

        try:  # a broker that does not encode stores even this
            broker.publish([to("q", "1"), to("q", "2"), to("q", "3", headers={"odd": object()})])
        except Exception:  # noqa: BLE001 - whatever its encoder says
            assert nothing_comes(site, broker)
        else:
            assert _ids(take(site, broker, 10)) == ["1", "2", "3"]

    def test_many_may_open_a_fresh_store_at_once(self, tmp_path: Path) -> None:
        def open_and_send(site: Site, task_id: str) -> None:
            with closing(site.make_broker()) as broker:
                send(broker, "q", task_id)

        for number in range(10):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            with self.new_site(folder).opened() as site:
                at_once(*(partial(open_and_send, site, f"{i}") for i in range(_THREADS)))
                assert site.broker().sizes(["q"])["q"].ready == _THREADS

    # -- order --------------------------------------------------------------------------------------------------------

    def test_the_oldest_message_comes_first(self, site: Site) -> None:
        broker = site.broker("q")
        for task_id in "abcde":
            send(broker, "q", task_id)

        assert [_ids(take(site, broker)) for _ in range(5)] == [["a"], ["b"], ["c"], ["d"], ["e"]]
        assert nothing_comes(site, broker)

    @pytest.mark.parametrize("limit", [0, 1, 3, 10])
    def test_never_more_is_claimed_than_asked(self, site: Site, limit: int) -> None:
        broker = site.broker("q")
        send(broker, "q", *"abcd")

        assert _ids(take(site, broker, limit)) == list("abcd")[:limit]
        assert broker.sizes()["q"].claimed == min(limit, 4)

    def test_priority_goes_before_age(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.priorities)
        for task_id, priority in [("a", 3), ("b", 9), ("c", 0), ("d", None), ("e", 9), ("f", 3)]:
            send(broker, "q", task_id, priority=priority)

        order = "beafcd" if broker.features.higher_priority_first else "cdafbe"
        assert _ids(take(site, broker, 4)) + _ids(take(site, broker, 2)) == list(order)

    def test_each_of_several_queues_keeps_its_order(self, site: Site) -> None:
        broker = site.broker("p", "q")
        for task_id in ["p1", "q1", "p2", "q2"]:
            send(broker, task_id[0], task_id)

        deliveries = take(site, broker, 4)

        assert [each.message.id for each in deliveries if each.queue == "p"] == ["p1", "p2"]
        assert [each.message.id for each in deliveries if each.queue == "q"] == ["q1", "q2"]

    def test_a_flooded_queue_does_not_starve_another(self, site: Site) -> None:
        broker = site.broker("flood", "brook")
        send(broker, "flood", *(f"old{i}" for i in range(20)))
        send(broker, "brook", "1")

        for turn in range(6):  # 20 are older, 5 are claimed each time while 5 come in
            deliveries = take(site, broker, 5)
            if "1" in _ids(deliveries):
                return
            send(broker, "flood", *(f"new{turn}-{i}" for i in range(5)))
        pytest.fail("the message in the brook waits for younger ones in the flood")

    def test_only_consumed_queues_are_claimed_from(self, site: Site) -> None:
        broker = site.broker("p", "q")
        send(broker, "p", "1")
        send(broker, "q", "2")

        broker.consume(["q"])

        assert _ids(take(site, broker, 10)) == ["2"]
        broker.consume(["p", "p"])
        assert _ids(take(site, broker, 10)) == ["1"]
        broker.consume([])
        assert nothing_comes(site, broker)

    def test_a_consumed_queue_exists(self, site: Site) -> None:
        site.broker("q")
        assert site.broker().sizes(["q"])["q"].ready == 0

    def test_without_a_claim_nothing_is_taken(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")

        assert broker.settle([]).deliveries == ()
        assert _ids(take(site, broker)) == ["1"]

    # -- leases -------------------------------------------------------------------------------------------------------

    def test_a_claimed_message_is_in_one_hand_only(self, site: Site) -> None:
        one, other = site.broker("q"), site.broker("q")
        send(one, "q", "1")

        assert _ids(take(site, one)) == ["1"]

        assert nothing_comes(site, other)
        assert nothing_comes(site, one)

    def test_each_message_is_claimed_once_however_many_claim(self, site: Site) -> None:
        ids = [f"{i}" for i in range(400)]
        send(site.broker(), "q", *ids[:200])

        def publish() -> list[str]:
            with closing(site.make_broker()) as broker:
                for i in range(200, 400, 10):
                    send(broker, "q", *ids[i : i + 10])
            return []

        taken: Counter[str] = Counter()

        def claim(seed: int) -> list[str]:
            chance = random.Random(seed)
            with closing(site.make_broker()) as broker:
                broker.consume(["q"])
                mine: list[Delivery] = []
                finished: list[Settlement] = []
                while sum(taken.values()) < len(ids):
                    deliveries = take(site, broker, chance.randint(1, 7), settle=finished)
                    taken.update(_ids(deliveries))
                    finished = [finish(each) for each in deliveries]
                    mine += deliveries
                assert broker.settle(finished).refused == ()
            return _ids(mine)

        found = at_once(publish, *(partial(claim, seed) for seed in range(_THREADS)))

        assert sorted(task_id for each in found for task_id in each) == sorted(ids)
        assert site.broker().sizes(["q"])["q"].claimed == 0

    def test_a_lease_that_runs_out_frees_the_message_with_a_counted_crash(self, site: Site) -> None:
        dead, alive = site.broker("q"), site.broker("q")
        _needs(alive.features.timed_leases)
        send(dead, "q", "1")
        (first,) = take(site, dead, lease=10, owner="node-dead")

        site.skip(8)
        assert nothing_comes(site, alive)
        site.skip(3)
        (second,) = take(site, alive)

        assert second.message == first.message
        assert second.token > first.token
        assert second.redelivered
        if alive.features.counts_crashes:
            assert second.crashes == 1
        assert nothing_comes(site, dead)

    def test_a_lease_that_runs_out_is_evidence_against_its_owner(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.counts_crashes)
        send(broker, "q", "1")
        for number, owner in enumerate(["node-a", "node-b", "node-c"]):
            (delivery,) = take(site, broker, lease=10, owner=owner)
            assert delivery.crashes == number
            site.skip(11)
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, Bury(reason="crashed"))])

        (letter,) = broker.dead()
        assert letter.crashes == 3
        assert all(owner in line for owner, line in zip(["node-a", "node-b", "node-c"], letter.evidence, strict=True))

    def test_next_due_tells_when_the_lease_of_another_runs_out(self, site: Site) -> None:
        dead, alive = site.broker("q"), site.broker("q")
        _needs(alive.features.timed_leases)
        send(dead, "q", "1")
        take(site, dead, lease=10)
        assert nothing_comes(site, alive)

        seconds = alive.next_due()

        assert seconds is None or 0 < seconds <= 10 * site.second
        site.skip(11)
        assert is_woken(alive) if seconds is None else alive.next_due() == 0
        assert _ids(take(site, alive)) == ["1"]

    def test_a_renewed_lease_holds_from_then_on(self, site: Site) -> None:
        holder, other = site.broker("q"), site.broker("q")
        _needs(holder.features.timed_leases)
        send(holder, "q", *"abc")
        leases = [lease_of(each) for each in take(site, holder, 3, lease=10)]

        for _ in range(5):
            site.skip(7)
            assert holder.renew(leases, 10 * site.second) == ()
            assert nothing_comes(site, other)

        site.skip(11)
        assert _ids(take(site, other, 3)) == list("abc")

    def test_renewing_tells_which_leases_are_lost(self, site: Site) -> None:
        holder, other = site.broker("q"), site.broker("q")
        _needs(holder.features.timed_leases)
        send(holder, "q", *"abcd")
        a, b, c, d = take(site, holder, 4, lease=10)
        holder.settle([finish(a), finish(b, Release(delay=100 * site.second))])
        holder.renew([lease_of(c)], 100 * site.second)
        site.skip(11)
        assert _ids(take(site, other)) == ["d"]

        lost = holder.renew([lease_of(each) for each in (a, b, c, d)], 10 * site.second)

        assert set(lost) == {lease_of(a), lease_of(b), lease_of(d)}
        assert holder.renew([], 10) == ()

    def test_a_lease_that_ran_out_is_still_ours_while_nobody_claims(self, site: Site) -> None:
        holder, other = site.broker("q"), site.broker("q")
        _needs(holder.features.timed_leases)
        send(holder, "q", "1", "2")
        slow, late = take(site, holder, 2, lease=10)
        site.skip(11)

        assert holder.renew([lease_of(slow)], 10 * site.second) == ()
        assert holder.settle([finish(late)]).refused == ()

        assert nothing_comes(site, other)

    def test_leases_outlive_the_connection(self, site: Site) -> None:
        dying, other = site.broker("q"), site.broker("q")
        _needs(other.features.timed_leases)
        send(dying, "q", "1")
        take(site, dying, lease=10)
        dying.close()

        assert nothing_comes(site, other)
        site.skip(11)
        assert _ids(take(site, other)) == ["1"]

    # -- fencing ------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("verdict", _VERDICTS, ids=repr)
    def test_of_a_stale_settlement_nothing_is_written(self, site: Site, verdict: Verdict) -> None:
        stale, holder = site.broker("q"), site.broker("q")
        _needs(holder.features.timed_leases)
        send(stale, "q", "1")
        (old,) = take(site, stale, lease=10)
        site.skip(11)
        (new,) = take(site, holder)

        turn = stale.settle([finish(old, verdict, follow_ups=(to("next", "2"),), records=_records(holder, "1"))])

        assert turn.refused == (lease_of(old),)
        assert nothing_comes(site, site.broker("q", "next"))
        assert holder.dead() == []
        assert holder.renew([lease_of(new)], 100 * site.second) == ()
        if holder.features.stores_results:
            assert site.backend().fetch(["1"]) == {}
        assert holder.settle([finish(new)]).refused == ()

    @pytest.mark.parametrize("verdict", _VERDICTS, ids=repr)
    def test_a_delivery_is_settled_once(self, site: Site, verdict: Verdict) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        assert broker.settle([finish(delivery, verdict)]).refused == ()
        turn = broker.settle([finish(delivery, follow_ups=(to("next", "2"),))])

        assert turn.refused == (lease_of(delivery),)
        sizes = broker.sizes()
        assert "next" not in sizes
        waiting = sizes["q"].ready + (sizes["q"].delayed if broker.features.census else _is_delayed(verdict))
        assert waiting + len(broker.dead()) == (0 if isinstance(verdict, Done) else 1)

    def test_a_delivery_settled_twice_in_one_exchange_is_settled_once(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        turn = broker.settle([finish(delivery, follow_ups=(to("next", each),)) for each in "23"])

        assert turn.refused == (lease_of(delivery),)
        assert _ids(take(site, site.broker("next"), 10)) == ["2"]

    def test_who_released_a_message_and_claims_it_again_needs_the_new_token(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (first,) = take(site, broker)
        broker.settle([finish(first, Release())])
        (second,) = take(site, broker)

        assert broker.settle([finish(first)]).refused == (lease_of(first),)
        assert broker.settle([finish(second)]).refused == ()

    def test_a_refused_settlement_does_not_touch_the_others(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", *"abc")
        a, b, c = take(site, broker, 3)
        broker.settle([finish(b)])

        turn = broker.settle([finish(a), finish(b), finish(c, Release())], Claim(limit=5, lease=100, owner="n"))

        assert turn.refused == (lease_of(b),)
        left = [*turn.deliveries, *take(site, broker, 5)]
        assert _ids(left) == ["c"]

    def test_a_token_nobody_was_given_is_refused(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)
        forged = Lease(delivery.tag, delivery.token + 1)

        assert broker.settle([Settlement(lease=forged)]).refused == (forged,)
        assert broker.renew([forged], 10) == (forged,)
        assert broker.settle([finish(delivery)]).refused == ()

    def test_tokens_grow_with_every_claim_of_a_message(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        tokens = []
        settlements: list[Settlement] = []
        for _ in range(4):
            (delivery,) = take(site, broker, settle=settlements)
            tokens.append(delivery.token)
            settlements = [finish(delivery, Release(counted=True, evidence="again"))]

        assert tokens == sorted(set(tokens))

    # -- settling -----------------------------------------------------------------------------------------------------

    def test_what_is_done_never_comes_again(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker, lease=10)

        broker.settle([finish(delivery)])

        size = broker.sizes()["q"]
        assert (size.ready, size.delayed, size.claimed) == (0, 0, 0)
        site.skip(1000)
        assert nothing_comes(site, broker)

    @pytest.mark.parametrize("verdict", _VERDICTS, ids=repr)
    def test_follow_ups_are_published_with_every_verdict_that_holds(self, site: Site, verdict: Verdict) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, verdict, follow_ups=(to("next", "2"), to("next", "3"), to("after", "4")))])

        assert Counter(_ids(take(site, site.broker("next", "after"), 10))) == Counter("234")

    def test_records_are_stored_with_the_settlement(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.stores_results)
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, records=(*_records(broker, "1"), *_records(broker, "2")))])

        assert site.backend().fetch(["1", "2", "3"]) == {"1": b"result of 1", "2": b"result of 2"}

    def test_a_settlement_without_lease_is_written_unguarded(self, site: Site) -> None:
        broker = site.broker("next")

        turn = broker.settle([Settlement(lease=None, follow_ups=(to("next", "2"),), records=_records(broker, "1"))])

        assert turn.refused == ()
        assert _ids(take(site, broker)) == ["2"]
        if broker.features.stores_results:
            assert site.backend().fetch(["1"]) == {"1": b"result of 1"}

    def test_one_exchange_settles_and_claims(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", *"abcd")

        first = take(site, broker, 2)
        second = take(site, broker, 2, settle=[finish(each) for each in first])

        assert (_ids(first), _ids(second)) == (["a", "b"], ["c", "d"])
        size = broker.sizes()["q"]
        assert (size.ready, size.claimed) == (0, 2)

    def test_hundreds_are_settled_in_one_exchange(self, site: Site) -> None:
        broker = site.broker("q")
        ids = [f"{i}" for i in range(600)]
        send(broker, "q", *ids)
        deliveries = take(site, broker, 600)

        broker.renew([lease_of(each) for each in deliveries], 100)
        broker.settle([finish(each, follow_ups=(to("next", each.message.id),)) for each in deliveries])

        sizes = broker.sizes()
        assert (sizes["q"].claimed, sizes["next"].ready) == (0, 600)

    def test_of_an_exchange_that_fails_nothing_is_written(self, site: Site) -> None:
        broker = site.broker("q", "next")
        _needs(broker.features.atomic)
        send(broker, "q", "1", "2")
        a, b = take(site, broker, 2)
        odd = to("next", "4", headers={"odd": object()})

        try:  # a broker that does not encode stores even this
            broker.settle([finish(a, follow_ups=(to("next", "3"),)), finish(b, follow_ups=(odd,))])
        except Exception:  # noqa: BLE001 - whatever its encoder says
            assert nothing_comes(site, broker)
            assert broker.settle([finish(a), finish(b)]).refused == ()
        else:
            assert _ids(take(site, broker, 10)) == ["3", "4"]

    # -- releasing ----------------------------------------------------------------------------------------------------

    def test_a_released_message_comes_back_ahead_of_its_equals(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", *"abc")
        (delivery,) = take(site, broker)
        assert not delivery.redelivered

        broker.settle([finish(delivery, Release())])

        again, *rest = take(site, broker, 3)
        assert (again.message.id, again.crashes, again.redelivered) == ("a", 0, True)
        assert _ids(rest) == ["b", "c"]

    def test_a_message_may_be_released_behind_its_equals(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", *"abc")
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, Release(front=False))])

        assert _ids(take(site, broker, 3)) == ["b", "c", "a"]

    def test_a_message_released_with_delay_comes_when_that_is_over(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Release(delay=10 * site.second))])

        site.skip(8)
        assert nothing_comes(site, broker)
        assert broker.sizes()["q"].delayed == 1 or not broker.features.census
        site.skip(3)
        assert _ids(take(site, broker)) == ["1"]

    def test_counted_releases_add_up_with_their_evidence(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.counts_crashes)
        send(broker, "q", "1")
        verdicts = [
            Release(counted=True, evidence="killed by signal 9"),
            Release(),
            Release(counted=True, evidence="killed by signal 11", delay=1 * site.second),
            Release(delay=1 * site.second),
        ]
        for crashes, verdict in zip([0, 1, 1, 2], verdicts, strict=True):
            (delivery,) = take(site, broker)
            assert delivery.crashes == crashes
            broker.settle([finish(delivery, verdict)])
            site.skip(2)
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, Bury(reason="crashed", evidence="killed by signal 6"))])

        (letter,) = broker.dead()
        assert letter.evidence == ("killed by signal 9", "killed by signal 11", "killed by signal 6")
        assert letter.crashes == 3

    # -- delayed work -------------------------------------------------------------------------------------------------

    def test_a_delayed_message_comes_when_it_is_due(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.delayed)
        send(broker, "q", "later", eta=site.moment(10))
        send(broker, "q", "now")
        send(broker, "q", "past", eta=site.moment(-10))

        assert _ids(take(site, broker, 10)) == ["now", "past"]
        site.skip(8)
        assert nothing_comes(site, broker)
        site.skip(3)
        assert _ids(take(site, broker, 10)) == ["later"]
        assert nothing_comes(site, broker)

    def test_delayed_messages_may_be_due_in_any_order(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.delayed)
        for seconds in (50, 10, 40, 20, 30):
            send(broker, "q", f"{seconds}", eta=site.moment(seconds))

        come = []
        site.skip(5)
        for _ in range(5):
            site.skip(10)
            come += [_ids(take(site, broker, 10))]

        assert come == [["10"], ["20"], ["30"], ["40"], ["50"]]

    def test_next_due_tells_when_the_earliest_delayed_message_is_due(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.delayed)
        assert nothing_comes(site, broker)
        assert broker.next_due() is None
        send(broker, "elsewhere", "0", eta=site.moment(1))
        send(broker, "q", "1", "2", eta=site.moment(20))
        send(broker, "q", "3", eta=site.moment(10))

        seconds = broker.next_due()

        if seconds is None:  # it wakes by itself
            site.skip(11)
            assert is_woken(broker)
            return
        assert 5 * site.second < seconds <= 10 * site.second
        site.skip(11)
        assert broker.next_due() == 0
        assert _ids(take(site, broker)) == ["3"]
        assert 5 * site.second < (broker.next_due() or 0.0) < 10 * site.second

    def test_who_waits_learns_of_a_message_that_is_due_earlier(self, site: Site) -> None:
        waiting, sender = site.broker("q"), site.broker()
        _needs(waiting.features.delayed)
        send(sender, "q", "late", eta=site.moment(100))
        assert nothing_comes(site, waiting)

        send(sender, "q", "soon", eta=site.moment(5))

        assert waiting.next_due() is None or is_woken(waiting)
        assert nothing_comes(site, waiting)
        site.skip(6)
        assert waiting.next_due() == 0 or is_woken(waiting)
        assert _ids(take(site, waiting)) == ["soon"]

    def test_delayed_messages_keep_their_priority(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.delayed and broker.features.priorities)
        urgent, idle = (9, 0) if broker.features.higher_priority_first else (0, 9)
        send(broker, "q", "idle", priority=idle)
        send(broker, "q", "urgent", priority=urgent, eta=site.moment(10))
        site.skip(11)

        assert _ids(take(site, broker, 10)) == ["urgent", "idle"]

    def test_a_message_that_has_expired_says_so(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "fresh", expires=site.moment(1000))
        send(broker, "q", "stale", expires=site.moment(10))
        send(broker, "q", "plain")
        site.skip(11)

        assert [(each.message.id, each.expired) for each in take(site, broker, 3)] == [
            ("fresh", False), ("stale", True), ("plain", False),
        ]  # fmt: skip

    # -- revoking and pausing -----------------------------------------------------------------------------------------

    def test_a_revoked_id_is_marked_when_it_is_claimed(self, site: Site) -> None:
        broker, console = site.broker("q"), site.broker()
        _needs(broker.features.durable_revokes)
        send(broker, "q", "before", "other")

        console.revoke(["before", "after"])
        console.revoke([])
        send(broker, "q", "after")

        assert [(each.message.id, each.revoked) for each in take(site, broker, 3)] == [
            ("before", True), ("other", False), ("after", True),
        ]  # fmt: skip
        assert broker.revoked() == {"before", "after"}

    def test_revocations_outlive_all_connections(self, site: Site) -> None:
        first = site.broker()
        _needs(first.features.durable_revokes)
        first.revoke([f"{i}" for i in range(1500)])
        first.close()

        broker = site.broker("q")
        send(broker, "q", "1234")

        assert take(site, broker)[0].revoked
        assert len(broker.revoked()) == 1500

    def test_revocations_are_kept_for_their_time(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.durable_revokes)
        broker.revoke(["short", "long", "short-too"], expires=10 * site.second)
        broker.revoke(["long"], expires=100 * site.second)
        broker.revoke(["long"], expires=1 * site.second)
        site.skip(11)
        send(broker, "q", "short", "long")

        deliveries = take(site, broker, 2)
        assert [each.revoked for each in deliveries] == [False, True]
        broker.settle([finish(each) for each in deliveries])
        broker.revoke(["one-more"])  # a good moment to tidy up
        assert broker.revoked() == {"long", "one-more"}

    def test_a_revocation_is_kept_while_its_message_waits(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.durable_revokes and broker.features.delayed and broker.features.census)
        send(broker, "q", "1", eta=site.moment(100))
        broker.revoke(["1"], expires=10 * site.second)
        site.skip(50)
        broker.revoke(["2"])
        assert broker.revoked() == {"1", "2"}

        site.skip(51)
        (delivery,) = take(site, broker)

        assert delivery.revoked

    def test_nobody_claims_from_a_paused_queue(self, site: Site) -> None:
        one, other = site.broker("q", "p"), site.broker("q", "p")
        send(one, "q", "1")
        send(one, "p", "2")

        one.pause("q")
        one.pause("q")
        send(one, "q", "3")

        assert one.paused() == other.paused() == {"q"}
        assert _ids(take(site, other, 10)) == ["2"]
        assert nothing_comes(site, one)
        assert one.sizes()["q"].ready == 2
        one.resume("q")
        assert other.paused() == frozenset()
        assert _ids(take(site, other, 10)) == ["1", "3"]

    def test_pausing_outlives_all_connections(self, site: Site) -> None:
        first = site.broker("q")
        first.pause("q")
        first.close()

        broker = site.broker("q")
        send(broker, "q", "1")

        assert broker.paused() == {"q"}
        assert nothing_comes(site, broker)

    def test_pausing_does_not_touch_what_is_claimed(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1", "2")
        a, b = take(site, broker, 2)

        broker.pause("q")

        assert broker.renew([lease_of(a)], 10 * site.second) == ()
        assert broker.settle([finish(a), finish(b, Release())]).refused == ()
        assert nothing_comes(site, broker)

    def test_a_paused_queue_keeps_nobody_awake(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.delayed)
        send(broker, "q", "ready")
        send(broker, "q", "due", eta=site.moment(10))
        broker.pause("q")
        site.skip(11)

        assert nothing_comes(site, broker)
        assert broker.next_due() is None
        broker.resume("q")
        assert sorted(_ids(take(site, broker, 10))) == ["due", "ready"]

    def test_resuming_a_queue_that_was_not_paused_is_harmless(self, site: Site) -> None:
        broker = site.broker("q")
        broker.resume("q")
        broker.resume("unknown")
        assert broker.paused() == frozenset()
        assert list(broker.sizes()) == ["q"]

    # -- exchanges and queues -----------------------------------------------------------------------------------------

    def test_the_default_exchange_creates_its_queue(self, site: Site) -> None:
        broker = site.broker()
        send(broker, "new", "1")

        assert broker.sizes()["new"].ready == 1
        assert _ids(take(site, site.broker("new"))) == ["1"]

    @pytest.mark.parametrize(
        ("kind", "bindings", "key", "reached"),
        [
            ("direct", {"p": "red", "q": "blue", "r": "red"}, "red", "pr"),
            ("topic", {"p": "eu.*", "q": "#", "r": "eu.*.slow"}, "eu.mail", "pq"),
            ("fanout", {"p": "", "q": "", "r": "other"}, "whatever", "pqr"),
        ],
        ids=["direct", "topic", "fanout"],
    )
    def test_an_exchange_reaches_the_queues_bound_to_it(
        self, site: Site, kind: Any, bindings: dict[str, str], key: str, reached: str
    ) -> None:
        broker = site.broker()
        _needs(kind in site.exchange_types and (kind != "fanout" or broker.features.fanout))
        broker.declare(_topology(Exchange("x", kind), *(Binding("x", name, bound) for name, bound in bindings.items())))
        readers = {name: site.broker(name) for name in bindings}

        site.broker().publish([Publication(message=call("1"), route=Route("x", key))])

        found = {name: take(site, reader) for name, reader in readers.items()}
        assert "".join(name for name, deliveries in found.items() if deliveries) == reached
        assert {each.route for deliveries in found.values() for each in deliveries} == {Route("x", key)}

    def test_a_headers_exchange_compares_headers(self, site: Site) -> None:
        _needs("headers" in site.exchange_types)
        broker = site.broker()
        both = Binding("x", "both", arguments={"x-match": "all", "size": "big", "speed": "slow"})
        either = Binding("x", "either", arguments={"x-match": "any", "size": "big", "speed": "slow"})
        broker.declare(_topology(Exchange("x", "headers"), both, either))
        readers = [site.broker("both"), site.broker("either")]

        for number, headers in enumerate([{"size": "small"}, {"size": "big"}, {"size": "big", "speed": "slow"}]):
            broker.publish([Publication(message=call(f"{number}", headers=headers), route=Route("x", "any key"))])

        assert [_ids(take(site, reader, 5)) for reader in readers] == [["2"], ["1", "2"]]

    def test_an_exchange_may_be_bound_to_another(self, site: Site) -> None:
        _needs({"topic", "direct"} <= site.exchange_types and "headers" in site.exchange_types)
        broker = site.broker()
        broker.declare(
            _topology(
                Exchange("outer", "topic"),
                Exchange("inner", "direct"),
                Binding("outer", "inner", "eu.#", to_exchange=True),
                Binding("inner", "q", "eu.mail"),
            )
        )

        routes = [Route("outer", "eu.mail"), Route("outer", "us.mail"), Route("outer", "eu.post")]
        broker.publish([Publication(message=call(route.routing_key), route=route) for route in routes])

        assert _ids(take(site, site.broker("q"), 5)) == ["eu.mail"]

    def test_each_bound_queue_has_a_copy_of_its_own(self, site: Site) -> None:
        broker = site.broker()
        _needs(broker.features.fanout)
        broker.declare(_topology(Exchange("x", "fanout"), *(Binding("x", name) for name in "pqr")))
        readers = [site.broker(name) for name in "pqr"]
        broker.publish([Publication(message=call(task_id), route=Route("x", "")) for task_id in "12"])

        for reader in readers:
            first, second = take(site, reader, 5)
            assert _ids([first, second]) == ["1", "2"]
            assert reader.settle([finish(first), finish(second)]).refused == ()

        assert [nothing_comes(site, reader) for reader in readers] == [True, True, True]

    def test_what_no_binding_matches_is_dropped(self, site: Site) -> None:
        broker = site.broker("q")
        broker.declare(_topology(Exchange("x", "direct"), Binding("x", "q", "known")))

        broker.publish([Publication(message=call("1"), route=Route("x", "unknown"))])
        broker.publish([Publication(message=call("2"), route=Route("x", "known"))])

        assert _ids(take(site, broker, 5)) == ["2"]
        assert list(broker.sizes()) == ["q"]

    def test_follow_ups_pass_exchanges_too(self, site: Site) -> None:
        broker = site.broker("q")
        broker.declare(_topology(Exchange("x", "direct"), Binding("x", "next", "key")))
        send(broker, "q", "1")
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, follow_ups=(Publication(message=call("2"), route=Route("x", "key")),))])

        (follow_up,) = take(site, site.broker("next"))
        assert (follow_up.message.id, follow_up.route) == ("2", Route("x", "key"))

    def test_declaring_again_is_harmless_and_what_was_there_stays(self, site: Site) -> None:
        broker = site.broker("q")
        for key in ("one", "two", "one"):
            broker.declare(_topology(Exchange("x", "direct"), Binding("x", "q", key), QueueSpec("q")))

        broker.publish([Publication(message=call(key), route=Route("x", key)) for key in ("one", "two")])

        assert _ids(take(site, broker, 5)) == ["one", "two"]

    def test_declarations_are_seen_by_all_and_outlive_all_connections(self, site: Site) -> None:
        early = site.broker()
        early.publish([Publication(message=call("0"), route=Route("x", "key"))])
        declaring = site.broker()
        declaring.declare(_topology(Exchange("x", "direct"), Binding("x", "q", "key")))

        early.publish([Publication(message=call("1"), route=Route("x", "key"))])
        declaring.close()
        early.close()
        late = site.broker("q")
        late.publish([Publication(message=call("2"), route=Route("x", "key"))])

        assert _ids(take(site, late, 5)) == ["1", "2"]

    @pytest.mark.parametrize("spec", [QueueSpec("mine", auto_delete=True), QueueSpec("mine", exclusive=True)])
    def test_a_temporary_queue_goes_with_its_last_consumer(self, site: Site, spec: QueueSpec) -> None:
        _needs(site.temporary_queues and "fanout" in site.exchange_types)
        broker = site.broker("kept")
        broker.declare(_topology(Exchange("x", "fanout"), Binding("x", "kept"), Binding("x", "mine"), spec))
        first, second = site.broker("mine"), site.broker("mine", "other")
        send(first, "mine", "1", "2")
        (delivery,) = take(site, first)

        first.close()
        assert broker.sizes()["mine"].ready == 1
        second.consume(["other"])

        assert set(broker.sizes()) == {"kept", "other"}
        assert second.settle([finish(delivery)]).refused == (lease_of(delivery),)
        broker.publish([Publication(message=call("3"), route=Route("x", ""))])
        assert _ids(take(site, broker, 5)) == ["3"]
        assert set(broker.sizes()) == {"kept", "other"}

    def test_a_temporary_queue_outlasts_its_reader_by_its_time(self, site: Site) -> None:
        _needs(site.temporary_queues)
        broker = site.broker("q")
        broker.declare(Topology.of(QueueSpec("replies", expires=20 * site.second)))
        reader = site.broker("replies")
        for _ in range(5):  # in use, however long
            site.skip(10)
            send(broker, "replies", "1")
            take(site, reader, 5)
        reader.close()

        site.skip(10)
        assert nothing_comes(site, broker)
        assert "replies" in broker.sizes()
        site.skip(11)
        assert nothing_comes(site, broker)  # a good moment to tidy up

        assert set(broker.sizes()) == {"q"}

    def test_messages_do_not_outlast_the_time_their_queue_gives_them(self, site: Site) -> None:
        _needs(site.temporary_queues)
        site.broker().declare(Topology.of(QueueSpec("events", message_ttl=10 * site.second)))
        broker = site.broker("events")
        send(broker, "events", "held", "stale")
        (held,) = take(site, broker)
        site.skip(6)
        send(broker, "events", "fresh")
        site.skip(5)

        assert _ids(take(site, broker, 5)) == ["fresh"]
        assert broker.settle([finish(held)]).refused == ()
        assert broker.sizes()["events"].ready == 0

    def test_sizes_tell_what_is_ready_delayed_and_claimed(self, site: Site) -> None:
        broker = site.broker("q")
        _needs(broker.features.census)
        _needs(broker.features.delayed)
        send(broker, "q", *"abcd")
        send(broker, "q", *"xy", eta=site.moment(100))
        send(broker, "p", "z")
        (delivery,) = take(site, broker)
        site.skip(5)
        take(site, broker)

        sizes = site.broker().sizes()

        assert {name: (size.ready, size.delayed, size.claimed) for name, size in sizes.items()} == {
            "q": (2, 2, 2), "p": (1, 0, 0),
        }  # fmt: skip
        assert sizes["q"].oldest in (None, pytest.approx(5 * site.second, abs=3 * site.second))
        assert list(broker.sizes(["p", "unknown"])) == ["p"]
        assert broker.sizes([]) == {}
        broker.settle([finish(delivery)])
        site.skip(100)
        size = broker.sizes(["q"])["q"]
        assert (size.ready, size.delayed, size.claimed) == (4, 0, 1)

    def test_an_empty_queue_has_no_oldest_message(self, site: Site) -> None:
        broker = site.broker("q")
        size = broker.sizes(["q"])["q"]
        assert (size.ready, size.delayed, size.claimed, size.oldest) == (0, 0, 0, None)

    def test_purging_drops_what_is_in_nobodys_hand(self, site: Site) -> None:
        broker = site.broker("q", "p")
        send(broker, "q", *"abc")
        delayed = broker.features.delayed and broker.features.census
        if delayed:
            send(broker, "q", "later", eta=site.moment(10))
        (delivery,) = take(site, broker)
        send(broker, "p", "other")

        assert broker.purge("q") == (3 if delayed else 2)
        assert broker.purge("q") == 0
        assert broker.purge("unknown") == 0

        site.skip(11)
        assert _ids(take(site, broker, 5)) == ["other"]
        assert broker.settle([finish(delivery)]).refused == ()

    # -- the dead-letter set ------------------------------------------------------------------------------------------

    def test_a_buried_message_lies_in_the_dead_letter_set_with_its_evidence(self, site: Site) -> None:
        broker = site.broker("q")
        message = _full_message(site)
        broker.publish([Publication(message=message, route=Route("", "q"))])
        (delivery,) = take(site, broker)

        broker.settle([finish(delivery, Bury(reason="unknown-task", evidence="no task of that name"))])

        (letter,) = site.broker().dead()
        assert (letter.id, letter.task, letter.queue) == (message.id, message.task, "q")
        assert (letter.reason, letter.evidence, letter.crashes) == ("unknown-task", ("no task of that name",), 0)
        assert letter.message == message
        assert letter.died_at == pytest.approx(site.clock(), abs=5)
        size = broker.sizes()["q"]
        assert (size.ready, size.delayed, size.claimed) == (0, 0, 0)
        site.skip(1000)
        assert nothing_comes(site, broker)

    def test_a_burial_without_evidence_leaves_none(self, site: Site) -> None:
        broker = site.broker("q")
        _bury(site, broker, "1")
        assert broker.dead()[0].evidence == ()

    def test_dead_letters_are_read_page_by_page_oldest_first(self, site: Site) -> None:
        broker = site.broker("q")
        ids = [f"{i}" for i in range(25)]
        _bury(site, broker, *ids)

        pages = []
        after = None
        while page := broker.dead(limit=10, after=after):
            pages.append([letter.id for letter in page])
            after = page[-1].tag

        assert pages == [ids[:10], ids[10:20], ids[20:]]
        assert len(broker.dead()) == 25
        assert broker.dead(limit=0) == []

    def test_who_discards_page_by_page_sees_all(self, site: Site) -> None:
        broker = site.broker("q")
        ids = [f"{i}" for i in range(25)]
        _bury(site, broker, *ids)

        seen: list[str] = []
        after = None
        while page := broker.dead(limit=10, after=after):
            seen += [letter.id for letter in page]
            after = page[-1].tag
            broker.discard([letter.id for letter in page])

        assert seen == ids
        assert broker.dead() == []

    def test_dead_letters_are_found_by_task_id(self, site: Site) -> None:
        broker = site.broker("q")
        _bury(site, broker, "1", "2", reason="rejected")
        _bury(site, broker, "2", reason="expired")

        assert broker.find_dead("unknown") is None
        assert [(found.id, found.reason) for task_id in "12" if (found := broker.find_dead(task_id))] == [
            ("1", "rejected"), ("2", "expired"),
        ]  # fmt: skip
        assert [letter.id for letter in broker.dead()] == ["1", "2", "2"]

    def test_revived_dead_letters_run_again_as_if_new(self, site: Site) -> None:
        broker, console = site.broker("q"), site.broker()
        send(broker, "q", "1", headers={"kept": "yes"})
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Release(counted=True, evidence="killed"))])
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Bury(reason="crashed"))])
        assert nothing_comes(site, broker)

        assert console.revive(["1", "unknown"]) == 1

        assert is_woken(broker)
        (again,) = take(site, broker)
        assert (again.message, again.crashes, again.queue, again.route) == (
            delivery.message, 0, "q", delivery.route,
        )  # fmt: skip
        assert console.dead() == []
        broker.settle([finish(again, Bury(reason="rejected"))])
        assert console.dead()[0].evidence == ()

    def test_an_expired_letter_that_is_revived_does_not_expire_again(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1", expires=site.moment(-5), headers={"kept": "yes"})
        (delivery,) = take(site, broker)
        assert delivery.expired
        broker.settle([finish(delivery, Bury(reason="expired"))])

        assert broker.revive(["1"]) == 1

        (again,) = take(site, broker)
        assert not again.expired
        kept = delivery.message
        assert (again.message.id, again.message.body, again.message.headers) == (kept.id, kept.body, kept.headers)
        assert again.message.expires is None

    def test_a_dead_letter_counts_the_attempt_that_led_to_its_burial(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Release(counted=True, evidence="killed"))])
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Bury(reason="crashed", evidence="killed again"))])

        (letter,) = broker.dead()
        assert (letter.crashes, letter.evidence) == (2, ("killed", "killed again"))

    def test_a_dead_letter_is_not_settled_by_those_who_held_it(self, site: Site) -> None:
        broker = site.broker("q")
        send(broker, "q", "1")
        (delivery,) = take(site, broker)
        broker.settle([finish(delivery, Bury(reason="rejected"))])
        broker.revive(["1"])
        (again,) = take(site, broker)

        assert broker.settle([finish(delivery)]).refused == (lease_of(delivery),)
        assert broker.settle([finish(again)]).refused == ()

    def test_many_dead_letters_are_revived_and_discarded_at_once(self, site: Site) -> None:
        broker = site.broker("q")
        ids = [f"{i}" for i in range(1200)]
        _bury(site, broker, *ids, "twin", "twin")

        assert broker.discard([]) == broker.revive([]) == 0
        assert broker.discard(ids[:100]) == 100
        assert broker.revive([*ids, "twin"]) == 1102

        assert broker.dead() == []
        assert broker.sizes()["q"].ready == 1102

    def test_dead_letters_outlive_all_connections(self, site: Site) -> None:
        broker = site.broker("q")
        _bury(site, broker, "1")
        broker.close()

        assert [letter.id for letter in site.broker().dead()] == ["1"]

    def test_garbage_in_a_queue_is_claimed_as_invalid_and_stops_nobody(self, site: Site) -> None:
        broker = site.broker("q")
        if site.poison is None:
            pytest.skip("no garbage can get into this store")
        send(broker, "q", "before")
        rubbish = [b"", b"\x00\xff\xfe garbage", b'{"half": ', b"[]", b"null", "ключ".encode("utf-16")]
        for data in rubbish:
            site.poison("q", data)
        send(broker, "q", "after")

        deliveries = take(site, broker, 20)

        assert [each.message.id for each in deliveries if each.invalid is None] == ["before", "after"]
        invalid = [each for each in deliveries if each.invalid is not None]
        assert len(invalid) == len(rubbish)
        assert all(each.invalid and each.queue == "q" for each in invalid)
        broker.settle([finish(each, Bury(reason="invalid", evidence=each.invalid or "")) for each in invalid])
        assert [letter.reason for letter in broker.dead()] == ["invalid"] * len(rubbish)
        assert broker.revive({letter.id for letter in broker.dead()}) == len(rubbish)
        assert len(take(site, broker, 20)) == len(rubbish)

    # -- waking -------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("event", ["publish", "own publish", "release", "follow-up", "revive", "resume", "consume"])
    def test_who_waits_is_woken_by_whatever_brings_work(self, site: Site, event: str) -> None:
        waiting, other = site.broker("q"), site.broker("q", "source")
        other.settle([])
        if event == "release":
            send(other, "q", "1")
        elif event == "follow-up":
            send(other, "source", "0")
        elif event == "revive":
            _bury(site, other, "1")
        elif event == "resume":
            waiting.pause("q")
            send(other, "q", "1")
        elif event == "consume":
            send(other, "p", "1")
        held = take(site, other) if event in {"release", "follow-up"} else []
        assert nothing_comes(site, waiting)

        match event:
            case "publish":
                send(other, "q", "1")
            case "own publish":
                send(waiting, "q", "1")
            case "release":
                other.settle([finish(held[0], Release())])
            case "follow-up":
                other.settle([finish(held[0], follow_ups=(to("q", "1"),))])
            case "revive":
                other.revive(["1"])
            case "resume":
                other.resume("q")
            case "consume":
                waiting.consume(["p"])

        assert is_woken(waiting)
        assert _ids(take(site, waiting)) == ["1"]
        assert nothing_comes(site, waiting)

    def test_the_descriptor_stays_readable_while_there_is_more(self, site: Site) -> None:
        broker = site.broker("q")
        assert nothing_comes(site, broker)
        send(broker, "q", *"abc")

        for task_id in "abc":
            assert is_woken(broker)
            assert _ids(take(site, broker)) == [task_id]

        assert nothing_comes(site, broker)

    def test_all_connections_of_a_queue_are_woken(self, site: Site) -> None:
        waiting = [site.broker("q") for _ in range(5)]
        assert len({broker.fileno() for broker in waiting}) == 5
        assert all(nothing_comes(site, broker) for broker in waiting)

        send(site.broker(), "q", "1")
        taken = [task_id for broker in waiting if is_woken(broker) for task_id in _ids(take(site, broker))]

        assert taken == ["1"]

    def test_no_wake_up_is_lost(self, site: Site) -> None:
        rounds = 200
        taken = threading.Semaphore(0)

        def publish() -> int:
            chance = random.Random(7)
            with closing(site.make_broker()) as broker:
                for i in range(rounds):
                    _spin(chance.random() * 0.0005)  # hits every instant between a claim and the wait after it
                    send(broker, "q", f"{i}")
                    assert taken.acquire(timeout=20), f"message {i} was never seen by who waits"
            return rounds

        def consume() -> int:
            chance = random.Random(8)
            with closing(site.make_broker()) as broker:
                broker.consume(["q"])
                found: list[Delivery] = []
                count = 0
                while count < rounds:
                    found = take(site, broker, 3, settle=[finish(each) for each in found])
                    for _ in found:
                        count += 1
                        taken.release()
                    if not found:
                        assert is_woken(broker), f"after {count} messages nobody woke us"
                    _spin(chance.random() * 0.0005)
                broker.settle([finish(each) for each in found])
            return count

        assert at_once(publish, consume) == [rounds, rounds]

    # -- ending -------------------------------------------------------------------------------------------------------

    def test_a_broker_may_be_closed_twice(self, site: Site) -> None:
        broker, other = site.broker("q"), site.broker("q")
        broker.fileno()
        broker.close()
        broker.close()

        send(other, "q", "1")
        assert _ids(take(site, other)) == ["1"]

    @pytest.mark.parametrize(
        "verb",
        [
            lambda broker: broker.publish([to("q", "1")]),
            lambda broker: broker.consume(["q"]),
            lambda broker: broker.settle([]),
            lambda broker: broker.settle([], Claim(limit=1, lease=10, owner="n")),
            lambda broker: broker.renew([Lease(1, 1)], 10),
            lambda broker: broker.fileno(),
            lambda broker: broker.next_due(),
            lambda broker: broker.declare(Topology()),
            lambda broker: broker.sizes(),
            lambda broker: broker.purge("q"),
            lambda broker: broker.pause("q"),
            lambda broker: broker.resume("q"),
            lambda broker: broker.paused(),
            lambda broker: broker.revoke(["1"]),
            lambda broker: broker.revoked(),
            lambda broker: broker.dead(),
            lambda broker: broker.find_dead("1"),
            lambda broker: broker.revive(["1"]),
            lambda broker: broker.discard(["1"]),
        ],
    )
    def test_a_closed_broker_says_so(self, site: Site, verb: Callable[[Broker], object]) -> None:
        broker = site.broker("q")
        broker.close()

        with pytest.raises(RuntimeError, match="closed"):
            verb(broker)

    def test_closed_connections_leave_no_descriptors(self, site: Site) -> None:
        def come_and_go(times: int) -> None:
            for _ in range(times):
                with closing(site.make_broker()) as broker:
                    broker.consume(["q"])
                    broker.fileno()
                    send(broker, "q", "1")
                    take(site, broker)

        come_and_go(3)
        before = _descriptors()
        come_and_go(20)
        assert _descriptors() <= before

    # -- whatever happens ---------------------------------------------------------------------------------------------

    @pytest.mark.slow
    def test_whatever_happens_nothing_is_lost(self, tmp_path: Path) -> None:
        numbers = iter(range(1_000_000))

        def new_site() -> Site:
            folder = tmp_path / f"{next(numbers)}"
            folder.mkdir()
            return self.new_site(folder)

        run_machine(new_site)

    # -- many processes -----------------------------------------------------------------------------------------------

    @pytest.fixture
    def crowd(self, site: Site) -> Iterator[Crowd]:
        if site.open_elsewhere is None:
            pytest.skip("this store lives in one process")
        with Crowd(site.open_elsewhere) as crowd:
            yield crowd

    @pytest.mark.process
    @pytest.mark.slow
    def test_many_processes_publish_and_claim_at_once(self, crowd: Crowd) -> None:
        published = crowd.publishers(3, messages=200, batch=5)
        crowd.claimers(3)

        assert crowd.drained(600)
        assert crowd.finished() == Counter(published)

    @pytest.mark.process
    def test_another_process_wakes_who_waits(self, site: Site, crowd: Crowd) -> None:
        broker = crowd.broker("q")
        assert nothing_comes(site, broker)

        crowd.publishers(1, messages=1, batch=1)

        assert is_woken(broker)
        patience = time.monotonic() + site.grace + 10
        taken: list[Delivery] = []
        while not taken and time.monotonic() < patience:
            taken = take(site, broker)
        assert len(taken) == 1

    @pytest.mark.process
    @pytest.mark.slow
    def test_claimers_killed_at_any_instant_lose_nothing(self, crowd: Crowd) -> None:
        published: list[str] = []
        crowd.claimers(2)
        for _ in range(12):
            published += crowd.publish(60)
            crowd.claimers(1)
            crowd.kill_a_claimer()

        assert crowd.drained(len(published))
        finished = crowd.finished()
        assert set(finished) == set(published), "a message was lost"
        if crowd.atomic:
            assert finished == Counter(published), "a settlement was written twice"

    @pytest.mark.process
    @pytest.mark.slow
    def test_publishers_killed_at_any_instant_lose_nothing_they_were_told_is_stored(self, crowd: Crowd) -> None:
        promised: set[str] = set()
        for seed in range(6):
            promised |= crowd.publish_until_killed(after=0.02 + 0.03 * seed, batch=7)

        stored = crowd.stored()

        assert promised
        assert promised <= set(stored)
        assert set(stored.values()) == {1}
        if crowd.atomic:  # ids are "<batch>/<number>"
            assert set(Counter(task_id.partition("/")[0] for task_id in stored).values()) == {7}


def _ids(deliveries: list[Delivery]) -> list[str]:
    return [delivery.message.id for delivery in deliveries]


def _needs(ability: object) -> None:
    if not ability:
        pytest.skip("this broker does not claim to")


def _full_message(site: Site) -> Message:
    """Return a message that says everything a message can say."""
    return Message(
        id="3f1c",
        task="shop.orders.ship",
        body=b'[["caf\xc3\xa9"], {"n": 1}, {"callbacks": null}]',
        content_type="application/json",
        content_encoding="utf-8",
        compression="application/x-gzip",
        eta=site.moment(-5),
        expires=site.moment(10_000),
        retries=2,
        hard_limit=30.0,
        soft_limit=20.5,
        root_id="root",
        parent_id="parent",
        group="group",
        group_index=3,
        shadow="Shipping",
        argsrepr="('café',)",
        kwargsrepr="{'n': 1}",
        origin="gen42@host",
        ignore_result=True,
        replaced_task_nesting=1,
        stamped_headers=("tenant",),
        stamps={"tenant": ["acme"]},
        headers={"my-header": "ü", "numbers": [1, 2.5, None, True], "nested": {"a": {"b": "c"}}},
        reply_to="reply-queue",
        correlation_id="another",
        priority=5,
        delivery_mode=2,
        properties={"app_id": "billing"},
    )


def _records(broker: Broker, task_id: str) -> tuple[Record, ...]:
    """Return a result for a broker that keeps some."""
    if not broker.features.stores_results:
        return ()
    return (Record(id=task_id, state="SUCCESS", payload=f"result of {task_id}".encode(), expires=1000.0),)


def _is_delayed(verdict: Verdict) -> bool:
    return isinstance(verdict, Release) and verdict.delay > 0


def _bury(site: Site, broker: Broker, *ids: str, reason: str = "rejected") -> None:
    """Publish messages and bury them one after the other."""
    send(broker, "q", *ids)
    deliveries = take(site, broker, len(ids))
    assert _ids(deliveries) == list(ids)
    broker.settle([finish(each, Bury(reason=reason)) for each in deliveries])


def _topology(*parts: Exchange | QueueSpec | Binding) -> Topology:
    """Return these parts, and a queue for every binding that leads to one."""
    queues = [QueueSpec(part.destination) for part in parts if isinstance(part, Binding) and not part.to_exchange]
    return Topology.of(*queues, *parts)


def _spin(seconds: float) -> None:
    """Pass a time too short to sleep."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _descriptors() -> int:
    return len(os.listdir("/dev/fd"))  # noqa: PTH208 - Path would open one more
