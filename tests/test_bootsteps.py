import pytest

from umbel import bootsteps
from umbel.contrib.testing.app import TestApp
from umbel.contrib.testing.worker import start_worker
from umbel.exceptions import ImproperlyConfigured
from umbel.worker.worker import Worker


def step(name, told, base=bootsteps.StartStopStep, **attributes):
    def tell(what):
        return lambda self, parent: told.append(f"{what} {name}")

    methods = {what: tell(what) for what in ("start", "stop", "close", "terminate")}
    return type(name, (base,), {"name": name, **methods, **attributes})


@pytest.mark.row("API-524", "API-525", "API-527", "API-528")
def test_steps_start_in_the_order_they_need_and_stop_in_reverse():
    told = []
    first = step("first", told)
    second = step("second", told, requires=(first,))
    last = step("last", told, last=True)
    blueprint = bootsteps.Blueprint([last, second, first], name="mine")

    blueprint.apply(object())
    assert blueprint.state == bootsteps.INITIALIZING
    blueprint.start(object())
    assert (blueprint.state, told) == (bootsteps.RUN, ["start first", "start second", "start last"])

    told.clear()
    blueprint.stop(object())
    blueprint.stop(object())
    assert blueprint.state == bootsteps.CLOSE
    assert told == ["close first", "close second", "close last", "stop last", "stop second", "stop first"]


@pytest.mark.row("API-528")
def test_an_error_while_stopping_does_not_spare_the_others(caplog):
    told = []
    bad = step("bad", told, last=True)
    bad.stop = lambda self, parent: 1 / 0
    blueprint = bootsteps.Blueprint([step("good", told), bad]).apply(object())
    blueprint.start(object())

    blueprint.stop(object(), close=False)

    assert told[-1] == "stop good"
    assert "error while stopping bad" in caplog.text


def test_steps_may_be_ended_at_once():
    told = []
    blueprint = bootsteps.Blueprint([step("a", told)]).apply(object())
    blueprint.start(object())

    blueprint.stop(object(), terminate=True)

    assert told == ["start a", "close a", "terminate a"]
    assert blueprint.state == bootsteps.TERMINATE


@pytest.mark.row("API-529")
def test_a_step_that_needs_an_unknown_one_says_so():
    lonely = step("lonely", [], requires=("nobody:Knows",))

    with pytest.raises(KeyError, match=r"unknown bootstep 'nobody:Knows', which lonely requires"):
        bootsteps.Blueprint([lonely]).apply(object())


@pytest.mark.row("API-531", "API-533")
def test_celerys_own_steps_may_be_required():
    needs = step("needs", [], requires=("celery.worker.components:Pool", "celery.worker.consumer.consumer:Connection"))

    assert len(bootsteps.Blueprint([needs]).apply(object()).order) == 1


def test_a_circle_is_shown():
    a, b = step("a", [], requires=("b",)), step("b", [], requires=("a",))

    with pytest.raises(ImproperlyConfigured, match="in a circle: "):
        bootsteps.Blueprint([a, b]).apply(object())


def test_a_step_that_wants_kombu_says_what_to_do():
    class Mine(bootsteps.ConsumerStep):
        def get_consumers(self, channel):
            return []

    with pytest.raises(ImproperlyConfigured, match="make it a StartStopStep"):
        bootsteps.Blueprint([Mine]).apply(object())


@pytest.mark.row("API-539")
def test_a_subclass_of_the_worker_is_told_of_its_life():
    told = []

    class Own(Worker):
        def on_before_init(self, **options):
            told.append(("before", hasattr(self, "pool")))

        def on_after_init(self, colour=None, **options):
            told.append(("after", colour))

        def on_start(self):
            told.append("start")

        def on_consumer_ready(self, consumer):
            told.append(("ready", consumer is self))
            self.terminate(in_sighandler=False)

        def on_close(self):
            told.append("close")

        def on_stopped(self):
            told.append("stopped")

    with TestApp("own") as app:
        worker = Own(app, pool="solo", colour="red")
        assert worker.start() == 0
    assert told == [("before", False), ("after", "red"), "start", ("ready", True), "close", "stopped"]


@pytest.mark.row("API-534", "API-538", "API-539")
def test_a_workers_steps_live_with_it():
    told = []

    class Own(bootsteps.StartStopStep):
        def __init__(self, parent, colour=None, **options):
            self.colour = colour

        def create(self, parent):
            told.append((self.colour, parent.hostname, parent.concurrency))

        def start(self, parent):
            told.append("start")

        def stop(self, parent):
            told.append("stop")

        def info(self, parent):
            return {"colour": self.colour}

    class OfConsumer(bootsteps.StartStopStep):
        requires = ("celery.worker.consumer:Tasks",)

        def start(self, parent):
            told.append(("consumer", parent.controller.hostname))

        def stop(self, parent):
            told.append("consumer stops")

    class Left(bootsteps.StartStopStep):
        enabled = False

        def start(self, parent):
            raise AssertionError

    with TestApp("steps") as app:
        app.steps["worker"] |= {Own, Left}
        app.steps["consumer"].add(OfConsumer)
        with start_worker(app, perform_ping_check=False, colour="red") as worker:
            assert worker.blueprint.info(worker) == {"colour": "red"}

            assert worker.info() == {"colour": "red"}
            assert worker.stats()["pool"]["max-concurrency"] == 1
            assert worker.rusage()["utime"] > 0
            worker.reload()

    host = "worker@testing"
    assert told == [("red", host, 1), "start", ("consumer", host), "consumer stops", "stop"]
