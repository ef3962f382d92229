"""Say what every pool must keep: each job is accounted for once, whatever happens to processes."""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import pytest

from umbel.exceptions import SoftTimeLimitExceeded, Terminated
from umbel.pools.base import ChildInfo, Finished, Interrupt, Job, Lost, Pool, PoolBroken, Receipt, Runner, Started

__all__ = [
    "PoolContract",
    "PoolDriver",
    "ProcessPoolContract",
    "ScriptRunner",
    "descendants",
    "left_behind",
    "make_driver",
]

_PATIENCE: Final = 20.0  # seconds that anything may take on a slow machine
_MEBIBYTE: Final = 1 << 20


class ScriptRunner:
    """A runner whose payloads are small programs: a verb and its arguments."""

    payload_type: Any = list[Any]
    report_type: Any = Any

    def __init__(self, *, fail_to_enter: Callable[[], bool] = lambda: False) -> None:
        self._fail_to_enter = fail_to_enter
        self._kept: list[bytes] = []

    def enter(self, child: ChildInfo) -> None:
        if self._fail_to_enter():
            raise LookupError("no such database")

    def leave(self, exitcode: int) -> None:
        """There is nothing to clean up."""

    def perform(self, payload: Any) -> Any:
        try:
            return self._do(*payload)
        except SoftTimeLimitExceeded:
            return "soft"
        except Terminated:
            return "terminated"

    async def aperform(self, payload: Any) -> Any:
        verb, argument = (*payload, None)[:2]
        if verb not in ("sleep", "wait"):
            return await asyncio.to_thread(self.perform, payload)
        try:
            if verb == "sleep":
                await asyncio.sleep(argument)
            else:
                for _ in _until_there(argument):
                    await asyncio.sleep(0.002)
        except SoftTimeLimitExceeded:
            return "soft"
        except Terminated:
            return "terminated"
        return argument

    def _do(self, verb: str, argument: Any = None) -> Any:
        match verb:
            case "echo":
                return argument
            case "sleep":  # can be interrupted everywhere
                until = time.monotonic() + argument
                while time.monotonic() < until:
                    time.sleep(0.001)
                return argument
            case "wait":  # until this file is there; can be interrupted everywhere
                for _ in _until_there(argument):
                    time.sleep(0.002)
                return argument
            case "block":  # cannot be interrupted where threads are
                ctypes.CDLL(None).poll(None, 0, int(argument * 1000))  # greenlets make time.sleep a harmless wait
                return argument
            case "pid":
                return os.getpid()
            case "write":  # to a file: [path, line]
                with Path(argument[0]).open("a", encoding="utf-8") as file:
                    file.write(f"{argument[1]}\n")
                return argument[1]
            case "grow":  # by so many MiB, for good
                self._kept.append(b"x" * (argument * _MEBIBYTE))
                return os.getpid()
            case "object":
                return object()  # no wire format has it
            case "exit":
                os._exit(argument)
            case "kill":
                os.kill(os.getpid(), argument)
                return time.sleep(_PATIENCE)  # until it arrives
            case "raise":
                raise {"SystemExit": SystemExit(3), "MemoryError": MemoryError(), "ValueError": ValueError("bug")}[
                    argument
                ]
            case _:
                raise AssertionError(f"no such verb: {verb}")


def _until_there(path: str) -> Iterator[None]:
    """Go round until there is a file at *path*, or somebody forgot to make it."""
    until = time.monotonic() + 2 * _PATIENCE
    while not Path(path).exists() and time.monotonic() < until:
        yield


class PoolDriver:
    """Drives a pool as a worker's loop does, and sees that each job gets one receipt."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.ended: dict[int, Finished | Lost] = {}  # by tag
        self.started: dict[int, Started] = {}  # by tag
        self.order: list[int] = []  # tags as they ended
        self.pids: set[int] = set()  # processes seen
        self._given: set[int] = set()
        self._tag = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        run: Callable[[], None] | None = getattr(self.pool, "run", None)
        if run is None:
            self.pool.start()
        else:
            started = threading.Event()
            self._thread = threading.Thread(target=self._run_here, args=(run, started), daemon=True)
            self._thread.start()
            assert started.wait(_PATIENCE)
        self.look()

    def _run_here(self, run: Callable[[], None], started: threading.Event) -> None:
        self.pool.start()
        started.set()
        run()

    def give(self, *payloads: list[Any], announce: bool = False) -> list[int]:
        """Submit jobs and return their tags."""
        jobs = [Job(self._tag + i, payload, announce) for i, payload in enumerate(payloads, 1)]
        self._tag += len(jobs)
        self._given.update(job.tag for job in jobs)
        self.pool.submit(jobs)
        return [job.tag for job in jobs]

    def withdraw(self, limit: int) -> list[int]:
        """Take jobs back and return their tags."""
        tags = self.pool.withdraw(limit)
        assert self._given >= set(tags), "a tag that nobody submitted was withdrawn"
        self._given -= set(tags)
        return tags

    def until(self, condition: Callable[[], bool], patience: float = _PATIENCE) -> None:
        """Collect receipts until *condition* holds."""
        deadline = time.monotonic() + patience
        while True:
            self._note(self.pool.collect())
            if condition():
                return
            left = deadline - time.monotonic()
            assert left > 0, f"waited {patience:g} s in vain; {len(self.ended)} jobs ended, {self.pool.info()}"
            timer = self.pool.next_timer()
            select.select([self.pool.fileno()], [], [], left if timer is None else min(timer, left))

    def collect(self) -> None:
        """Take what is there, whether or not the pool says that there is something."""
        self._note(self.pool.collect())

    def results(self, tags: list[int]) -> list[Any]:
        """Wait for these jobs and return what they reported; None = lost."""
        self.until(lambda: self.ended.keys() >= set(tags))
        receipts = [self.ended[tag] for tag in tags]
        return [receipt.report if isinstance(receipt, Finished) else None for receipt in receipts]

    def lost(self, tag: int) -> Lost:
        """Wait for the loss of this job."""
        self.results([tag])
        receipt = self.ended[tag]
        assert isinstance(receipt, Lost), f"not lost, but {receipt}"
        return receipt

    def look(self) -> dict[str, Any]:
        """Return what the pool says of itself, and remember its processes."""
        info = self.pool.info()
        self.pids.update(info["processes"])
        if info.get("zygote"):
            self.pids.add(info["zygote"])
        return info

    def stop(self, deadline: float) -> None:
        self.look()
        self.pool.stop(deadline)
        self._note(self.pool.collect())

    def finish(self) -> None:
        """Stop, and see that every job is accounted for and nothing of the pool is left."""
        self.stop(0.0)
        assert self.ended.keys() == self._given, "jobs without a receipt"
        if self._thread is not None:
            self._thread.join(_PATIENCE)
        deadline = time.monotonic() + _PATIENCE
        self.pids.discard(os.getpid())
        while alive := [pid for pid in self.pids if _is_alive(pid)]:
            assert time.monotonic() < deadline, f"processes {alive} are left behind"
            time.sleep(0.002)  # a killed process takes a moment

    def _note(self, receipts: list[Receipt]) -> None:
        for receipt in receipts:
            tag = receipt.tag
            assert tag in self._given, f"{receipt} for a job that the pool does not have"
            assert tag not in self.ended, f"second receipt {receipt} after {self.ended[tag]}"
            self.pids.add(receipt.pid or os.getpid())
            if isinstance(receipt, Started):
                assert tag not in self.started, "started twice"
                self.started[tag] = receipt
                continue
            self.ended[tag] = receipt
            self.order.append(tag)


class _Drive(Protocol):
    def __call__(self, runner: Runner | None = None, **options: Any) -> PoolDriver: ...


@pytest.fixture
def make_driver(request: pytest.FixtureRequest) -> Iterator[_Drive]:
    """Return what makes a pool by the test class' `make`, starts it, and checks at the end that it left nothing."""
    before = _descriptors(), descendants(os.getpid())
    drivers: list[PoolDriver] = []

    def make(runner: Runner | None = None, **options: Any) -> PoolDriver:
        driver = PoolDriver(request.instance.make(runner or ScriptRunner(), **options))
        drivers.append(driver)
        driver.start()
        return driver

    yield make
    for driver in drivers:
        driver.finish()
    assert _descriptors() == before[0], "descriptors are left behind"
    assert not left_behind(before[1])


def descendants(pid: int) -> set[int]:
    """Return the processes below *pid*."""
    found: set[int] = set()
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except OSError:
        return found
    for child in children:
        found |= {child} | descendants(child)
    return found


def left_behind(before: set[int]) -> list[str]:
    """Return what the kernel says of each living process below this one that was not there *before*.

    The ends of processes that were killed are awaited.
    """
    deadline = time.monotonic() + _PATIENCE
    while alive := [pid for pid in descendants(os.getpid()) - before if _is_alive(pid)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.002)
    return [_stat(pid) for pid in alive]


def _is_alive(pid: int) -> bool:
    return _stat(pid).rpartition(")")[2].split()[:1] not in ([], ["Z"])


def _stat(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""


def _descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


class PoolContract:
    """What every pool must keep. Subclass it, and say in `make` how yours is made."""

    is_isolated = True  # no job runs in the worker itself
    is_shared = False  # a process runs several jobs at once

    def make(self, runner: Runner, *, slots: int = 1, **options: Any) -> Pool:
        """Return a pool that is not started; *options* as `make_pool` takes them."""
        raise NotImplementedError

    @pytest.fixture
    def gate(self, tmp_path: Path) -> Path:
        """Return the path of a file that is not there: ``["wait", str(gate)]`` runs until it is touched."""
        return tmp_path / "gate"

    # -- one receipt for each job

    def test_a_job_is_finished_with_what_the_runner_returned(self, make_driver: _Drive) -> None:
        driver = make_driver()

        (tag,) = driver.give(["echo", {"a": [1, "b", None]}])

        assert driver.results([tag]) == [{"a": [1, "b", None]}]
        receipt = driver.ended[tag]
        assert isinstance(receipt, Finished)
        assert 0 <= receipt.runtime < _PATIENCE
        assert receipt.pid == driver.look()["processes"][0]
        assert not driver.started

    def test_thousands_of_jobs_get_one_receipt_each(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)

        tags = [tag for batch in range(20) for tag in driver.give(*(["echo", batch * 100 + i] for i in range(100)))]

        assert driver.results(tags) == list(range(2000))

    def test_collecting_all_the_time_is_harmless(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=1)
        deadline = time.monotonic() + _PATIENCE

        for _ in range(100):
            tags = driver.give(["echo", 1], ["echo", 2])
            while not driver.ended.keys() >= set(tags):
                driver.collect()
                assert time.monotonic() < deadline

    def test_one_slot_starts_jobs_in_order(self, make_driver: _Drive, tmp_path: Path) -> None:
        driver = make_driver(slots=1)
        path = str(tmp_path / "order")

        tags = driver.give(*(["write", [path, i]] for i in range(200)))
        driver.results(tags)

        assert Path(path).read_text(encoding="utf-8").split() == [str(i) for i in range(200)]

    def test_a_job_is_announced_when_it_begins_and_only_if_asked_for(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=1)

        first, second = driver.give(["wait", str(gate)], ["echo", 0], announce=True)
        (third,) = driver.give(["echo", 1])

        driver.until(lambda: first in driver.started)
        assert second not in driver.started
        gate.touch()
        driver.results([first, second, third])
        assert driver.started.keys() == {first, second}
        assert driver.started[second].pid == driver.ended[second].pid

    def test_five_mebibytes_travel_both_ways(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        big = [bytes([i]) * (5 * _MEBIBYTE) for i in range(6)]

        tags = driver.give(*(["echo", value] for value in big))

        assert driver.results(tags) == big

    def test_payloads_around_the_size_of_a_datagram_travel_both_ways(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        sizes = [0, 1, 1000, 30_000, *range(65_500, 65_560), 100_000, 212_960, 300_000]

        tags = driver.give(*(["echo", b"x" * size] for size in sizes))

        assert [len(report) for report in driver.results(tags)] == sizes

    def test_a_full_socket_delays_jobs_and_loses_none(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        driver.results(driver.give(*(["echo", i] for i in range(50))))

        tags = driver.give(*(["echo", b"x" * 60_000] for _ in range(300)))

        assert {len(report) for report in driver.results(tags)} == {60_000}

    # -- slots

    def test_no_more_jobs_run_than_there_are_slots(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        slots = driver.pool.slots
        driver.results(driver.give(*(["echo", i] for i in range(200))))

        tags = driver.give(*(["sleep", 0.05] for _ in range(6)), announce=True)

        def holds() -> bool:
            assert len(driver.started) - sum(tag in driver.ended for tag in tags) <= slots
            return driver.ended.keys() >= set(tags)

        driver.until(holds)

    # -- taking back

    def test_withdrawn_jobs_are_the_youngest_and_never_run(
        self, make_driver: _Drive, tmp_path: Path, gate: Path
    ) -> None:
        driver = make_driver(slots=1)
        path = str(tmp_path / "ran")
        driver.results(driver.give(*(["echo", i] for i in range(200))))
        (busy,) = driver.give(["wait", str(gate)], announce=True)
        driver.until(lambda: busy in driver.started)
        tags = driver.give(*(["write", [path, i]] for i in range(20)))

        withdrawn = driver.withdraw(15)
        gate.touch()

        assert withdrawn == tags[5:][::-1]
        driver.results(tags[:5])
        assert Path(path).read_text(encoding="utf-8").split() == ["0", "1", "2", "3", "4"]

    def test_all_that_has_not_begun_can_be_withdrawn(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=1)
        driver.results(driver.give(*(["echo", i] for i in range(200))))
        (busy,) = driver.give(["wait", str(gate)], announce=True)
        driver.until(lambda: busy in driver.started)
        tags = driver.give(*(["echo", i] for i in range(100)))

        assert driver.withdraw(1000) == tags[::-1]
        assert driver.withdraw(1000) == []
        gate.touch()
        assert driver.results([busy]) == [str(gate)]

    # -- interrupts

    def test_a_soft_interrupt_is_raised_inside_its_job_and_no_other(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=2)
        tags = driver.give(["sleep", 2 * _PATIENCE], ["wait", str(gate)], announce=True)
        driver.until(lambda: tags[0] in driver.started)

        driver.pool.interrupt(tags[0], Interrupt.SOFT)

        assert driver.results(tags[:1]) == ["soft"]
        gate.touch()
        assert driver.results(tags[1:]) == [str(gate)]

    def test_soft_interrupts_at_the_last_moment_never_hit_the_next_job(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        tags = driver.give(*(["echo", 7] for _ in range(600)), announce=True)
        aimed: set[int] = set()

        def aim() -> bool:
            for tag in driver.started.keys() - aimed:
                if tag % 2:
                    driver.pool.interrupt(tag, Interrupt.SOFT)
                aimed.add(tag)
            return driver.ended.keys() >= set(tags)

        driver.until(aim)

        for tag in tags:
            receipt = driver.ended[tag]
            if isinstance(receipt, Lost):
                assert receipt.interrupted
                assert tag % 2
            else:
                assert receipt.report == 7 or (receipt.report == "soft" and tag % 2)

    def test_a_cancelled_job_ends_and_its_neighbour_does_not(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=2)
        tags = driver.give(["sleep", 2 * _PATIENCE], ["wait", str(gate)], announce=True)
        driver.until(lambda: tags[0] in driver.started)

        driver.pool.interrupt(tags[0], Interrupt.CANCEL)

        driver.results(tags[:1])
        gate.touch()
        assert driver.results(tags[1:]) == [str(gate)]
        self._assert_cancelled(driver, tags[0])

    def _assert_cancelled(self, driver: PoolDriver, tag: int) -> None:
        receipt = driver.ended[tag]
        if self.is_isolated and not self.is_shared:
            assert isinstance(receipt, Lost)
            assert (receipt.at_fault, receipt.interrupted, receipt.exitcode) == (True, True, -signal.SIGKILL)
        else:
            assert isinstance(receipt, Finished)
            assert receipt.report == "terminated"

    def test_a_job_that_is_killed_before_it_begins_is_lost_and_not_at_fault(
        self, make_driver: _Drive, gate: Path
    ) -> None:
        driver = make_driver(slots=1)
        driver.results(driver.give(*(["echo", i] for i in range(200))))
        busy, target, last = driver.give(["wait", str(gate)], ["echo", 1], ["echo", 2])

        driver.pool.interrupt(target, Interrupt.KILL)

        lost = driver.lost(target)
        assert (lost.at_fault, lost.interrupted, lost.pid) == (False, True, 0)
        gate.touch()
        assert driver.results([busy, last]) == [str(gate), 2]

    @pytest.mark.parametrize("how", list(Interrupt))
    def test_interrupting_what_has_ended_is_harmless(self, make_driver: _Drive, how: Interrupt) -> None:
        driver = make_driver(slots=1)
        (tag,) = driver.give(["echo", 1])
        driver.results([tag])

        driver.pool.interrupt(tag, how)
        driver.pool.interrupt(123_456, how)

        assert driver.results(driver.give(["sleep", 0.05], ["echo", 2])) == [0.05, 2]
        assert not driver.look()["replaced"]

    # -- processes that end

    @pytest.mark.parametrize(
        ("error", "evidence"), [("SystemExit", "SystemExit(3)"), ("MemoryError", "emory"), ("ValueError", "bug")]
    )
    def test_a_job_whose_runner_raises_is_lost_by_its_own_fault(
        self, make_driver: _Drive, error: str, evidence: str
    ) -> None:
        driver = make_driver(slots=1)

        bad, *good = driver.give(["raise", error], *(["echo", i] for i in range(20)))

        assert driver.results(good) == list(range(20))
        lost = driver.lost(bad)
        assert evidence in lost.evidence
        assert (lost.at_fault, lost.interrupted, lost.exitcode) == (True, False, None)

    # -- start and stop

    def test_start_fails_with_the_traceback_of_a_runner_that_cannot_enter(self) -> None:
        before = _descriptors(), descendants(os.getpid())
        pool = self.make(ScriptRunner(fail_to_enter=lambda: True), slots=2)

        with pytest.raises(PoolBroken, match="no such database"):
            pool.start()

        pool.stop(0.0)
        assert _descriptors() == before[0]
        assert not left_behind(before[1])

    def test_stop_lets_running_jobs_finish_and_gives_up_the_others(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=1)
        (running,) = driver.give(["wait", str(gate)], announce=True)
        driver.until(lambda: running in driver.started)
        waiting = driver.give(["echo", 1], ["echo", 2])

        def open_the_gate() -> None:
            while driver.pool.info()["waiting"] >= len(waiting):  # until `stop` has dropped them
                time.sleep(0.002)
            gate.touch()

        opener = threading.Thread(target=open_the_gate)
        opener.start()
        driver.stop(_PATIENCE)
        opener.join()

        assert isinstance(driver.ended[running], Finished)
        for tag in waiting:
            lost = driver.lost(tag)
            assert (lost.at_fault, lost.interrupted) == (False, True)

    def test_stop_does_not_wait_beyond_its_deadline(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=1)
        (running,) = driver.give(["sleep", 3 * _PATIENCE], announce=True)
        driver.until(lambda: running in driver.started)

        began = time.monotonic()
        driver.stop(0.1)

        assert time.monotonic() - began < _PATIENCE
        if self.is_isolated:
            lost = driver.lost(running)
            assert (lost.at_fault, lost.interrupted) == (False, True)

    def test_stop_may_be_called_twice_and_before_start(self, make_driver: _Drive) -> None:
        self.make(ScriptRunner()).stop(0.0)
        driver = make_driver(slots=1)
        driver.results(driver.give(["echo", 1]))

        driver.stop(1.0)
        driver.stop(1.0)
        (late,) = driver.give(["echo", 2])
        assert driver.pool.next_timer() == 0.0
        driver.stop(0.0)

        lost = driver.ended[late]
        assert isinstance(lost, Lost)
        assert (lost.at_fault, lost.interrupted) == (False, True)

    def test_nothing_wakes_the_loop_of_an_idle_pool(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        driver.results(driver.give(*(["echo", i] for i in range(100))))

        def is_quiet() -> bool:
            return not select.select([driver.pool.fileno()], [], [], 0.15)[0] and driver.pool.next_timer() is None

        driver.until(is_quiet)


class ProcessPoolContract(PoolContract):
    """What a pool must keep whose jobs run in processes of their own."""

    def test_what_cannot_be_encoded_loses_its_job_and_no_other(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=1)

        unsendable, unreportable, good = driver.give(["echo", object()], ["object"], ["echo", 1])

        assert driver.results([good]) == [1]
        assert "cannot be sent" in driver.lost(unsendable).evidence
        assert "cannot be encoded" in driver.lost(unreportable).evidence
        assert driver.lost(unreportable).at_fault

    def test_a_payload_that_cannot_be_read_loses_its_job_and_no_other(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=1)

        bad, good = driver.give({"no": "list"}, ["echo", 1])  # type: ignore[arg-type]  # this is what is wrong with it

        assert driver.results([good]) == [1]
        assert "cannot be decoded" in driver.lost(bad).evidence

    def test_a_busy_slot_holds_no_job_that_another_could_run(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=2)
        driver.results(driver.give(*(["echo", i] for i in range(200))))  # now it deals short jobs ahead

        (long,) = driver.give(["wait", str(gate)])
        tags = driver.give(*(["echo", i] for i in range(300)))

        assert driver.results(tags) == list(range(300))
        assert long not in driver.ended
        gate.touch()
        assert driver.results([long]) == [str(gate)]

    def test_all_slots_run_at_once(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=4)
        driver.results(driver.give(*(["echo", i] for i in range(200))))

        tags = driver.give(*(["wait", str(gate)] for _ in range(4)), announce=True)

        driver.until(lambda: driver.started.keys() == set(tags))
        assert not driver.ended.keys() & set(tags)
        gate.touch()
        driver.results(tags)

    def test_a_pool_grows_and_shrinks(self, make_driver: _Drive, tmp_path: Path) -> None:
        gates = [tmp_path / f"gate-{i}" for i in range(2)]
        driver = make_driver(slots=1)
        driver.pool.resize(3)
        assert driver.pool.slots == 3

        busy = driver.give(*(["wait", str(gates[0])] for _ in range(3)), announce=True)
        driver.until(lambda: driver.started.keys() >= set(busy))
        driver.pool.resize(1)  # ends no job
        after = driver.give(["wait", str(gates[1])], ["echo", 1], announce=True)

        gates[0].touch()
        assert driver.results(busy) == [str(gates[0])] * 3
        driver.until(lambda: after[0] in driver.started)
        assert after[1] not in driver.started
        gates[1].touch()
        assert driver.results(after) == [str(gates[1]), 1]
        driver.pool.resize(2)
        assert driver.results(driver.give(*(["echo", i] for i in range(100)))) == list(range(100))

    def test_recycling_replaces_each_process_when_its_jobs_have_ended(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=2)
        (running,) = driver.give(["wait", str(gate)], announce=True)
        driver.until(lambda: running in driver.started)
        before = set(driver.look()["processes"])

        driver.pool.recycle()
        (next_one,) = driver.give(["pid"])

        assert driver.results([next_one])[0] not in before
        gate.touch()
        assert driver.results([running]) == [str(gate)]
        driver.until(lambda: not before & set(driver.look()["processes"]))

    def test_a_killed_job_ends_whatever_it_does(self, make_driver: _Drive, gate: Path) -> None:
        driver = make_driver(slots=2)
        # The neighbour first: where greenlets share a thread, nothing else would begin.
        neighbour, target = driver.give(["wait", str(gate)], ["block", 60], announce=True)
        driver.until(lambda: driver.started.keys() == {target, neighbour})

        driver.pool.interrupt(target, Interrupt.KILL)

        lost = driver.lost(target)
        assert (lost.at_fault, lost.interrupted, lost.exitcode) == (True, True, -signal.SIGKILL)
        if self.is_shared:
            innocent = driver.lost(neighbour)
            assert (innocent.at_fault, innocent.interrupted) == (False, False)
        else:
            gate.touch()
            assert driver.results([neighbour]) == [str(gate)]
        assert driver.results(driver.give(["echo", 1])) == [1]

    def test_the_process_of_a_killed_job_gets_the_signal_that_was_asked_for(self, make_driver: _Drive) -> None:
        if self.is_shared:
            pytest.skip("no process is killed for one job")
        driver = make_driver(slots=1)
        (target,) = driver.give(["block", 60], announce=True)
        driver.until(lambda: target in driver.started)

        driver.pool.interrupt(target, Interrupt.CANCEL, signal=signal.SIGTERM)

        assert driver.lost(target).exitcode == -signal.SIGTERM

    def test_kills_at_the_last_moment_never_hit_the_next_job(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2, grace=0.01)
        tags = driver.give(*(["echo", 7] for _ in range(300)), announce=True)
        aimed: set[int] = set()

        def aim() -> bool:
            for tag in driver.started.keys() - aimed:
                if tag % 10 == 0:
                    driver.pool.interrupt(tag, Interrupt.KILL)
                aimed.add(tag)
            return driver.ended.keys() >= set(tags)

        driver.until(aim)

        for tag in tags:
            receipt = driver.ended[tag]
            if isinstance(receipt, Lost) and receipt.at_fault:
                assert tag % 10 == 0
                assert receipt.interrupted
            elif isinstance(receipt, Lost):
                assert self.is_shared

    @pytest.mark.slow
    def test_each_job_has_one_receipt_when_children_are_killed_at_random(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=3)
        chance = random.Random(4)
        killed = 0
        tags: list[int] = []

        def wreak() -> bool:
            nonlocal killed
            if len(tags) < 2000 and len(tags) - len(driver.ended) < 40:
                tags.extend(driver.give(*(["sleep", chance.choice((0, 0, 0.001, 0.005))] for _ in range(40))))
            if chance.random() < 0.02 and (pids := driver.look()["processes"]):
                try:
                    os.kill(chance.choice(pids), signal.SIGKILL)
                    killed += 1
                except ProcessLookupError:
                    pass
            return len(tags) >= 2000 and driver.ended.keys() >= set(tags)

        driver.until(wreak, patience=50.0)

        lost = [receipt for receipt in driver.ended.values() if isinstance(receipt, Lost)]
        assert killed > 5
        assert all(receipt.at_fault and "SIGKILL" in receipt.evidence for receipt in lost)
        assert len(lost) <= 3 * killed  # only what ran

    @pytest.mark.parametrize(
        ("program", "evidence", "exitcode"),
        [
            (["exit", 5], "exited with status 5", 5),
            (["exit", 0], "exited with status 0", 0),
            (["kill", int(signal.SIGALRM)], "SIGALRM", -signal.SIGALRM),
            (["kill", int(signal.SIGKILL)], "killed by SIGKILL (", -signal.SIGKILL),
        ],
    )
    def test_a_job_that_ends_its_process_is_lost_by_its_own_fault(
        self, make_driver: _Drive, program: list[Any], evidence: str, exitcode: int
    ) -> None:
        driver = make_driver(slots=1)

        bad, *good = driver.give(program, *(["echo", i] for i in range(20)))

        assert driver.results(good) == list(range(20))
        lost = driver.lost(bad)
        assert evidence in lost.evidence
        assert (lost.at_fault, lost.interrupted, lost.exitcode) == (True, False, exitcode)

    def test_the_zygote_can_be_killed(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2)
        zygote = driver.look()["zygote"]
        running = driver.give(["sleep", 60], ["sleep", 60], announce=True)
        waiting = driver.give(["echo", 1], ["echo", 2])
        driver.until(lambda: driver.started.keys() == set(running))

        os.kill(zygote, signal.SIGKILL)

        for tag in running:
            lost = driver.lost(tag)
            assert (lost.at_fault, lost.interrupted) == (False, False)
            assert "zygote" in lost.evidence
        assert driver.results(waiting) == [1, 2]
        assert driver.look()["zygote"] != zygote

    def test_a_child_is_replaced_after_so_many_jobs(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=2, max_jobs_per_child=7)

        pids = driver.results(driver.give(*(["pid"] for _ in range(70))))

        assert max(pids.count(pid) for pid in pids) <= 7
        assert len(set(pids)) >= 10
        assert driver.look()["replaced"].keys() == {"max jobs"}

    def test_a_child_is_replaced_when_it_has_grown_too_big(self, make_driver: _Drive) -> None:
        limit = 64 * 1024 + _resident()
        driver = make_driver(slots=1, max_memory_per_child=limit)

        small = driver.results(driver.give(["pid"], ["pid"]))
        big = driver.results(driver.give(["grow", 128], ["pid"], ["pid"]))

        assert small == [big[0]] * 2
        assert big[1] == big[2] != big[0]
        assert driver.look()["replaced"] == {"max memory": 1}

    def test_start_may_be_called_twice(self, make_driver: _Drive) -> None:
        driver = make_driver(slots=1)

        driver.pool.start()

        assert driver.results(driver.give(["echo", 1])) == [1]


def _resident() -> int:
    """Return what this process holds in memory, in KiB."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE") // 1024
