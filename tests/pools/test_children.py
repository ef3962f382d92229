"""What the contract does not ask of every pool: processes, descriptors, signals, failures to start."""

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from umbel.contrib.testing.contracts.pool import PoolDriver, ScriptRunner, descendants, left_behind, make_driver
from umbel.pools.base import Interrupt, Lost, PoolBroken
from umbel.pools.kinds import make_pool

__all__ = ["make_driver"]

pytestmark = pytest.mark.process


class Calls:
    """A runner whose payloads name functions."""

    payload_type = str
    report_type = object

    def __init__(self, **functions):
        self._functions = functions

    def enter(self, child):
        self.child = child

    def leave(self, exitcode):
        """There is nothing to clean up."""

    def perform(self, payload):
        return self._functions[payload]()

    async def aperform(self, payload):
        return await self._functions[payload]()


@pytest.mark.usefixtures("make_driver")
class TestPrefork:
    def make(self, runner, *, kind="prefork", slots=1, **options):
        return make_pool(kind, runner, slots=slots, **options)

    # -- what a child inherits

    @pytest.mark.row("CLI-074")
    def test_a_child_has_default_signals_and_ignores_interrupts(self, make_driver):
        defaults = ("SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU")

        def handlers():
            return {name: str(signal.getsignal(getattr(signal, name))) for name in ("SIGINT", *defaults)}

        before = signal.signal(signal.SIGTERM, lambda *_: None)
        try:
            driver = make_driver(Calls(handlers=handlers))
        finally:
            signal.signal(signal.SIGTERM, before)

        assert driver.results(driver.give("handlers")) == [
            {"SIGINT": str(signal.SIG_IGN), **dict.fromkeys(defaults, str(signal.SIG_DFL))}
        ]

    def test_a_child_reads_nothing_from_standard_input(self, make_driver):
        driver = make_driver(Calls(stdin=lambda: os.read(0, 10)))

        assert driver.results(driver.give("stdin")) == [b""]

    def test_a_child_has_its_two_sockets_and_what_the_application_had_open(self, make_driver):
        def opened():
            return [path.name for path in Path("/dev/fd").iterdir() if path.name not in before]

        before = ()
        before = opened()

        driver = make_driver(Calls(opened=opened), slots=4)

        for fds in driver.results(driver.give(*["opened"] * 20)):
            assert len(fds) <= 2

    def test_children_draw_different_random_numbers(self, make_driver, tmp_path):
        driver = make_driver(Calls(draw=lambda: _together(3, tmp_path, random.random())), slots=3)

        assert len(set(driver.results(driver.give(*["draw"] * 3)))) == 3

    def test_a_child_knows_its_place(self, make_driver, tmp_path):
        runner = Calls(place=lambda: _together(3, tmp_path, (runner.child.index, runner.child.slots)))
        driver = make_driver(runner, slots=3)

        assert sorted(driver.results(driver.give(*["place"] * 3))) == [[0, 1], [1, 1], [2, 1]]

    def test_on_init_runs_once_and_on_fork_before_each_fork(self, make_driver, tmp_path):
        told = []
        driver = make_driver(
            Calls(told=lambda: _together(3, tmp_path, told)),
            slots=3,
            on_init=lambda: told.append("init"),
            on_fork=lambda: told.append("fork"),
        )

        heard = driver.results(driver.give(*["told"] * 3))

        assert sorted(heard) == [["init"] + ["fork"] * n for n in (1, 2, 3)]
        assert not told  # all of it happens in the zygote

    def test_what_on_fork_raises_does_not_keep_a_child_from_starting(self, make_driver, capfd):
        def fail():
            raise LookupError("hook")

        driver = make_driver(on_fork=fail)

        assert driver.results(driver.give(["echo", 1])) == [1]
        assert "LookupError: hook" in capfd.readouterr().err

    def test_text_in_a_buffer_is_printed_once(self):
        program = """
            import sys
            from umbel.contrib.testing.contracts.pool import PoolDriver, ScriptRunner
            from umbel.pools.kinds import make_pool
            print("parent")
            driver = PoolDriver(make_pool("prefork", ScriptRunner(), slots=3, on_init=lambda: print("zygote")))
            driver.start()
            driver.finish()
        """
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, capture_output=True)

        assert done.stdout.split() == [b"parent", b"zygote"]
        assert done.stderr == b""

    # -- who dies with whom

    def test_all_processes_die_with_the_parent(self):
        program = """
            import signal
            from umbel.contrib.testing.contracts.pool import PoolDriver, ScriptRunner
            from umbel.pools.kinds import make_pool
            driver = PoolDriver(make_pool("prefork", ScriptRunner(), slots=2))
            driver.start()
            driver.give(["block", 60], ["block", 60], announce=True)
            driver.until(lambda: len(driver.started) == 2)
            print("up", flush=True)
            signal.pause()
        """
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE) as parent:
            assert parent.stdout.readline() == b"up\n"
            family = descendants(parent.pid)
            assert len(family) == 3

            parent.kill()

            deadline = time.monotonic() + 10
            while any(_is_alive(pid) for pid in family):
                assert time.monotonic() < deadline
                time.sleep(0.005)

    def test_a_second_zygote_keeps_nothing_that_the_worker_has_opened_since(self, make_driver, tmp_path):
        target = tmp_path / "connection"

        def links():
            return [str(path.readlink()) for path in Path("/dev/fd").iterdir() if path.exists()]

        driver = make_driver(Calls(links=links))
        zygote = driver.look()["zygote"]
        with target.open("w"):
            os.kill(zygote, signal.SIGKILL)
            driver.until(lambda: driver.look()["zygote"] != zygote)

            assert str(target) not in driver.results(driver.give("links"))[0]

    def test_a_zygote_that_is_killed_again_and_again_is_forked_again(self, make_driver):
        driver = make_driver(slots=2)

        for _ in range(5):
            zygote = driver.look()["zygote"]
            os.kill(zygote, signal.SIGKILL)
            driver.until(lambda zygote=zygote: driver.look()["zygote"] != zygote)
            assert driver.results(driver.give(["echo", 1])) == [1]

    # -- failures to start

    def test_on_init_that_raises_keeps_the_pool_from_starting(self):
        def fail():
            raise LookupError("no settings")

        before = descendants(os.getpid())
        with pytest.raises(PoolBroken, match="no settings"):
            make_pool("prefork", ScriptRunner(), on_init=fail).start()
        assert not left_behind(before)

    def test_a_child_that_does_not_get_ready_is_killed(self):
        pool = make_pool("prefork", ScriptRunner(fail_to_enter=lambda: time.sleep(60)), start_timeout=0.1)

        with pytest.raises(PoolBroken, match="did not start within"):
            pool.start()

    def test_a_replacement_that_cannot_start_is_told_once_and_tried_again(self, make_driver, tmp_path, caplog):
        stop = tmp_path / "stop"
        driver = make_driver(ScriptRunner(fail_to_enter=stop.exists))
        stop.touch()

        driver.lost(driver.give(["exit", 1])[0])
        driver.until(lambda: driver.look()["replaced"].get("exited with status 75", 0) >= 2)
        waiting = driver.give(["echo", 2])
        stop.unlink()

        assert driver.results(waiting) == [2]
        told = [record for record in caplog.records if "no such database" in record.getMessage()]
        assert [record.levelno for record in told] == [logging.ERROR]

    @pytest.mark.row("TB-175")
    def test_a_pool_whose_children_die_in_a_row_gives_up(self):
        driver = PoolDriver(make_pool("prefork", ScriptRunner(), slots=4))
        driver.start()
        tags = driver.give(*(["exit", 1] for _ in range(150)))

        with pytest.raises(PoolBroken, match=r"10\d children of the prefork pool died in a row"):
            driver.until(lambda: driver.ended.keys() >= set(tags))

        driver.finish()

    # -- jobs

    def test_a_new_child_for_every_job(self, make_driver):
        driver = make_driver(slots=2, max_jobs_per_child=1)

        pids = driver.results(driver.give(*(["pid"] for _ in range(20))))

        assert len(set(pids)) == 20

    def test_a_hundred_children_start_and_end(self, make_driver):
        driver = make_driver(slots=100)

        driver.until(lambda: len(driver.look()["processes"]) == 100)
        assert driver.results(driver.give(*(["echo", i] for i in range(300)))) == list(range(300))

    def test_the_signal_of_soft_limits_sent_by_hand_is_a_soft_interrupt(self, make_driver):
        driver = make_driver()
        (tag,) = driver.give(["sleep", 30], announce=True)
        driver.until(lambda: tag in driver.started)

        driver.pool.interrupt(tag, Interrupt.CANCEL, signal=signal.SIGUSR1)

        assert driver.results([tag]) == ["soft"]

    def test_a_signal_that_the_job_survives_leaves_its_process_in_use(self, make_driver):
        def survive():
            time.sleep(0.3)
            return os.getpid()

        runner = Calls(survive=survive, pid=os.getpid)
        runner.enter = lambda child: signal.signal(signal.SIGTERM, lambda *_: None)
        driver = make_driver(runner)
        tags = driver.give("survive", "pid", announce=True)
        driver.until(lambda: tags[0] in driver.started)

        driver.pool.interrupt(tags[0], Interrupt.CANCEL, signal=signal.SIGTERM)

        survivor, following = driver.results(tags)
        assert survivor == following

    def test_a_child_that_does_not_leave_is_killed_when_the_pool_stops(self, make_driver):
        runner = ScriptRunner()
        runner.leave = lambda exitcode: time.sleep(60)
        driver = make_driver(runner)

        began = time.monotonic()
        driver.stop(0.0)

        assert time.monotonic() - began < 30

    def test_a_pool_starts_again_after_a_stop(self, make_driver):
        driver = make_driver(slots=2)
        driver.results(driver.give(["echo", 1]))
        driver.stop(1.0)

        driver.pool.start()

        assert driver.results(driver.give(["echo", 2])) == [2]

    # -- shared processes

    @pytest.mark.parametrize("kind", ["threads", "asyncio"])
    def test_slots_are_spread_over_processes(self, make_driver, kind):
        driver = make_driver(kind=kind, slots=5, processes=2)

        tags = driver.give(*(["sleep", 0.3] for _ in range(5)), announce=True)
        driver.until(lambda: len(driver.started) == 5)

        pids = [driver.started[tag].pid for tag in tags]
        assert sorted(pids.count(pid) for pid in set(pids)) == [2, 3]

    @pytest.mark.parametrize("kind", ["threads", "asyncio"])
    def test_all_that_ran_in_a_shared_process_which_died_are_charged_and_told_so(self, make_driver, kind):
        driver = make_driver(kind=kind, slots=3)
        sleepers = driver.give(["sleep", 30], ["sleep", 30], announce=True)
        driver.until(lambda: len(driver.started) == 2)

        (killer,) = driver.give(["exit", 9])

        for tag in (*sleepers, killer):
            lost = driver.lost(tag)
            assert lost.at_fault
            assert "3 jobs ran in it, and which one is to blame is unknown" in lost.evidence

    @pytest.mark.parametrize("kind", ["threads", "asyncio"])
    def test_a_shared_child_loses_many_slots_while_it_is_busy(self, make_driver, kind, tmp_path):
        driver = make_driver(kind=kind, slots=400)
        busy = driver.give(*(["sleep", 0.5] for _ in range(400)), announce=True)
        driver.until(lambda: len(driver.started) == 400)

        driver.pool.resize(3)
        after = driver.give(*(["sleep", 0.02] for _ in range(9)), announce=True)

        def holds():
            running = [tag for tag in after if tag in driver.started and tag not in driver.ended]
            assert len(running) <= 3
            return driver.ended.keys() >= {*busy, *after}

        driver.until(holds)
        driver.pool.resize(400)
        gate = tmp_path / "gate"
        tags = driver.give(*(["wait", str(gate)] for _ in range(100)), announce=True)
        driver.until(lambda: driver.started.keys() >= set(tags))
        gate.touch()
        driver.results(tags)

    def test_a_cancelled_job_that_does_not_listen_costs_its_neighbours_nothing(self, make_driver):
        driver = make_driver(kind="threads", slots=2)
        deaf, neighbour = driver.give(["block", 0.6], ["sleep", 0.1], announce=True)
        driver.until(lambda: len(driver.started) == 2)

        driver.pool.interrupt(deaf, Interrupt.CANCEL)

        assert driver.results([neighbour]) == [0.1]
        assert driver.results(driver.give(["echo", 1])) == [1]
        assert driver.results([deaf]) == ["terminated"]  # as soon as it runs Python code again
        assert not driver.look()["replaced"]


def test_no_job_is_lost_without_a_word_when_the_pool_never_started():
    pool = make_pool("prefork", ScriptRunner())
    pool.stop(0.0)
    driver = PoolDriver(pool)

    (tag,) = driver.give(["echo", 1])
    driver.stop(0.0)

    assert isinstance(driver.ended[tag], Lost)


def _together(count, folder, value):
    """Return *value* as soon as so many processes are here at once."""
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < count:
        time.sleep(0.001)
    return value


def _is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
