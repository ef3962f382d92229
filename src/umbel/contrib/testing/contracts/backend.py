"""Hold a result store to every promise of the port."""

from __future__ import annotations

import os
import random
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from umbel.backends.base import Backend, Watch
from umbel.contrib.testing.contracts.calls import PATIENCE, finish, send, take
from umbel.contrib.testing.contracts.crowd import elsewhere
from umbel.contrib.testing.contracts.site import OnSite, Site, at_once
from umbel.states import FAILURE, RETRY, STARTED, SUCCESS
from umbel.wire.record import Record

__all__ = ["BackendContract"]

_ODD_IDS = ("with space", "Größe/日本", "🐇", "quote'\"`;--", "%s", "[a*b?]", "line\nbreak", "../up", "i" * 200)


class BackendContract(OnSite):
    """Every promise of `umbel.backends.base.Backend` as a test.

    Subclass it as ``TestMine``, and say in `new_site` how a fresh store is made. Tests of what the store's `features`
    deny are skipped.
    """

    # -- storing and fetching -----------------------------------------------------------------------------------------

    def test_a_stored_record_is_read_by_every_connection(self, site: Site) -> None:
        early, writer = site.backend(), site.backend()

        writer.store([_record("1", payload=b"\x00payload\xff")])

        assert [each.fetch(["1"]) for each in (early, writer, site.backend())] == [{"1": b"\x00payload\xff"}] * 3

    def test_of_unknown_tasks_nothing_is_returned(self, site: Site) -> None:
        backend = site.backend()
        backend.store([_record("1")])

        assert backend.fetch(["1", "unknown"]) == {"1": b"SUCCESS of 1"}
        assert backend.fetch([]) == {}

    def test_storing_nothing_is_harmless(self, site: Site) -> None:
        backend = site.backend()
        backend.store([])
        assert backend.fetch(["1"]) == {}

    def test_thousands_are_stored_and_fetched_at_once(self, site: Site) -> None:
        backend = site.backend()
        ids = [f"{i}" for i in range(3000)]

        backend.store([_record(task_id) for task_id in ids])

        assert backend.fetch(ids) == {task_id: f"SUCCESS of {task_id}".encode() for task_id in ids}
        backend.forget(ids[:2000])
        assert backend.fetch(set(ids)).keys() == set(ids[2000:])

    @pytest.mark.parametrize("payload", [b"", bytes(range(256)), b"x" * 1_000_000], ids=["empty", "binary", "1 MB"])
    def test_any_payload_is_kept(self, site: Site, payload: bytes) -> None:
        site.backend().store([_record("1", payload=payload)])
        assert site.backend().fetch(["1"]) == {"1": payload}

    @pytest.mark.parametrize("name", _ODD_IDS)
    def test_ids_may_be_odd(self, site: Site, name: str) -> None:
        backend = site.backend()
        with closing(backend.watch([name])) as watch:
            backend.store([_record(name), _record(name + "2")])
            assert name in watch.wait(PATIENCE)

        assert backend.fetch([name]) == {name: f"SUCCESS of {name}".encode()}
        backend.forget([name])
        assert backend.fetch([name, name + "2"]).keys() == {name + "2"}

    @pytest.mark.parametrize("states", [[STARTED, RETRY, FAILURE], [FAILURE, STARTED], ["PROGRESS", "PROGRESS"]])
    def test_a_later_record_replaces_an_earlier_one(self, site: Site, states: list[str]) -> None:
        backend = site.backend()
        for number, state in enumerate(states):
            site.backend().store([_record("1", state, payload=b"%d" % number)])
            assert backend.fetch(["1"]) == {"1": b"%d" % number}

    @pytest.mark.parametrize("state", [STARTED, FAILURE, RETRY, SUCCESS, "PROGRESS"])
    def test_nothing_replaces_success(self, site: Site, state: str) -> None:
        backend = site.backend()
        backend.store([_record("1", STARTED), _record("1", SUCCESS), _record("1", state, payload=b"late")])
        assert backend.fetch(["1"]) == {"1": b"SUCCESS of 1"}

        backend.store([_record("1", state, payload=b"later"), _record("2", FAILURE)])

        assert site.backend().fetch(["1", "2"]) == {"1": b"SUCCESS of 1", "2": b"FAILURE of 2"}

    def test_what_is_forgotten_is_gone_and_may_be_stored_again(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        backend.store([_record("1"), _record("2")])

        other.forget(["1", "unknown"])
        other.forget([])

        assert backend.fetch(["1", "2"]).keys() == {"2"}
        backend.store([_record("1", FAILURE)])
        assert other.fetch(["1"]) == {"1": b"FAILURE of 1"}

    def test_records_outlive_all_connections(self, site: Site) -> None:
        backend = site.backend()
        _needs(backend.features.readable_anywhere)
        backend.store([_record("1")])
        backend.close()

        assert site.backend().fetch(["1"]) == {"1": b"SUCCESS of 1"}

    def test_many_may_open_a_fresh_store_at_once(self, tmp_path: Path) -> None:
        def open_and_store(site: Site, task_id: str) -> None:
            with closing(site.make_backend()) as backend:
                backend.store([_record(task_id)])

        for number in range(10):
            folder = tmp_path / f"{number}"
            folder.mkdir()
            with self.new_site(folder).opened() as site:
                at_once(*(partial(open_and_store, site, task_id) for task_id in "1234"))
                assert site.backend().fetch("1234").keys() == set("1234")

    def test_many_threads_store_at_once(self, site: Site) -> None:
        def store(name: int) -> None:
            with closing(site.make_backend()) as backend:
                for number in range(50):
                    backend.store([_record(f"{name}-{number}"), _record("shared", STARTED)])

        at_once(*(partial(store, name) for name in range(4)))

        ids = [f"{name}-{number}" for name in range(4) for number in range(50)]
        assert site.backend().fetch([*ids, "shared"]).keys() == {*ids, "shared"}

    # -- expiry -------------------------------------------------------------------------------------------------------

    def test_records_expire(self, site: Site) -> None:
        backend = site.backend()
        backend.store([_record("short", expires=10 * site.second), _record("long", expires=100 * site.second)])
        backend.store([_record("for ever")])

        site.skip(8)
        assert backend.fetch(["short", "long", "for ever"]).keys() == {"short", "long", "for ever"}
        site.skip(3)

        assert backend.fetch(["short", "long", "for ever"]).keys() == {"long", "for ever"}

    def test_an_expired_success_may_be_replaced(self, site: Site) -> None:
        backend = site.backend()
        backend.store([_record("1", SUCCESS, expires=10 * site.second)])
        site.skip(11)

        backend.store([_record("1", STARTED)])

        assert backend.fetch(["1"]) == {"1": b"STARTED of 1"}

    def test_a_record_expires_by_its_own_time_and_not_by_that_of_the_one_it_replaced(self, site: Site) -> None:
        backend = site.backend()
        backend.store([_record("longer", STARTED, expires=10 * site.second), _record("kept", STARTED, expires=10)])
        backend.store([_record("shorter", STARTED, expires=100 * site.second)])
        backend.store([_record("longer", expires=100 * site.second), _record("kept"), _record("shorter", expires=1)])

        site.skip(11)

        assert backend.fetch(["longer", "kept", "shorter"]).keys() == {"longer", "kept"}
        backend.cleanup()
        assert backend.fetch(["longer", "kept", "shorter"]).keys() == {"longer", "kept"}

    def test_cleanup_deletes_what_has_expired(self, site: Site) -> None:
        backend = site.backend()
        assert backend.cleanup() == 0
        backend.store([_record(f"{i}", expires=10 * site.second) for i in range(5)])
        backend.store([_record("kept", expires=100 * site.second), _record("for ever")])
        site.skip(11)

        deleted = backend.cleanup()

        assert deleted == 5 or (backend.features.expires and 0 <= deleted <= 5)
        assert backend.cleanup() == 0
        assert backend.fetch(["0", "kept", "for ever"]).keys() == {"kept", "for ever"}

    # -- waiting ------------------------------------------------------------------------------------------------------

    def test_a_watch_is_told_of_what_other_connections_store(self, site: Site) -> None:
        backend = site.backend()
        with closing(backend.watch(["1", "2"])) as watch:
            with _stored_soon(site, _record("1"), _record("elsewhere")):
                assert watch.wait(PATIENCE) == {"1"}
            assert backend.fetch(["1"]) == {"1": b"SUCCESS of 1"}

    def test_a_watch_is_told_of_what_its_own_connection_stores(self, site: Site) -> None:
        backend = site.backend()
        with closing(backend.watch(["1"])) as watch:
            backend.store([_record("1")])
            assert watch.wait(PATIENCE) == {"1"}

    def test_a_watch_sees_one_change_after_the_other(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        with closing(backend.watch(["1", "2", "3"])) as watch:
            seen: set[str] = set()
            for task_id in "123":
                other.store([_record(task_id)])
                while task_id not in seen:
                    named = watch.wait(PATIENCE)
                    assert named, f"the change of {task_id} was missed"
                    seen |= named
            assert seen == {"1", "2", "3"}

    def test_a_watch_is_told_of_every_state(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        with closing(backend.watch(["1"])) as watch:
            for state in (STARTED, RETRY, STARTED, SUCCESS):
                other.store([_record("1", state)])
                while backend.fetch(["1"]) != {"1": f"{state} of 1".encode()}:
                    assert watch.wait(PATIENCE) == {"1"}

    def test_several_watches_do_not_take_from_each_other(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        with closing(backend.watch(["1"])) as first, closing(backend.watch(["1", "2"])) as second:
            with closing(other.watch(["1"])) as third:
                other.store([_record("1")])
                assert [watch.wait(PATIENCE) for watch in (first, second, third)] == [{"1"}] * 3
            other.store([_record("2")])
            assert second.wait(PATIENCE) - {"1"} == {"2"}

    def test_a_wait_without_change_ends_empty(self, site: Site) -> None:
        backend = site.backend()
        with closing(backend.watch(["1"])) as watch:
            site.backend().store([_record("2")])
            begin = time.monotonic()
            assert watch.wait(0.0) == set()
            assert watch.wait(0.05) <= {"1"}
            assert time.monotonic() - begin < PATIENCE
            backend.store([_record("1")])
            assert watch.wait(PATIENCE) == {"1"}

    def test_one_change_does_not_wake_for_ever(self, site: Site) -> None:
        with closing(site.backend().watch(["1"])) as watch:
            site.backend().store([_record("1")])
            waits = 0
            while watch.wait(0.02):
                waits += 1
                assert waits < 10, "the watch wakes again and again for one change"

    def test_a_wait_may_last_for_ever(self, site: Site) -> None:
        with closing(site.backend().watch(["1"])) as watch, _stored_soon(site, _record("1")):
            assert watch.wait(None) == {"1"}

    def test_watching_nothing_is_harmless(self, site: Site) -> None:
        with closing(site.backend().watch([])) as watch:
            assert watch.wait(0.01) == set()

    def test_a_watch_that_pushes_has_a_descriptor(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        with closing(backend.watch(["1", "2"])) as watch:
            assert (watch.fileno() is not None) == backend.features.push
            _needs(backend.features.push)
            assert not _is_readable(watch, 0.0)
            for task_id in "12":
                other.store([_record(task_id)])
                assert _is_readable(watch, PATIENCE)
                assert task_id in watch.wait(0.0)
            while _is_readable(watch, 0.0):  # for nothing, but not for ever
                watch.wait(0.0)

    def test_a_descriptor_asked_for_late_is_readable_when_something_has_changed(self, site: Site) -> None:
        backend = site.backend()
        _needs(backend.features.push)
        with closing(backend.watch(["1"])) as watch:
            site.backend().store([_record("1")])
            assert _is_readable(watch, PATIENCE)
            assert watch.wait(0.0) == {"1"}

    def test_no_change_is_missed(self, site: Site) -> None:
        rounds = 150 if site.backend().features.push else 5
        asked = threading.Semaphore(0)

        def store() -> int:
            chance = random.Random(5)
            with closing(site.make_backend()) as backend:
                for number in range(rounds):
                    assert asked.acquire(timeout=20)
                    _spin(chance.random() * 0.001)  # hits every instant of watching, fetching and waiting
                    backend.store([_record(f"{number}")])
            return rounds

        def read() -> int:
            with closing(site.make_backend()) as backend:
                for number in range(rounds):
                    task_id = f"{number}"
                    asked.release()
                    with closing(backend.watch([task_id])) as watch:
                        while not backend.fetch([task_id]):
                            assert watch.wait(PATIENCE), f"the result of {task_id} was stored unseen"
            return rounds

        assert at_once(store, read) == [rounds, rounds]

    def test_what_a_fused_broker_settles_wakes_a_watch(self, site: Site) -> None:
        try:
            broker = site.broker("q")
        except NotImplementedError:
            pytest.skip("this store is not fused with a broker")
        _needs(broker.features.stores_results)
        send(broker, "q", "1", "2")
        first, second = take(site, broker, 2)
        backend = site.backend()

        with closing(backend.watch(["1", "2"])) as watch:
            broker.settle([finish(first, records=(_record("1"),)), finish(second)])
            assert watch.wait(PATIENCE) == {"1"}
            broker.settle([finish(second, records=(_record("2"),))])  # refused
            assert watch.wait(0.05) <= {"1"}

        broker.settle([])
        assert backend.fetch(["1", "2"]) == {"1": b"SUCCESS of 1"}

    def test_a_watch_may_be_closed_twice(self, site: Site) -> None:
        backend = site.backend()
        watch = backend.watch(["1"])
        watch.fileno()
        watch.close()
        watch.close()
        backend.store([_record("1")])

    # -- groups -------------------------------------------------------------------------------------------------------

    def test_a_group_is_kept_until_it_is_forgotten(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        _needs(backend.features.groups)
        assert backend.fetch_group("g") is None

        backend.save_group("g", b"\x00old")
        backend.save_group("g", b"\x00new\xff")

        assert other.fetch_group("g") == b"\x00new\xff"
        other.forget_group("g")
        other.forget_group("g")
        assert backend.fetch_group("g") is None

    def test_groups_and_tasks_do_not_share_their_ids(self, site: Site) -> None:
        backend = site.backend()
        _needs(backend.features.groups)
        backend.store([_record("1")])
        backend.save_group("1", b"group")

        backend.forget(["1"])

        assert backend.fetch_group("1") == b"group"
        backend.store([_record("1")])
        backend.forget_group("1")
        assert backend.fetch(["1"]) == {"1": b"SUCCESS of 1"}

    def test_groups_expire(self, site: Site) -> None:
        backend = site.backend()
        _needs(backend.features.groups)
        backend.save_group("short", b"1", expires=10 * site.second)
        backend.save_group("long", b"2", expires=100 * site.second)
        backend.save_group("for ever", b"3")
        site.skip(11)

        assert [backend.fetch_group(name) for name in ("short", "long", "for ever")] == [None, b"2", b"3"]
        backend.cleanup()
        assert [backend.fetch_group(name) for name in ("short", "long", "for ever")] == [None, b"2", b"3"]

    # -- ending -------------------------------------------------------------------------------------------------------

    def test_a_backend_may_be_closed_twice(self, site: Site) -> None:
        backend, other = site.backend(), site.backend()
        backend.close()
        backend.close()

        other.store([_record("1")])
        assert other.fetch(["1"]) == {"1": b"SUCCESS of 1"}

    @pytest.mark.parametrize(
        "verb",
        [
            lambda backend: backend.store([_record("1")]),
            lambda backend: backend.fetch(["1"]),
            lambda backend: backend.forget(["1"]),
            lambda backend: backend.watch(["1"]),
            lambda backend: backend.save_group("g", b""),
            lambda backend: backend.fetch_group("g"),
            lambda backend: backend.forget_group("g"),
            lambda backend: backend.cleanup(),
        ],
    )
    def test_a_closed_backend_says_so(self, site: Site, verb: Callable[[Backend], object]) -> None:
        backend = site.backend()
        backend.close()

        with pytest.raises(RuntimeError, match="closed"):
            verb(backend)

    def test_closed_connections_and_watches_leave_no_descriptors(self, site: Site) -> None:
        def come_and_go(times: int) -> None:
            for number in range(times):
                with closing(site.make_backend()) as backend:
                    for _ in range(3):
                        with closing(backend.watch([f"{number}"])) as watch:
                            watch.fileno()
                            backend.store([_record(f"{number}", STARTED)])
                            assert watch.wait(PATIENCE)

        come_and_go(2)
        before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - Path would open one more
        come_and_go(10)
        assert len(os.listdir("/dev/fd")) <= before  # noqa: PTH208

    # -- many processes -----------------------------------------------------------------------------------------------

    @pytest.mark.process
    def test_what_other_processes_store_is_seen(self, site: Site) -> None:
        open_backend = site.open_results_elsewhere
        if open_backend is None:
            pytest.skip("this store lives in one process")
        ids = [f"{name}-{number}" for name in range(3) for number in range(50)]
        with closing(open_backend()) as backend, closing(backend.watch(ids)) as watch:
            with ExitStack() as processes:
                for name in range(3):
                    processes.enter_context(elsewhere(_store, open_backend, name))
                missing = set(ids)
                while missing:
                    named = watch.wait(PATIENCE)
                    assert named, f"{len(missing)} results were stored unseen"
                    found = backend.fetch(named)
                    missing -= {task_id for task_id in found if found[task_id].startswith(b"SUCCESS")}

            assert backend.fetch(ids) == {task_id: f"SUCCESS of {task_id}".encode() for task_id in ids}


def _record(
    task_id: str, state: str = SUCCESS, *, payload: bytes | None = None, expires: float | None = None
) -> Record:
    payload = f"{state} of {task_id}".encode() if payload is None else payload
    return Record(id=task_id, state=state, payload=payload, expires=expires)


def _store(open_backend: Callable[[], Backend], name: int) -> None:
    with closing(open_backend()) as backend:
        for number in range(50):
            backend.store([_record(f"{name}-{number}", STARTED)])
            backend.store([_record(f"{name}-{number}")])


@contextmanager
def _stored_soon(site: Site, *records: Record) -> Iterator[None]:
    """Store *records* from another connection, while the caller waits."""

    def store() -> None:
        with closing(site.make_backend()) as backend:
            backend.store(records)

    timer = threading.Timer(0.02, store)
    timer.start()
    yield
    timer.join()


def _is_readable(watch: Watch, patience: float) -> bool:
    fileno = watch.fileno()
    assert fileno is not None
    poller = select.poll()
    poller.register(fileno, select.POLLIN)
    return bool(poller.poll(patience * 1000))


def _spin(seconds: float) -> None:
    """Pass a time too short to sleep."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def _needs(ability: object) -> None:
    if not ability:
        pytest.skip("this store does not claim to")
